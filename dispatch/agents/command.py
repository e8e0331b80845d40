"""Agents that are programs, in any language: one process a turn, lines of JSON in and out.

Neighbours: `program` finds it, `process` starts, hears and ends it; `core.events` has the shape of
each line.
First line in: the turn and its history. Later lines in: `steer` and `respond`. Lines out: events
without ids, then perhaps `done`. Exit status 0 completes the turn.
Invariant: what the program writes is data: no line of it, however bad, long or endless, does more
than end its own turn with an error.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog

from dispatch.agents.ledger import ProcessLedger
from dispatch.agents.lines import Lines, decode_line, encode_line
from dispatch.agents.options import check_model, decode_options
from dispatch.agents.port import (
    AgentFailure,
    AgentInfo,
    Emit,
    Inbox,
    Input,
    ReasoningEffort,
    Respond,
    Steer,
    TurnRequest,
)
from dispatch.agents.process import AgentProcess, Beside, Launch, running
from dispatch.agents.program import Program, ProgramOptions, ended_badly
from dispatch.core.content import AnyChunk, Role, StoredLine
from dispatch.core.events import Done, ErrorEvent, Image

# As many of the longest lines as a turn may write: four times what a turn may hold, for what is
# around the text.
_OUTPUT_LINES: Final = 64

_log = structlog.get_logger("dispatch.agents.command")


class CommandOptions(ProgramOptions, frozen=True):
    """See `ProgramOptions`; `system_prompt` stands in where a turn brings none."""

    steer: bool = False
    system_prompt: str | None = None


class _Message(msgspec.Struct, frozen=True):
    role: Role
    chunks: list[AnyChunk]


class _Opening(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The first line a program reads."""

    conversation_id: str
    turn_id: str
    message: str
    history: list[_Message]
    images: tuple[Image, ...] = ()
    model: str | None = None
    cwd: str | None = None
    reasoning_effort: ReasoningEffort | None = None
    system_prompt: str | None = None
    resumes: str | None = None


class _Heard(msgspec.Struct):
    """What a program said about the turn's end."""

    events: int = 0
    error: bool = False
    done: Done | None = None


class CommandAgent:
    """Runs one program for each turn."""

    def __init__(
        self, name: str, options: CommandOptions, ledger: ProcessLedger, line_bytes_max: int
    ) -> None:
        """Use options that were checked."""
        self._name = name
        self._options = options
        self._ledger = ledger
        self._line_bytes_max = line_bytes_max
        # Also of what says nothing, such as blank lines, which no limit on events would end.
        self._output_bytes_max = _OUTPUT_LINES * line_bytes_max
        self._program = Program(name, options)

    @classmethod
    def from_options(
        cls, name: str, options: dict[str, object], *, ledger: ProcessLedger, line_bytes_max: int
    ) -> CommandAgent:
        """Build from a table of the configuration; raises `ConfigError`."""
        return cls(name, decode_options(name, options, CommandOptions), ledger, line_bytes_max)

    @property
    def info(self) -> AgentInfo:
        """What clients are told; `problem` is how the program was found last."""
        return AgentInfo(
            self._name,
            "command",
            models=self._options.models,
            steer=self._options.steer,
            turns_max=self._options.turns_max,
            problem=self._program.problem,
        )

    @property
    def cwd_roots(self) -> tuple[Path, ...]:
        """Where a client may let the program work."""
        return self._options.cwd_roots

    async def run(self, request: TurnRequest, emit: Emit) -> None:
        """Start the program, pass lines both ways, and judge how it ended."""
        check_model(self.info, request.model)
        launch = self._program.launch(request.cwd)
        opening = await self._opening(request, launch)
        grace = self._options.stop_grace_seconds
        async with (
            running(launch, self._ledger, grace) as process,
            Beside(process.watch, process.drain_stderr),
        ):
            async with Beside(partial(self._feed, process, opening, request.inbox)):
                heard = await self._relay(process, emit)
            by_itself = await process.wait_exit(grace)
        await self._conclude(process, heard, emit, by_itself=by_itself)

    async def probe(self) -> None:
        """Look for the program again: it may have been installed, or removed."""
        self._program.find()

    async def aclose(self) -> None:
        """Nothing outlives a turn."""

    async def _opening(self, request: TurnRequest, launch: Launch) -> bytes:
        prompt = request.system_prompt
        return encode_line(
            _Opening(
                conversation_id=request.conversation_id,
                turn_id=request.turn_id,
                message=request.message,
                history=_by_role(await request.history()),
                images=request.images,
                model=request.model,
                cwd=str(launch.cwd) if request.cwd is not None else None,
                reasoning_effort=request.reasoning_effort,
                system_prompt=self._options.system_prompt if prompt is None else prompt,
                resumes=request.resumes,
            )
        )

    async def _feed(self, process: AgentProcess, opening: bytes, inbox: Inbox) -> None:
        """Write the lines in; a task of its own, for a program may never read them."""
        open_ = await process.write(opening)
        while open_:
            line = self._line(await inbox.receive())
            open_ = line is None or await process.write(line)

    def _line(self, item: Input) -> bytes | None:
        match item:
            case Steer():
                # Not acknowledged, so it becomes the next turn.
                return encode_line(item) if self._options.steer else None
            case Respond(response):
                return b'{"type":"respond",' + encode_line(response)[1:]

    async def _relay(self, process: AgentProcess, emit: Emit) -> _Heard:
        """Pass events on until the program says `done` or its output ends.

        `done` itself is kept back: whether it stands is decided by the exit status.
        """
        heard = _Heard()
        lines = Lines(self._line_bytes_max)
        ended, size = False, 0
        while not ended:
            data = await process.read()
            ended = not data
            size += len(data)
            if size > self._output_bytes_max:
                raise AgentFailure(
                    f"the program wrote more than {self._output_bytes_max} bytes", "too_large"
                )
            for line in lines.feed(data) if data else lines.rest():
                event = decode_line(line)
                if isinstance(event, Done):
                    heard.done = event
                    return heard
                heard.events += 1
                heard.error = heard.error or isinstance(event, ErrorEvent)
                await emit(event)
        return heard

    async def _conclude(
        self, process: AgentProcess, heard: _Heard, emit: Emit, *, by_itself: bool
    ) -> None:
        status = process.returncode if by_itself else 0
        if status or (not by_itself and heard.done is None):
            # What it wrote is people's, and stays with their turn.
            _log.warning(
                "agent.failed", agent=self._name, status=process.returncode if by_itself else None
            )
            if not heard.error:
                raise ended_badly(self._name, process, by_itself=by_itself, said=heard.events > 0)
            # The program told its error itself; it is one error, not two.
            heard.done = msgspec.structs.replace(heard.done or Done(""), reason="error")
        if heard.done is not None:
            await emit(heard.done)


def _by_role(history: list[StoredLine]) -> list[_Message]:
    messages: list[_Message] = []
    for line in history:
        if not messages or messages[-1].role != line.role:
            messages.append(_Message(line.role, []))
        messages[-1].chunks.append(line.chunk)
    return messages
