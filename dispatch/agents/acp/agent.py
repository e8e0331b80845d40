"""Agents that speak the Agent Client Protocol: Claude Code, Gemini CLI and others, over stdio.

Neighbours: `keeper` holds the processes, `session` speaks to one, `narration` and `prompt`
translate; `records` remembers sessions for `session/load`.
What outlives a turn is the conversation's: its process, kept until it was idle for long enough.
Nothing of the turn does: a prompt is answered, or was cancelled and its process ended.
Invariant: a session is only continued by the turn that follows the last one it was told of; any
other gets a new session and the transcript of the conversation.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import msgspec
from anyio.abc import TaskStatus

from dispatch.agents.acp.choices import EFFORT, MODE, MODEL
from dispatch.agents.acp.exchange import Asked, Exchange
from dispatch.agents.acp.keeper import Keeper
from dispatch.agents.acp.narration import Narration, usage_of
from dispatch.agents.acp.peer import Ways
from dispatch.agents.acp.permission import chosen_option
from dispatch.agents.acp.prompt import blocks_of
from dispatch.agents.acp.records import Owner, Record, Records
from dispatch.agents.acp.session import Session
from dispatch.agents.ledger import ProcessLedger
from dispatch.agents.options import Seconds, check_model, decode_options
from dispatch.agents.port import GO_ON, AgentFailure, AgentInfo, Emit, Inbox, Respond, TurnRequest
from dispatch.agents.process import Beside, Launch
from dispatch.agents.program import Program, ProgramOptions
from dispatch.core.events import Request
from dispatch.core.identity import TurnId


class AcpOptions(ProgramOptions, frozen=True):
    """See `ProgramOptions`, and `Keeper` for what is kept."""

    # Over a pause for thought or a meal, not over night: such a process takes some 200 MB.
    idle_seconds: Seconds = 600.0
    processes_max: Annotated[int, msgspec.Meta(ge=1)] = 8
    # The first start may fetch the program.
    start_seconds: Seconds = 60.0


class AcpAgent:
    """Runs each turn as a prompt to the process of its conversation."""

    def __init__(
        self,
        name: str,
        options: AcpOptions,
        ledger: ProcessLedger,
        records: Records,
        line_bytes_max: int,
    ) -> None:
        """Use options that were checked."""
        self._name = name
        self._options = options
        self._ledger = ledger
        self._records = records
        self._program = Program(name, options)
        self._ways = Ways(options.start_seconds, options.stop_grace_seconds, line_bytes_max)
        self._keeper = Keeper(
            idle_seconds=options.idle_seconds, processes_max=options.processes_max
        )
        self._models = options.models

    @classmethod
    def from_options(
        cls,
        name: str,
        options: dict[str, object],
        *,
        ledger: ProcessLedger,
        records: Records,
        line_bytes_max: int,
    ) -> AcpAgent:
        """Build from a table of the configuration; raises `ConfigError`."""
        checked = decode_options(name, options, AcpOptions)
        return cls(name, checked, ledger, records, line_bytes_max)

    @property
    def info(self) -> AgentInfo:
        """What clients are told; the models are those configured, or those it told last."""
        return AgentInfo(
            self._name,
            "acp",
            models=self._models,
            turns_max=self._options.turns_max,
            problem=self._program.problem,
        )

    @property
    def cwd_roots(self) -> tuple[Path, ...]:
        """Where a client may let the program work."""
        return self._options.cwd_roots

    async def reside(self, *, task_status: TaskStatus[None]) -> None:
        """See `agents.port.Resident`."""
        await self._keeper.reside(task_status=task_status)

    async def probe(self) -> None:
        """Look for the program again: it may have been installed, or removed."""
        self._program.find()

    async def aclose(self) -> None:
        """End every process."""
        await self._keeper.close()

    async def run(self, request: TurnRequest, emit: Emit) -> None:
        """Prompt the conversation's session, and tell what it says."""
        if self._options.models:
            check_model(self.info, request.model)
        owner = (self._name, request.account, request.conversation_id)
        async with self._keeper.turn_of(owner):
            session = await self._session(owner, request)
            try:
                await self._choose(session, request)
                await self._prompt(owner, session, request, emit)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._keeper.give_back(session)

    async def _session(self, owner: Owner, request: TurnRequest) -> Session:
        """The one that is kept, if it missed nothing; else one that is loaded, or a new one."""
        previous = await request.previous_turn()
        session = self._keeper.find(owner)
        if session is not None:
            if not session.is_leaving and self._fits(session, request, previous):
                session.wake()
                return session
            session.leave()
            await session.gone.wait()
        record = await self._records.read(owner)
        launch = self._launch(request, record)
        is_same = record is not None and record.turn == previous and record.cwd == str(launch.cwd)
        try:
            session = await self._open(owner, launch, record if is_same else None)
        except AgentFailure as failure:
            if not is_same or failure.code == "auth_required":
                raise
            # One that does not survive being loaded would fail every turn from here on.
            session = await self._open(owner, launch, None)
        session.turn = previous
        if not self._options.models and (told := session.choices.get(MODEL)) is not None:
            self._models = told.values
        return session

    async def _open(self, owner: Owner, launch: Launch, record: Record | None) -> Session:
        """Start a process, and load that session or begin one."""
        session = Session(self._name, launch, self._ledger, self._ways)
        self._keeper.host(owner, session)
        try:
            await session.open(record.session if record is not None else None)
        finally:
            if not session.id:
                session.leave()
                with anyio.CancelScope(shield=True):
                    await session.gone.wait()
        return session

    def _fits(self, session: Session, request: TurnRequest, previous: TurnId | None) -> bool:
        if request.cwd is not None and self._program.launch(request.cwd).cwd != session.launch.cwd:
            return False
        return session.turn == previous

    def _launch(self, request: TurnRequest, record: Record | None) -> Launch:
        """Where the turn wants it, or else where it was, if that is still allowed."""
        launch = self._program.launch(request.cwd)
        if request.cwd is None and record is not None and record.cwd != str(launch.cwd):
            try:
                return self._program.launch(record.cwd)
            except AgentFailure:
                return launch
        return launch

    async def _choose(self, session: Session, request: TurnRequest) -> None:
        """Set what the turn asks for, and set back what an earlier one did."""
        choices = session.choices
        found = choices.find(request.model) if request.model is not None else None
        if request.model is not None and found is None:
            known = ", ".join(choices.names)
            only = f", only {known}" if known else "; it has none to choose from"
            raise AgentFailure(
                f'{self._name} has no model "{request.model}"{only}', "unknown_model"
            )
        for about in (MODEL, MODE, EFFORT):
            choice = choices.get(about)
            if choice is None:
                continue
            value = request.model if choice is found else None
            if about == EFFORT and request.reasoning_effort in choice.values:
                value = request.reasoning_effort
            if value is None and choice.is_chosen:
                value = choice.initial
            choice.is_chosen = value is not None and value != choice.initial
            if value is not None and value != choice.current:
                await session.choose(choice, value)

    async def _prompt(
        self, owner: Owner, session: Session, request: TurnRequest, emit: Emit
    ) -> None:
        goes_on = bool(await request.said())
        blocks = blocks_of(
            GO_ON if goes_on else request.message,
            () if goes_on else request.images,
            takes_images=session.takes_images,
            system_prompt=session.news_of(request.system_prompt),
            history=await request.history() if session.is_new else None,
        )
        # Before it is told: should we die in the turn, it is the one that it was told of.
        record = Record(session.id, request.turn_id, str(session.launch.cwd))
        await self._records.write(owner, record)
        previous = session.turn
        exchange = session.prompt(request.turn_id, blocks)
        narration = Narration(request.turn_id)
        try:
            await self._relay(session, exchange, narration, request.inbox, emit)
        finally:
            if not exchange.over.is_set():
                with anyio.CancelScope(shield=True):
                    await session.interrupt(exchange)
        if exchange.response is None:
            if not narration.has_told:
                await self._take_back(owner, session, record, previous)
            raise exchange.failure or await session.failure()
        done = narration.done(exchange.response, session.spent)
        session.spent = usage_of(exchange.response) or session.spent
        await emit(done)

    async def _take_back(
        self, owner: Owner, session: Session, record: Record, previous: TurnId | None
    ) -> None:
        """A turn that only failed is no part of the conversation."""
        session.turn = previous
        if session.is_new or previous is None:
            # It never took the transcript, so it is not to be loaded as if it had.
            await self._records.forget(owner)
        else:
            await self._records.write(owner, msgspec.structs.replace(record, turn=previous))

    async def _relay(
        self,
        session: Session,
        exchange: Exchange,
        narration: Narration,
        inbox: Inbox,
        emit: Emit,
    ) -> None:
        """Pass on what it says until it has answered the prompt."""
        asked: dict[str, Asked] = {}
        async with Beside(partial(_answer, inbox, asked)):
            while (item := await exchange.next()) is not None:
                if isinstance(item, Asked):
                    events = narration.ask(item.request)
                else:
                    events = narration.tell(item.update)
                for event in events:
                    if isinstance(item, Asked) and isinstance(event, Request):
                        asked[event.request_id] = item
                    session.heard()
                    await emit(event)
            for event in narration.rest():
                await emit(event)


async def _answer(inbox: Inbox, asked: dict[str, Asked]) -> None:
    """Hand answers on. Steering has no place in the protocol: it becomes the next turn."""
    while True:
        given = await inbox.receive()
        if isinstance(given, Respond):
            waiting = asked.pop(given.response.request_id, None)
            if waiting is not None:
                waiting.settle(chosen_option(waiting.request, given.response))
