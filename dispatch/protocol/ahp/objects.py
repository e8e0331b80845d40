"""JSON objects as values: states and actions are read, never changed in place.

Neighbours: every reducer and every step between versions works on these. They are objects and not
structs because a client's unknown members must come back to it as they were sent.
Invariant: nothing here changes its argument; what did not change is shared, not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from dispatch.protocol.codec import Object


def changed(value: Object, /, **changes: Any) -> Object:
    """The object with these members; None takes a member away, for null means absent."""
    merged = {**value, **changes}
    return {name: item for name, item in merged.items() if item is not None}


def present(**members: Any) -> Object:
    """An object of the members that are not None."""
    return {name: item for name, item in members.items() if item is not None}


def without(value: Object, *names: str) -> Object:
    """The object without these members; itself if it has none of them."""
    if value.keys().isdisjoint(names):
        return value
    return {name: item for name, item in value.items() if name not in names}


def upserted(items: Iterable[Object], item: Object, key: str) -> list[Object]:
    """The list with the item in the place of the one with its key, else at its end."""
    result = list(items)
    for index, other in enumerate(result):
        if other.get(key) == item.get(key):
            result[index] = item
            return result
    return [*result, item]


def removed(items: list[Object], key: str, value: object) -> list[Object]:
    """The list without the items of this key; itself if it has none."""
    result = [item for item in items if item.get(key) != value]
    return items if len(result) == len(items) else result


def mapped(items: list[Object], change: Callable[[Object], Object]) -> list[Object]:
    """The list with each item changed; itself if none did."""
    result = [change(item) for item in items]
    same = all(new is old for new, old in zip(result, items, strict=True))
    return items if same else result


def iso_time(at_ms: int) -> str:
    """A time of the wire: ISO-8601 in UTC with milliseconds, of epoch ms."""
    moment = datetime.fromtimestamp(at_ms // 1000, UTC) + timedelta(milliseconds=at_ms % 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def later(time: object, milliseconds: float) -> str | None:
    """A time of the wire and so much later; None where it is no time, or past the calendar."""
    try:
        moment = datetime.fromisoformat(time) if isinstance(time, str) else None
        if moment is None or moment.tzinfo is None:
            return None
        moment = moment.astimezone(UTC) + timedelta(milliseconds=milliseconds)
    except (OverflowError, ValueError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
