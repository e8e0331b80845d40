"""What is a person's: what they began, what they said elsewhere, how far they read, their groups.

Neighbours: `storage.people` reads it in stretches, `catalog` hands this out to who may have it and
removes what it finds, `server.exports` writes it down.
Invariant: a conversation is a person's if they began it and no group has it; a group and its
conversations are the account's, whoever made them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, Literal, NamedTuple

from dispatch.core.identity import AccountId, UserId
from dispatch.runtime.shape import decode_details
from dispatch.storage.people import ReadMark, SpokenPage
from dispatch.storage.port import ConversationRecord, Store
from dispatch.storage.timeline import RowRecord, TimelineQuery, TimelineRecord

_PAGE: Final = 200
# Rows of turns that one read looks at: some milliseconds of a reader's time.
_SPOKEN_KEYS_MAX: Final = 4_000
_SPOKEN_BYTES_MAX: Final = 256 * 1024


class Begun(NamedTuple):
    """A conversation that the person began; `kind` says whose it is now."""

    record: ConversationRecord
    kind: Literal["conversation", "chat", "group"]


class Belongings:
    """See the module. What is begun later, under a key from `before` on, is left out."""

    def __init__(self, store: Store, account: AccountId, user: UserId, before: int) -> None:
        """Reads nothing yet."""
        self.account = account
        self.user = user
        self._store = store
        self._before = before

    async def begun(self) -> AsyncGenerator[Begun, None]:
        """What the person began, the oldest first; also what a group has now."""
        after = 0
        while True:
            page = await self._store.begun_by(self.account, self.user, after=after, limit=_PAGE)
            for record in page:
                if record.key >= self._before:
                    return
                yield Begun(record, await self._kind(record))
            if len(page) < _PAGE:
                return
            after = page[-1].key

    async def _kind(self, record: ConversationRecord) -> Literal["conversation", "chat", "group"]:
        timeline = decode_details(record.details).timeline
        if timeline is None:
            return "conversation"
        found = await self._store.timeline(self.account, *timeline)
        # A crash between the end of a group and of its members leaves plain conversations.
        if found is None or found.status == "deleted":
            return "conversation"
        return "chat" if found.kind == "chat" else "group"

    async def session(self, record: ConversationRecord) -> TimelineRecord | None:
        """The chat session that a conversation is."""
        return await self._store.timeline(self.account, "chat", record.id)

    async def messages(self, session: TimelineRecord) -> AsyncGenerator[RowRecord, None]:
        """The messages of a chat session that are over, by seq."""
        after = 0
        while True:
            page = await self._store.rows(session.key, after_seq=after, limit=_PAGE)
            for row in page:
                after = row.seq or after
                if row.role == "message" or row.outcome is not None:
                    yield row
            if len(page) < _PAGE:
                return

    async def read_marks(self) -> AsyncGenerator[list[ReadMark], None]:
        """How far the person has read, page by page."""
        after = 0
        while True:
            page = await self._store.read_marks(self.account, self.user, after=after, limit=_PAGE)
            if page:
                yield page
                after = page[-1].subject
            if len(page) < _PAGE:
                return

    async def spoken(self) -> AsyncGenerator[SpokenPage, None]:
        """What the person said, wherever it is kept, page by page; also in their own."""
        after: int | None = 0
        while after is not None and after < self._before:
            page = await self._store.spoken_by(
                self.account,
                self.user,
                after=after,
                keys_max=_SPOKEN_KEYS_MAX,
                bytes_max=_SPOKEN_BYTES_MAX,
            )
            yield page
            after = page.next_key

    async def made(
        self, kind: Literal["group", "ahp-client"]
    ) -> AsyncGenerator[TimelineRecord, None]:
        """The groups that the person made, or the AHP clients that are theirs, newest first."""
        before = None
        while True:
            page = await self._store.timelines(
                TimelineQuery(
                    account=self.account,
                    kind=kind,
                    user=self.user,
                    statuses=("active", "archived"),
                    before=before,
                    limit=_PAGE,
                )
            )
            for summary in page:
                yield summary.record
            if len(page) < _PAGE:
                return
            before = page[-1].record.active_at_ms, page[-1].record.key

    async def group(self, group_id: str) -> TimelineRecord | None:
        """A group of the account that is still there."""
        found = await self._store.timeline(self.account, "group", group_id)
        return None if found is None or found.status == "deleted" else found
