"""Work of several commits that goes on when whoever asked for it leaves.

Neighbours: `groups.catalog` ends groups with it; `broker` runs it among the agents, so that it ends
with the broker and not before.
Invariant: an errand that began is carried to its end, unless the daemon ends first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dispatch.runtime.services import Services

Result = TypeVar("Result")


async def carry_out(services: Services, work: Callable[[], Awaitable[Result]]) -> Result:
    """What the work returns or raises, for who stays; it is cancelled with the broker alone."""
    settled: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    settled.add_done_callback(_retrieve)

    async def run() -> None:
        try:
            result = await work()
        except Exception as error:
            # Whatever it is, it is the caller's to hear: it must not take the broker along.
            settled.set_exception(error)
        else:
            settled.set_result(result)
        finally:
            settled.cancel()

    services.start(run)
    return await asyncio.shield(settled)


def _retrieve(settled: asyncio.Future[Result]) -> None:
    """Its error is told to whoever still waits."""
    if not settled.cancelled():
        settled.exception()
