"""How many bytes of messages wait, of each account: queued, steering, held or on their way there.

Neighbours: `broker` has it counted whenever messages leave (a start, a cancellation, an end),
`catalog` when a conversation is deleted; `intake` asks it, through the admission, before one waits.
Invariant: what is counted is never less than what waits, and nothing once nothing waits. What was
durable at a restart is counted too and never refused.
"""

from __future__ import annotations

from dispatch.core.identity import AccountId
from dispatch.errors import TooMany
from dispatch.runtime.admission import Admission, encode_body
from dispatch.runtime.live import Live
from dispatch.settings import Limits


class _Counted:
    """One conversation's part: what is not yet acknowledged, and what is in its queue."""

    __slots__ = ("arriving", "queued_bytes", "queued_count")

    def __init__(self) -> None:
        self.arriving: dict[Admission, int] = {}
        self.queued_bytes = 0
        self.queued_count = 0

    @property
    def bytes(self) -> int:
        return self.queued_bytes + sum(self.arriving.values())

    def recount(self, live: Live) -> None:
        starting = live.current.id if live.current is not None else None
        self.arriving = {
            admission: size
            for admission, size in self.arriving.items()
            if not admission.settled.is_set() and admission.turn_id != starting
        }
        is_gone = live.deletion is not None and live.deletion.is_set()
        queued = () if is_gone else live.queued.values()
        self.queued_bytes = sum(len(record.body) for record in queued)
        self.queued_count = len(queued)


class Backlog:
    """The counts of every account that has anything waiting."""

    def __init__(self, limits: Limits) -> None:
        """Begin with none."""
        self._bytes_max = limits.queue_bytes_max
        self._bytes: dict[AccountId, int] = {}
        self._counted: dict[AccountId, dict[Live, _Counted]] = {}

    def bytes_of(self, account: AccountId) -> int:
        """Bytes that are counted as waiting."""
        return self._bytes.get(account, 0)

    def check(self, account: AccountId, size: int) -> None:
        """Raise `TooMany` where so many bytes more are too much."""
        if self.bytes_of(account) + size > self._bytes_max:
            self._recount_changed(account)
        if self.bytes_of(account) + size > self._bytes_max:
            raise TooMany(
                f"{self._bytes_max} bytes of messages are waiting already", retry_after_ms=1_000
            )

    def take_in(self, live: Live, admission: Admission) -> None:
        """Count a message that is going to wait; raises `TooMany`. Once, however often asked."""
        account = live.record.account
        counted = self._counted.get(account, {}).get(live)
        if counted is not None and admission in counted.arriving:
            return
        self.recount(live)
        size = len(encode_body(admission.body))
        self.check(account, size)
        counted = self._counted.setdefault(account, {}).setdefault(live, _Counted())
        counted.arriving[admission] = size
        self._bytes[account] = self.bytes_of(account) + size

    def recount(self, live: Live) -> None:
        """Count a conversation as it is now: its queue, and what is still on its way there."""
        account = live.record.account
        counted = self._counted.get(account, {}).get(live)
        if counted is None and not live.queued:
            return
        counted = counted or _Counted()
        before = counted.bytes
        counted.recount(live)
        lives = self._counted.setdefault(account, {})
        lives[live] = counted
        if not counted.bytes:
            del lives[live]
        self._bytes[account] = self.bytes_of(account) + counted.bytes - before
        if not lives:
            del self._counted[account], self._bytes[account]

    def _recount_changed(self, account: AccountId) -> None:
        """What a turn took in was not told here: find it before anybody is refused."""
        for live, counted in list(self._counted.get(account, {}).items()):
            if counted.queued_count + len(counted.arriving) != len(live.queued):
                self.recount(live)
