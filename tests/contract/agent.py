"""What every agent owes the broker, whatever it is made of.

A subclass gives the fixture `build`: an agent for each `Behaviour`, made of the adapter under test.
Every test also proves that nothing of its turns is left: no process, no task, no open file.
"""

import asyncio
import gc
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint

from dispatch.agents.port import Agent, AgentFailure, Input, Steer, TurnRequest
from dispatch.core.content import StoredLine
from dispatch.core.events import AgentEvent, Done, Image, Steering, TextDelta
from dispatch.core.identity import ConversationId, TurnId

GUARD_SECONDS = 20.0


class Behaviour(Enum):
    """What the suite needs an agent for."""

    SAYS = "says the message and ends"
    LISTENS = "says the message, and what it is steered to say once it has begun, and ends"
    WAITS = "says one word and then nothing, for ever"
    FLOODS = "says more than anyone could take"
    FAILS = "ends with a failure of its own"


Build = Callable[[Behaviour], Agent]


class Letterbox:
    """An inbox that a test fills."""

    def __init__(self) -> None:
        self._waiting: deque[Input] = deque()
        self._filled = anyio.Event()

    def put(self, item: Input) -> None:
        self._waiting.append(item)
        self._filled.set()

    async def __aiter__(self) -> AsyncIterator[Input]:
        while True:
            yield await self.receive()

    async def receive(self) -> Input:
        while not self._waiting:
            self._filled = anyio.Event()
            await self._filled.wait()
        return self._waiting.popleft()

    def receive_nowait(self) -> Input | None:
        return self._waiting.popleft() if self._waiting else None


class Listener:
    """An `emit` that keeps what it is given, and insists on one caller at a time."""

    def __init__(self, on_event: Callable[[AgentEvent], Awaitable[None]] | None = None) -> None:
        self.events: list[AgentEvent] = []
        self.over = False
        self._on_event = on_event
        self._inside = False
        self._arrived = anyio.Event()

    async def __call__(self, event: AgentEvent) -> None:
        assert not self._inside, "two callers of emit at once"
        assert not self.over, "an event after the turn"
        self._inside = True
        try:
            self.events.append(event)
            self._arrived.set()
            self._arrived = anyio.Event()
            if self._on_event is not None:
                await self._on_event(event)
            await checkpoint()
        finally:
            self._inside = False

    @property
    def text(self) -> str:
        return "".join(event.delta for event in self.events if isinstance(event, TextDelta))

    async def until(self, what: Callable[[AgentEvent], bool]) -> AgentEvent:
        """The first event of which that is true, now or later."""
        while True:
            for event in self.events:
                if what(event):
                    return event
            await self._arrived.wait()


def is_text(event: AgentEvent) -> bool:
    return isinstance(event, TextDelta)


def turn(message: str = "hello there", **fields: object) -> TurnRequest:
    """A request; its inbox is a `Letterbox` of its own unless one is given."""
    lines = fields.pop("lines", [])

    async def history() -> list[StoredLine]:
        await checkpoint()
        return lines

    given = {
        "conversation_id": ConversationId("conversation-1"),
        "turn_id": TurnId("turn-1"),
        "message": message,
        "inbox": Letterbox(),
        "history": history,
    }
    return TurnRequest(**(given | fields))


