"""What a daemon inside a test keeps to itself: a test's output belongs to the test.

Neighbours: `memory` runs its daemons under this; `observability` configures the logs of a daemon
that is a process of its own, and is not asked here.
Invariant: whoever configured structlog, before or meanwhile, gets every line and keeps their
configuration; once the last daemon has ended, structlog is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog


@contextmanager
def quiet_unless_configured() -> Iterator[None]:
    """Meanwhile no line below a warning, unless somebody said how to log."""
    before = structlog.get_config()
    chain = before["processors"]
    if structlog.is_configured() and _drop_what_went_well not in chain:
        yield
        return
    # Once for each daemon, so that the chain itself knows whether another one still runs.
    structlog.configure(processors=[_drop_what_went_well, *chain])
    try:
        yield
    finally:
        _take_back(before)


def _take_back(before: dict[str, Any]) -> None:
    now = structlog.get_config()
    chain = list(now["processors"])
    if _drop_what_went_well not in chain:
        return
    chain.remove(_drop_what_went_well)
    is_last = _drop_what_went_well not in chain
    if is_last and now | {"processors": chain} == before | {"processors": chain}:
        # Not only the same values: nobody has configured anything.
        structlog.reset_defaults()
    else:
        structlog.configure(processors=chain)


def _drop_what_went_well(
    _logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if method in {"debug", "info"}:
        raise structlog.DropEvent
    return event
