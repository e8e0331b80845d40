"""The roster: so many turns of an agent at a time, in order, and how agents are found."""

import anyio
import anyio.lowlevel
import pytest

from dispatch.agents.port import AgentInfo
from dispatch.core.events import Done
from dispatch.runtime.roster import PROBE_FRESH_SECONDS, PROBE_SECONDS_MAX, Standing
from dispatch.storage.memory import MemoryStore
from dispatch.testing import FOR_EVER, Gate, Harness, ManualClock, ScriptedAgent, broker_on


async def standing(broker: Harness, name: str = "scripted") -> Standing:
    return {found.name: found for found in await broker.services.roster.standings()}[name]


async def until_waiting(broker: Harness, count: int) -> None:
    while (await standing(broker)).waiting != count:
        await anyio.lowlevel.checkpoint()


async def test_as_many_turns_of_an_agent_run_at_a_time_as_it_allows() -> None:
    gate = Gate()
    agent = ScriptedAgent(gate, "done", turns_max=2)
    async with broker_on(MemoryStore(), agents=[agent]) as broker:
        for number in range(4):
            await broker.send(str(number), f"c{number}")
        await agent.asked(2)
        await until_waiting(broker, 2)
        assert (await standing(broker)).running == 2
        assert agent.messages == ["0", "1"]
        gate.open()
        await broker.until_idle()
        assert agent.messages == ["0", "1", "2", "3"]
        assert (await standing(broker)).running == 0


async def test_who_waits_for_a_place_can_be_stopped_and_nobody_was_asked() -> None:
    agent = ScriptedAgent(FOR_EVER, turns_max=1)
    async with broker_on(MemoryStore(), agents=[agent]) as broker:
        await broker.send("first", "c1")
        await agent.asked()
        async with broker.watching("c2", after=0) as watcher:
            await broker.send("second", "c2")
            await until_waiting(broker, 1)
            await broker.stop("c2")
            await watcher.until_sealed()
            (done,) = (event for event in watcher.events if isinstance(event, Done))
            assert done.reason == "aborted"
        assert (await standing(broker)).waiting == 0
        assert agent.messages == ["first"]


async def test_a_place_is_free_again_after_a_stop_and_after_a_failure() -> None:
    agent = ScriptedAgent(
        script=lambda request: {"hang": [FOR_EVER], "fail": [ValueError("no")]}.get(
            request.message, ["said"]
        ),
        turns_max=1,
    )
    async with broker_on(MemoryStore(), agents=[agent]) as broker:
        await broker.send("hang", "c1")
        await agent.asked()
        for number, text in enumerate(("fail", "say"), start=2):
            await broker.send(text, f"c{number}")
        await until_waiting(broker, 2)
        await broker.stop("c1")
        await broker.until_idle()
        assert await broker.texts("c3") == [("user", "say"), ("assistant", "said")]


async def test_an_agent_with_a_bound_makes_no_other_wait() -> None:
    bound = ScriptedAgent(FOR_EVER, name="bound", turns_max=1)
    free = ScriptedAgent("said", name="free")
    async with broker_on(MemoryStore(), agents=[bound, free]) as broker:
        for number in range(3):
            await broker.send("hi", f"c{number}")
        async with broker.watching("other", after=0) as watcher:
            await broker.send("hi", "other", model="free")
            await watcher.until_sealed()


class Probed(ScriptedAgent):
    """Finds another model at each probe, or never comes back from one."""

    def __init__(self, *, hangs: bool = False) -> None:
        super().__init__(name="hanging" if hangs else "probed")
        self._hangs = hangs
        self.probes = 0

    @property
    def info(self) -> AgentInfo:
        return AgentInfo(super().info.name, "probed", models=(f"m{self.probes}",))

    async def probe(self) -> None:
        if self._hangs:
            await anyio.sleep_forever()
        self.probes += 1


async def test_agents_are_looked_at_again_once_what_is_known_is_old() -> None:
    clock, agent = ManualClock(), Probed()
    async with broker_on(MemoryStore(), agents=[agent], clock=clock) as broker:
        assert (await standing(broker, "probed")).models == ("m1",)
        clock.advance(PROBE_FRESH_SECONDS - 1)
        assert (await standing(broker, "probed")).models == ("m1",)
        clock.advance(1)
        assert (await standing(broker, "probed")).models == ("m2",)


async def test_an_agent_that_cannot_be_probed_holds_up_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dispatch.runtime.roster.PROBE_SECONDS_MAX", PROBE_SECONDS_MAX / 100)
    hanging, agent = Probed(hangs=True), Probed()
    async with broker_on(MemoryStore(), agents=[hanging, agent]) as broker:
        assert (await standing(broker, "hanging")).models == ("m0",)
        assert (await standing(broker, "probed")).models == ("m1",)
