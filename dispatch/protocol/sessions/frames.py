"""Chat sessions as clients see them: sessions, messages, and the frames of their user's stream.

Neighbours: `core.timeline` is what happened, `storage.timeline.RowRecord` is a `Row`, `requests` is
the other way. A frame's payload is the JSON of SSE; WebSocket gets it with a type in front.
Invariant: a projection is a function of the event and its row, so that a replay is what was shown
live; nothing here reads a clock.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal, Protocol, assert_never

import msgspec

from dispatch.core.events import one_line as without_line_ends
from dispatch.core.replay import Frame
from dispatch.core.session import SessionView
from dispatch.core.timeline import (
    AskClosed,
    Asked,
    Changed,
    MessageAdded,
    ReadTo,
    RepliesEnded,
    ReplyEnded,
    TaskEnded,
    Typing,
    decode_row_details,
    decode_told,
)
from dispatch.protocol.sse import one_line

FRAMES_PER_POSITION: Final = 16
"""How many ids an event has; this dialect shows each event as one frame at most."""

Object = dict[str, Any]
Status = Literal["complete", "streaming", "failed", "cancelled", "no_response"]

_ENCODER: Final = msgspec.json.Encoder()
_STATUSES: Final[dict[str | None, Status]] = {
    None: "streaming",
    "completed": "complete",
    "no_response": "no_response",
    "cancelled": "cancelled",
    "removed": "cancelled",
    "error": "failed",
    "interrupted": "failed",
}


class Row(Protocol):
    """What a message is shown from; times in epoch ms, `details` a `RowDetails`."""

    @property
    def key(self) -> int:
        """What its id is made of."""
        ...

    @property
    def seq(self) -> int | None:
        """Its place; None for a reply that has said nothing yet."""
        ...

    @property
    def role(self) -> Literal["message", "reply"]:
        """A person's message, or what a turn answers to it."""
        ...

    @property
    def reply_to(self) -> int | None:
        """The seq of what it answers."""
        ...

    @property
    def turn_id(self) -> str | None:
        """Its task."""
        ...

    @property
    def conversation(self) -> str | None:
        """The chat session that it is in."""
        ...

    @property
    def agent(self) -> str:
        """Who answers."""
        ...

    @property
    def user(self) -> str:
        """Whose session it is."""
        ...

    @property
    def outcome(self) -> str | None:
        """How a reply ended; None while it is open."""
        ...

    @property
    def created_at_ms(self) -> int:
        """When it was written first."""
        ...

    @property
    def started_at_ms(self) -> int | None:
        """When its turn began."""
        ...

    @property
    def ended_at_ms(self) -> int | None:
        """When its turn ended."""
        ...

    @property
    def details(self) -> bytes:
        """What is beside the columns."""
        ...

    @property
    def text(self) -> str:
        """What it says."""
        ...


