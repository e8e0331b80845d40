"""What a store reads of a person: what somebody began, what they said elsewhere, what they read.

Neighbours: `port` has the verbs, `runtime.people` asks; `sqlite_people` and `memory_people` answer.
Each read is a stretch of a walk by key, of bounded length: nothing here has an index of its own,
for who is asked about once in a while must not cost everybody something all the time.
Invariant: what was there when a walk began is met once, whatever comes and goes meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

from dispatch.core.identity import AccountId, ConversationId, TurnId, UserId
from dispatch.storage.keys import ConversationKey, RowKey, SubjectKey, TurnKey

SPOKEN_STATES: Final = ("queued", "steering", "running", "sealed", "absorbed", "cancelled")
"""The states of a turn that somebody's message is in."""


class CursorKey(NamedTuple):
    """Whose read cursor of what."""

    subject: SubjectKey
    user: UserId


class ReadMark(NamedTuple):
    """How far somebody has read a conversation, a group or a chat session."""

    subject: SubjectKey
    kind: Literal["conversation", "group", "chat"]
    id: str
    seq: int


class SpokenTurn(NamedTuple):
    """What somebody said into a conversation, and no timeline has as a row of its own.

    Rows that a group adopted, which began at position 0, are none: there the turn says who spoke.
    """

    key: TurnKey
    conversation: ConversationKey
    conversation_id: ConversationId
    turn_id: TurnId
    state: str
    created_at_ms: int
    body: bytes


class SpokenRow(NamedTuple):
    """What somebody said into a group."""

    key: RowKey
    group_id: str
    seq: int
    created_at_ms: int
    text: str


class SpokenPage(NamedTuple):
    """A stretch of what somebody said, by key; it goes on after `next_key`, or is the last."""

    turns: list[SpokenTurn]
    rows: list[SpokenRow]
    next_key: int | None


class PeopleReads(Protocol):
    """What a store reads of people; part of `port.Store`, with its errors."""

    async def read_marks(
        self, account: AccountId, user: UserId, *, after: int, limit: int
    ) -> list[ReadMark]:
        """The read cursors of a user in an account, of subjects with a larger key, ascending."""
        ...

    async def spoken_by(
        self, account: AccountId, user: UserId, *, after: int, keys_max: int, bytes_max: int
    ) -> SpokenPage:
        """What a user said, of turns in any conversation and of rows of groups: those of the next
        `keys_max` keys, up to and including the one whose text reaches `bytes_max`.
        """
        ...


Item = TypeVar("Item", SpokenTurn, SpokenRow)


def within(found: Iterable[Item], end: int, bytes_max: int) -> tuple[list[Item], int]:
    """The items up to and including the one that reaches `bytes_max`, and the last key seen."""
    page: list[Item] = []
    size = 0
    for item in found:
        page.append(item)
        size += len(item[-1])
        if size >= bytes_max:
            return page, item.key
    return page, end


def spoken_page(
    turns: tuple[list[SpokenTurn], int], rows: tuple[list[SpokenRow], int], last_key: int
) -> SpokenPage:
    """Both cut to where the shorter one ends; `last_key` is the largest there is."""
    end = min(turns[1], rows[1])
    return SpokenPage(
        [turn for turn in turns[0] if turn.key <= end],
        [row for row in rows[0] if row.key <= end],
        None if end >= last_key else end,
    )
