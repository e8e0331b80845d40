"""The words that reducers share: versions, the bits of a status, objects that are never changed.

Neighbours: every `fold_*` module.
Invariant: a fold returns the very object it was given where it changes nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Json = dict[str, Any]
Number = tuple[int, int, int]

IDLE, ERROR, IN_PROGRESS, INPUT_NEEDED, IS_READ, IS_ARCHIVED = 1, 2, 8, 24, 32, 64
ACTIVITY_BITS = 31
WAITING_BIT = 16


class Moment(NamedTuple):
    """What a fold may know beside the state and the action: the version, and the clock."""

    version: Number
    now: str


def version_number(text: str) -> Number:
    """`0.7.0` as numbers."""
    major, minor, patch = text.split(".")
    return int(major), int(minor), int(patch)


def with_activity(status: int, activity: int) -> int:
    """The status with its activity replaced and its flags kept."""
    return status & ~ACTIVITY_BITS | activity


def with_flag(status: int, flag: int, is_set: bool) -> int:
    return status | flag if is_set else status & ~flag


def changed(state: Json, /, **members: Any) -> Json:
    """A copy with these members; None takes a member away."""
    made = {**state, **members}
    return {name: value for name, value in made.items() if name not in members or value is not None}


def picked(source: Json, *names: str) -> Json:
    """Those of these members that are there."""
    return {name: source[name] for name in names if source.get(name) is not None}


def upserted(rows: list[Json] | None, row: Json, key: str) -> list[Json]:
    """The rows with this one in the place of its namesake, or at the end."""
    rows = rows or []
    if any(one[key] == row[key] for one in rows):
        return [row if one[key] == row[key] else one for one in rows]
    return [*rows, row]


def stripped(value: Any) -> Any:
    """Without members that are null, at any depth: how states are compared."""
    if isinstance(value, dict):
        return {name: stripped(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [stripped(one) for one in value]
    return value
