"""What the tests of ACP agents share: agents of a source, and a place for what they keep.

Neighbours: `acp_by_hand` is what every source begins with; `tests.contract.agent` runs turns.
Invariant: what a test hosts is gone when its block is left.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio

from dispatch.agents.acp.agent import AcpAgent
from dispatch.agents.acp.records import Records
from dispatch.agents.ledger import ProcessLedger
from dispatch.agents.port import Agent, AgentInfo, Emit, TurnRequest
from dispatch.core.content import StoredLine
from dispatch.core.identity import TurnId
from tests.contract.agent import Listener, run_turn, turn

LINE_BYTES_MAX = 512 * 1024
BY_HAND = Path(__file__).with_name("acp_by_hand.py")
BY_PACKAGE = Path(__file__).with_name("acp_by_package.py")
# Nothing else tells that a process has ended.
POLL_SECONDS = 0.005

_HEAD = BY_HAND.read_text().removesuffix('if __name__ == "__main__":\n    serve()\n')


def command_of(source: str = "", *arguments: str) -> list[str]:
    """The agent by hand with parts replaced; without `site`, so that it starts in no time."""
    program = _HEAD + textwrap.dedent(source) + "\nserve()\n"
    return [sys.executable, "-I", "-S", "-c", program, *arguments]


def build(
    folder: Path, source: str = "", *, store: Path | None = None, **options: object
) -> AcpAgent:
    """An agent whose ledger and records are in the folder."""
    given = {"command": command_of(source, *([str(store)] if store else []))}
    return AcpAgent.from_options(
        "tested",
        {**given, "stop_grace_seconds": 10, **options},
        ledger=ProcessLedger(folder / "processes"),
        records=Records(folder / "sessions"),
        line_bytes_max=LINE_BYTES_MAX,
    )


@asynccontextmanager
async def hosted(agent: AcpAgent) -> AsyncIterator[AcpAgent]:
    """The agent with a place for what it keeps; everything of it is gone at the end."""
    async with anyio.create_task_group() as tasks:
        await tasks.start(agent.reside)
        yield agent
        tasks.cancel_scope.cancel()


class Conversation:
    """Turns of one conversation as the broker would hand them over."""

    def __init__(self, agent: Agent, name: str = "conversation-1", **fields: object) -> None:
        self.agent = agent
        self._name = name
        self._fields = fields
        self._numbers = itertools.count(1)
        self.last: TurnId | None = None
        self.lines: list[StoredLine] = []

    def turn(self, message: str, **fields: object) -> TurnRequest:
        """The next one."""
        previous, number = self.last, next(self._numbers)
        self.last = TurnId(f"{self._name}-turn-{number}")

        async def previous_turn() -> TurnId | None:
            return previous

        return turn(
            message,
            **{
                "conversation_id": self._name,
                "turn_id": self.last,
                "previous_turn": previous_turn,
                "lines": self.lines,
                **self._fields,
                **fields,
            },
        )

    async def run(
        self, message: str, listener: Listener | None = None, **fields: object
    ) -> Listener:
        """Run the next one to its end."""
        return await run_turn(self.agent, self.turn(message, **fields), listener)

    async def say(self, message: str, **fields: object) -> str:
        """What the next one says."""
        return (await self.run(message, **fields)).text

    async def told(self, message: str = "blocks", **fields: object) -> list[dict[str, object]]:
        """The blocks that the next one is prompted with."""
        return json.loads(await self.say(message, **fields))


class Alone:
    """An agent that is hosted only while it has a turn, so that the contract's tests find what of
    it would be left without the place that a daemon gives it.
    """

    def __init__(self, agent: AcpAgent) -> None:
        self._agent = agent
        self._turns = 0
        self._host: asyncio.Task[None] | None = None

    @property
    def info(self) -> AgentInfo:
        return self._agent.info

    @property
    def cwd_roots(self) -> tuple[Path, ...]:
        return self._agent.cwd_roots

    async def run(self, request: TurnRequest, emit: Emit) -> None:
        self._turns += 1
        try:
            if self._host is None:
                self._host = asyncio.create_task(self._reside())
            await self._agent.run(request, emit)
        finally:
            self._turns -= 1
            if not self._turns:
                host, self._host = self._host, None
                with anyio.CancelScope(shield=True):
                    await _ended(host)

    async def probe(self) -> None:
        await self._agent.probe()

    async def aclose(self) -> None:
        await self._agent.aclose()

    async def _reside(self) -> None:
        await self._agent.reside(task_status=anyio.TASK_STATUS_IGNORED)


async def _ended(host: asyncio.Task[None] | None) -> None:
    assert host is not None
    host.cancel()
    with suppress(asyncio.CancelledError):
        await host


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def until_gone(pid: int) -> None:
    with anyio.fail_after(20):
        while is_alive(pid):
            await anyio.sleep(POLL_SECONDS)
