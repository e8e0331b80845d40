"""Watches the garbage collector and the objects of the daemon it is imported into.

Neighbours: `agents` imports it inside the daemon and answers `PeerPort` questions with `answer`;
`alone` asks them. Nothing of it is part of dispatch.
Invariant: watching costs four clock reads a collection, and nothing otherwise.
"""

from __future__ import annotations

import gc
import json
import time
from collections import Counter
from pathlib import Path

GENERATIONS = 3


class Collections:
    """How long each collection kept everybody waiting."""

    def __init__(self) -> None:
        """Begin to watch."""
        self._began_ns = self._began_cpu_ns = 0
        self.reset()
        gc.callbacks.append(self._called)

    def reset(self) -> None:
        """Forget what was so far."""
        self.count = [0] * GENERATIONS
        self.longest_ns = [0] * GENERATIONS
        self.longest_cpu_ns = [0] * GENERATIONS
        self.total_ns = [0] * GENERATIONS

    def _called(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began_ns = time.perf_counter_ns()
            self._began_cpu_ns = time.thread_time_ns()
            return
        taken_cpu = time.thread_time_ns() - self._began_cpu_ns
        taken = time.perf_counter_ns() - self._began_ns
        generation = info["generation"]
        self.count[generation] += 1
        self.total_ns[generation] += taken
        self.longest_ns[generation] = max(self.longest_ns[generation], taken)
        self.longest_cpu_ns[generation] = max(self.longest_cpu_ns[generation], taken_cpu)

    def told(self) -> dict[str, object]:
        """By generation: how many, the longest, all together."""
        return {
            "collections": self.count,
            "longest_ms": [round(ns / 1e6, 3) for ns in self.longest_ns],
            # Less than that where others had the core meanwhile.
            "longest_cpu_ms": [round(ns / 1e6, 3) for ns in self.longest_cpu_ns],
            "total_ms": [round(ns / 1e6, 3) for ns in self.total_ns],
        }


COLLECTIONS = Collections()


def _resident_kb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def _objects(most: int = 12) -> dict[str, object]:
    """What the collector tracks, without collecting: a cycle that nobody collects is kept."""
    kinds = Counter(f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects())
    return {
        "objects": sum(kinds.values()),
        "frozen": gc.get_freeze_count(),
        "kinds": dict(kinds.most_common(most)),
        "rss_kb": _resident_kb(),
    }


def answer(question: str) -> bytes:
    """One line of JSON for `garbage`, `reset`, `objects` or `collect`."""
    told: dict[str, object]
    match question:
        case "garbage":
            told = COLLECTIONS.told()
        case "reset":
            COLLECTIONS.reset()
            told = {}
        case "objects":
            told = _objects()
        case "collect":
            began = time.perf_counter_ns()
            found = gc.collect()
            told = {"found": found, "took_ms": (time.perf_counter_ns() - began) / 1e6, **_objects()}
        case _:
            told = {"error": f"unknown question {question!r}"}
    return json.dumps(told).encode() + b"\n"
