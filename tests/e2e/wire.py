"""A client that knows only the wire: frames as dictionaries over a real socket.

Neighbours: every test in this folder; `conftest` starts the daemon, `tests/protocol/published.py`
holds what is received to the published schemas. It shares no code with the package, so that a
mistake in a shared name cannot hide.
Invariant: every wait is under a guard.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from websockets.asyncio.client import ClientConnection, connect

from tests.protocol.published import saw_frame

Frame = dict[str, Any]
GUARD_SECONDS = 10.0


class Wire:
    """One connection; `seen` are the frames received, in order."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[Frame] = []

    async def send(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def next(self) -> Frame:
        frame = await self.passing()
        self.seen.append(frame)
        return frame

    async def passing(self) -> Frame:
        """The next frame, of a flood that is not kept in `seen`."""
        with anyio.fail_after(GUARD_SECONDS):
            frame: Frame = json.loads(await self.socket.recv())
        saw_frame(frame, is_v1=self.socket.subprotocol == "dispatch.v1")
        return frame

    async def until(self, wanted: Callable[[Frame], bool]) -> list[Frame]:
        """The frames up to and including the first wanted one."""
        frames: list[Frame] = []
        with anyio.fail_after(GUARD_SECONDS * 3):
            while True:
                frames.append(await self.next())
                if wanted(frames[-1]):
                    return frames

    async def until_event(self, kind: str, turn: str | None = None) -> list[Frame]:
        return await self.until(
            lambda f: (
                f["type"] == "chat.delta"
                and f["event"]["type"] == kind
                and turn in (None, f["event"]["turnId"])
            )
        )

    async def until_type(self, kind: str) -> Frame:
        return (await self.until(lambda f: f["type"] == kind))[-1]


@asynccontextmanager
async def old_wire(url: str, query: str = "?heal=0") -> AsyncIterator[Wire]:
    """A connection of Part 1, after its catalog."""
    async with connect(
        url.replace("http", "ws") + f"/ws{query}", max_size=None, max_queue=None
    ) as socket:
        wire = Wire(socket)
        assert await wire.next() == {"type": "catalog", "catalog": []}
        yield wire


@asynccontextmanager
async def v1_wire(url: str, **options: Any) -> AsyncIterator[Wire]:
    """A connection of `dispatch.v1`, after its hello."""
    options.setdefault("subprotocols", ["dispatch.v1"])
    async with connect(
        url.replace("http", "ws") + "/ws", max_size=None, max_queue=None, **options
    ) as socket:
        wire = Wire(socket)
        assert (await wire.next())["type"] == "hello"
        yield wire


def events(frames: list[Frame]) -> list[Frame]:
    """The events of the deltas among some frames."""
    return [frame["event"] for frame in frames if frame["type"] == "chat.delta"]


def text(frames: list[Frame]) -> str:
    """The answer's text that some frames show."""
    return "".join(e["delta"] for e in events(frames) if e["type"] == "text-delta")
