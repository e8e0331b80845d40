"""What an account has waiting is bounded in bytes, and nothing is counted once nothing waits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from dispatch.agents.port import Emit, Steer, TurnRequest
from dispatch.core.commands import OnBusy
from dispatch.core.events import Steering
from dispatch.core.identity import LOCAL, AccountId, ConversationId, Principal, TurnId, UserId
from dispatch.errors import DispatchError, StorageFull, TooMany
from dispatch.settings import Limits
from dispatch.storage.memory import MemoryStore
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.port import Store
from dispatch.testing import FOR_EVER, FaultyStore, Harness, HeldStore, ScriptedAgent, broker_on

C1 = ConversationId("c1")
ANN = Principal(AccountId("other"), UserId("ann"))
# Room for two of these, with what is around them in a row, and not for three.
TEXT = "x" * 400
LIMITS = Limits(queue_bytes_max=1_100)


@asynccontextmanager
async def busy(
    store: Store | None = None, limits: Limits = LIMITS, **agent: bool
) -> AsyncIterator[Harness]:
    """A broker whose agent never ends by itself, with a turn of it in c1."""
    agents = [ScriptedAgent(FOR_EVER, **agent)]
    async with broker_on(store or MemoryStore(), agents=agents, limits=limits) as broker:
        await broker.send("go")
        yield broker


def waiting(broker: Harness, principal: Principal = LOCAL) -> int:
    return broker.accounts.backlog.bytes_of(principal.account)


async def fill(broker: Harness) -> list[TurnId]:
    return [(await broker.send(TEXT, on_busy="queue")).turn for _ in range(2)]


async def refused(broker: Harness, conversation: str = "c1", on_busy: OnBusy = "queue") -> None:
    with pytest.raises(TooMany, match="1100 bytes of messages are waiting already") as refusal:
        await broker.send(TEXT, conversation, on_busy=on_busy)
    assert refusal.value.retryable


async def test_what_waits_in_all_conversations_of_an_account_is_bounded_in_bytes() -> None:
    async with busy() as broker:
        await fill(broker)
        await refused(broker)
        await broker.send("go", "c2")
        await refused(broker, "c2")
        await broker.send("small", "c2", on_busy="queue")
        # Another account's has nothing to do with it, and what starts at once waits for nothing.
        await broker.send("go", "c1", principal=ANN)
        await broker.send(TEXT, "c1", principal=ANN, on_busy="queue")
        await broker.send(TEXT, "c3")


async def test_a_cancelled_message_makes_room() -> None:
    async with busy() as broker:
        first, _ = await fill(broker)
        await broker.broker.cancel(LOCAL, C1, first)
        await broker.send(TEXT, on_busy="queue")
        await refused(broker)
        for entry in broker.live().state.queue:
            await broker.broker.cancel(LOCAL, C1, entry.turn)
        assert waiting(broker) == 0


async def test_a_message_that_starts_waits_no_longer() -> None:
    async with busy() as broker:
        await fill(broker)
        for left in (1, 0):
            before = waiting(broker)
            await broker.stop()
            assert waiting(broker) < before
            assert len(broker.live().state.queue) == left
        assert waiting(broker) == 0


async def test_a_closed_or_deleted_conversation_has_nothing_waiting() -> None:
    async with busy() as broker:
        await fill(broker)
        await broker.broker.close(LOCAL, C1)
        assert waiting(broker) == 0
        await broker.send("go", "c2")
        await broker.send(TEXT, "c2", on_busy="queue")
        assert waiting(broker) > 0
        await broker.catalog.delete(LOCAL, ConversationId("c2"))
        assert waiting(broker) == 0
        assert broker.accounts.backlog._counted == {}
        assert broker.accounts.backlog._bytes == {}


async def test_a_steering_message_counts_until_its_turn_has_taken_it() -> None:
    async def take(request: TurnRequest, emit: Emit) -> None:
        async for given in request.inbox:
            if isinstance(given, Steer):
                await emit(Steering(given.text))

    agents = [ScriptedAgent(take, steer=True), ScriptedAgent(FOR_EVER, name="mute", steer=True)]
    async with broker_on(MemoryStore(), agents=agents, limits=LIMITS) as broker:
        await broker.send("go")
        await broker.send("go", "c2", model="mute")
        for _ in range(5):
            await broker.send(TEXT, on_busy="steer")
            while broker.live().state.steers:
                await checkpoint()
        # The taken ones are found before another conversation is refused for them.
        for _ in range(2):
            await broker.send(TEXT, "c2", on_busy="steer")
        await refused(broker, "c2", "steer")
        await broker.broker.close(LOCAL, ConversationId("c2"))
        await broker.stop()
        assert waiting(broker) == 0


async def test_a_message_that_the_disk_refuses_is_not_counted() -> None:
    store = FaultyStore(MemoryStore())
    async with busy(store) as broker:
        store.fail(StorageFull("no room"))
        with pytest.raises(StorageFull):
            await broker.send(TEXT, on_busy="queue")
        assert waiting(broker) == 0


async def test_held_messages_are_counted_and_go_with_what_becomes_of_them() -> None:
    """Who comes while a turn's end is on its way waits for its seal."""
    store = HeldStore(MemoryStore())
    results: list[DispatchError | None] = []

    async def send() -> None:
        try:
            await broker.send(TEXT)
            results.append(None)
        except DispatchError as error:
            results.append(error)

    async with busy(store) as broker:
        store.hold()
        broker.live().end(None, "aborted")
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(send)
            await store.reached()
            while len(broker.live().held) < 2 or not results:
                await checkpoint()
            store.release()
            while broker.live().held:
                await broker.stop()
        # The third was over the bound; of the two, each began at the seal before it.
        assert [type(result) for result in results] == [TooMany, type(None), type(None)]
        assert waiting(broker) == 0


async def test_what_was_durable_at_a_restart_is_taken_back_and_counted() -> None:
    disk = MemoryDisk()
    async with busy(MemoryStore(disk), Limits()) as broker:
        for _ in range(4):
            await broker.send(TEXT, on_busy="queue")
    agents = [ScriptedAgent(FOR_EVER)]
    async with broker_on(MemoryStore(disk), agents=agents, limits=LIMITS) as broker:
        # The first of the four runs now.
        assert len(broker.live().state.queue) == 3
        await refused(broker)
        while broker.live().state.running is not None:
            await broker.stop()
        assert waiting(broker) == 0
