"""The demo agent: says the message back, word by word, without a network.

Neighbours: `port` is what it implements; `compose` builds it; the bench and many tests run it.
Its words are counted as tokens, so metrics have something true to show. Steering is acknowledged
at the next word; what it was saying goes on to its end, and the steered text is then said as a step
of its own. A steer that comes after the last word is not acknowledged.
Invariant: the deltas of a step, joined, are the text exactly, whitespace and all.
"""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from dispatch.agents.options import AgentOptions, Milliseconds, check_model, decode_options
from dispatch.agents.port import AgentInfo, Emit, Steer, TurnRequest
from dispatch.core.content import Text
from dispatch.core.events import Steering, StepComplete, TextDelta, TokenUsage, Usage

# A word with the space before it, or the space at the end. Capped, so that a megabyte without a
# space is still streamed in pieces and not in one frame.
_WORD: Final = re.compile(r"\s{0,2048}\S{1,2048}|\s{1,2048}")

# Without a delay the loop is let go of once in so many words: often enough that nobody waits a
# millisecond, rarely enough to cost nothing.
_WORDS_PER_YIELD: Final = 64


class EchoOptions(AgentOptions, frozen=True):
    """`delay_ms` milliseconds between words."""

    delay_ms: Milliseconds = 40.0
    steer: bool = True


class EchoAgent:
    """Says the message back."""

    def __init__(self, name: str, options: EchoOptions) -> None:
        """Use options that were checked."""
        self._info = AgentInfo(
            name,
            "echo",
            models=options.models,
            steer=options.steer,
            turns_max=options.turns_max,
        )
        self._delay_seconds = options.delay_ms / 1000

    @classmethod
    def from_options(cls, name: str, options: dict[str, object]) -> EchoAgent:
        """Build from a table of the configuration; raises `ConfigError`."""
        return cls(name, decode_options(name, options, EchoOptions))

    @property
    def info(self) -> AgentInfo:
        """What clients are told."""
        return self._info

    @property
    def cwd_roots(self) -> tuple[Path, ...]:
        """It uses no files, so a client's directory is refused."""
        return ()

    async def run(self, request: TurnRequest, emit: Emit) -> None:
        """Say the message, then what was steered, each as a step with its counts and times."""
        check_model(self._info, request.model)
        steered: deque[str] = deque()
        chunks = [line.chunk for line in await request.said()]
        said = "".join(chunk.text for chunk in chunks if isinstance(chunk, Text))
        # Of one that is resumed, what was not said yet; all of it where that was something else.
        rest = request.message.removeprefix(said) or request.message
        await self._say(rest, request, steered, emit)
        while steered:
            await self._say(steered.popleft(), request, steered, emit)

    async def probe(self) -> None:
        """It is always there."""

    async def aclose(self) -> None:
        """Nothing outlives a turn."""

    async def _say(self, text: str, request: TurnRequest, steered: deque[str], emit: Emit) -> None:
        began = first = anyio.current_time()
        words = 0
        for match in _WORD.finditer(text):
            if words:
                await self._pause(words)
                await self._listen(request, steered, emit)
            await emit(TextDelta(match[0]))
            words += 1
            if words == 1:
                first = anyio.current_time()
        ended = anyio.current_time()
        await emit(Usage(TokenUsage(input_tokens=words, output_tokens=words)))
        await emit(
            StepComplete(
                ttft_ms=_milliseconds(first - began),
                decode_ms=_milliseconds(ended - first),
                gen_total_ms=_milliseconds(ended - began),
            )
        )

    async def _pause(self, words: int) -> None:
        if self._delay_seconds:
            await anyio.sleep(self._delay_seconds)
        elif words % _WORDS_PER_YIELD == 0:
            await checkpoint()

    async def _listen(self, request: TurnRequest, steered: deque[str], emit: Emit) -> None:
        while (item := request.inbox.receive_nowait()) is not None:
            if isinstance(item, Steer) and self._info.steer:
                steered.append(item.text)
                await emit(Steering(item.text, item.client_message_id))


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
