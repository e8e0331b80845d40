"""What an account may have at once and how fast: running turns, sends and what waits.

Neighbours: `broker` asks before it admits, `catalog` before it forks; `services.began` and `ended`
count, `backlog` counts what waits.
Invariant: a count never falls below zero, and an account that is at rest holds no memory.
"""

from __future__ import annotations

from dispatch.core.identity import AccountId
from dispatch.errors import RateLimited, TooMany
from dispatch.runtime.backlog import Backlog
from dispatch.runtime.clock import Clock
from dispatch.settings import Limits


class TokenBucket:
    """So many a second, so many at once."""

    __slots__ = ("_burst", "_level", "_rate", "_updated")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        """Begin full; `now` in seconds."""
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._updated = now

    def take(self, now: float) -> float:
        """Take one: 0, or the seconds until there is one (and nothing is taken)."""
        self._level = min(self._burst, self._level + (now - self._updated) * self._rate)
        self._updated = now
        if self._level >= 1.0:
            self._level -= 1.0
            return 0.0
        return (1.0 - self._level) / self._rate

    def is_full(self, now: float) -> bool:
        """Whether nothing was taken for long enough."""
        return self._level + (now - self._updated) * self._rate >= self._burst


class Accounts:
    """The counts of every account that has any."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        """Begin with none."""
        self.backlog = Backlog(limits)
        self._limits = limits
        self._clock = clock
        self._running: dict[AccountId, int] = {}
        self._buckets: dict[AccountId, TokenBucket] = {}

    @property
    def running_total(self) -> int:
        """Running turns of all accounts."""
        return sum(self._running.values())

    def check_send(self, account: AccountId) -> None:
        """Count a send; raises `RateLimited` or `TooMany`, both retryable."""
        self.check_rate(account)
        self.check_running(account)

    def check_rate(self, account: AccountId) -> None:
        """Count what costs as much as a send and starts no turn; raises `RateLimited`."""
        limits, now = self._limits, self._clock.monotonic()
        bucket = self._buckets.get(account)
        if bucket is None:
            self._forget_full(now)
            bucket = TokenBucket(limits.sends_per_second_max, limits.sends_burst_max, now)
            self._buckets[account] = bucket
        wait = bucket.take(now)
        if wait > 0:
            raise RateLimited(
                f"more than {limits.sends_per_second_max} sends a second",
                retry_after_ms=max(1, round(wait * 1000)),
            )

    def check_running(self, account: AccountId) -> None:
        """Raise `TooMany` where one more turn is over the bound."""
        limit = self._limits.turns_running_max
        if self._running.get(account, 0) >= limit:
            raise TooMany(f"{limit} turns are running already", retry_after_ms=1_000)

    def began(self, account: AccountId) -> None:
        """One more turn runs."""
        self._running[account] = self._running.get(account, 0) + 1

    def ended(self, account: AccountId) -> None:
        """One less."""
        left = self._running[account] - 1
        if left:
            self._running[account] = left
        else:
            del self._running[account]

    def _forget_full(self, now: float) -> None:
        self._buckets = {a: b for a, b in self._buckets.items() if not b.is_full(now)}
