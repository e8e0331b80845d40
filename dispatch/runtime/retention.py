"""Forgets what was kept long enough: journaled events of sealed turns, and whole conversations.

Neighbours: `storage.port.prune` removes in small steps; `settings.RetentionSettings` says when.
Invariant: nothing of a running turn and no sealed chunk is ever removed for its age, unless its
whole conversation is.
"""

from __future__ import annotations

from typing import Final

import anyio
import structlog

from dispatch.core.identity import ADMIN, SEND, WATCH, Principal
from dispatch.errors import DispatchError, Unavailable
from dispatch.runtime.catalog import Catalog
from dispatch.runtime.services import Services
from dispatch.settings import RetentionSettings

log = structlog.get_logger()

# Small steps, so that the writer is never kept for long.
_PRUNE_ROWS: Final = 2_000
_PAUSE_SECONDS: Final = 0.05
_EVERY_SECONDS: Final = 60.0
_RIGHTS: Final = frozenset({WATCH, SEND, ADMIN})


async def keep_tidy(services: Services, catalog: Catalog, settings: RetentionSettings) -> None:
    """Prune until cancelled."""
    while True:
        try:
            await prune_events(services, settings)
            await forget_conversations(services, catalog, settings)
        except Unavailable as error:
            # The disk takes no more: the journal says so; here it is only put off.
            log.warning("retention.put_off", code=error.code)
        await anyio.sleep(_EVERY_SECONDS)


async def prune_events(services: Services, settings: RetentionSettings) -> int:
    """Remove events of turns that sealed long enough ago; how many."""
    total = 0
    sealed_before_ms = services.clock.now_ms() - round(settings.events_seconds * 1000)
    while removed := await services.store.prune(sealed_before_ms, _PRUNE_ROWS):
        total += removed
        await anyio.sleep(_PAUSE_SECONDS)
    if total:
        log.info("retention.pruned", events=total)
    return total


async def forget_conversations(
    services: Services, catalog: Catalog, settings: RetentionSettings
) -> int:
    """Delete conversations that were idle long enough, in the ordinary way; how many."""
    if settings.conversations_seconds is None:
        return 0
    # What goes here cannot be had back: a clock that was set wrong is no reason.
    idle_before_ms = services.passed.now_ms() - round(settings.conversations_seconds * 1000)
    total = 0
    for record in await services.store.idle_since(idle_before_ms):
        owner = Principal(record.account, record.user, _RIGHTS)
        try:
            total += await catalog.forget(owner, record.id, idle_before_ms)
        except Unavailable:
            raise
        except DispatchError as error:
            log.info("retention.skipped", conversation=record.id, code=error.code)
    if total:
        log.info("retention.forgot", conversations=total)
    return total
