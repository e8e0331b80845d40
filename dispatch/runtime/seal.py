"""A turn's end on its way to disk: the commit that ends it gives its chunks their seqs.

Neighbours: `live` decides the end, puts this into its outbox and goes on once it is durable;
`storage.port.TurnSeal` is what is written.
Invariant: a row of the conversation that is written behind the seal, in the same batch too, says
what the seal says: nobody takes a seq back.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dispatch.core.conversation import State
from dispatch.core.turn import Metrics
from dispatch.runtime.admission import CurrentTurn
from dispatch.storage.port import Batch, ConversationRecord, TurnSeal

_ENCODER: Final = msgspec.json.Encoder()


class PendingSeal:
    """The end of one turn. `is_awaited`: as written, somebody waits to go on."""

    __slots__ = (
        "_batch",
        "_metrics",
        "_now_ms",
        "_outcome",
        "_rest",
        "count",
        "is_awaited",
        "turn",
    )

    def __init__(self, turn: CurrentTurn, outcome: str, metrics: Metrics, now_ms: int) -> None:
        """Close the turn's fold; nothing of it comes after this."""
        turn.fold.finish()
        _, self._rest = turn.fold.take()
        self.turn = turn
        self.count = turn.fold.chunk_count
        self.is_awaited = False
        self._outcome = outcome
        self._metrics = _ENCODER.encode(metrics)
        self._now_ms = now_ms
        self._batch: Batch | None = None

    def write(self, batch: Batch, offset: int, last_seq: int, state: State) -> None:
        """Add the seal behind `last_seq`; `offset` is that of the turn's last event."""
        self._batch = batch
        self.is_awaited = bool(state.queue or state.steers)
        batch.seals.append(
            TurnSeal(
                self.turn.key,
                self._outcome,
                self._now_ms,
                last_seq + 1,
                self.count,
                self._rest,
                offset,
                self._metrics,
            )
        )

    def update(self, row: ConversationRecord, batch: Batch | None = None) -> None:
        """What a row says once the turn is over; with `batch`, only if the seal is in it."""
        if batch is not None and batch is not self._batch:
            return
        row.last_seq += self.count
        row.active_at_ms = self._now_ms
        if batch is not None and row.status != "closed":
            row.status = "active" if self.is_awaited else "idle"
