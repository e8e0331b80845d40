"""One machine on virtual time: a disk that stalls, fills and forgets to answer, and its daemons.

Neighbours: `devices` are the people, `claims` judges at the end, `mutants` break the runtime on
purpose. Everything that is drawn is drawn from one seeded generator, in one order, so a seed is a
run. The runtime, the storage port's memory adapter and the server's connections are the real ones.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from random import Random
from typing import Any, NamedTuple, Protocol

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec

from dispatch.agents.port import AgentFailure, Emit, Respond, Steer, TurnRequest
from dispatch.core.events import (
    ReasoningDelta,
    Request,
    Steering,
    StepComplete,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolOutput,
    ToolResult,
    Usage,
)
from dispatch.core.identity import LOCAL, ConversationId
from dispatch.errors import DispatchError, StorageFailed, StorageFull
from dispatch.runtime.retention import prune_events
from dispatch.server.connections import Connections
from dispatch.server.gate import Doorkeeper
from dispatch.settings import Limits, RetentionSettings, Settings
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.port import Batch, EventRecord
from dispatch.testing import (
    Harness,
    LoopClock,
    ScriptedAgent,
    SequentialIds,
    StoreWrapper,
    broker_on,
)

# The last one is deleted sooner or later.
CONVERSATIONS = ("c1", "c2", "c3", "c4")

# Small, so that everything has to be given up and fetched again all the time.
LIMITS = Limits(
    ring_events_max=24,
    ring_bytes_max=4_000,
    rings_bytes_max=8_000,
    delta_bytes_max=240,
    event_bytes_max=4_000,
    staged_bytes_max=300,
    pending_bytes_max=1_000,
    catch_up_bytes_max=400,
    queue_turns_max=6,
    conversations_warm_max=2,
    agent_gone_seconds_max=1.0,
    turn_seconds_max=60.0,
    stall_seconds_max=1e9,
    heartbeat_seconds=1e9,
)


# And with room, so that most is answered from memory.
ROOMY = msgspec.structs.replace(
    LIMITS,
    ring_events_max=400,
    ring_bytes_max=60_000,
    rings_bytes_max=200_000,
    delta_bytes_max=1_000,
    staged_bytes_max=4_000,
    pending_bytes_max=10_000,
    conversations_warm_max=10,
)

# After so many broken claims nothing more is learnt.
TROUBLE_MAX = 20

# Virtual seconds: whoever needs longer than this waits for ever.
REST_SECONDS_MAX = 2_000.0

# Of virtual time.
SILENCE_SECONDS = 0.5


class Person(Protocol):
    """Somebody with a device."""

    async def live(self, conversations: tuple[str, ...]) -> None:
        """Do this and that until the world is calm, and then what is left to do."""
        ...

    async def drained(self) -> None:
        """Return once everything that was written to it was read."""
        ...


class Committed(NamedTuple):
    """An event as it reached the disk, and the row of its turn."""

    record: EventRecord
    turn: str
    conversation: str


class SlowDisk(StoreWrapper):
    """One daemon's way to the disk; once the daemon is dead nothing of it arrives any more."""

    def __init__(self, world: "World") -> None:
        super().__init__(MemoryStore(world.disk, mint=lambda: "g1"))
        self.is_cut = False
        self._world = world

    async def before(self, verb: str) -> None:
        await self._world.wait(0.004)
        await self._alive()

    async def commit(self, batch: Batch) -> None:
        world = self._world
        await world.wait(0.03)
        await self._alive()
        fault = world.draw_fault()
        if fault == "full":
            raise StorageFull("no room on the virtual disk")
        await self.inner.commit(batch)
        world.note_committed(batch)
        # Killed in here, the daemon never learns that it was written.
        await world.wait(0.02)
        await self._alive()
        if fault == "lost":
            raise StorageFailed("written, perhaps")

    async def _alive(self) -> None:
        while self.is_cut:
            await asyncio.Event().wait()


