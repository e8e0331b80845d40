"""What the figures are held against: the aims of the turn broker, each as one comparison.

Neighbours: `report` prints them beside the medians that `__main__` collected.
Invariant: an aim whose rows are missing or invalid is neither met nor missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

# row -> server -> the median of each figure.
Medians = Mapping[str, Mapping[str, Mapping[str, float]]]


class Aim(NamedTuple):
    """`than` None holds the figure itself against `bound`, else the ratio than / dispatch.

    For `at most` with a server it is dispatch / than: how many times its cost.
    """

    row: str
    figure: str
    sense: Literal["at least", "at most"]
    bound: float
    unit: str
    than: str | None = None
    scale: float = 1.0


class Verdict(NamedTuple):
    """An aim and what was measured; None where it could not be, or not validly."""

    aim: Aim
    measured: float | None
    met: bool | None
    is_valid: bool = True


_COST: Final = "us_per_deliv"

AIMS: Final = (
    Aim("streaming-100", _COST, "at least", 12, "x cheaper than naive", "naive"),
    Aim("streaming-100", _COST, "at least", 10, "x cheaper than Socket.IO", "Socket.IO"),
    Aim("streaming-100", _COST, "at most", 2, "x the C floor", "C floor"),
    Aim("lockstep-100", _COST, "at least", 1.4, "x cheaper than naive", "naive"),
    Aim("lockstep-100", _COST, "at most", 1.8, "x the C floor", "C floor"),
    Aim("unthrottled", _COST, "at least", 50, "x cheaper than naive", "naive"),
    Aim("late-join-1000", "sub2full_p50_us", "at most", 1.0, "ms p50", scale=0.001),
    Aim("late-join-20000", "sub2full_p50_us", "at most", 3.0, "ms p50", scale=0.001),
    Aim("accept", "kb_per_conn", "at most", 8, "KB per idle connection (stretch 5)"),
    Aim("accept", "cpu_us_per_conn", "at most", 300, "µs of server CPU an accept"),
    Aim("storage-seals", "seals_per_s", "at least", 12_000, "sealed turns/s, storage port alone"),
    Aim("broker-turns", "turns_s", "at least", 2_500, "sealed turns/s, whole broker"),
    Aim("first-delta", "p50_ms", "at most", 3, "ms p50 to a durable first delta, idle"),
    Aim("first-delta", "p99_ms", "at most", 10, "ms p99 to a durable first delta, idle"),
    Aim("group", "ws_ratio", "at most", 1.3, "x native, a group over WebSocket"),
    Aim("group", "sse_ratio", "at most", 3, "x native, a group over SSE"),
    Aim("ahp", "ratio", "at most", 1.5, "x native, 1,000 AHP subscriptions to one chat"),
    Aim("chat-list", "p99_ms", "at most", 20, "ms p99 for a page of 10,000 chat sessions"),
    Aim("restart", "ready_seconds", "at most", 1, "s from kill -9 to ready"),
    Aim("garbage", "longest_ms", "at most", 10, "ms, longest GC pause at 8,000 connections"),
    # Some objects come and go by chance; one in a hundred connections is none of them.
    Aim("closed", "objects_each", "at most", 0.01, "objects kept per closed connection"),
)


def judge(medians: Medians, invalid: set[tuple[str, str]]) -> list[Verdict]:
    """Every aim, with its figure where there is one."""
    return [_verdict(aim, medians, invalid) for aim in AIMS]


def _verdict(aim: Aim, medians: Medians, invalid: set[tuple[str, str]]) -> Verdict:
    servers = medians.get(aim.row, {})
    ours = servers.get("dispatch", {}).get(aim.figure)
    if ours is None:
        return Verdict(aim, None, None)
    measured = ours * aim.scale
    if aim.than is not None:
        theirs = servers.get(aim.than, {}).get(aim.figure)
        if not theirs or not ours:
            return Verdict(aim, None, None)
        measured = theirs / ours if aim.sense == "at least" else ours / theirs
    if {(aim.row, "dispatch"), (aim.row, aim.than or "dispatch")} & invalid:
        return Verdict(aim, measured, None, is_valid=False)
    met = measured >= aim.bound if aim.sense == "at least" else measured <= aim.bound
    return Verdict(aim, measured, met)
