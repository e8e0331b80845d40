"""The place of agents that keep something between turns."""

import anyio
import pytest
from anyio.abc import TaskStatus

from dispatch.agents.port import Resident
from dispatch.runtime.residence import residing
from dispatch.testing import ScriptedAgent


class Keeping(ScriptedAgent):
    """Notes what becomes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    async def reside(self, *, task_status: TaskStatus[None]) -> None:
        self.notes.append("came")
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            self.notes.append("left")

    async def aclose(self) -> None:
        self.notes.append("closed")


async def test_an_agent_has_its_place_before_the_block_and_is_closed_after_it() -> None:
    agent = Keeping()
    assert isinstance(agent, Resident)
    async with residing([agent]):
        assert agent.notes == ["came"]
    assert agent.notes == ["came", "left", "closed"]


async def test_agents_are_closed_also_when_the_block_fails() -> None:
    agent = Keeping()
    with pytest.RaisesGroup(ValueError):
        async with residing([agent]):
            raise ValueError
    assert agent.notes == ["came", "left", "closed"]


async def test_an_agent_that_keeps_nothing_needs_no_place() -> None:
    agent = ScriptedAgent()
    assert not isinstance(agent, Resident)
    async with residing([agent]):
        pass
