"""Keys of rows: numbers that the runtime gives out from one counter.

Neighbours: `port` and `timeline` have the records that they name.
Invariant: no two records of a store have the same key, of whatever kind they are.
"""

from __future__ import annotations

from typing import NewType

ConversationKey = NewType("ConversationKey", int)
TurnKey = NewType("TurnKey", int)
TimelineKey = NewType("TimelineKey", int)
RowKey = NewType("RowKey", int)

SubjectKey = ConversationKey | TimelineKey
"""What a user may have read up to a seq."""
