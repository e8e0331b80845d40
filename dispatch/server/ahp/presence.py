"""Which clients take part in sessions still: who is gone for long enough takes part no more.

Neighbours: `connections` says who comes and goes, `runtime.ahp.scope` writes it down. A client that
reloads is another one, so without this a session would have more of them every day.
Invariant: a client that is connected, or was a moment ago, is left alone.
"""

from __future__ import annotations

from collections import Counter

from dispatch.core.identity import AccountId
from dispatch.runtime.ahp.scopes import Scopes
from dispatch.runtime.clock import Clock

_Name = tuple[AccountId, str]


class Presence:
    """Clients by account and id."""

    def __init__(self, scopes: Scopes, clock: Clock, grace_seconds: float) -> None:
        """Who took part before the daemon began has until then to come back."""
        self._scopes = scopes
        self._clock = clock
        self._grace_s = grace_seconds
        self._began_s = clock.monotonic()
        self._connected: Counter[_Name] = Counter()
        self._left_s: dict[_Name, float] = {}

    def came(self, account: AccountId, client: str) -> None:
        """A client is there, over one more connection."""
        self._connected[account, client] += 1
        self._left_s.pop((account, client), None)

    def left(self, account: AccountId, client: str) -> None:
        """One connection less."""
        name = account, client
        self._connected[name] -= 1
        if not self._connected[name]:
            del self._connected[name]
            self._left_s[name] = self._clock.monotonic()

    def sweep(self) -> None:
        """Take out of the sessions in memory who has been gone for too long."""
        now = self._clock.monotonic()
        for scope in self._scopes:
            ids = [client["clientId"] for client in scope.ledger.details.active_clients]
            gone = [one for one in ids if self._is_gone((scope.account, one), now)]
            if gone:
                scope.forget_clients(gone)
        late = [name for name, left_s in self._left_s.items() if now - left_s > self._grace_s]
        for name in late:
            # Whoever is not known has left before the daemon began.
            if now - self._began_s > self._grace_s:
                del self._left_s[name]

    def _is_gone(self, name: _Name, now: float) -> bool:
        if name in self._connected:
            return False
        return now - self._left_s.get(name, self._began_s) > self._grace_s
