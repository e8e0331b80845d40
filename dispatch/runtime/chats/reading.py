"""Snapshots of chat sessions: the list and one session, each with the cursor that goes on from it.

Neighbours: `chats` has the verbs that change something, `chats.streams` what follows the cursor,
`server.chats.routes` shows the snapshots.
Invariant: what a snapshot says and what the stream says behind its cursor make the whole, with
nothing between them and nothing twice.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from dispatch.core.identity import WATCH, Principal, require
from dispatch.core.session import SessionView
from dispatch.protocol.sessions import SessionNotFound
from dispatch.protocol.sessions.frames import FRAMES_PER_POSITION
from dispatch.protocol.sessions.requests import DetailQuery, ListQuery
from dispatch.runtime.chats.catalog import Chats
from dispatch.runtime.chats.standing import Standing, session_view
from dispatch.runtime.chats.streams import stream_name
from dispatch.runtime.chats.timeline import ChatTimeline
from dispatch.storage.keys import RowKey
from dispatch.storage.timeline import (
    RowRecord,
    TimelineQuery,
    TimelineStatus,
    TimelineSummary,
)

_STATUSES: Final[dict[str, tuple[TimelineStatus, ...]]] = {
    "active": ("active",),
    "archived": ("archived",),
    "all": ("active", "archived"),
}
# A list is several reads; it is read again where something happened between them.
_TRIES: Final = 5


class Message(NamedTuple):
    """A row, and its text so far where it is still being said."""

    row: RowRecord
    content: str | None


class Item(NamedTuple):
    """A session in the list."""

    view: SessionView
    unread: int
    last: Message | None
    is_typing: bool


class Listed(NamedTuple):
    """A page of the list; `after` is where the next begins."""

    items: list[Item]
    unread_total: int
    after: tuple[int, int] | None
    cursor: int


class Task(NamedTuple):
    """A task that is not over."""

    id: str
    status: str
    created_at_ms: int


class Detail(NamedTuple):
    """One session; `tasks` are those that are not over, `requests` what its agent asks."""

    view: SessionView
    unread: int
    messages: list[Message]
    has_more: bool
    tasks: list[Task]
    requests: list[msgspec.Raw]
    cursor: int


class ChatReading:
    """The verbs that only look."""

    def __init__(self, chats: Chats) -> None:
        """See the module."""
        self._chats = chats
        self._streams = chats.streams
        self._store = chats.services.store

    async def listed(self, principal: Principal, query: ListQuery) -> Listed:
        """One page, newest activity first."""
        require(principal, WATCH)
        account, user, store = principal.account, principal.user, self._store
        name = stream_name(account, user)
        await self._streams.find(name)
        wanted = TimelineQuery(
            account=account,
            kind="chat",
            user=user,
            statuses=_STATUSES[query.status],
            before=query.before,
            limit=query.limit + 1,
        )
        for _ in range(_TRIES):
            shown = self._streams.head(name)
            head = await store.stream_head(name)
            found = await store.timelines(wanted)
            unread_total = await store.unread_total(account, "chat", user)
            if await store.stream_head(name) == head:
                break
        page = found[: query.limit]
        last = page[-1].record if len(found) > len(page) else None
        return Listed(
            [self._item(summary) for summary in page],
            unread_total,
            None if last is None else (last.active_at_ms, last.key),
            max(shown, head * FRAMES_PER_POSITION),
        )

    def _item(self, summary: TimelineSummary) -> Item:
        record, row = summary.record, summary.last_row
        standing = Standing(title=summary.title, last_read_seq=summary.last_read_seq)
        last = None if row is None else Message(row, None)
        if row is not None and row.role == "reply" and row.outcome is None:
            timeline = self._chats.timelines.find((record.account, "chat", record.id))
            reply = None
            if timeline is not None and row.turn_id is not None:
                reply = timeline.replies.get(row.turn_id)
            last = Message(row, "" if reply is None else reply.shown_text)
        return Item(session_view(record, standing), summary.unread, last, summary.is_busy)

    async def detail(self, principal: Principal, session: str, query: DetailQuery) -> Detail:
        """One session and a page of its messages, the newest unless it says before which."""
        async with self._chats.own(principal, session) as timeline:
            await self._streams.find(timeline.stream)
            with timeline.reading() as overlay:
                found = await self._store.rows(
                    timeline.record.key,
                    before_seq=query.before_seq,
                    newest_first=True,
                    limit=query.limit + 1,
                )
                # From here on it is one instant: that of the cursor.
                if timeline.standing.is_buried:
                    raise SessionNotFound
                messages = _messages(timeline, found, overlay, query.before_seq)
            return Detail(
                timeline.view(),
                timeline.unread,
                messages[-query.limit :],
                len(messages) > query.limit,
                tasks_of(timeline),
                [asked.request for asked in timeline.asked.values()],
                self._streams.head(timeline.stream),
            )

    async def tasks(self, principal: Principal, session: str) -> list[Task]:
        """The tasks that are not over, the running one first."""
        async with self._chats.own(principal, session) as timeline:
            return tasks_of(timeline)


def tasks_of(timeline: ChatTimeline) -> list[Task]:
    """The tasks that are not over, the running one first."""
    tasks = [
        Task(
            row.turn_id or "",
            "queued" if row.started_at_ms is None else "running",
            row.created_at_ms,
        )
        for row in (reply.row for reply in timeline.open_replies)
    ]
    return sorted(tasks, key=lambda task: task.status == "queued")


def _messages(
    timeline: ChatTimeline,
    found: list[RowRecord],
    overlay: dict[RowKey, RowRecord],
    before_seq: int | None,
) -> list[Message]:
    """What the disk said and what has become of it, but nothing that was not shown yet."""
    rows = {row.key: row for row in found} | overlay
    contents: dict[RowKey, str] = {}
    for reply in timeline.open_replies:
        rows.pop(reply.row.key, None)
        if reply.row.seq is not None:
            rows[reply.row.key] = reply.row
            contents[reply.row.key] = reply.shown_text
    newest = timeline.record.last_seq if before_seq is None else before_seq - 1
    placed = [
        (row.seq, row)
        for row in rows.values()
        if row.seq is not None and row.seq <= min(newest, timeline.record.last_seq)
    ]
    lowest = min((row.seq for row in found if row.seq is not None), default=1)
    # Further down than the page only what changes is known: the page begins where the disk's did.
    return [
        Message(row, contents.get(row.key))
        for seq, row in sorted(placed, key=lambda one: one[0])
        if seq >= lowest
    ]
