"""The client: one logical connection to a daemon that survives its real ones.

Neighbours: `dial` opens a WebSocket, `follow` iterates a conversation, `http` asks what is asked
once. One task reads; after a loss it dials again with full-jitter back-off, subscribes every
follower from its place and repeats every send that has no answer, under its client id.
Invariant: a send is carried out once or raises; a request that must not be repeated raises
`ConnectionLost` when its reply is lost.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from types import TracebackType
from typing import Final, TypedDict, TypeVar, Unpack

import anyio
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from dispatch.client.calls import Call, Calls
from dispatch.client.chats import ChatApi
from dispatch.client.commands import FrameType, camel, encode_command
from dispatch.client.cursor import Cursor
from dispatch.client.decoding import ServerFrame, decode_frame
from dispatch.client.dial import Address, Options, dial, jittered
from dispatch.client.failures import CannotConnect, ending_of
from dispatch.client.follow import Follow, Follower, Port
from dispatch.client.followers import Followers
from dispatch.client.frames import Accepted, ChatError, Forked, Hello, PlainError, Stopped
from dispatch.client.groups import GroupApi
from dispatch.client.http import HttpApi
from dispatch.client.mirror import Mirror, chats_topic, group_topic
from dispatch.client.people import PeopleApi
from dispatch.client.transport import Transport
from dispatch.core.commands import OnBusy, ReasoningEffort
from dispatch.core.events import Image
from dispatch.errors import DispatchError, PeerError, Refused, TooLarge

DEFAULT_URL: Final = "http://127.0.0.1:8765"

# A connection that lives shorter than this does not end the back-off: a daemon that accepts and
# hangs up at once is not to be called again at full speed.
STABLE_SECONDS: Final = 5.0

# Of history after a gap: the connection was just lost, so the daemon may be restarting.
READ_ATTEMPTS: Final = 4

R = TypeVar("R", Accepted, Stopped, Forked)


class SendFields(TypedDict, total=False):
    """What a message may carry beside its text (`protocol/native.md`, 1.2 and Part 2)."""

    conversation_id: str | None
    client_message_id: str | None
    on_busy: OnBusy
    model: str | None
    images: tuple[Image, ...]
    cwd: str | None
    reasoning_effort: ReasoningEffort | None
    workspace_id: str | None


class Client:
    """`async with Client() as client`: send, follow, stop, fork.

    `client.groups` and `client.chats` are the other dialects, watched over the same connection;
    `client.http` is what is asked once: history, lists, read cursors, answers to an agent.
    `url` and `token` default to the environment's `DISPATCH_URL` and `DISPATCH_TOKEN`. Entering
    raises `CannotConnect` if nothing answers; later losses are resumed, unless the daemon said not
    to come back, which every call and iterator then raises.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        options: Options | None = None,
        transport: Transport | None = None,
    ) -> None:
        """Nothing is opened before `async with`."""
        self._options = options or Options()
        self._address = Address.parse(
            url or os.environ.get("DISPATCH_URL") or DEFAULT_URL,
            token or os.environ.get("DISPATCH_TOKEN") or None,
        )
        self._transport = transport
        self.http = HttpApi(
            self._address, self._options, read_attempts=READ_ATTEMPTS, transport=transport
        )
        self._port = Port(
            self._write, self._enter, self._leave, self.http, self._options.buffer_bytes_max
        )
        self.groups = GroupApi(
            self.http, lambda group, place: Mirror(self._port, group_topic(group), place)
        )
        self.chats = ChatApi(
            self.http, lambda place, deltas: Mirror(self._port, chats_topic(deltas=deltas), place)
        )
        self.people = PeopleApi(self.http)
        self._hello = Hello("")
        self._link: ClientConnection | None = None
        self._calls = Calls()
        self._followers = Followers()
        self._failure: DispatchError | None = None
        self._attempt = 0

    @property
    def hello(self) -> Hello:
        """Who the daemon takes us for, and what it offers."""
        return self._hello

    async def __aenter__(self) -> Client:
        connection = await self._dial(self._options.first_patience_seconds)
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._run, connection)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        link = self._link
        self._end(None)
        self._group.cancel_scope.cancel()
        # Without the body's exception, which would come back wrapped in a group.
        await self._group.__aexit__(None, None, None)
        if link is not None:
            with anyio.move_on_after(1, shield=True):
                await link.close()

    async def send(self, message: str, **fields: Unpack[SendFields]) -> Accepted:
        """Start a turn (or what `on_busy` says); returns once the message is durable.

        Carried out exactly once, however often the connection is lost meanwhile. A program that may
        itself be restarted passes its own `client_message_id` and sends again with the same one.
        """
        command = {camel(name): value for name, value in fields.items()}
        command["clientMessageId"] = command.get("clientMessageId") or str(uuid.uuid4())
        return await self._call(Accepted, "chat.send", {"message": message, **command}, True)

    def follow(
        self, conversation_id: str, *, after: str | None = None, since_seq: int | None = None
    ) -> Follow:
        """Watch a conversation: from the turn in flight, from a position, or from a seq of history.

        One follower a conversation and client.
        """
        return Follow(self._port, conversation_id, Cursor(after=after, since_seq=since_seq))

    async def stop(self, conversation_id: str, turn_id: str | None = None) -> Stopped:
        """Stop the running turn, or only that one."""
        fields: dict[str, object] = {"conversationId": conversation_id, "turnId": turn_id}
        # Without the turn's id a repeat could stop the next turn instead.
        return await self._call(Stopped, "chat.stop", fields, turn_id is not None)

    async def fork(self, conversation_id: str, turn_id: str) -> Forked:
        """A new conversation with the history up to and including a sealed turn."""
        fields: dict[str, object] = {"conversationId": conversation_id, "turnId": turn_id}
        return await self._call(Forked, "chat.fork", fields, False)

    async def _call(
        self, kind: type[R], frame_type: FrameType, fields: dict[str, object], is_repeatable: bool
    ) -> R:
        """Send a command under a fresh ref and wait for its reply."""
        if self._failure is not None:
            raise self._failure
        ref = self._calls.new_ref()
        frame = encode_command(frame_type, {**fields, "ref": ref})
        bound = self._hello.limits.frame_bytes_max
        if len(frame) > bound:
            raise TooLarge(f"the message has {len(frame)} bytes; the server takes {bound}")
        call = Call(ref, frame, is_repeatable=is_repeatable)
        self._calls.add(call)
        try:
            # A send waits as long as the client is patient; its caller may be less so.
            with anyio.fail_after(None if is_repeatable else self._options.reply_seconds):
                await self._transmit(call)
                reply = await call.reply()
        except TimeoutError as error:
            raise CannotConnect(f"{self._address.http} gave no reply") from error
        finally:
            self._calls.drop(call)
        if not isinstance(reply, kind):
            raise PeerError(f"the server answered {frame_type} with another frame")
        return reply

    async def _transmit(self, call: Call) -> None:
        if self._link is None or call.is_sent:
            # `_announce` sends it on the next connection.
            return
        call.is_sent = True
        await self._write(call.frame)

    async def _write(self, frame: bytes) -> None:
        if self._link is not None:
            # A loss is the reader's to notice, and to mend.
            with contextlib.suppress(ConnectionClosed):
                await self._link.send(frame, text=True)

    def _enter(self, follower: Follower) -> None:
        if self._failure is not None:
            raise self._failure
        self._followers.enter(follower)

    async def _leave(self, follower: Follower) -> None:
        self._followers.leave(follower)
        await self._write(follower.unsubscription)

    async def _dial(self, patience_seconds: float | None) -> ClientConnection:
        """Try until it works, patience ends, or the daemon says no."""
        began = anyio.current_time()
        while True:
            try:
                connection, self._hello = await dial(self._address, self._options, self._transport)
            except CannotConnect as failure:
                waited = anyio.current_time() - began
                if patience_seconds is not None and waited >= patience_seconds:
                    raise
                await self._pause((failure.retry_after_ms or 0) / 1000)
            else:
                return connection

    async def _pause(self, seconds_min: float = 0) -> None:
        seconds = max(seconds_min, jittered(self._options, self._attempt))
        self._attempt += 1
        await anyio.sleep(seconds)

    async def _run(self, connection: ClientConnection) -> None:
        """Serve one connection after the other until there is a reason not to."""
        try:
            while True:
                reason = await self._serve(connection)
                self._followers.lost(reason)
                await self._pause()
                connection = await self._dial(self._options.patience_seconds)
        except DispatchError as failure:
            self._end(failure)

    async def _serve(self, connection: ClientConnection) -> str:
        """Read a connection to its end; returns why it ended, raises if that is final."""
        began = anyio.current_time()
        self._link = connection
        try:
            async with anyio.create_task_group() as group:
                # Beside the reader: what it asks for may be more than the socket holds.
                group.start_soon(self._announce)
                outcome = await self._read(connection)
                group.cancel_scope.cancel()
        finally:
            self._link = None
        if anyio.current_time() - began >= STABLE_SECONDS:
            self._attempt = 0
        if isinstance(outcome, DispatchError):
            connection.transport.abort()
            raise outcome
        reason, failure = ending_of(outcome)
        if failure is not None:
            raise failure
        self._calls.lost(reason, outcome.rcvd.code if outcome.rcvd else None)
        return reason

    async def _announce(self) -> None:
        """On a new connection: follow what is followed, repeat what has no answer."""
        for frame in self._followers.subscriptions():
            await self._write(frame)
        for call in self._calls.unsent():
            await self._transmit(call)

    async def _read(self, connection: ClientConnection) -> ConnectionClosed | DispatchError:
        try:
            while True:
                text = await connection.recv(decode=False)
                frame = decode_frame(text)
                if frame is not None:
                    self._take(frame, len(text))
        except ConnectionClosed as closed:
            return closed
        except PeerError as failure:
            return failure

    def _take(self, frame: ServerFrame, size: int) -> None:
        """Hand a frame to whom it is for; never waits."""
        match frame:
            case Accepted() | Stopped() | Forked():
                self._calls.settle(frame.ref, frame)
            case ChatError() | PlainError():
                self._calls.settle(frame.ref, frame.failure())
                self._followers.take(frame, size)
            case _:
                self._followers.take(frame, size)

    def _end(self, failure: DispatchError | None) -> None:
        """Nothing more will come: tell everybody who waits."""
        self._failure = failure or Refused("the client is closed")
        self._link = None
        self._calls.end(self._failure)
        self._followers.end(failure)
