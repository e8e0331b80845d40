"""A daemon with one group of three agents that do what they are told, on virtual time.

`test_groups_machine` has the rules and what must hold; this is what they are about.
"""

import asyncio
from typing import Any, Literal

import structlog
from hypothesis.stateful import RuleBasedStateMachine

from dispatch.agents.port import AgentFailure, Emit, TurnRequest
from dispatch.core.events import ReasoningDelta, TextDelta
from dispatch.core.identity import LOCAL, TurnId
from dispatch.core.replay import Frame, Gap
from dispatch.errors import DispatchError
from dispatch.protocol.groups.requests import GroupCreate
from dispatch.runtime.slots import Slots
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.testing import (
    FaultyStore,
    Harness,
    LoopClock,
    ScriptedAgent,
    SequentialIds,
    VirtualLoop,
    YieldingStore,
    broker_on,
)
from tests.runtime.groups.room import EVERYTHING, Room

AGENTS = ("ann", "bob", "cy")
RUNS_MAX = 3
SETTLING_STEPS = 12

Word = Literal["say", "think", "finish", "fail"]


class DrivenGroup(RuleBasedStateMachine):
    """See the module; leaving the daemon is killing it."""

    def __init__(self) -> None:
        super().__init__()
        self._logs = structlog.testing.capture_logs()
        self._logs.__enter__()
        self._runner = asyncio.Runner(loop_factory=VirtualLoop)
        self._disk = MemoryDisk()
        self._ids = SequentialIds()
        self._daemon: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self.store: FaultyStore
        self.broker: Harness
        self.room: Room
        self.group = ""
        self.prompts: list[TurnId] = []
        # What was shown, by frame id, to somebody who never looks away.
        self.shown: dict[int, Frame] = {}

    def run(self, call: Any) -> Any:
        """Carry out, and return the result or the error once everything has settled."""

        async def main() -> Any:
            try:
                result = await call
            except DispatchError as error:
                result = error
            await self._settle()
            return result

        return self._runner.run(main())

    async def _settle(self) -> None:
        for _ in range(3):
            await self.broker.services.journal.idle()
            for _ in range(SETTLING_STEPS):
                await asyncio.sleep(0)

    async def _serve(self, ready: asyncio.Event) -> None:
        agents = [ScriptedAgent(self._follow_orders, name=name) for name in AGENTS]
        self.store = FaultyStore(YieldingStore(MemoryStore(self._disk)))
        async with broker_on(
            self.store,
            agents=agents,
            ids=self._ids,
            clock=LoopClock(),
            seconds=float("inf"),
        ) as self.broker:
            self.broker.services.slots = Slots(RUNS_MAX)
            groups = self.broker.groups
            if not self.group:
                wanted = GroupCreate(members=AGENTS)
                self.group = (await groups.groups.create(LOCAL, wanted)).id
            async with groups.timelines.group(LOCAL.account, self.group) as timeline:
                self.room = Room(self.broker, timeline)
                ready.set()
                await self._over.wait()

    async def _start(self) -> None:
        ready, self._over = asyncio.Event(), asyncio.Event()
        self.orders: dict[TurnId, asyncio.Queue[Word]] = {}
        # Of runs that were asked and are not over: whose they are.
        self.asked: dict[TurnId, str] = {}
        self._daemon = asyncio.get_running_loop().create_task(self._serve(ready))
        await asyncio.wait(
            [self._daemon, asyncio.ensure_future(ready.wait())],
            return_when=asyncio.FIRST_COMPLETED,
        )
        if self._daemon.done():
            self._daemon.result()
        await self._settle()

    async def _stop(self) -> None:
        assert self._daemon is not None
        self._over.set()
        await asyncio.wait([self._daemon])
        self._daemon.result()

    async def _follow_orders(self, request: TurnRequest, emit: Emit) -> None:
        assert request.turn_id not in self.prompts, "no agent is asked twice"
        self.prompts.append(request.turn_id)
        orders = self.orders[request.turn_id] = asyncio.Queue()
        self.asked[request.turn_id] = request.message
        try:
            while True:
                match await orders.get():
                    case "say":
                        await emit(TextDelta(f"{request.message}! "))
                    case "think":
                        await emit(ReasoningDelta("hm"))
                    case "fail":
                        raise AgentFailure("as told")
                    case "finish":
                        return
        finally:
            self.asked.pop(request.turn_id, None)

    def _note_shown(self) -> None:
        ring = self.room.timeline.feed.ring
        frames = ring.read(ring.floor, bytes_max=EVERYTHING)
        assert not isinstance(frames, Gap)
        for frame in frames:
            known = self.shown.setdefault(frame.offset, frame)
            assert known == frame, "an id was shown with two contents"
