"""Wrong credentials, counted by address: who guesses has to wait.

Neighbours: `auth` asks before it judges a credential and tells how it went.
A credential that was good from an address passes while that address waits, so that one stuck
client does not lock out everybody who shares its NAT or its proxy.
Invariant: a bounded number of addresses is remembered, the most recent ones.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

import msgspec

from dispatch.errors import RateLimited

ADDRESSES_MAX: Final = 10_000
GOOD_MAX: Final = 10_000
# A guess a minute finds nothing; a person who pasted the wrong token waits seconds.
WAIT_SECONDS_MAX: Final = 60.0
FORGET_SECONDS: Final = 600.0


class _Record(msgspec.Struct):
    failures: int = 0
    last: float = 0.0
    until: float = 0.0


class Attempts:
    """The back-off of every address; `now` is the wall clock's."""

    def __init__(self, failures_max: int) -> None:
        """So many failures are free."""
        self._failures_max = failures_max
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._good: OrderedDict[tuple[str, str], None] = OrderedDict()

    def admit(self, address: str, token: str, now: float) -> None:
        """Raise `RateLimited` while the address has to wait; `token` is the credential's digest."""
        if not self._records:
            return
        group = _group(address)
        record = self._records.get(group)
        if record is None or (group, token) in self._good:
            return
        wait = record.until - now
        # A clock that was set back must not lock anyone out for longer than the longest wait.
        if 0 < wait <= WAIT_SECONDS_MAX:
            raise RateLimited(
                "too many wrong credentials from this address",
                retry_after_ms=int(wait * 1000) + 1,
            )

    def failed(self, address: str, now: float) -> None:
        """Count one; from the limit on, each doubles the wait."""
        group = _group(address)
        record = self._records.setdefault(group, _Record())
        self._records.move_to_end(group)
        if now - record.last > FORGET_SECONDS:
            record.failures = 0
        record.failures += 1
        record.last = now
        over = record.failures - self._failures_max
        if over >= 0:
            record.until = now + min(2.0 ** min(over, 10), WAIT_SECONDS_MAX)
        if len(self._records) > ADDRESSES_MAX:
            self._records.popitem(last=False)

    def succeeded(self, address: str, token: str) -> None:
        """Remember that this credential is no guess."""
        key = (_group(address), token)
        self._good[key] = None
        self._good.move_to_end(key)
        if len(self._good) > GOOD_MAX:
            self._good.popitem(last=False)


def _group(address: str) -> str:
    """One guesser owns at least a whole /64 of IPv6."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))
