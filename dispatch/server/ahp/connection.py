"""One WebSocket connection that speaks AHP: what it follows, and its messages in their order.

Neighbours: `server.websocket` delivers and sends bytes, `methods` carries out requests,
`runtime.ahp.hub` has the lines that this follows, `connections` the sweep.
Invariant: messages are carried out in order; a response leaves before any action that is newer
than what it says, and actions leave in the order of their numbers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from dispatch.core.identity import Principal
from dispatch.errors import CLOSE_REASONS, CloseCode, DispatchError
from dispatch.protocol.ahp.envelopes import Origin, encode_envelope, rejection
from dispatch.protocol.ahp.objects import present
from dispatch.protocol.ahp.uris import ROOT, URI_CHARACTERS_MAX
from dispatch.protocol.ahp.validation import Rejected
from dispatch.protocol.codec import Object
from dispatch.protocol.jsonrpc import (
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    Notification,
    Request,
    RpcError,
    encode_failure,
    encode_success,
    read_message,
)
from dispatch.runtime.ahp.clients import Client
from dispatch.runtime.ahp.hub import Line
from dispatch.runtime.ahp.scope import Scope
from dispatch.server.ahp.refusals import refusal
from dispatch.server.credential import Credential
from dispatch.server.websocket import WebSocket, frame_text

if TYPE_CHECKING:
    from dispatch.server.ahp.connections import AhpConnections

log = structlog.get_logger()

_ENCODER: Final = msgspec.json.Encoder()
_CLIENT_SEQ_MAX: Final = 2**53


class AhpConnection:
    """See the module; a `websocket.Receiver` and a `runtime.ahp.hub.Follower`."""

    __slots__ = (
        "__weakref__",
        "_is_working",
        "_waiting",
        "_warm",
        "_websocket",
        "client",
        "credential",
        "hub",
        "is_hot",
        "lines",
        "outgoing",
        "scopes",
        "seq",
        "stalled_bytes",
        "stalled_since",
    )

    def __init__(self, hub: AhpConnections, credential: Credential) -> None:
        """Nobody yet: `initialize` says which client this is."""
        self.hub = hub
        self.credential: Credential | None = credential
        self.client: Client | None = None
        self.outgoing = b""
        self.seq = 0
        self.is_hot = True
        self.lines: dict[str, Line] = {}
        self.scopes: dict[str, Scope] = {}
        self.stalled_since: float | None = None
        self.stalled_bytes = 0
        self._websocket: WebSocket | None = None
        self._waiting: deque[Request | Notification] = deque()
        self._is_working = False
        self._warm: asyncio.Future[None] | None = None

    # -- websocket.Receiver --------------------------------------------------------------------

    def opened(self, websocket: WebSocket) -> None:
        """Nothing is said before the client has said hello."""
        self._websocket = websocket
        websocket.authenticated()
        self.hub.add(self)

    def received(self, payload: bytes) -> None:
        """One message: answer it now, or carry it out in its turn."""
        try:
            message = read_message(payload, depth_max=self.hub.limits.json_depth_max)
        except RpcError as error:
            self.send(encode_failure(error))
            return
        match message:
            case Request(method="ping"):
                self.send(encode_success(message.id, b"null"))
            case Request() | Notification():
                self._take(message)
            case _:
                # Nothing is asked of clients, so they have nothing to answer.
                log.debug("ahp.answer_ignored")

    def paused(self) -> None:
        """The peer reads too slowly: it stays where it is."""
        self.hub.lines.cool(self)
        self.hub.sweep.pause(self)

    def resumed(self) -> None:
        """It has drained: go on from its number."""
        self.hub.sweep.resume(self)
        self._catch_up()

    def lost(self) -> None:
        """Drop everything; what was sent goes on without it."""
        self._waiting.clear()
        for channel in list(self.scopes):
            self.unfollow(channel)
        self.hub.remove(self)
        self._websocket = None
        self._wake()

    # -- what others use -----------------------------------------------------------------------

    @property
    def principal(self) -> Principal:
        """Who this is."""
        assert self.credential is not None, "an upgrade without a credential is refused"
        return self.credential.principal

    @property
    def websocket(self) -> WebSocket | None:
        """The socket, until it is lost."""
        return self._websocket

    @property
    def is_open(self) -> bool:
        """Whether a write would still be sent."""
        return self._websocket is not None and self._websocket.is_open

    def write(self, data: bytes) -> None:
        """Send framed bytes."""
        if self._websocket is not None:
            self._websocket.write(data)

    def send(self, text: bytes) -> None:
        """Frame and send one message."""
        self.write(frame_text(text))

    def close(self, code: CloseCode) -> None:
        """Close with a published code and its reason."""
        if self._websocket is not None:
            self._websocket.close(code, CLOSE_REASONS[code])

    def fail(self) -> None:
        """See `runtime.ahp.hub.Follower`."""
        self.close(CloseCode.INTERNAL)

    async def until_hot(self) -> None:
        """Return once the peer has been given all there is, or is lost."""
        while self.is_open and not self.is_hot:
            if self._warm is None:
                self._warm = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._warm)

    # -- following -----------------------------------------------------------------------------

    def follow(self, channel: str, scope: Scope) -> None:
        """Follow a channel; takes over the caller's hold on the session."""
        assert self.client is not None, "only a client follows"
        self.scopes[channel] = scope
        self.hub.lines.join(self, scope.account, channel, self.client.version)

    def unfollow(self, channel: str) -> None:
        """Follow it no more; nothing if it was not followed."""
        scope = self.scopes.pop(channel, None)
        if scope is not None and self.client is not None:
            self.hub.lines.leave(self, scope.account, channel, self.client.version)
            self.hub.host.unfollow(scope)

    def meet(self, client: Client) -> None:
        """It has said which client it is."""
        self.client = client
        self.hub.presence.came(self.principal.account, client.id)

    def rebase(self) -> None:
        """From this moment on it is owed everything, and is given it behind the next response."""
        self.hub.lines.cool(self)
        self.seq = self.hub.lines.number

    def _catch_up(self) -> None:
        websocket, limit = self._websocket, self.hub.limits.catch_up_bytes_max
        while not self.is_hot and websocket is not None and websocket.is_open:
            if not websocket.writable:
                return
            behind = self.hub.lines.behind(self, limit)
            if behind.is_lost:
                # There is no message for a new snapshot; `reconnect` gets it one.
                self.close(CloseCode.RESYNC)
            elif behind.data:
                websocket.write(behind.data)
            else:
                self.hub.lines.warm(self)
                self._wake()

    def _wake(self) -> None:
        warm, self._warm = self._warm, None
        if warm is not None and not warm.done():
            warm.set_result(None)

    # -- messages ------------------------------------------------------------------------------

    def _take(self, message: Request | Notification) -> None:
        if len(self._waiting) >= self.hub.limits.commands_waiting_max:
            self.close(CloseCode.OVERLOADED)
            return
        self._waiting.append(message)
        if not self._is_working:
            self._is_working = True
            self.hub.start(self._work)

    async def _work(self) -> None:
        try:
            while self._waiting and self.is_open:
                await self.until_hot()
                if self._waiting:
                    await self._carry_out(self._waiting.popleft())
        finally:
            self._is_working = False

    async def _carry_out(self, message: Request | Notification) -> None:
        try:
            if isinstance(message, Request):
                await self._request(message)
            elif message.method == "dispatchAction":
                await self._dispatch(message.params)
            elif message.method == "unsubscribe":
                self._unsubscribe(message.params)
            else:
                log.debug("ahp.notification_ignored")
        except Exception:
            # A defect of ours must not take other connections along; the peer may come back.
            log.exception("ahp.connection_failed")
            self.close(CloseCode.INTERNAL)

    async def _request(self, request: Request) -> None:
        try:
            result = await self.hub.methods.call(self, request.method, request.params)
        except RpcError as error:
            error.request_id = request.id
            self.send(encode_failure(error))
            if self.client is None and error.code not in (METHOD_NOT_FOUND, INTERNAL_ERROR):
                self.hub.methods.refused(self, error)
        except DispatchError as error:
            failure = refusal(error)
            failure.request_id = request.id
            self.send(encode_failure(failure))
        else:
            self.send(encode_success(request.id, _ENCODER.encode(result)))
        # Whoever was owed something behind this answer.
        self._catch_up()

    def _unsubscribe(self, params: Object) -> None:
        channel = params.get("channel")
        if channel == ROOT:
            self.hub.untell(self)
        elif isinstance(channel, str) and channel in self.scopes:
            self._take_leave(channel, self.scopes[channel])
            self.unfollow(channel)

    def _take_leave(self, channel: str, scope: Scope) -> None:
        """A client that follows a session no more takes no part in it either."""
        clients = scope.ledger.details.active_clients
        mine = "" if self.client is None else self.client.id
        if channel == scope.uri and any(client["clientId"] == mine for client in clients):
            scope.forget_clients([mine])

    async def _dispatch(self, params: Object) -> None:
        """An action; what is none, or of a channel that is not there, is ignored."""
        client, channel = self.client, params.get("channel")
        client_seq, action = params.get("clientSeq"), params.get("action")
        if client is None or not isinstance(action, dict) or not isinstance(channel, str):
            return
        if type(client_seq) is not int or abs(client_seq) > _CLIENT_SEQ_MAX:
            return
        if len(channel) > URI_CHARACTERS_MAX:
            return
        origin = Origin(client.id, client_seq)
        try:
            is_told = await self.hub.dispatching.dispatch(client, channel, client_seq, action)
        except Rejected as error:
            await self.until_hot()
            number = self.hub.lines.number
            envelope = rejection(channel, action, number, origin, error.reason)
            text = encode_envelope(envelope)
            self.hub.refused.keep(self.principal.account, client.id, envelope, len(text))
            self.send(text)
        else:
            if not is_told and channel == ROOT:
                await self.until_hot()
                self.send(encode_envelope(_echo(channel, action, self.hub.lines.number, origin)))


def _echo(channel: str, action: Object, number: int, origin: Origin) -> Object:
    """What changed nothing is told to its sender alone, who waits for it."""
    sender = {"clientId": origin.client_id, "clientSeq": origin.client_seq}
    return present(channel=channel, action=action, serverSeq=number, origin=sender)
