"""VS Code's own AHP client in a process, driven from a test.

Neighbours: `client.mjs` is the other end of the pipe; `packages` brings what it runs on.
Invariant: a client that was started here is ended here.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
from anyio.streams.text import TextReceiveStream

from tests.clients.ahp.ahp_client.copies import Diverged
from tests.clients.ahp.ahp_client.rpc import GUARD_SECONDS, RpcError
from tests.clients.ahp.ahp_client.words import Json
from tests.clients.ahp.vscode.packages import command


class Vscode:
    """One window of VS Code: `version` is what its client was made for, `offers` what it offers."""

    def __init__(self, process: anyio.abc.Process, version: str) -> None:
        self.version = version
        self.client_id = ""
        self.envelopes: list[Json] = []
        # How many envelopes had come before the last answer.
        self.answered_behind = 0
        self.notifications: list[Json] = []
        self.states: list[str] = []
        self._process = process
        self._ids = itertools.count(1)
        self._answers: dict[int, tuple[int, Json]] = {}
        self._came = anyio.Event()

    async def do(self, verb: str, **params: Any) -> Any:
        """What came of it; raises `RpcError` with the host's number."""
        number = next(self._ids)
        line = json.dumps({"id": number, "do": verb, **params}) + "\n"
        assert self._process.stdin is not None
        await self._process.stdin.send(line.encode())
        await self.until(lambda: number in self._answers)
        self.answered_behind, answer = self._answers.pop(number)
        if "error" in answer:
            raise RpcError(answer["error"]["code"], answer["error"]["message"])
        return answer["result"]

    async def connect(self, url: str, *offers: str, token: str | None = None) -> None:
        address = url.replace("http", "ws", 1) + "/ahp" + ("" if token is None else f"?tkn={token}")
        told = await self.do("connect", url=address, **({"offers": offers} if offers else {}))
        self.client_id = told["clientId"]

    async def dispatch(self, channel: str, action: Json) -> None:
        await self.do("dispatch", channel=channel, action=action)

    async def confirmed(self, uri: str) -> Json:
        """What it has folded of a channel that it follows."""
        state: Json = (await self.do("state", uri=uri))["confirmed"]
        return state

    async def check(self, uri: str, *, without: tuple[str, ...] = ()) -> None:
        """Raise `Diverged` where what it folded is not what the host says at this moment."""
        told = await self.do("check", uri=uri)
        folded, state = told["folded"], told["snapshot"]["state"]
        for name in sorted((folded.keys() | state.keys()) - set(without)):
            if folded.get(name) != state.get(name):
                raise Diverged(
                    f"VS Code folded {name} of {uri}: {folded.get(name)!r}, "
                    f"the host says {state.get(name)!r}"
                )

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait, line by line, until something holds."""
        with anyio.fail_after(GUARD_SECONDS):
            while not holds():
                await self._came.wait()

    async def until_action(self, kind: str, count: int = 1) -> Json:
        """Wait for this many actions of a type; the last of them."""
        await self.until(lambda: len(self.actions(kind)) >= count)
        return self.actions(kind)[count - 1]

    def actions(self, kind: str) -> list[Json]:
        actions = [one["action"] for one in self.envelopes if "rejectionReason" not in one]
        return [one for one in actions if one["type"] == kind]

    async def receive(self) -> None:
        """Take in what it says until it ends."""
        assert self._process.stdout is not None
        rest = ""
        async for text in TextReceiveStream(self._process.stdout):
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                self._take(json.loads(line))
            self._came.set()
            self._came = anyio.Event()

    def _take(self, line: Json) -> None:
        match line:
            case {"envelope": envelope}:
                self.envelopes.append(envelope)
            case {"notification": notification}:
                self.notifications.append(notification)
            case {"state": state}:
                self.states.append(state)
            case _:
                self._answers[line["id"]] = len(self.envelopes), line


@asynccontextmanager
async def vscode(version: str) -> AsyncIterator[Vscode]:
    """A window that has not connected yet."""
    words = command("client.mjs", version)
    environment = {**os.environ, "NO_PROXY": "*", "no_proxy": "*"}
    async with await anyio.open_process(words, env=environment, stderr=None) as process:
        window = Vscode(process, version)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(window.receive)
                yield window
                tasks.cancel_scope.cancel()
        finally:
            if process.returncode is None:
                process.kill()