class World:
    """See the module."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.disk = MemoryDisk()
        self.ids = SequentialIds()
        self.hub: Connections | None = None
        self.harness: Harness | None = None
        self.is_calm = False
        self.is_full = False
        self.kills = 0
        # How dangerous this seed is; some run without any mishap of a kind.
        self.kill_seconds = self.random.choice([0.2, 0.6, 1.5, math.inf])
        self.lost_share = self.random.choice([0.0, 0.0, 0.03])
        self.full_share = self.random.choice([0.0, 0.0, 0.05])
        self.prunes = self.random.random() < 0.4
        self.seconds = self.random.choice([2.0, 4.0, 6.0])
        self.limits = self.random.choice([LIMITS, LIMITS, ROOMY])
        # What must come out in the end.
        self.committed: dict[str, dict[int, Committed]] = {}
        self.prompts: list[tuple[str, str]] = []
        self.trouble: list[str] = []
        # Where messages may be dropped, for somebody closed or deleted it.
        self.closed: set[str] = set()
        self.deleted: set[str] = set()
        # Rows by key, also of what was deleted since.
        self._names: dict[int, str] = {}
        self._turns: dict[int, str] = {}
        self.sockets: list[Any] = []
        self._arrived = asyncio.Event()
        self._kill = asyncio.Event()
        self._disk: SlowDisk | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    # -- chance --------------------------------------------------------------------------------

    async def wait(self, seconds_max: float) -> None:
        """Some time, often none at all."""
        if self.random.random() < 0.5:
            await anyio.lowlevel.checkpoint()
        else:
            await anyio.sleep(self.random.uniform(0, seconds_max))

    def draw_fault(self) -> str:
        if self.is_calm:
            return ""
        if self.is_full:
            self.is_full = self.random.random() < 0.7
            return "full"
        drawn = self.random.random()
        if drawn < self.full_share:
            self.is_full = True
            return "full"
        return "lost" if drawn > 1 - self.lost_share else ""

    # -- the disk ------------------------------------------------------------------------------

    def note_committed(self, batch: Batch) -> None:
        self._names |= {record.key: record.id for record in batch.conversations}
        self._turns |= {turn.key: turn.id for turn in batch.turns}
        for record in batch.events:
            conversation, turn = self._names[record.conversation], self._turns[record.turn]
            if conversation in self.deleted:
                self.trouble.append(f"{conversation}: {record.payload!r} after its tombstone")
            events = self.committed.setdefault(conversation, {})
            if record.offset in events:
                self.trouble.append(f"{conversation}: offset {record.offset} was written twice")
            events[record.offset] = Committed(record, turn, conversation)
        self.deleted |= {self._names[key] for key in batch.deletions}

    # -- daemons -------------------------------------------------------------------------------

    async def run_daemons(self) -> None:
        """One daemon after the other, each killed or ended by its own fault."""
        while len(self.trouble) < TROUBLE_MAX:
            self._disk = SlowDisk(self)
            self._kill = asyncio.Event()
            try:
                async with self._daemon(self._disk):
                    await self._kill.wait()
            except ExceptionGroup as group:
                # A disk of which nobody knows what it did: a daemon ends, and is started again.
                # Any other end of one, `Fenced` too, is a defect here, where one follows the other.
                defects = [error for error in leaves(group) if not isinstance(error, StorageFailed)]
                self.trouble += [f"the daemon died of {error!r}" for error in defects]
            await self.wait(0.1)

    @asynccontextmanager
    async def _daemon(self, disk: SlowDisk) -> AsyncIterator[None]:
        agents = [
            ScriptedAgent(self._improvise, name="able", steer=True),
            ScriptedAgent(self._improvise, name="plain"),
        ]
        running = broker_on(
            disk,
            agents=agents,
            limits=self.limits,
            clock=LoopClock(),
            ids=self.ids,
            seconds=math.inf,
        )
        try:
            async with running as harness, anyio.create_task_group() as tasks:
                keeper = Doorkeeper(Settings(), None)
                hub = Connections(harness.services, harness.verbs, keeper)
                self._tasks = tasks
                tasks.start_soon(hub.run)
                if self.prunes:
                    tasks.start_soon(self._prune, harness)
                await anyio.lowlevel.checkpoint()
                self.hub, self.harness = hub, harness
                self._arrived.set()
                yield
                tasks.cancel_scope.cancel()
        finally:
            self._cut(disk)

    def close(self, conversation: str) -> None:
        """Somebody closes a conversation, over HTTP: the daemon may die before it is done."""
        self.closed.add(conversation)
        if self.harness is not None and self._tasks is not None:
            close = partial(self.harness.broker.close, LOCAL, ConversationId(conversation))
            self._tasks.start_soon(_whatever_comes, close)

    def delete(self, conversation: str) -> None:
        """Somebody deletes it, over HTTP."""
        self.closed.add(conversation)
        if self.harness is not None and self._tasks is not None:
            delete = partial(self.harness.catalog.delete, LOCAL, ConversationId(conversation))
            self._tasks.start_soon(_whatever_comes, delete)

    def kill(self) -> None:
        """At once: nothing more is written to disk or to anybody."""
        if self._disk is not None and self.hub is not None:
            self.kills += 1
            self._cut(self._disk)
            self._kill.set()

    def _cut(self, disk: SlowDisk) -> None:
        disk.is_cut = True
        self.hub = self.harness = self._tasks = None
        self._arrived.clear()
        for socket in list(self.sockets):
            socket.cut()

    async def reachable(self) -> Connections:
        """The daemon that accepts, as soon as there is one."""
        while self.hub is None:
            await self._arrived.wait()
        return self.hub

    async def _prune(self, harness: Harness) -> None:
        while True:
            await anyio.sleep(self.random.uniform(0.1, 0.6))
            await prune_events(harness.services, RetentionSettings(events_seconds=0.05))

    # -- agents --------------------------------------------------------------------------------

    async def _improvise(self, request: TurnRequest, emit: Emit) -> None:
        # Who resumes says nothing: each time it is another turn.
        said = request.message if request.resumes is None else request.turn_id
        self.prompts.append((request.conversation_id, said))
        name = request.turn_id
        is_quick = self.random.random() < 0.3
        for number in range(1, self.random.randint(0, 14) + 1):
            if not is_quick or self.random.random() < 0.1:
                await self.wait(0.05)
            match self.random.randint(0, 13):
                case 0:
                    await emit(ReasoningDelta(f"({name}~{number}) "))
                case 1:
                    await emit(StepComplete())
                case 2:
                    await emit(Usage(TokenUsage(number, 1)))
                case 3:
                    await self._call(f"k{number}", emit)
                case 4:
                    await self._ask(f"r-{name}-{number}", request, emit)
                case 5:
                    await self._listen(request, emit)
                case 6:
                    if self.random.random() < 0.3:
                        raise self.random.choice([AgentFailure("as drawn"), ValueError("hidden")])
                case 7:
                    if self.random.random() < 0.3 and not self.is_calm:
                        await self._silence()
                case 8:
                    await emit(TextDelta(f"[{name}.{number}" + "é\n" * 200 + "] "))
                case _:
                    await emit(TextDelta(f"[{name}.{number}] "))

    async def _call(self, call: str, emit: Emit) -> None:
        await emit(ToolCall(call, "tool", msgspec.Raw(b'{\n"x": 1}')))
        await self.wait(0.02)
        if self.random.random() < 0.8:
            await emit(ToolOutput(call, "working", "stdout"))
            await emit(ToolResult(call, "tool", "done", False))

    async def _ask(self, name: str, request: TurnRequest, emit: Emit) -> None:
        await emit(Request(name, "approval", "May I?"))
        with anyio.move_on_after(self.random.uniform(0, 0.3)):
            match await request.inbox.receive():
                case Respond(response=response):
                    await emit(TextDelta(f"[{response.request_id} answered] "))
                case Steer(text=text):
                    await emit(Steering(text))

    async def _listen(self, request: TurnRequest, emit: Emit) -> None:
        given = request.inbox.receive_nowait()
        if isinstance(given, Steer):
            await emit(Steering(given.text))

    async def _silence(self) -> None:
        while not self.is_calm:
            await anyio.sleep(SILENCE_SECONDS)


def leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    """Every exception of a group that is not a group."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


async def _whatever_comes(call: Callable[[], Awaitable[object]]) -> None:
    with suppress(DispatchError):
        await call()


async def live_through(world: World, people: Sequence[Person]) -> None:
    """Danger for so long, then calm until everything has come to rest."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.run_daemons)
        tasks.start_soon(_be_dangerous, world)
        with anyio.move_on_after(world.seconds + REST_SECONDS_MAX) as patience:
            async with anyio.create_task_group() as lives:
                for person in people:
                    lives.start_soon(person.live, CONVERSATIONS)
                await anyio.sleep(world.seconds)
                world.is_calm = True
            await world.reachable()
            assert world.harness is not None
            await world.harness.until_idle()
            # What was committed last is still on its way to those who read slowly.
            for person in people:
                await person.drained()
        if patience.cancelled_caught:
            world.trouble.append("it never came to rest")
        tasks.cancel_scope.cancel()


async def _be_dangerous(world: World) -> None:
    if math.isinf(world.kill_seconds):
        return
    while not world.is_calm:
        await anyio.sleep(world.random.uniform(0, 2 * world.kill_seconds))
        if not world.is_calm:
            world.kill()
