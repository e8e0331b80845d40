"""Carries out the steps of one transcript.

Neighbours: `compare` and `frames` judge; `socket` and `streams` bring what came.
Invariant: every step ends in its time, or the transcript failed.
"""

import asyncio
import json

import httpx

from replay import streams
from replay.compare import Mismatch, Names
from replay.frames import Expected
from replay.socket import Socket

STEP_SECONDS = 20


class Transcript:
    def __init__(self, url, http):
        self.url = url
        self.http = http
        self.names = Names()
        self.sockets = {}

    async def replay(self, steps):
        """The place and the reason of what went wrong, or None."""
        try:
            for number, step in enumerate(steps, 1):
                try:
                    async with asyncio.timeout(STEP_SECONDS):
                        await getattr(self, f"do_{step['do']}")(step)
                except Mismatch as wrong:
                    return f"step {number} ({step['do']}): {wrong}"
                except TimeoutError:
                    return f"step {number} ({step['do']}): not within {STEP_SECONDS} s"
                except (OSError, ValueError, httpx.HTTPError) as wrong:
                    return f"step {number} ({step['do']}): {wrong!r}"
        finally:
            for socket in self.sockets.values():
                await socket.close()
        return None

    async def do_connect(self, step):
        url = self.url.replace("http", "ws", 1) + self.names.filled(step.get("path", "/ws"))
        socket = await Socket.open(url, step.get("subprotocols"))
        self.sockets[step["on"]] = socket
        if socket.connection.subprotocol != step.get("subprotocol"):
            raise Mismatch(f"the server chose {socket.connection.subprotocol!r}")

    async def do_send(self, step):
        if "frame" in step:
            message = json.dumps(self.names.filled(step["frame"]), ensure_ascii=False)
        elif "binary" in step:
            message = step["binary"].encode()
        else:
            message = step["text"] if "text" in step else "x" * step["fill"]
        await self.sockets[step["on"]].send(message)

    async def do_expect(self, step):
        socket = self.sockets[step["on"]]
        expected = Expected(step["frames"], self.names)
        while not expected.complete:
            expected.take(await socket.next(socket.frames))

    async def do_told(self, step):
        socket = self.sockets[step["on"]]
        for wanted in step["frames"]:
            while not self._tried(wanted, await socket.next(socket.broadcasts)):
                pass

    def _tried(self, wanted, frame):
        # A broadcast that is passed over gives no name its value.
        trial = self.names.copy()
        try:
            trial.match(wanted, frame)
        except Mismatch:
            return False
        self.names.values = trial.values
        return True

    async def do_close(self, step):
        await self.sockets[step["on"]].close(step.get("code", 1000))

    async def do_closed(self, step):
        await self.sockets[step["on"]].closed(step["code"])

    async def do_request(self, step):
        wanted = self.names.filled(step["request"])
        headers = dict(wanted.get("headers", {}))
        content = None
        if "body" in wanted or "text" in wanted:
            content = wanted["text"] if "text" in wanted else json.dumps(wanted["body"])
            headers["Content-Type"] = "application/json"
        async with self.http.stream(
            wanted["method"], self.url + wanted["path"], content=content, headers=headers
        ) as response:
            if response.status_code != step["status"]:
                text = (await response.aread()).decode()
                raise Mismatch(f"status {response.status_code}: {text[:300]}")
            for name, value in step.get("headers", {}).items():
                self.names.match(value, response.headers.get(name), name)
            if "frames" in step:
                await self._stream(step, step["frames"], self._events(response))
            elif "lines" in step:
                await self._stream(step, step["lines"], streams.json_lines(response))
            elif "reply" in step:
                self.names.match(step["reply"], json.loads(await response.aread()))

    async def _events(self, response):
        before = None
        async for event in streams.events(response):
            if "id" in event:
                if before is not None and event["id"] <= before:
                    raise Mismatch(f"id {event['id']} came behind {before}")
                before = self.names.values["last"] = event["id"]
            yield event

    async def _stream(self, step, wanted, came):
        expected = Expected(wanted, self.names)
        async for item in came:
            expected.take(item)
            if expected.complete and step.get("leave"):
                return
        if not expected.complete:
            raise Mismatch(f"the stream ended before {expected.missing()[0]}")
        if step.get("leave"):
            raise Mismatch("the stream ended")
