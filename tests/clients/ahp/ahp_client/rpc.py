"""JSON-RPC 2.0 over one WebSocket: requests, notifications, and what comes, in order.

Neighbours: `client`, which knows what the messages mean.
Invariant: whatever comes is handled before anything that came after it, answers too.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import anyio
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.clients.ahp.ahp_client.words import Json

METHOD_NOT_FOUND = -32601
GUARD_SECONDS = 30.0


class RpcError(Exception):
    """The host's error: its number, its words, and what it told beside."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.data = data


class Gone(Exception):
    """The connection ended before an answer."""


class _Asked(NamedTuple):
    answered: anyio.Event
    answer: list[Json]
    on_result: Callable[[Any], None] | None


class Rpc:
    """One connection. `on_notification` is given every notification, in the order they came."""

    def __init__(
        self, socket: ClientConnection, on_notification: Callable[[str, Json], None]
    ) -> None:
        self.socket = socket
        self.ended = anyio.Event()
        self.came = anyio.Event()
        # Errors about what the host could not read, and so could not name.
        self.nameless: list[Json] = []
        self._on_notification = on_notification
        self._asked: dict[Any, _Asked] = {}
        self._ids = itertools.count(1)

    async def request(
        self, method: str, params: Json, on_result: Callable[[Any], None] | None = None
    ) -> Any:
        """The result. `on_result` is called with it in its place among what comes."""
        number = next(self._ids)
        asked = _Asked(anyio.Event(), [], on_result)
        self._asked[number] = asked
        await self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        with anyio.fail_after(GUARD_SECONDS):
            await asked.answered.wait()
        if not asked.answer:
            raise Gone(method)
        (answer,) = asked.answer
        if "error" in answer:
            error = answer["error"]
            raise RpcError(error["code"], error["message"], error.get("data"))
        return answer["result"]

    async def notify(self, method: str, params: Json) -> None:
        await self.send({"jsonrpc": "2.0", "method": method, "params": params})

    async def send(self, message: Any) -> None:
        try:
            await self.socket.send(json.dumps(message))
        except ConnectionClosed:
            # What waits for its echo is sent again on the next connection.
            self.ended.set()

    async def receive(self) -> None:
        """Handle what comes until the connection ends."""
        try:
            async for text in self.socket:
                await self._handle(json.loads(text))
                self.came.set()
                self.came = anyio.Event()
        except ConnectionClosed:
            pass
        finally:
            self.ended.set()
            self.came.set()
            for asked in self._asked.values():
                asked.answered.set()

    async def _handle(self, message: Json) -> None:
        assert message["jsonrpc"] == "2.0", message
        match message:
            case {"method": str(), "id": number}:
                error = {"code": METHOD_NOT_FOUND, "message": "This client serves no requests"}
                await self.send({"jsonrpc": "2.0", "id": number, "error": error})
            case {"method": str(method)}:
                self._on_notification(method, message["params"])
            case {"id": None, "error": error}:
                self.nameless.append(error)
            case _:
                asked = self._asked.pop(message["id"])
                assert ("result" in message) != ("error" in message), message
                if asked.on_result is not None and "result" in message:
                    asked.on_result(message["result"])
                asked.answer.append(message)
                asked.answered.set()
