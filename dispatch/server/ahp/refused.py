"""What clients were refused last: for one that comes back, whose refusals went with its line.

Neighbours: `connection` keeps each refusal here, `methods` adds them to a replay in their places.
They are in no log: a refusal changed nothing, and what is sent again is refused again.
Invariant: a few small ones of each client, and of a bounded number of clients.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from dispatch.core.identity import AccountId
from dispatch.protocol.codec import Object

_CLIENTS_MAX: Final = 1_000
_REFUSALS_MAX: Final = 32
# A client that sends more at a time is answered when it sends it again.
_BYTES_MAX: Final = 4 * 1024


class Refused:
    """Envelopes by client, in the order of their numbers."""

    def __init__(self) -> None:
        """Begin with none."""
        self._kept: OrderedDict[tuple[AccountId, str], deque[Object]] = OrderedDict()

    def keep(self, account: AccountId, client: str, envelope: Object, size: int) -> None:
        """A client was refused something; `size` is the envelope's, in bytes."""
        if size > _BYTES_MAX:
            return
        name = account, client
        if name not in self._kept:
            self._kept[name] = deque(maxlen=_REFUSALS_MAX)
        self._kept[name].append(envelope)
        self._kept.move_to_end(name)
        if len(self._kept) > _CLIENTS_MAX:
            self._kept.popitem(last=False)

    def between(self, account: AccountId, client: str, seen: int, upto: int) -> list[Object]:
        """Those from the number that was seen last, up to another.

        Several may have one number, that of a snapshot too: some of these may not have been seen,
        and a refusal that is told again does no harm.
        """
        kept = self._kept.get((account, client), ())
        return [envelope for envelope in kept if seen <= envelope["serverSeq"] <= upto]
