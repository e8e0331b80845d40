"""The verbs of the reference store that read of people; the rest of it is `memory`.

Neighbours: `people` says what each promises, `memory_disk` keeps.
Invariant: what is handed out is a copy; written to be read rather than to be fast.
"""

from __future__ import annotations

from typing import Final, Literal

from dispatch.core.identity import AccountId, UserId
from dispatch.storage.keys import ConversationKey, SubjectKey, TimelineKey
from dispatch.storage.memory_disk import MemoryDisk
from dispatch.storage.people import (
    SPOKEN_STATES,
    ReadMark,
    SpokenPage,
    SpokenRow,
    SpokenTurn,
    spoken_page,
    within,
)
from dispatch.storage.port import ConversationRecord

_STATES: Final = frozenset(SPOKEN_STATES)
# Where the rows are that a group has adopted: see `people.SpokenTurn`.
_ADOPTED: Final = 0


class MemoryPeopleReads:
    """Implements `PeopleReads` over `_disk`, which the store has."""

    @property
    def _disk(self) -> MemoryDisk:
        raise NotImplementedError

    def _row(self, key: ConversationKey) -> ConversationRecord:
        raise NotImplementedError

    async def begun_by(
        self, account: AccountId, user: UserId, *, after: int, limit: int
    ) -> list[ConversationRecord]:
        """The conversations of a user with a larger key, ascending, without tombstones."""
        found = sorted(
            record.key
            for record in self._disk.conversations.values()
            if (record.account, record.user) == (account, user)
            and record.status != "deleted"
            and record.key > after
        )
        return [self._row(key) for key in found[: max(0, limit)]]

    async def read_marks(
        self, account: AccountId, user: UserId, *, after: int, limit: int
    ) -> list[ReadMark]:
        """The read cursors of a user in an account, of subjects with a larger key, ascending."""
        marks = []
        for subject, cursors in sorted(self._disk.cursors.items()):
            place = self._read_place(subject, account)
            if subject > after and user in cursors and place is not None:
                marks.append(ReadMark(_subject(subject, place[0]), *place, cursors[user]))
        return marks[: max(0, limit)]

    async def spoken_by(
        self, account: AccountId, user: UserId, *, after: int, keys_max: int, bytes_max: int
    ) -> SpokenPage:
        """What a user said, of the next `keys_max` keys and up to `bytes_max`."""
        disk, end = self._disk, after + keys_max
        turns = within(self._turns(account, user, after, end), end, bytes_max)
        rows = within(self._rows_by(account, user, after, end), end, bytes_max)
        last_key = max([0, *disk.turns, *disk.rows])
        return spoken_page(turns, rows, last_key)

    def _turns(self, account: AccountId, user: UserId, after: int, end: int) -> list[SpokenTurn]:
        disk = self._disk
        answering = {
            row.turn
            for row in disk.rows.values()
            if row.role == "reply" and row.began_position != _ADOPTED
        }
        return [
            SpokenTurn(
                turn.key,
                turn.conversation,
                disk.conversations[turn.conversation].id,
                turn.id,
                turn.state,
                turn.created_at_ms,
                turn.body,
            )
            for _, turn in sorted(disk.turns.items())
            if after < turn.key <= end
            and turn.user == user
            and turn.state in _STATES
            and turn.key not in answering
            and disk.conversations[turn.conversation].account == account
        ]

    def _rows_by(self, account: AccountId, user: UserId, after: int, end: int) -> list[SpokenRow]:
        found = []
        for _, row in sorted(self._disk.rows.items()):
            group = self._disk.timelines[row.timeline]
            if (
                after < row.key <= end
                and (row.user, row.role) == (user, "message")
                and row.seq is not None
                and row.began_position != _ADOPTED
                and (group.account, group.kind) == (account, "group")
            ):
                at_ms = row.created_at_ms
                found.append(SpokenRow(row.key, group.id, row.seq, at_ms, row.text))
        return found

    def _read_place(
        self, subject: int, account: AccountId
    ) -> tuple[Literal["conversation", "group", "chat"], str] | None:
        record = self._disk.conversations.get(subject)
        if record is not None:
            return ("conversation", record.id) if record.account == account else None
        timeline = self._disk.timelines[subject]
        if timeline.account != account:
            return None
        return ("chat" if timeline.kind == "chat" else "group", timeline.id)


def _subject(key: int, kind: str) -> SubjectKey:
    return ConversationKey(key) if kind == "conversation" else TimelineKey(key)
