"""Rows of a daemon alone: first delta, closed connections, garbage, kill -9, and those from inside.

Neighbours: `client` is the load, `probe` answers from within the daemon, `inside` runs as a process
of its own. None of these needs the generator, so they run on any machine that runs dispatch.
Invariant: each returns the figures it measured and nothing it did not.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.benchmark import machine
from scripts.benchmark.ahp import ahp
from scripts.benchmark.chats import chat_list
from scripts.benchmark.client import Client, Crowd, Publisher, Questions
from scripts.benchmark.dispatched import Daemon, conversation, daemon
from scripts.benchmark.generator import Failed, Figures
from scripts.benchmark.groups import group

INSIDE_SECONDS: Final = 4.0
INSIDE_SECONDS_MAX: Final = 120.0
FIRST_DELTAS: Final = 200
# Long enough that whatever the last turn left to do is done.
IDLE_SECONDS: Final = 0.02
CLOSED_CONNECTIONS: Final = 10_000
CLOSED_ROUNDS: Final = 2
# Few: what a conversation leaves for a while is not to be counted as a connection's.
CLOSED_CONVERSATIONS: Final = 10
GARBAGE_CONNECTIONS: Final = 8_000
GARBAGE_CONVERSATIONS: Final = 80
GARBAGE_SECONDS: Final = 8.0
GARBAGE_PUBLISHES_PER_S: Final = 200
INTERRUPTED_TURNS: Final = 1_000
INTERRUPTED_EVENTS: Final = 10
_PAYLOAD: Final = '{"type":"delta","text":"lorem ipsum dolor sit amet"}'


def first_delta(scratch: Path) -> Figures:
    """From `chat.send` to the first delta, in a new conversation each time; nothing else runs."""
    taken = []
    with daemon(scratch) as running, Client(running.server.port) as client:
        for number in range(FIRST_DELTAS):
            time.sleep(IDLE_SECONDS)
            name = conversation(number)
            began = time.perf_counter()
            client.send(type="chat.send", conversationId=name, model="short", message="Go")
            client.until(b'"text-delta"')
            taken.append((time.perf_counter() - began) * 1000)
            client.until(b'"turn-sealed"')
    quantiles = statistics.quantiles(taken, n=100)
    return {"p50_ms": statistics.median(taken), "p99_ms": quantiles[98], "max_ms": max(taken)}


def closed(scratch: Path) -> Figures:
    """What is left of connections that came, subscribed and went; the first round warms up."""
    with daemon(scratch) as running:
        questions = Questions(running.server.publisher_port or 0)
        crowd = Crowd(running.server.port)
        names = [conversation(number) for number in range(CLOSED_CONVERSATIONS)]

        def come_and_go() -> None:
            crowd.join(CLOSED_CONNECTIONS, names)
            crowd.leave()
            _wait_until_closed(running)

        come_and_go()
        before = questions.ask("objects")
        for _ in range(CLOSED_ROUNDS):
            come_and_go()
        after = questions.ask("objects")
        collected = questions.ask("collect")
        count = CLOSED_CONNECTIONS * CLOSED_ROUNDS
        crowd.close()
        questions.close()
    return {
        "objects_each": (after["objects"] - before["objects"]) / count,
        "kb_each": (after["rss_kb"] - before["rss_kb"]) / count,
        "cycles_each": collected["found"] / count,
        "kinds": after["kinds"],
    }


def _wait_until_closed(running: Daemon) -> None:
    """Until the daemon has let go of every socket of the crowd."""
    deadline = time.monotonic() + 30
    folder = Path(f"/proc/{running.server.pid}/fd")
    while sum(1 for _ in folder.iterdir()) > 100:
        if time.monotonic() > deadline:
            raise Failed("the daemon still has open sockets")
        time.sleep(0.05)


def garbage(scratch: Path) -> Figures:
    """The longest collection while 8,000 connect, and then watch turns that stream."""
    with daemon(scratch, turns=GARBAGE_CONVERSATIONS) as running:
        port, agents = running.server.port, running.server.publisher_port or 0
        questions, publisher, crowd = Questions(agents), Publisher(agents), Crowd(port)
        names = [conversation(number) for number in range(GARBAGE_CONVERSATIONS)]
        # Whatever follows `ready` at once is over by now; before it nobody is connected.
        time.sleep(0.5)
        questions.ask("reset")
        crowd.join(GARBAGE_CONNECTIONS, names)
        connecting = questions.ask("garbage")
        with Client(port) as client:
            steps = round(GARBAGE_SECONDS * 10)
            for step in range(steps):
                for number in range(GARBAGE_PUBLISHES_PER_S // 10):
                    publisher.publish(names[(step * 20 + number) % len(names)], _PAYLOAD)
                name = f"short-{step}"
                client.send(type="chat.send", conversationId=name, model="short", message="Go")
                crowd.drain(0.1)
            client.until(b'"turn-sealed"')
        told = questions.ask("garbage")
        full = questions.ask("collect")
        read = crowd.bytes_read
        for one in (crowd, publisher, questions):
            one.close()
    return {
        "longest_ms": max(told["longest_ms"]),
        "longest_cpu_ms": max(told["longest_cpu_ms"]),
        "longest_connecting_ms": max(connecting["longest_ms"]),
        "collections": told["collections"],
        "total_ms": sum(told["total_ms"]),
        "forced_full_ms": full["took_ms"],
        "mb_read": read / 1e6,
    }


def restart(scratch: Path) -> Figures:
    """kill -9 under 1,000 running turns beside 10,000 conversations, to ready again."""
    running = Daemon(scratch)
    try:
        _inside("fill", running.data, 0.0)
        running.start()
        _interrupted_turns(running)
        running.kill()
        running.start()
        seconds = running.ready_seconds
        with Client(running.server.port) as client:
            began = time.perf_counter()
            client.send(type="chat.send", conversationId="c00000", model="short", message="Go")
            client.until(b'"turn-sealed"')
            first_turn_ms = (time.perf_counter() - began) * 1000
        running.kill()
        empty = Daemon(scratch)
        try:
            empty.start()
            empty_seconds = empty.ready_seconds
        finally:
            empty.kill()
            shutil.rmtree(empty.home, ignore_errors=True)
    finally:
        running.kill()
        shutil.rmtree(running.home, ignore_errors=True)
    return {
        "ready_seconds": seconds,
        "empty_ready_seconds": empty_seconds,
        "first_turn_ms": first_turn_ms,
    }


def _interrupted_turns(running: Daemon) -> None:
    running.begin_turns(INTERRUPTED_TURNS)
    publisher = Publisher(running.server.publisher_port or 0)
    last = conversation(INTERRUPTED_TURNS - 1)
    with Client(running.server.port) as client:
        client.send(type="chat.subscribe", conversationId=last)
        client.until(b'"turn-start"')
        for _ in range(INTERRUPTED_EVENTS):
            for number in range(INTERRUPTED_TURNS):
                publisher.publish(conversation(number), _PAYLOAD)
            # Shown is durable, and apart from what comes next.
            client.until(b'"text-delta"')
    publisher.close()


def _inside(what: str, data: Path, seconds: float) -> Figures:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmark.inside", what, str(data), str(seconds)],
        capture_output=True,
        text=True,
        timeout=seconds + INSIDE_SECONDS_MAX,
        cwd=machine.ROOT,
        env={**os.environ, "PYTHONPATH": str(machine.ROOT)},
        preexec_fn=machine.pinned(machine.SERVER_CORE),
    )
    if done.returncode != 0:
        raise Failed(done.stderr.strip()[-500:])
    figures: Figures = json.loads(done.stdout)
    return figures


def _from_inside(what: str) -> Callable[[Path], Figures]:
    def measure(scratch: Path) -> Figures:
        home = Path(tempfile.mkdtemp(prefix=f"{what}-", dir=scratch))
        try:
            return _inside(what, home / "data", INSIDE_SECONDS)
        finally:
            shutil.rmtree(home, ignore_errors=True)

    return measure


@dataclass(frozen=True, slots=True)
class AloneRow:
    """A measurement of dispatch alone; `rounds` and `rounds_quick`: how often is enough."""

    name: str
    what: str
    figure: str
    unit: str
    measure: Callable[[Path], Figures]
    rounds: int = 3
    rounds_quick: int = 1


ROWS: Final = (
    AloneRow(
        "storage-seals",
        "the storage port alone: seals of 40-chunk turns, 32 in flight",
        "seals_per_s",
        "seals/s",
        _from_inside("seals"),
        rounds_quick=3,
    ),
    AloneRow(
        "storage-turns",
        "the storage port alone: begun and sealed in two commits, 40 chunks, 32 in flight",
        "turns_per_s",
        "turns/s",
        _from_inside("turns"),
        rounds_quick=0,
    ),
    AloneRow(
        "journal",
        "events of 200 bytes through the journal, 32 conversations with one in flight each",
        "events_per_s",
        "events/s",
        _from_inside("journal"),
        rounds_quick=2,
    ),
    AloneRow(
        "first-delta",
        "chat.send to the first durable delta, idle, p50",
        "p50_ms",
        "ms",
        first_delta,
        rounds_quick=2,
    ),
    AloneRow(
        "garbage",
        "longest pause of the garbage collector at 8,000 connections",
        "longest_ms",
        "ms",
        garbage,
    ),
    AloneRow(
        "closed",
        "objects kept per closed connection",
        "objects_each",
        "objects",
        closed,
        rounds=1,
        rounds_quick=0,
    ),
    AloneRow(
        "group",
        "50 members at 50 tokens/s each to 20 devices: SSE ÷ native, µs CPU/delivery",
        "sse_ratio",
        "times",
        group,
        rounds=2,
    ),
    AloneRow(
        "ahp",
        "1,000 AHP subscriptions to one chat ÷ 1,000 native ones, µs CPU/delivery",
        "ratio",
        "times",
        ahp,
        rounds=2,
    ),
    AloneRow(
        "chat-list",
        "a page of 50 out of 10,000 chat sessions with unread answers, p50",
        "p50_ms",
        "ms",
        chat_list,
        rounds=1,
        rounds_quick=0,
    ),
    AloneRow(
        "restart",
        "kill -9 to ready: 10,000 conversations, 1,000 running turns",
        "ready_seconds",
        "s",
        restart,
    ),
)
