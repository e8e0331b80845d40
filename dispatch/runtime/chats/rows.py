"""The rows of a chat session as they begin: a person's message, and the reply that is to come.

Neighbours: `chats.timeline` gives them their seqs and ends them, `storage.timeline` keeps them.
Invariant: a row names its session, so that a replay needs nothing else to show it.
"""

from __future__ import annotations

from dispatch.core.identity import ConversationId, TurnId
from dispatch.core.session import decode_session
from dispatch.core.timeline import RowDetails, encode_row_details
from dispatch.runtime.admission import decode_body
from dispatch.storage.keys import RowKey, TurnKey
from dispatch.storage.port import TurnRecord
from dispatch.storage.timeline import RowRecord, TimelineRecord


def message_row(
    session: TimelineRecord, key: RowKey, record: TurnRecord, turn: TurnId | None
) -> RowRecord:
    """What somebody said; `turn` is the task that it is for."""
    client_id = None
    if record.client_key is not None:
        # Account, user and conversation are in front of what the client has sent.
        client_id = record.client_key.split("\x1f", 3)[-1]
    return RowRecord(
        key=key,
        timeline=session.key,
        role="message",
        turn_id=turn,
        conversation=ConversationId(session.id),
        user=record.user,
        created_at_ms=record.created_at_ms,
        client_key=record.client_key,
        digest=record.digest,
        details=encode_row_details(RowDetails(client_message_id=client_id)),
        text=decode_body(record.body).message,
    )


def reply_row(
    session: TimelineRecord, key: RowKey, turn_key: TurnKey, turn: TurnId, created_at_ms: int
) -> RowRecord:
    """What a task will say."""
    return RowRecord(
        key=key,
        timeline=session.key,
        role="reply",
        turn=turn_key,
        turn_id=turn,
        conversation=ConversationId(session.id),
        agent=decode_session(session.details).agent,
        user=session.user,
        created_at_ms=created_at_ms,
    )
