"""What is known of a chat session beside its timeline's row, and both together as its user sees it.

Neighbours: `chats.timeline` keeps one, durable, and another while a draft is built; `timeline` has
the row; `protocol.sessions` shows the view.
Invariant: `unread` counts whatever the session's status is, so that a restored one is as it was.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dispatch.core.identity import ConversationId, TurnId
from dispatch.core.session import SessionView, decode_session
from dispatch.storage.port import Store
from dispatch.storage.timeline import RowRecord, TimelineRecord

# More than may wait in one conversation, with what was said meanwhile.
_ROWS_MAX: Final = 1_000


class Standing(msgspec.Struct, kw_only=True):
    """See the module. `unread` are ended replies behind `last_read_seq`.

    `steers` are messages for the running task that it has not taken, by the turn they may become.
    """

    title: str = ""
    last_read_seq: int = 0
    unread: int = 0
    is_buried: bool = False
    steers: dict[TurnId, RowRecord] = msgspec.field(default_factory=dict)


async def fetch_standing(store: Store, record: TimelineRecord) -> Standing:
    """What stands beside a session's row on disk, while nobody writes in it."""
    found = await store.conversation(record.account, ConversationId(record.id))
    standing = Standing(
        title="" if found is None else found.title,
        last_read_seq=await store.read_cursor(record.key, record.user),
        unread=await store.unread(record.key, record.user),
    )
    opened = await store.open_rows(record.key)
    if found is None or not opened:
        return standing
    turns = {turn.key: turn for turn in await store.unsealed_of(found.key)}
    first = min(row.reply_to or 0 for row in opened)
    for row in await store.rows(record.key, after_seq=first, limit=_ROWS_MAX):
        turn = None if row.role == "reply" or row.turn is None else turns.get(row.turn)
        if turn is not None and turn.state == "steering":
            standing.steers[turn.id] = row
    return standing


def session_view(record: TimelineRecord, standing: Standing) -> SessionView:
    """A session's row and what stands beside it."""
    return SessionView(
        id=record.id,
        session=decode_session(record.details),
        user=record.user,
        title=standing.title,
        status="active" if record.status == "active" else "archived",
        created_at_ms=record.created_at_ms,
        # What is said in it changes it too.
        updated_at_ms=max(record.updated_at_ms, record.active_at_ms),
        next_seq=record.last_seq + 1,
        last_read_seq=standing.last_read_seq,
    )
