"""What simulations found where replay and live meet, each told again by hand."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from dispatch.core.events import StepComplete
from dispatch.protocol.chat.frames import SUBPROTOCOL
from dispatch.server.connections import Connections
from dispatch.server.credential import ANYONE
from dispatch.server.gate import Doorkeeper
from dispatch.settings import Limits, Settings
from dispatch.storage.memory import MemoryStore
from dispatch.storage.port import Store
from dispatch.testing import (
    FOR_EVER,
    Gate,
    Harness,
    HeldStore,
    ScriptedAgent,
    StoreWrapper,
    YieldingStore,
    broker_on,
)
from tests.protocol.published import saw_frame
from tests.simulation.devices import unframed

SMALL = Limits(ring_events_max=4, delta_bytes_max=60, catch_up_bytes_max=200)


class Peer:
    """A socket that a test pauses and resumes by hand, and every frame it was written."""

    def __init__(self, hub: Connections) -> None:
        self.subprotocol = SUBPROTOCOL
        self.peer = "memory"
        self.writable = self.is_open = True
        self.bytes_waiting = self.bytes_behind = 0
        self.last_pong, self.unanswered_since = 0.0, None
        self.frames: list[dict[str, Any]] = []
        self.trouble: list[str] = []
        self.pauses_at: str | None = None
        self._arrived = asyncio.Event()
        self.connection: Any = hub.accept(ANYONE, "")
        self.connection.opened(self)

    def authenticated(self) -> None:
        """Nobody was waiting for it."""

    def write(self, data: bytes) -> None:
        for text in unframed(data):
            frame = json.loads(text)
            try:
                saw_frame(frame)
            except AssertionError as error:
                # Raised in here, it would look like a defect of the connection.
                self.trouble.append(str(error))
            self.frames.append(frame)
            if frame["type"] == self.pauses_at:
                self.pause()
        self._arrived.set()

    def say(self, kind: str, **fields: object) -> None:
        frame = {"type": kind, "conversationId": "c1", **fields}
        self.connection.received(json.dumps(frame).encode())

    def pause(self) -> None:
        self.writable = False
        self.connection.paused()

    def resume(self) -> None:
        self.writable = True
        self.connection.resumed()

    async def until(self, kind: str, times: int = 1) -> None:
        while self.kinds.count(kind) < times:
            self._arrived.clear()
            await self._arrived.wait()
        assert self.trouble == []

    @property
    def kinds(self) -> list[str]:
        return [frame.get("event", frame)["type"] for frame in self.frames]

    @property
    def offsets(self) -> list[int]:
        """Of everything that is an event."""
        events = [frame for frame in self.frames if frame["type"] == "chat.delta"]
        return [int(frame["position"].partition(":")[2]) for frame in events]


@asynccontextmanager
async def served(
    store: Store, *agents: ScriptedAgent
) -> AsyncIterator[tuple[Harness, Connections]]:
    """A broker with connections, and no network."""
    running = broker_on(store, agents=agents, limits=SMALL)
    async with running as broker, anyio.create_task_group() as tasks:
        hub = Connections(broker.services, broker.verbs, Doorkeeper(Settings(), None))
        tasks.start_soon(hub.run)
        await checkpoint()
        yield broker, hub
        tasks.cancel_scope.cancel()


class ReadsHeld(StoreWrapper):
    """Keeps reads of one kind waiting."""

    def __init__(self, inner: Store, verb: str) -> None:
        super().__init__(inner)
        self.verb: str = verb
        self.gate: Gate | None = None

    async def before(self, verb: str) -> None:
        if verb == self.verb and self.gate is not None:
            await self.gate.pass_through()


async def settled() -> None:
    """Let everything that is ready run."""
    for _ in range(50):
        await checkpoint()


@pytest.mark.timeout(20)
async def test_who_reads_the_journal_is_not_carried_past_what_was_shown() -> None:
    store = HeldStore(YieldingStore(MemoryStore()))
    gate = Gate()
    agent = ScriptedAgent(*["x", StepComplete()] * 8, gate, "last", FOR_EVER)
    async with served(store, agent) as (broker, hub):
        await broker.send("hi")
        await gate.reached()
        await broker.services.journal.idle()
        head = broker.live().feed.head
        store.hold(behind=True)
        gate.open()
        # The disk has one event more than anybody was shown.
        await store.reached()
        peer = Peer(hub)
        peer.say("chat.subscribe", after=f"{broker.services.opened.generation}:0")
        await settled()
        assert peer.offsets == list(range(1, head + 1))
        store.release()
        await peer.until("text-delta", 9)
        assert peer.offsets == list(range(1, head + 2))


async def test_a_peer_that_drains_meanwhile_gets_its_history_before_what_is_live() -> None:
    store = ReadsHeld(MemoryStore(), "chunk_bytes")
    gate = Gate()
    agent = ScriptedAgent(
        script=lambda r: ["ok"] if r.message == "one" else ["live", gate, StepComplete()]
    )
    async with served(store, agent) as (broker, hub):
        await broker.send("one")
        await broker.until_idle()
        await broker.send("two")
        await gate.reached()
        await broker.services.journal.idle()
        store.gate = Gate()
        peer = Peer(hub)
        peer.say("chat.subscribe", sinceSeq=0)
        await store.gate.reached()
        peer.pause()
        peer.resume()
        gate.open()
        await broker.services.journal.idle()
        await settled()
        assert peer.kinds == ["hello", "chat.subscribed"]
        store.gate.open()
        await peer.until("turn-sealed")
        assert peer.kinds[2] == "chat.history"
        first = peer.offsets[0]
        assert peer.offsets == list(range(first, first + len(peer.offsets)))


async def test_a_peer_that_drains_meanwhile_gets_its_snapshot_before_what_is_live() -> None:
    store = ReadsHeld(MemoryStore(), "events")
    gate = Gate()
    agent = ScriptedAgent(*["x", StepComplete()] * 8, gate, "more")
    async with served(store, agent) as (broker, hub):
        await broker.send("hi")
        await gate.reached()
        await broker.services.journal.idle()
        head = broker.live().feed.head
        seen = Peer(hub)
        seen.say("chat.subscribe", after=f"{broker.services.opened.generation}:{head}")
        await seen.until("chat.subscribed")
        store.gate = Gate()
        peer = Peer(hub)
        peer.say("chat.subscribe", after="elsewhere:3")
        await store.gate.reached()
        peer.pause()
        gate.open()
        await seen.until("turn-sealed")
        peer.resume()
        await settled()
        assert peer.kinds == ["hello", "chat.subscribed"]
        store.gate.open()
        await peer.until("turn-sealed")
        assert peer.kinds[2] == "chat.snapshot"
        assert peer.offsets[0] == head + 1


async def test_a_watch_that_was_dropped_while_it_read_is_not_followed_any_more() -> None:
    store = ReadsHeld(MemoryStore(), "events")
    gate = Gate()
    agent = ScriptedAgent(*["x", StepComplete()] * 8, gate, "more")
    async with served(store, agent) as (broker, hub):
        peer = Peer(hub)
        peer.say("chat.subscribe")
        await peer.until("chat.subscribed")
        await settled()
        peer.pause()
        await broker.send("hi")
        await gate.reached()
        await broker.services.journal.idle()
        store.gate = held = Gate()
        peer.resume()
        await held.reached()
        peer.say("chat.unsubscribe")
        store.gate = None
        peer.say("chat.subscribe", after=f"{broker.services.opened.generation}:0")
        await peer.until("step-complete", 8)
        held.open()
        await settled()
        gate.open()
        await peer.until("turn-sealed")
        await settled()
        assert peer.offsets == list(range(1, broker.live().feed.head + 1))


async def test_an_acknowledgement_that_fills_the_transport_costs_nobody_the_first_events() -> None:
    async with served(MemoryStore(), ScriptedAgent("ok")) as (broker, hub):
        peer = Peer(hub)
        peer.say("chat.subscribe")
        await peer.until("chat.subscribed")
        await settled()
        peer.pauses_at = "chat.accepted"
        peer.say("chat.send", message="hi")
        await peer.until("chat.accepted")
        await broker.until_idle()
        assert peer.offsets == []
        peer.resume()
        await peer.until("turn-sealed")
        assert peer.offsets == list(range(1, broker.live().feed.head + 1))
