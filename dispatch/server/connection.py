"""One WebSocket connection: who it is, what it watches, and its wishes in order.

Neighbours: `websocket` delivers and sends bytes, `wishes` carries out what `protocol.chat` read,
`watch` is one subscription, `connections` holds all of these and sweeps. Wishes that need no
waiting are carried out at once; the others wait in order for this connection's one worker.
Invariant: wishes of a connection are carried out in order, and nothing a peer does or fails to do
reaches a turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import structlog

from dispatch.core.identity import (
    WATCH,
    AccountId,
    ConversationId,
    Position,
    Principal,
    UserId,
    may,
)
from dispatch.errors import CLOSE_REASONS, CloseCode, DispatchError, Forbidden, PeerError, TooMany
from dispatch.protocol.chat import commands as wish
from dispatch.protocol.chat.frames import SUBPROTOCOL, ChatDialect, encode, queue_surface
from dispatch.protocol.chat.requests import BadFrame, UnknownFrame, conversation_of, read_frame
from dispatch.protocol.codec import Object, read_object
from dispatch.runtime.live import Live
from dispatch.server.chats.events import follow_chats
from dispatch.server.credential import Credential, KeyWanted
from dispatch.server.encoding import FramedEncoding
from dispatch.server.watch import Watch
from dispatch.server.websocket import WebSocket, frame_text
from dispatch.server.wishes import carry_out

if TYPE_CHECKING:
    from dispatch.server.connections import Connections

log = structlog.get_logger()

_PONG: Final = frame_text(b'{"type":"pong"}')
_CATALOG: Final = frame_text(b'{"type":"catalog","catalog":[]}')


class Connection:
    """See the module; a `websocket.Receiver` and a `runtime.feed.Follower`."""

    __slots__ = (
        "__weakref__",
        "_is_working",
        "_queues_due",
        "_waiting",
        "_websocket",
        "_writable",
        "account",
        "credential",
        "dialect",
        "encoding",
        "heals",
        "hub",
        "id",
        "outgoing",
        "stalled_bytes",
        "stalled_since",
        "surfaces",
        "user",
        "watches",
    )

    def __init__(self, hub: Connections, credential: Credential | None, *, heals: bool) -> None:
        """`credential` is None where the first frame must bring one."""
        self.hub = hub
        self.credential = credential
        self.heals = heals
        self.id = ""
        self.account = AccountId("")
        self.user = UserId("")
        self.outgoing = b""
        self.watches: dict[ConversationId, Watch] = {}
        self.surfaces: dict[ConversationId, Live] = {}
        self.stalled_since: float | None = None
        self.stalled_bytes = 0
        self.dialect: ChatDialect = hub.old_dialect
        self.encoding: FramedEncoding = hub.old_encoding
        self._websocket: WebSocket | None = None
        self._queues_due: dict[ConversationId, bool] = {}
        self._waiting: deque[wish.Frame] = deque()
        self._is_working = False
        self._writable: asyncio.Future[None] | None = None

    # -- websocket.Receiver --------------------------------------------------------------------

    def opened(self, websocket: WebSocket) -> None:
        """The first frame leaves with the handshake's answer, unless a credential is missing."""
        self._websocket = websocket
        if websocket.subprotocol == SUBPROTOCOL:
            self.dialect = self.hub.v1_dialect
            self.encoding = self.hub.v1_encoding
            self.heals = False
        self.hub.add(self)
        if self.credential is not None:
            self._welcome(self.credential)

    def received(self, payload: bytes) -> None:
        """One frame: read it, and carry it out now or in its turn."""
        try:
            limits = self.hub.limits
            frame = read_object(
                payload, depth_max=limits.json_depth_max, containers_max=limits.json_containers_max
            )
        except PeerError as error:
            self.send(self.dialect.error(error, kind="error"))
            return
        if self.credential is None:
            self._authenticate(frame)
            return
        if follow_chats(self, frame) or self.hub.take(self, frame):
            return
        try:
            command = read_frame(frame)
        except BadFrame as error:
            self.send(self.dialect.error(error, error.conversation, error.ref))
        except UnknownFrame as error:
            self.send(self.dialect.error(error, ref=error.ref, kind="error"))
        else:
            self._take(command)

    def paused(self) -> None:
        """The peer reads too slowly: its cursors leave the hot sets and stay where they are."""
        for watch in self.watches.values():
            watch.live.feed.leave(watch.cursor)
        self.hub.pause(self)

    def resumed(self) -> None:
        """It has drained: go on from the cursors."""
        self.hub.resume(self)
        self._wake()
        while self._queues_due and self.is_writable:
            conversation, is_update = self._queues_due.popitem()
            self._tell_queue(self.surfaces[conversation], is_update=is_update)
        for watch in list(self.watches.values()):
            if not watch.is_following and not watch.catch_up() and watch.has_gap:
                self.hub.start(self.follow, watch)

    def lost(self) -> None:
        """Drop everything; what was sent goes on without it."""
        for conversation in list(self.watches):
            self.unwatch(conversation)
        for conversation in list(self.surfaces):
            self.hide_queue(conversation)
        self._waiting.clear()
        self.hub.remove(self)
        self._wake()
        self._websocket = None

    # -- what others use -----------------------------------------------------------------------

    @property
    def principal(self) -> Principal:
        """Who this is; only asked once it is known."""
        assert self.credential is not None, "an unknown peer asks for nothing"
        return self.credential.principal

    @property
    def websocket(self) -> WebSocket | None:
        """The socket, until it is lost."""
        return self._websocket

    @property
    def is_open(self) -> bool:
        """Whether a write would still be sent."""
        return self._websocket is not None and self._websocket.is_open

    @property
    def is_writable(self) -> bool:
        """Whether the peer keeps up."""
        websocket = self._websocket
        return websocket is not None and websocket.is_open and websocket.writable

    def write(self, data: bytes) -> None:
        """Send framed bytes."""
        if self._websocket is not None:
            self._websocket.write(data)

    def send(self, text: bytes) -> None:
        """Frame and send one JSON text."""
        self.write(frame_text(text))

    def reply(self, frame: dict[str, Any], ref: str | int | None) -> None:
        """Send a reply with its `ref`."""
        self.send(self.dialect.reply(frame, ref))

    def close(self, code: CloseCode) -> None:
        """Close with a published code and its reason."""
        if self._websocket is not None:
            self._websocket.close(code, CLOSE_REASONS[code])

    async def until_writable(self) -> None:
        """Return once the peer keeps up, or is lost."""
        while self.is_open and not self.is_writable:
            if self._writable is None:
                self._writable = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._writable)

    # -- watching ------------------------------------------------------------------------------

    def watch(self, live: Live, offset: int) -> Watch:
        """Begin to watch after an offset, cold; takes over the caller's hold on `live`."""
        watch = self.watches[live.record.id] = Watch(self, live, offset)
        if self.heals:
            self.hub.healer.join(live, self)
        return watch

    def check_watch(self) -> None:
        """Raise `TooMany` where one more watch is over the bound."""
        self._check_room(len(self.watches) + self.hub.groups_followed(self), "watch")

    def check_queue_shown(self) -> None:
        """Raise `TooMany` where one more queue is over the bound."""
        self._check_room(len(self.surfaces), "show the queues of")

    def _check_room(self, count: int, verb: str) -> None:
        limit = self.hub.limits.subscriptions_max
        if count >= limit:
            raise TooMany(f"a connection may {verb} {limit} conversations")

    def unwatch(self, conversation: ConversationId) -> None:
        """Stop watching; nothing if it was not watched."""
        watch = self.watches.pop(conversation, None)
        if watch is not None:
            if self.heals:
                self.hub.healer.leave(watch.live, self)
            watch.drop()
            self.hub.conversations.release(watch.live)

    async def follow(self, watch: Watch) -> None:
        """Bring a cold watch to the head, waiting for the journal and the peer as needed."""
        if watch.is_following:
            return
        watch.is_following = True
        try:
            while self.is_open and self.watches.get(watch.live.record.id) is watch:
                if watch.has_gap:
                    # It may be dropped meanwhile: nothing is done with it before asking again.
                    if not await watch.catch_up_from_journal(self.hub.history):
                        await self._resync(watch)
                elif watch.catch_up():
                    return
                elif not watch.has_gap:
                    await self.until_writable()
        finally:
            watch.is_following = False

    async def _resync(self, watch: Watch) -> None:
        """The events it needs were pruned: a snapshot, or, for who knows none, a new start."""
        if self.dialect.is_v1:
            await watch.snapshot(self.hub.history)
        else:
            self.close(CloseCode.RESYNC)

    def show_queue(self, live: Live) -> None:
        """Show the queue's surface from now on; takes over the caller's hold on `live`."""
        self.surfaces[live.record.id] = live
        live.queue_watchers[self.queue_changed] = None
        self._tell_queue(live, is_update=False)

    def hide_queue(self, conversation: ConversationId) -> None:
        """Stop showing it; nothing if it was not shown."""
        live = self.surfaces.pop(conversation, None)
        self._queues_due.pop(conversation, None)
        if live is not None:
            live.queue_watchers.pop(self.queue_changed, None)
            self.hub.conversations.release(live)

    def queue_changed(self, live: Live) -> None:
        """A message was queued, taken or cancelled."""
        self._tell_queue(live, is_update=True)

    def _tell_queue(self, live: Live, *, is_update: bool) -> None:
        """All of it; to a peer that does not keep up once it does, and then as it is then."""
        if self.is_writable:
            self.send(queue_surface(live.record.id, live.state.queue, is_update=is_update))
        else:
            self._queues_due.setdefault(live.record.id, is_update)

    def conversation_deleted(self, live: Live) -> None:
        """The conversation is gone: say so, and stop watching."""
        if self.dialect.is_v1 and not self.hub.feeds.is_listening(self):
            self.send(encode({"type": "conversation.deleted", "conversationId": live.record.id}))
        self.unwatch(live.record.id)
        self.hide_queue(live.record.id)

    def position(self, offset: int) -> str:
        """A position's wire form."""
        return str(Position(self.hub.generation, offset))

    # -- wishes --------------------------------------------------------------------------------

    def _take(self, command: wish.Frame) -> None:
        if not self._is_working and self._at_once(command):
            return
        if len(self._waiting) >= self.hub.limits.commands_waiting_max:
            self.close(CloseCode.OVERLOADED)
            return
        self._waiting.append(command)
        if not self._is_working:
            self._is_working = True
            self.hub.start(self._work)

    def _at_once(self, command: wish.Frame) -> bool:
        match command:
            case wish.Ping(ref=None):
                self.write(_PONG)
            case wish.Ping(ref=ref):
                self.reply({"type": "pong"}, ref)
            case wish.ChatUnsubscribe(conversation=conversation):
                self.unwatch(conversation)
            case wish.ConversationsWatch(ref=ref):
                if may(self.principal, WATCH):
                    self.hub.feeds.listen(self, account=True)
                else:
                    error = Forbidden(f"the right to {WATCH} is missing")
                    self.send(self.dialect.error(error, ref=ref))
            case _:
                return False
        return True

    async def _work(self) -> None:
        try:
            while self._waiting and self.is_open:
                command = self._waiting.popleft()
                if not self._at_once(command):
                    await self._carry_out(command)
        finally:
            self._is_working = False

    async def _carry_out(self, command: wish.Frame) -> None:
        try:
            await carry_out(self, command)
        except DispatchError as error:
            conversation = conversation_of(command)
            self.send(self.dialect.error(error, conversation, command.ref))
        except Exception:
            # A defect of ours must not take other connections along; the peer may resume.
            log.exception("connection.failed", connection=self.id)
            self.close(CloseCode.INTERNAL)

    # -- who it is -----------------------------------------------------------------------------

    def _authenticate(self, frame: Object) -> None:
        token = frame.get("token")
        if frame.get("type") != "auth" or not isinstance(token, str):
            self.close(CloseCode.UNAUTHORIZED)
            return
        address = self._websocket.peer if self._websocket is not None else ""
        try:
            credential = self.hub.authenticator.check(token, address)
        except KeyWanted:
            self.hub.start(self._authenticate_later, token, address)
        except DispatchError:
            self.close(CloseCode.UNAUTHORIZED)
        else:
            self._welcome(credential)

    async def _authenticate_later(self, token: str, address: str) -> None:
        try:
            credential = await self.hub.authenticator.authenticate(token, address)
        except DispatchError:
            self.close(CloseCode.UNAUTHORIZED)
        else:
            if self.is_open and self.credential is None:
                self._welcome(credential)

    def _welcome(self, credential: Credential) -> None:
        self.credential = credential
        self.account, self.user = credential.principal.account, credential.principal.user
        if self._websocket is not None:
            self._websocket.authenticated()
        is_told = not self.dialect.is_v1 and may(credential.principal, WATCH)
        self.hub.feeds.listen(self, account=is_told)
        if self.dialect.is_v1:
            self.id = self.hub.new_connection_id()
            self.send(encode(self.hub.hello(self)))
        else:
            self.write(_CATALOG)

    def _wake(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)
