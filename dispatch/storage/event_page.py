"""Where a page of events ends: every adapter cuts in the same place.

Neighbours: `memory` and `sqlite_rows` read events through it; the bound is `port.Store.events`'.
Invariant: a page of something has at least one event, so that a reader always gets on.
"""

from __future__ import annotations

from collections.abc import Iterable

from dispatch.storage.port import EventRecord


def up_to_bytes(events: Iterable[EventRecord], bytes_max: int | None) -> list[EventRecord]:
    """The events up to and including the one whose payload reaches `bytes_max`."""
    if bytes_max is None:
        return list(events)
    page: list[EventRecord] = []
    size = 0
    for event in events:
        page.append(event)
        size += len(event.payload)
        if size >= bytes_max:
            break
    return page
