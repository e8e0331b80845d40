"""The test kit: a broker without sockets or a disk, on a clock that waits for nobody.

    async with broker_on(MemoryStore(), agents=[ScriptedAgent("hello")]) as broker:
        async with broker.watching("c1") as watcher:
            await broker.send("hi", "c1")
            await watcher.until_sealed()

`clocks` are time and ids, `virtual` is a loop on virtual time, `scripted` an agent that does what a
test tells it, `stores` hold, fail or slow a store down, `watcher` follows a conversation, `harness`
puts it all together. May import anything; nothing but tests imports it.
Invariant: nothing in here waits for real time or draws a random number of its own.
"""

from __future__ import annotations

from dispatch.testing.clocks import LoopClock, ManualClock, SequentialIds
from dispatch.testing.harness import GUARD_SECONDS, Harness, broker_on, guard
from dispatch.testing.scripted import FOR_EVER, Gate, ScriptedAgent, Step
from dispatch.testing.stores import FaultyStore, HeldStore, StoreWrapper, YieldingStore
from dispatch.testing.virtual import Deadlock, VirtualLoop, run_virtual
from dispatch.testing.watcher import PlainEncoding, Watcher

__all__ = [
    "FOR_EVER",
    "GUARD_SECONDS",
    "Deadlock",
    "FaultyStore",
    "Gate",
    "Harness",
    "HeldStore",
    "LoopClock",
    "ManualClock",
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
    "run_virtual",
]
