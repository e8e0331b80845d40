"""What is measured with the generator: one shape of load a row, and which figure is its own.

Neighbours: `generator` runs a row against one server, `alone` has the rows that need none, `aims`
what the figures are held against, `__main__` the rounds.
Invariant: the same row is the same load on every server: sizes, watchers, deltas in flight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from scripts.benchmark import dispatched
from scripts.benchmark.generator import Figures, Generator, Server
from scripts.benchmark.rivals import Start

# What nobody reaches: runs end by time.
_ENDLESS: Final = ("-n", "100000000")
_FANOUT: Final = ("-m", "fanout", *_ENDLESS)
_WATCHERS: Final = (1, 10, 100, 1000)
STREAMING_WINDOW: Final = 16
MANY_CONVERSATIONS: Final = 1_000
MANY_EVENTS_PER_S: Final = 50
IDLE_CONNECTIONS: Final = 10_000

# A shared generator core and kernel leave nothing to measure below this.
CEILING_SHARE_MAX: Final = 0.8


@dataclass(frozen=True, slots=True)
class Row:
    """One shape of load. `figure` (wsload's name) is the row's own; `turns` run in dispatch before.

    `publisher` is the number of the connection that publishes, as `publisher.c` counts.
    `throughput` rows are held against the generator's ceiling. `alone`: dispatch only.
    """

    name: str
    what: str
    load: tuple[str, ...]
    figure: str
    unit: str
    seconds: float = 3.0
    turns: int = 0
    publisher: int | None = None
    throughput: bool = True
    alone: bool = False
    quick: bool = False
    words: tuple[str, ...] = ()


def _fanout(watchers: int, window: int, name: str, how: str) -> Row:
    return Row(
        f"{name}-{watchers}",
        f"{how} to {watchers:,} watchers",
        (*_FANOUT, "-k", str(watchers), "-w", str(window)),
        "us_per_deliv",
        "µs CPU/delivery",
        turns=1,
        publisher=watchers,
        quick=watchers in (1, 100),
    )


def _late(history: int, joiners: int, seconds: float) -> Row:
    return Row(
        f"late-join-{history}",
        f"late join of {history:,} deltas, subscribe to full replay, p50",
        ("-m", "latejoin", "-H", str(history), "-k", str(joiners), "-j", "1"),
        "sub2full_p50_us",
        "µs",
        seconds=seconds,
        turns=1,
        # The live watcher is the first connection.
        publisher=1,
        throughput=False,
        quick=True,
    )


def _connect(name: str, what: str, conversations: int, *words: str) -> Row:
    count = ("-n", str(IDLE_CONNECTIONS), "-C", str(conversations))
    return Row(
        name,
        f"{what}; {IDLE_CONNECTIONS:,} connections",
        ("-m", "connect", *count, "-j", "64", "--idlems", "3000"),
        "cpu_us_per_conn",
        "µs CPU/accept",
        throughput=False,
        quick=name == "accept",
        words=words,
    )


ROWS: Final = (
    *(_fanout(n, 1, "lockstep", "one delta in flight") for n in _WATCHERS),
    *(_fanout(n, STREAMING_WINDOW, "streaming", "16 deltas in flight") for n in _WATCHERS),
    Row(
        "unthrottled",
        "an agent as fast as it can, to 100 watchers",
        # A turn numbers its deltas anew, so their sequence is not checked here.
        ("-m", "turns", "-C", "1", "-k", "100", "-n", "10000", "-t", "1000000", "--noseq"),
        "us_per_deliv",
        "µs CPU/delivery",
        quick=True,
    ),
    Row(
        "many",
        "1,000 conversations x 2 watchers, 50 events/s in each",
        (
            *("-m", "many", *_ENDLESS, "-C", str(MANY_CONVERSATIONS), "-k", "2"),
            *("-r", str(MANY_CONVERSATIONS * MANY_EVENTS_PER_S)),
        ),
        "us_per_deliv",
        "µs CPU/delivery",
        seconds=4.0,
        turns=MANY_CONVERSATIONS,
        publisher=MANY_CONVERSATIONS * 2,
        quick=True,
    ),
    _late(1_000, 200, 8.0),
    _late(20_000, 100, 12.0),
    _connect("accept", "connect, hello, then idle", 1, "--sub", ""),
    _connect("accept-subscribed", "connect, subscribe to one of 1,000, then idle", 1_000),
    Row(
        "broker-turns",
        "whole short turns through socket, agent and FULL sync, 64 conversations in flight",
        ("-m", "turns", "-C", "64", "-k", "1", "-n", "1", "-t", "1000000"),
        "turns_s",
        "turns/s",
        seconds=4.0,
        alone=True,
        quick=True,
        words=(*dispatched.SHORT_TURN, *dispatched.SEALS),
    ),
)

# Socket.IO has to say hello before it is connected at all, so an empty word would not be its own.
_NOT_FOR: Final = {"accept-subscribed": frozenset({"naive", "Socket.IO", "C floor"})}


def measure(row: Row, generator: Generator, start: Start | None, scratch: Path) -> Figures:
    """One run of a row against a fresh server; `start` None is dispatch."""
    if start is not None:
        with start() as server:
            return _run(row, generator, server)
    with dispatched.daemon(scratch, turns=row.turns) as daemon:
        try:
            return _run(row, generator, daemon.server)
        finally:
            if log := daemon.log.strip():
                print(f"dispatch: the daemon said: {log}")


def is_for(row: Row, server: str) -> bool:
    """Whether a row is measured on that server."""
    if row.alone:
        return server == "dispatch"
    return server not in _NOT_FOR.get(row.name, ())


def _run(row: Row, generator: Generator, server: Server) -> Figures:
    figures = generator.run(
        server, *row.load, *row.words, publisher_number=row.publisher, seconds=row.seconds
    )
    if row.name == "broker-turns":
        turns = figures["turns"] or 1
        figures["cpu_us_per_turn"] = figures["srv_cpu_s"] / turns * 1e6
    return figures


def quick(row: Row) -> Row:
    """A shorter run of the same load."""
    if row.figure == "cpu_us_per_conn":
        load = tuple("1000" if word == "3000" else word for word in row.load)
        return replace(row, load=load)
    return row if row.figure == "sub2full_p50_us" else replace(row, seconds=2.0)


def ceiling(figures: Figures) -> float:
    """Deliveries a second that the generator would reach in this shape, were it fully used."""
    used = figures.get("gen_util") or 0.0
    return figures["deliv_s"] / used if used and "deliv_s" in figures else 0.0


def is_at_ceiling(row: Row, figures: Figures, ceiling_per_s: float) -> bool:
    """Whether the generator, not the server, may be what was measured."""
    if not row.throughput:
        return False
    if figures.get("gen_util", 0.0) >= CEILING_SHARE_MAX:
        return True
    return bool(ceiling_per_s) and figures["deliv_s"] >= CEILING_SHARE_MAX * ceiling_per_s
