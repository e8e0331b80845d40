"""How long a client goes on trying, for everything that is asked over HTTP and may be repeated.

Neighbours: `events` waits by it between two streams, `chats` between two sends; `dial` says how
long a pause is. A first attempt is told at once if it fails, because an address may be wrong; what
was under way is tried again for as long as `Options` say.
Invariant: only what the network or the daemon's state is to blame for is tried again.
"""

from __future__ import annotations

from typing import Final

import anyio

from dispatch.client.dial import Options, jittered
from dispatch.client.failures import ConnectionLost
from dispatch.errors import DispatchError

# An exchange that lives shorter than this does not end the back-off: a daemon that accepts and
# hangs up at once is not to be called again at full speed.
STABLE_SECONDS: Final = 5.0


class Patience:
    """Of one wish. `is_write`: a lost reply leaves open whether it was carried out."""

    def __init__(self, options: Options, *, is_write: bool = False) -> None:
        """Nothing was tried yet."""
        self._options = options
        self._is_write = is_write
        self._has_begun = False
        self._lost_at: float | None = None
        self._worked_at: float | None = None
        self._attempt = 0

    def worked(self) -> None:
        """The daemon answers."""
        self._has_begun = True
        self._lost_at = None
        self._worked_at = anyio.current_time()

    def pause_after(self, failure: DispatchError) -> float:
        """Seconds before the next attempt; raises the failure if there should be none."""
        if not _passes(failure):
            raise failure
        now = anyio.current_time()
        if self._worked_at is not None and now - self._worked_at >= STABLE_SECONDS:
            self._attempt = 0
        self._worked_at = None
        if self._is_write and isinstance(failure, ConnectionLost):
            # It may have been carried out: only the repeat will tell.
            self._has_begun = True
        if self._lost_at is None:
            self._lost_at = now
        options = self._options
        patience = options.patience_seconds if self._has_begun else options.first_patience_seconds
        if patience is not None and now - self._lost_at >= patience:
            raise failure
        pause = jittered(options, self._attempt)
        self._attempt += 1
        return max(pause, (failure.retry_after_ms or 0) / 1000)


def _passes(failure: DispatchError) -> bool:
    """Whether the same request may work later: the way there failed, or the daemon's own state."""
    return failure.http_status == 429 or failure.http_status >= 500
