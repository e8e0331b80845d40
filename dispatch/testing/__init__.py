"""The test kit: brokers without sockets or a disk, for this project's tests and for yours.

Who tests a program that uses `dispatch.client` wants a whole daemon behind a client:

    async with in_memory_client(ScriptedAgent("hello")) as client:
        assert (await ask(client, "hi")).text == "hello"

Who tests the broker itself wants it bare, on a clock that waits for nobody:

    async with broker_on(MemoryStore(), agents=[ScriptedAgent("hello")]) as broker:
        async with broker.watching("c1") as watcher:
            await broker.send("hi", "c1")
            await watcher.until_sealed()

`memory` is that daemon and `lines` what it is reached by; `clocks` are time and ids, `virtual` is a
loop on virtual time, `scripted` an agent that does what a test tells it, `stores` hold, fail or
slow a store down, `watcher` follows a conversation, `harness` puts it all together. May import
anything; nothing but tests imports it.
Invariant: nothing in here waits for real time or draws a random number of its own, the daemon of
`memory` excepted, which is a real one.
"""

from __future__ import annotations

from dispatch.testing.clocks import LoopClock, ManualClock, SequentialIds
from dispatch.testing.harness import GUARD_SECONDS, Harness, broker_on, guard
from dispatch.testing.memory import MEMORY_URL, MemoryTransport, in_memory, in_memory_client
from dispatch.testing.scripted import FOR_EVER, Gate, ScriptedAgent, Step
from dispatch.testing.stores import FaultyStore, HeldStore, StoreWrapper, YieldingStore
from dispatch.testing.virtual import Deadlock, VirtualLoop, run_virtual
from dispatch.testing.watcher import PlainEncoding, Watcher

__all__ = [
    "FOR_EVER",
    "GUARD_SECONDS",
    "MEMORY_URL",
    "Deadlock",
    "FaultyStore",
    "Gate",
    "Harness",
    "HeldStore",
    "LoopClock",
    "ManualClock",
    "MemoryTransport",
    "PlainEncoding",
    "ScriptedAgent",
    "SequentialIds",
    "Step",
    "StoreWrapper",
    "VirtualLoop",
    "Watcher",
    "YieldingStore",
    "broker_on",
    "guard",
    "in_memory",
    "in_memory_client",
    "run_virtual",
]