def iso_time(at_ms: int) -> str:
    """A time of the wire: ISO-8601, UTC, milliseconds."""
    seconds, milliseconds = divmod(at_ms, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


# A second has thousands of deltas.
@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def message_id(row: Row) -> str:
    """The id of a message."""
    return f"m-{row.key}"


def failure_reason(row: Row) -> str | None:
    """Why a reply failed: the agent's words, else the code; None unless it did."""
    if row.outcome == "interrupted":
        return "interrupted"
    if row.outcome != "error":
        return None
    details = decode_row_details(row.details)
    return details.error or details.error_code or "error"


def session_object(view: SessionView) -> Object:
    """A chat session."""
    archived_at_ms = view.session.archived_at_ms
    return {
        "id": view.id,
        "workspace_id": view.session.workspace,
        "agent_key": view.session.agent,
        "creator_id": view.user,
        "title": view.title,
        "status": view.status,
        "created_at": iso_time(view.created_at_ms),
        "updated_at": iso_time(view.updated_at_ms),
        "next_seq": view.next_seq,
        "last_read_seq": view.last_read_seq,
        "archived_at": None if archived_at_ms is None else iso_time(archived_at_ms),
    }


def message_object(
    row: Row, *, session_id: str | None = None, content: str | None = None
) -> Object:
    """A message; `content` is the text so far, where the row does not have it yet.

    `session_id` where the caller knows it: a row need not name its conversation.
    """
    is_reply = row.role == "reply"
    elapsed_ms = None
    if is_reply and row.started_at_ms is not None and row.ended_at_ms is not None:
        elapsed_ms = max(row.ended_at_ms - row.started_at_ms, 0)
    return {
        "id": message_id(row),
        "chat_session_id": row.conversation if session_id is None else session_id,
        "role": "assistant" if is_reply else "user",
        "content": row.text if content is None else content,
        "task_id": row.turn_id,
        "created_at": iso_time(_created_at_ms(row)),
        "seq": row.seq,
        "status": _STATUSES[row.outcome] if is_reply else "complete",
        "failure_reason": failure_reason(row) if is_reply else None,
        "elapsed_ms": elapsed_ms,
        "client_message_id": decode_row_details(row.details).client_message_id,
    }


def list_item(
    view: SessionView,
    *,
    unread_count: int,
    last_row: Row | None,
    is_typing: bool,
    last_content: str | None = None,
) -> Object:
    """A chat session in a list; `last_content` is the last row's text so far, if it has more."""
    last_message = None
    if last_row is not None:
        message = message_object(last_row, session_id=view.id, content=last_content)
        shown = ("content", "role", "created_at", "failure_reason")
        last_message = {name: message[name] for name in shown}
    return session_object(view) | {
        "unread_count": unread_count,
        "has_unread": unread_count > 0,
        "last_message": last_message,
        "agent_typing": is_typing,
    }


def frames(
    session_id: str, position: int, at_ms: int, payload: bytes, row: Row | None
) -> list[Frame]:
    """The frames of one event of a session's timeline.

    Nothing where the event is about a row that is gone: its session was purged.
    """
    shown = _shown(session_id, payload, row)
    if shown is None:
        return []
    event, data = shown
    offset = position * FRAMES_PER_POSITION
    # What an agent or a title brought along is spliced in as it is: also with line ends.
    json = one_line(without_line_ends(_ENCODER.encode(data)))
    head = _head(event, session_id, at_ms)
    return [Frame(offset, session_id, b'%b,"id":%d,"data":%b}' % (head, offset, json))]


def delta_frame(
    session_id: str, position: int, at_ms: int, row: Row, escaped: bytes, offset: int
) -> Frame:
    """More of a reply: `escaped` as inside of a JSON string, behind `offset` UTF-16 code units."""
    # Ids are of a restricted alphabet: they need no escaping.
    data = b'{"chat_session_id":"%b","task_id":"%b","message_id":"%b","text":"%b","offset":%d}' % (
        session_id.encode(),
        (row.turn_id or "").encode(),
        message_id(row).encode(),
        one_line(escaped),
        offset,
    )
    payload = b'%b,"data":%b}' % (_head("chat_message_delta", session_id, at_ms), data)
    return Frame(position * FRAMES_PER_POSITION, session_id, payload, is_kept=False)


def utf16_length(escaped: bytes) -> int:
    """How many UTF-16 code units the text has that is escaped so inside of a JSON string."""
    escapes = 0
    if b"\\" in escaped:
        # Without the escaped backslashes, each that is left begins an escape.
        escaped = escaped.replace(b"\\\\", b"-")
        # One unit is written as two bytes, or as six: \n, \u2028.
        escapes = escaped.count(b"\\") + 4 * escaped.count(b"\\u")
    if escaped.isascii():
        return len(escaped) - escapes
    return len(escaped.decode().encode("utf-16-le")) // 2 - escapes


def user_typing(session_id: str, typing: bool, device_id: str | None, at_ms: int) -> Frame:
    """A person types, for that person's other connections; it has no place in the log."""
    data = _typing(session_id, "user", typing, None) | {"device_id": device_id}
    head = _head("chat_typing", session_id, at_ms)
    payload = b'%b,"data":%b}' % (head, one_line(_ENCODER.encode(data)))
    return Frame(0, session_id, payload, is_kept=False)


def connected(cursor: int) -> Frame:
    """The first frame: what follows has larger ids than `cursor`."""
    return _control("connected", cursor)


def resync_required(cursor: int) -> Frame:
    """What was asked for cannot be replayed: read the snapshots; live goes on behind `cursor`."""
    return _control("resync_required", cursor)


def shutdown() -> Frame:
    """The last frame."""
    return Frame(0, "", b'{"event":"shutdown"}', is_kept=False)


def sse(frame: Frame) -> bytes:
    """A frame on an event stream; what is not kept moves no reader's cursor."""
    if frame.is_kept:
        return b"id: %d\ndata: %b\n\n" % (frame.offset, frame.payload)
    return b"data: %b\n\n" % frame.payload


def ws(frame: Frame, ref: str | int | None = None) -> bytes:
    """A frame on a WebSocket; with the `ref` of the wish that it is the reply to."""
    if ref is None:
        return b'{"type":"chats.event",' + frame.payload[1:]
    return b'{"type":"chats.event","ref":%b,%b' % (_ENCODER.encode(ref), frame.payload[1:])


def _shown(
    session_id: str, payload: bytes, row: Row | None
) -> tuple[str, Object | msgspec.Raw] | None:
    """An event's name and data."""
    told = decode_told(payload)
    of_session: Object = {"chat_session_id": session_id}
    match told:
        case MessageAdded() | ReplyEnded():
            if row is None:
                return None
            return "chat_message", message_object(row, session_id=session_id)
        case Typing(typing=typing, phase=phase):
            return "chat_typing", _typing(session_id, "agent", typing, phase)
        case ReadTo(last_read_seq=seq, unread=unread):
            read = {"last_read_seq": seq, "unread_count": unread}
            return "chat_session_read", of_session | read
        case Changed(what=what, shown=shown):
            return f"chat_session_{what}", shown
        case TaskEnded(what=what, reason=reason):
            if row is None:
                return None
            ended = {"task_id": row.turn_id, "failure_reason": reason or None}
            return f"chat_task_{what}", of_session | ended
        case Asked(task=task, request=request):
            return "chat_request", of_session | {"task_id": task, "request": request}
        case AskClosed(task=task, request_id=request_id, outcome=outcome, by=by):
            closed = {"task_id": task, "request_id": request_id, "outcome": outcome, "by": by}
            return "chat_request_closed", of_session | closed
        case RepliesEnded():
            # Of groups: a session's message has one reply, and its end says it all.
            return None
        case _:
            assert_never(told)


def _typing(
    session_id: str,
    by: Literal["agent", "user"],
    typing: bool,
    phase: Literal["queued", "running"] | None,
) -> Object:
    return {"chat_session_id": session_id, "by": by, "typing": typing, "phase": phase}


def _head(event: str, session_id: str, at_ms: int) -> bytes:
    """The envelope up to where the id belongs."""
    return b'{"event":"%b","sessionId":"%b","timestamp":"%b"' % (
        event.encode(),
        session_id.encode(),
        iso_time(at_ms).encode(),
    )


def _control(event: str, cursor: int) -> Frame:
    payload = b'{"event":"%b","data":{"cursor":%d}}' % (event.encode(), cursor)
    return Frame(cursor, "", payload, is_kept=False)


def _created_at_ms(row: Row) -> int:
    """When a message came to be: a reply is written down before anybody begins it."""
    if row.role == "message":
        return row.created_at_ms
    for at_ms in (row.started_at_ms, row.ended_at_ms):
        if at_ms is not None:
            return at_ms
    return row.created_at_ms
