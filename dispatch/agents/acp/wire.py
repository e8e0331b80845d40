"""The lines of one agent process as the messages of a JSON-RPC connection.

Neighbours: `session` gives it to the library's `Connection`, which pairs requests with answers;
`agents.process` is what is read and written.
Invariant: what is not a message is dropped and counted; a line that is too long, and output without
end that says nothing, close the wire. Neither a line nor what waits to be written is unbounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import anyio
import msgspec
from anyio.lowlevel import checkpoint
from msgspec import UNSET, UnsetType

from dispatch.agents.lines import Lines, encode_line
from dispatch.agents.port import AgentFailure
from dispatch.agents.process import AgentProcess

# Of what says nothing to anybody, in a row and in the longest lines: room for a session that is
# loaded again and tells all it holds, an end for a program that prints for ever.
NOISE_LINES_MAX: Final = 16
# What waits for an agent to read it. It is not heard until it has.
_WAITING_BYTES_MAX: Final = 1024 * 1024
# From a closed input to the exit of which it is the first sign.
_DEAF_SECONDS: Final = 1.0


class _Error(msgspec.Struct):
    code: int
    message: str = ""
    data: Any = None


class _Message(msgspec.Struct):
    method: str | UnsetType = UNSET
    id: int | str | None = None
    params: dict[str, Any] | None = None
    result: Any = None
    error: _Error | None = None


_DECODER: Final = msgspec.json.Decoder(_Message)


class Wire:
    """A transport of `acp.Connection`: messages in and out, until `closed` is set."""

    def __init__(
        self, process: AgentProcess, line_bytes_max: int, room: Callable[[], Awaitable[None]]
    ) -> None:
        """`room` is waited for before each message is taken in."""
        self._process = process
        self._room = room
        self._lines = Lines(line_bytes_max)
        self._noise_bytes_max = NOISE_LINES_MAX * line_bytes_max
        self._complete: Iterator[bytes] = iter(())
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._written = anyio.Event()
        self._filled = anyio.Event()
        self.noise_bytes = 0
        self.has_spoken = False
        self.failure: AgentFailure | None = None
        self.closed = anyio.Event()

    async def send(self, message: dict[str, Any]) -> None:
        """Hand one message to `write_out`; does not wait for the agent to read it."""
        line = encode_line(message)
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self._filled.set()

    async def write_out(self) -> None:
        """Write what was sent, for as long as the agent reads."""
        while True:
            while not self._waiting:
                self._filled = anyio.Event()
                await self._filled.wait()
            line = self._waiting.popleft()
            is_read = await self._process.write(line)
            self._waiting_bytes -= len(line)
            self._written.set()
            self._written = anyio.Event()
            if not is_read:
                await self._wait_for_end()
                return

    async def _wait_for_end(self) -> None:
        # Who does not read has most likely exited, and its last words say more than this.
        with anyio.move_on_after(_DEAF_SECONDS):
            await self._process.exited.wait()
            return
        self.failure = AgentFailure("the agent closed its input")
        self.closed.set()

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None once there are no more."""
        try:
            message = await self._next()
        except AgentFailure as failure:
            self.failure = failure
            message = None
        if message is None:
            self.closed.set()
        return message

    async def close(self) -> None:
        """The process is ended by who started it."""

    async def _next(self) -> dict[str, Any] | None:
        ended = False
        while True:
            # Lets what the message before this one started take its place in the order.
            await checkpoint()
            await self._room()
            while self._waiting_bytes > _WAITING_BYTES_MAX:
                await self._written.wait()
            for line in self._complete:
                message = _decode(line)
                if message is not None:
                    self.has_spoken = True
                    return message
            if ended:
                return None
            data = await self._process.read()
            ended = not data
            self.noise_bytes += len(data)
            if self.noise_bytes > self._noise_bytes_max:
                raise AgentFailure(
                    f"the agent wrote {self._noise_bytes_max} bytes that say nothing", "too_large"
                )
            self._complete = self._lines.rest() if ended else self._lines.feed(data)


def _decode(line: bytes) -> dict[str, Any] | None:
    """A message in the form in which the library takes it; None if it is none."""
    try:
        message = _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if message.method is not UNSET:
        call: dict[str, Any] = {"method": message.method, "params": message.params or {}}
        return call if message.id is None else call | {"id": message.id}
    if message.id is None:
        return None
    if message.error is not None:
        return {"id": message.id, "error": msgspec.structs.asdict(message.error)}
    return {"id": message.id, "result": message.result}
