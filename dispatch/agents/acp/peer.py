"""One agent process and the connection with it: how long it lives, what it is asked, how it fails.

Neighbours: `session` is what the protocol makes of it; `keeper` hosts `serve` and decides when it
has to leave; `wire` and the library's `Connection` carry the messages.
Invariant: when `serve` has returned nothing of the process lives, and `gone` is set. What is asked
of one that is going fails as `Lost`, whose reason `failure` tells.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar

import anyio
import msgspec
import structlog
from acp import RequestError
from acp.connection import Connection
from acp.meta import AGENT_METHODS
from acp.schema import InitializeResponse
from anyio.abc import TaskGroup
from pydantic import BaseModel, ValidationError

from dispatch.agents.acp.wire import Wire
from dispatch.agents.ledger import ProcessLedger
from dispatch.agents.lines import printable
from dispatch.agents.port import AgentFailure
from dispatch.agents.process import AgentProcess, Beside, Launch, running
from dispatch.agents.program import ended_badly

log = structlog.get_logger()

# What the protocol gives to "authentication required".
_AUTH_REQUIRED: Final = -32000
_MESSAGE_CHARACTERS_MAX: Final = 500

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class Ways(msgspec.Struct, frozen=True):
    """How an agent is started, heard and ended: seconds and bytes."""

    start_seconds: float
    grace_seconds: float
    line_bytes_max: int


class Lost(Exception):
    """The agent is gone; why is known once nothing of it lives."""


class Peer(ABC):
    """See the module. `about` is what it said of itself, once it has."""

    def __init__(self, name: str, launch: Launch, ledger: ProcessLedger, ways: Ways) -> None:
        """Nothing is started yet."""
        self.name = name
        self.launch = launch
        self.ways = ways
        self.about: InitializeResponse | None = None
        self._ledger = ledger
        self._failure: AgentFailure | None = None
        self._leaving = anyio.Event()
        self._rested = anyio.Event()
        self._is_ended_by_itself = False
        self._process: AgentProcess
        self._wire: Wire
        self._connection: Connection
        self.tasks: TaskGroup
        self.idle_until_s = math.inf
        self.connected = anyio.Event()
        self.gone = anyio.Event()

    @abstractmethod
    async def handle(self, method: str, params: Any, is_notification: bool) -> BaseModel | None:
        """One call of the agent's; for `Connection`, which answers what is raised here."""

    @abstractmethod
    async def room(self) -> None:
        """Wait until more may be heard."""

    @abstractmethod
    def lost(self) -> None:
        """It is gone, and answers nothing any more."""

    @property
    def is_leaving(self) -> bool:
        """It takes no more prompts."""
        return self._leaving.is_set()

    @property
    def is_idle(self) -> bool:
        """No turn has it."""
        return self.idle_until_s < math.inf

    def leave(self) -> None:
        """End it; `gone` is set when that is done."""
        self._leaving.set()
        self._rested.set()

    def rest(self, seconds: float) -> None:
        """No turn has it from here on; so long it is kept."""
        self.idle_until_s = anyio.current_time() + seconds
        self._rested.set()

    def wake(self) -> None:
        """A turn has it."""
        self.idle_until_s = math.inf

    async def serve(self) -> None:
        """Run the process until it ends, has rested long enough or must leave."""
        try:
            async with running(self.launch, self._ledger, self.ways.grace_seconds) as process:
                self._process = process
                await self._converse(process)
        except AgentFailure as failure:
            self._failure = failure
        except OSError as error:
            # The task group is that of every process of the daemon's: one must not end the others.
            self._failure = AgentFailure(f"{self.name}: {error.strerror}")
        else:
            self._failure = self._wire.failure or self._how_it_ended()
        finally:
            self.leave()
            self.gone.set()
            self.connected.set()
            self.lost()

    async def _converse(self, process: AgentProcess) -> None:
        self._wire = Wire(process, self.ways.line_bytes_max, self.room)
        async with Beside(process.watch, process.drain_stderr, self._wire.write_out):
            async with (
                self._connecting(),
                Beside(self._leave_when_closed, self._leave_when_idle),
            ):
                await self._leaving.wait()
            if self._wire.closed.is_set() and self._wire.failure is None:
                self._is_ended_by_itself = await process.wait_exit(self.ways.grace_seconds)

    @asynccontextmanager
    async def _connecting(self) -> AsyncIterator[None]:
        self._connection = Connection(self.handle, self._wire)
        try:
            async with anyio.create_task_group() as self.tasks:
                self.connected.set()
                try:
                    yield
                finally:
                    # Nothing is started in the group from here on.
                    self.leave()
                    self.tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._connection.close()

    async def _leave_when_closed(self) -> None:
        await self._wire.closed.wait()
        self.leave()

    async def _leave_when_idle(self) -> None:
        while True:
            if self.is_idle and anyio.current_time() >= self.idle_until_s:
                log.debug("acp.reaped", agent=self.name, pid=self._process.pid)
                self.leave()
                return
            self._rested = anyio.Event()
            seconds = self.idle_until_s - anyio.current_time()
            with anyio.move_on_after(max(0.0, seconds)):
                await self._rested.wait()

    def _how_it_ended(self) -> AgentFailure:
        if not self._wire.closed.is_set():
            return AgentFailure(f"{self.name} was ended")
        # What it wrote is people's, and stays with their turn.
        status = self._process.returncode if self._is_ended_by_itself else None
        log.warning("agent.failed", agent=self.name, status=status)
        return ended_badly(
            self.name, self._process, by_itself=self._is_ended_by_itself, said=self._wire.has_spoken
        )

    async def failure(self) -> AgentFailure:
        """Wait until nothing of it lives, and say why."""
        await self.gone.wait()
        return self._failure or AgentFailure(f"{self.name} was ended")

    def heard(self) -> None:
        """What it said last was for somebody."""
        self._wire.noise_bytes = 0

    async def notify(self, name: str, note: BaseModel) -> None:
        """Tell it something, if it still listens."""
        # It may have closed its output, which `receive` is about to find out.
        with suppress(ConnectionError):
            await self._connection.send_notification(AGENT_METHODS[name], _plain(note))

    async def request(
        self, name: str, request: BaseModel, kind: type[AnswerT]
    ) -> tuple[AnswerT, dict[str, Any]]:
        """Ask, and read the answer; also as it was sent, for what its type has no field for."""
        raw = await self.send(AGENT_METHODS[name], _plain(request))
        try:
            raw = raw if isinstance(raw, dict) else {}
            return kind.model_validate(raw), raw
        except ValidationError as error:
            raise AgentFailure(
                f"{self.name} answered {AGENT_METHODS[name]} with something else", "bad_answer"
            ) from error

    async def send(self, method: str, params: dict[str, Any]) -> Any:
        """Ask; raises `AgentFailure` if it refuses and `Lost` if it is gone."""
        if self.is_leaving:
            raise Lost
        try:
            return await self._connection.send_request(method, params)
        except RequestError as error:
            raise self._refusal(error) from error
        except ConnectionError as error:
            raise Lost from error

    def _refusal(self, error: RequestError) -> AgentFailure:
        words = _shown(str(error))
        if error.code != _AUTH_REQUIRED:
            details = error.data.get("details") if isinstance(error.data, dict) else error.data
            if isinstance(details, str):
                words = f"{words}: {_shown(details)}"
            return AgentFailure(f"{self.name}: {words}")
        ways = [
            _shown(f"{method.name} ({method.description})" if method.description else method.name)
            for method in (self.about and self.about.auth_methods) or ()
        ]
        offered = f"; it offers: {', '.join(ways)}" if ways else ""
        return AgentFailure(
            f"{self.name} asks to be signed in to first ({words}){offered}", "auth_required"
        )


def _plain(request: BaseModel) -> dict[str, Any]:
    return request.model_dump(mode="json", by_alias=True, exclude_none=True)


def _shown(text: str) -> str:
    return printable(text.encode("utf-8", "replace"))[:_MESSAGE_CHARACTERS_MAX]
