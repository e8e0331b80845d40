"""A daemon that does what a test says: one script a connection, in the order they come.

It speaks the frames of `protocol/native.md`, Part 2, by hand, so that a mistake in `dispatch` is
not made twice. What goes wrong in a script fails the test that wrote it.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from dispatch.client import Client, Options

Frame = dict[str, Any]

PASSED_OVER = {"chat.unsubscribe", "group.unsubscribe", "chats.unsubscribe", "ping"}

# Nothing is waited for between attempts; how long a wait is, is tested by itself.
EAGER = Options(backoff_seconds=0, reply_seconds=10)


class Peer:
    """The daemon's end of one connection."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection

    async def say(self, *frames: Frame) -> None:
        for frame in frames:
            await self._connection.send(json.dumps(frame))

    async def heard(self, kind: str) -> Frame:
        """The next frame, which must be of this type; pings and unsubscribing are allowed."""
        while True:
            frame = json.loads(await self._connection.recv())
            if frame["type"] == kind:
                return frame  # type: ignore[no-any-return]
            assert frame["type"] in PASSED_OVER, frame

    async def cut(self) -> None:
        """Vanish, without a close frame; what was said before still arrives."""
        await self._connection.drain_and_abort()  # type: ignore[attr-defined]

    async def close(self, code: int, reason: str = "") -> None:
        await self._connection.close(code, reason)

    async def stay(self) -> None:
        """Until the client goes."""
        await self._connection.wait_closed()


Script = Callable[[Peer], Awaitable[None]]


class _Connection(ServerConnection):
    async def drain_and_abort(self) -> None:
        # Half-closing sends everything first and then looks like a vanished process.
        self.transport.write_eof()
        await self.wait_closed()


class ScriptedServer:
    """Serves the scripts of a test. `pages`: JSON by path, for GET; `heads`: requests seen."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self._failures: list[BaseException] = []
        self._server: Server
        self.pages: dict[str, object] = {}
        self.refusal: tuple[HTTPStatus, object] | None = None
        self.hello: Frame = {}
        self.says_hello = True
        self.subprotocol = "dispatch.v1"
        self.heads: list[tuple[str, Headers]] = []
        self.url = ""

    async def __aenter__(self) -> "ScriptedServer":
        self._server = await serve(
            self._handle,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol(self.subprotocol)],
            select_subprotocol=lambda _, offered: self.subprotocol if offered else None,
            process_request=self._page,
            create_connection=_Connection,
            compression=None,
            max_size=None,
        )
        port = next(iter(self._server.sockets)).getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        await self._server.wait_closed()
        if self._failures:
            raise self._failures[0]

    async def _handle(self, connection: ServerConnection) -> None:
        peer = Peer(connection)
        try:
            if self.says_hello:
                hello = {"type": "hello", "protocol": "dispatch.v1", "connectionId": "c1"}
                await peer.say(hello | self.hello)
            if self._scripts:
                await self._scripts.pop(0)(peer)
            await peer.stay()
        except ConnectionClosed:
            pass
        except AssertionError as failure:
            self._failures.append(failure)

    def _page(self, connection: ServerConnection, request: Request) -> Response | None:
        self.heads.append((request.path, request.headers))
        if self.refusal is not None:
            return self._json(connection, *self.refusal)
        if request.path == "/ws":
            return None
        path = urlsplit(request.path).path
        if path in self.pages:
            return self._json(connection, HTTPStatus.OK, self.pages[path])
        gone = {"error": f"no page {path}", "code": "not_found"}
        return self._json(connection, HTTPStatus.NOT_FOUND, gone)

    @staticmethod
    def _json(connection: ServerConnection, status: HTTPStatus, body: object) -> Response:
        return connection.respond(status, json.dumps(body))


@asynccontextmanager
async def connected(*scripts: Script, options: Options = EAGER) -> AsyncIterator[Client]:
    """A client of a scripted daemon."""
    async with ScriptedServer(*scripts) as server, Client(server.url, options=options) as client:
        yield client


def delta(offset: int, turn: str, event: Frame, conversation: str = "c") -> Frame:
    """One event on the wire, at `g:<offset>`."""
    return {
        "type": "chat.delta",
        "position": f"g:{offset}",
        "event": {"conversationId": conversation, "turnId": turn, **event},
    }


def text(offset: int, turn: str, words: str) -> Frame:
    return delta(offset, turn, {"type": "text-delta", "delta": words})


def subscribed(asked: Frame, head: int, **fields: object) -> Frame:
    """The reply to a `chat.subscribe`."""
    reply = {
        "type": "chat.subscribed",
        "conversationId": asked["conversationId"],
        "recovered": True,
        "position": f"g:{head}",
        "status": "active",
        "lastSeq": 0,
        "ref": asked["ref"],
    }
    return reply | fields


def accepted(asked: Frame, head: int, turn: str = "t1", **fields: object) -> Frame:
    """The reply to a `chat.send`."""
    reply = {
        "type": "chat.accepted",
        "conversationId": asked.get("conversationId", "c"),
        "turnId": turn,
        "clientMessageId": asked["clientMessageId"],
        "position": f"g:{head}",
        "ref": asked["ref"],
    }
    return {name: value for name, value in (reply | fields).items() if value is not None}


def turn(first: int, name: str, *words: str) -> list[Frame]:
    """A whole turn, from its first offset."""
    events: list[Frame] = [
        {"type": "user-message", "text": "hi"},
        {"type": "turn-start"},
        *({"type": "text-delta", "delta": word} for word in words),
        {"type": "done", "reason": "stop"},
        {"type": "turn-sealed"},
    ]
    return [delta(first + index, name, event) for index, event in enumerate(events)]