def children() -> set[int]:
    """This process's children, those not yet waited for included."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        # A thread of the pool may end at any time.
        with suppress(FileNotFoundError, ProcessLookupError):
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            # The one that listed the directory.
            continue
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """Whatever the block starts, it ends; and it ends in time."""
    before = asyncio.all_tasks(), children(), descriptors()
    yield
    gc.collect()
    assert asyncio.all_tasks() - before[0] == set()
    assert children() - before[1] == set()
    assert descriptors().items() - before[2].items() == set()


async def run_turn(
    agent: Agent, request: TurnRequest, listener: Listener | None = None
) -> Listener:
    """One whole turn under the guard; what was heard."""
    listener = listener or Listener()
    try:
        with anyio.fail_after(GUARD_SECONDS):
            await agent.run(request, listener)
    finally:
        listener.over = True
    return listener


class AgentContract:
    """The suite. Not collected itself: its name does not begin with Test."""

    @pytest.fixture
    def build(self, tmp_path: Path) -> Build:
        raise NotImplementedError

    async def test_the_message_comes_back_whole(self, build: Build) -> None:
        message = "  two  spaces,\ta tab,\nan end of line, ünïcödé, 🦔\u2028 and a space "
        with nothing_left():
            heard = await run_turn(build(Behaviour.SAYS), turn(message))
        assert heard.text == message

    async def test_a_large_message_comes_back_whole(self, build: Build) -> None:
        message = "x" * 300_000 + " word" * 1000
        with nothing_left():
            heard = await run_turn(build(Behaviour.SAYS), turn(message))
        assert heard.text == message

    async def test_everything_a_turn_may_carry_is_tolerated(self, build: Build) -> None:
        request = turn(
            images=(Image("data:image/png;base64,AA==", "image/png"), Image("https://x.example")),
            reasoning_effort="max",
            system_prompt="be kind",
            model="any",
        )
        heard = await run_turn(build(Behaviour.SAYS), request)
        assert heard.text == "hello there"

    async def test_done_is_said_at_most_once_and_last(self, build: Build) -> None:
        heard = await run_turn(build(Behaviour.SAYS), turn())
        assert not any(isinstance(event, Done) for event in heard.events[:-1])

    async def test_turns_at_once_do_not_mix(self, build: Build) -> None:
        agent = build(Behaviour.SAYS)
        heard: dict[int, Listener] = {}

        async def one(number: int) -> None:
            heard[number] = await run_turn(agent, turn(f"this is turn {number} alone"))

        with nothing_left():
            async with anyio.create_task_group() as tasks:
                for number in range(10):
                    tasks.start_soon(one, number)
        assert {n: one.text for n, one in heard.items()} == {
            n: f"this is turn {n} alone" for n in range(10)
        }

    async def test_a_cancelled_turn_leaves_nothing(self, build: Build) -> None:
        agent, listener = build(Behaviour.WAITS), Listener()
        with nothing_left(), anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(agent.run, turn(), listener)
                await listener.until(is_text)
                tasks.cancel_scope.cancel()
            listener.over = True

    @pytest.mark.parametrize("steps", [*range(12), 15, 20, 30, 50, 80, 120, 200])
    async def test_a_turn_cancelled_after_any_step_leaves_nothing(
        self, build: Build, steps: int
    ) -> None:
        agent, listener = build(Behaviour.WAITS), Listener()
        with nothing_left(), anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(agent.run, turn(), listener)
                for _ in range(steps):
                    await checkpoint()
                tasks.cancel_scope.cancel()
            listener.over = True
            await checkpoint()

    async def test_a_turn_cancelled_before_it_began_does_nothing(self, build: Build) -> None:
        agent, listener = build(Behaviour.WAITS), Listener()
        with nothing_left(), anyio.CancelScope() as scope:
            scope.cancel()
            await agent.run(turn(), listener)
        assert scope.cancelled_caught

    async def test_a_turn_cancelled_while_its_event_waits_leaves_nothing(
        self, build: Build
    ) -> None:
        async def never(_: AgentEvent) -> None:
            await anyio.sleep_forever()

        agent, listener = build(Behaviour.FLOODS), Listener(never)
        with nothing_left(), anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(agent.run, turn(), listener)
                await listener.until(is_text)
                tasks.cancel_scope.cancel()
        assert len(listener.events) == 1

    async def test_an_agent_is_no_further_ahead_than_one_event(self, build: Build) -> None:
        many, enough = 200, anyio.Event()
        listener = Listener()

        async def stops_taking(_: AgentEvent) -> None:
            if len(listener.events) == many:
                enough.set()
                await anyio.sleep_forever()

        listener = Listener(stops_taking)
        with nothing_left(), anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(build(Behaviour.FLOODS).run, turn(), listener)
                await enough.wait()
                for _ in range(1000):
                    await checkpoint()
                assert len(listener.events) == many
                tasks.cancel_scope.cancel()

    async def test_a_flooding_agent_lets_others_run(self, build: Build) -> None:
        taken = 0

        async def take_at_once(_: AgentEvent) -> None:
            nonlocal taken
            taken += 1

        with nothing_left(), anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(build(Behaviour.FLOODS).run, turn(), take_at_once)
                while taken < 500:
                    await checkpoint()
                tasks.cancel_scope.cancel()

    async def test_what_emit_raises_comes_out_as_it_is(self, build: Build) -> None:
        class TakesNoMore(Exception):
            pass

        async def refuse(_: AgentEvent) -> None:
            raise TakesNoMore

        with nothing_left(), pytest.raises(TakesNoMore):
            await run_turn(build(Behaviour.FLOODS), turn(), Listener(refuse))

    async def test_a_failure_is_raised_with_words_and_a_code(self, build: Build) -> None:
        with nothing_left(), pytest.raises(AgentFailure) as failure:
            await run_turn(build(Behaviour.FAILS), turn(model="nonsense"))
        assert failure.value.message
        assert failure.value.code

    async def test_a_failed_turn_is_followed_by_good_ones(self, build: Build) -> None:
        agent = build(Behaviour.FAILS)
        for _ in range(2):
            with pytest.raises(AgentFailure):
                await run_turn(agent, turn(model="nonsense"))
        assert (await run_turn(build(Behaviour.SAYS), turn())).text == "hello there"

    async def test_steering_is_acknowledged_and_said(self, build: Build) -> None:
        agent, request = build(Behaviour.LISTENS), turn("one two three")
        assert agent.info.steer

        async def steer(_: AgentEvent) -> None:
            if len(listener.events) == 1:
                request.inbox.put(Steer("four five"))

        listener = Listener(steer)
        with nothing_left():
            await run_turn(agent, request, listener)
        assert [e.text for e in listener.events if isinstance(e, Steering)] == ["four five"]
        assert listener.text == "one two threefour five"

    async def test_steering_that_nobody_reads_keeps_no_turn_from_ending(self, build: Build) -> None:
        request = turn()
        for _ in range(100):
            request.inbox.put(Steer("x" * 10_000))
        agent, listener = build(Behaviour.WAITS), Listener()
        with nothing_left(), anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(agent.run, request, listener)
                await listener.until(is_text)
                tasks.cancel_scope.cancel()

    async def test_it_says_what_it_is(self, build: Build) -> None:
        agent = build(Behaviour.SAYS)
        assert agent.info.name == "tested"
        assert agent.info.kind
        assert agent.info.problem is None
        assert msgspec.json.encode(agent.info)
        assert isinstance(agent.cwd_roots, tuple)

    async def test_closing_twice_is_closing_once(self, build: Build) -> None:
        agent = build(Behaviour.SAYS)
        await run_turn(agent, turn())
        with nothing_left():
            await agent.aclose()
            await agent.aclose()
