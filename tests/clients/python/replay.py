"""Replays golden transcripts, from `protocol/fixtures/README.md` alone: `replay.py URL FILE…`.

Neighbours: `matching` compares; `client` is the client that people would use. One JSON line a
transcript, and exit status 1 if one failed.
Invariant: nothing of the package is imported.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from matching import Differs, Frames, Names
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

STEP_SECONDS = 20.0


class Socket:
    """A connection, whose broadcasts are kept aside."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.ordered: deque[Any] = deque()
        self.broadcasts: deque[Any] = deque()

    async def next(self, queue: deque[Any]) -> Any:
        """The next frame of one of the two."""
        while not queue:
            frame = json.loads(await self.connection.recv())
            aside = str(frame.get("type")).startswith("conversation.")
            (self.broadcasts if aside else self.ordered).append(frame)
        return queue.popleft()


class Replay:
    """One transcript against one server."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url = url
        self.http = http
        self.names = Names()
        self.sockets: dict[str, Socket] = {}

    async def step(self, step: dict[str, Any]) -> None:
        """Carry out one step."""
        await getattr(self, step["do"])(step)

    async def request(self, step: dict[str, Any]) -> None:
        """See the table of the page."""
        asked = self.names.fill(step["request"])
        content = asked.get("text")
        if "body" in asked:
            content = json.dumps(asked["body"])
        headers = {"Content-Type": "application/json"} if content is not None else {}
        request = self.http.build_request(
            asked["method"],
            asked["path"],
            content=content,
            headers=headers | asked.get("headers", {}),
        )
        reply = await self.http.send(request, stream=True)
        try:
            self.names.match(step["status"], reply.status_code)
            for name, value in step.get("headers", {}).items():
                self.names.match(value, reply.headers.get(name))
            if "reply" in step:
                self.names.match(step["reply"], json.loads(await reply.aread()))
                return
            is_events = "frames" in step
            stream = self.events(reply) if is_events else lines(reply)
            frames = Frames(self.names, step["frames" if is_events else "lines"])
            async for frame in stream:
                frames.take(frame)
                if frames.are_all and step.get("leave"):
                    return
            if not frames.are_all:
                raise Differs("the stream ended early")
        finally:
            await reply.aclose()

    async def events(self, reply: httpx.Response) -> AsyncIterator[Any]:
        """Server-sent events whose ids grow."""
        frame: dict[str, Any] = {}
        last = 0
        async for line in reply.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                frame["id"] = int(value)
                if frame["id"] <= last:
                    raise Differs("ids grow")
                last, self.names.values["last"] = frame["id"], value
            elif name == "data":
                frame["data"] = json.loads(value)
            elif not line and "data" in frame:
                yield frame
                frame = {}

    async def connect(self, step: dict[str, Any]) -> None:
        """See the table of the page."""
        path = self.names.fill(step.get("path", "/ws"))
        protocols = step.get("subprotocols") or None
        address = self.url.replace("http", "ws", 1) + path
        socket = await connect(address, subprotocols=protocols, max_size=None, close_timeout=1)
        self.sockets[step["on"]] = Socket(socket)
        self.names.match(step.get("subprotocol"), socket.subprotocol)

    async def send(self, step: dict[str, Any]) -> None:
        """See the table of the page."""
        match step:
            case {"frame": frame}:
                message: str | bytes = json.dumps(self.names.fill(frame))
            case {"text": text}:
                message = self.names.fill(text)
            case {"binary": text}:
                message = text.encode()
            case {"fill": count}:
                message = "x" * count
        await self.sockets[step["on"]].connection.send(message)

    async def expect(self, step: dict[str, Any]) -> None:
        """See the table of the page."""
        socket, frames = self.sockets[step["on"]], Frames(self.names, step["frames"])
        while not frames.are_all:
            frames.take(await socket.next(socket.ordered))

    async def told(self, step: dict[str, Any]) -> None:
        """See the table of the page."""
        socket = self.sockets[step["on"]]
        for wanted in step["frames"]:
            while not self.names.matches(wanted, await socket.next(socket.broadcasts)):
                pass

    async def close(self, step: dict[str, Any]) -> None:
        """See the table of the page."""
        await self.sockets[step["on"]].connection.close(step.get("code", 1000))

    async def closed(self, step: dict[str, Any]) -> None:
        """See the table of the page."""
        socket = self.sockets[step["on"]]
        try:
            frame = await socket.next(socket.ordered)
        except ConnectionClosed as closed:
            self.names.match(step["code"], closed.rcvd.code if closed.rcvd else 1006)
        else:
            raise Differs(f"a frame before the close: {frame}")


async def lines(reply: httpx.Response) -> AsyncIterator[Any]:
    """The JSON lines of an answer."""
    async for line in reply.aiter_lines():
        if line:
            yield json.loads(line)


async def replayed(url: str, file: Path) -> dict[str, Any]:
    """How one transcript went."""
    transcript = json.loads(file.read_text("utf-8"))
    name = f"{file.parent.name}/{file.stem}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=STEP_SECONDS) as http:
        served = {agent["name"] for agent in (await http.get("/agents")).json()["agents"]}
        if not served.issuperset(transcript["agents"]):
            return {"transcript": name, "outcome": "skipped"}
        replay = Replay(url, http)
        try:
            for number, step in enumerate(transcript["steps"], 1):
                try:
                    async with asyncio.timeout(STEP_SECONDS):
                        await replay.step(step)
                except (Differs, TimeoutError, ConnectionClosed, ValueError) as error:
                    why = {"step": number, "reason": f"{type(error).__name__}: {error}"}
                    return {"transcript": name, "outcome": "failed", **why}
        finally:
            for socket in replay.sockets.values():
                await socket.connection.close()
    return {"transcript": name, "outcome": "passed"}


async def main(url: str, *files: str) -> int:
    """Every transcript, one after the other."""
    status = 0
    for file in files:
        verdict = await replayed(url, Path(file))
        print(json.dumps(verdict), flush=True)
        status |= verdict["outcome"] == "failed"
    return status


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
