"""What a group's log looks like outside: frames with ids, and the lines they travel in.

Neighbours: `rows` shows a row; `core.timeline` says what a group's own events are, `core.events`
what its members' turns say; `runtime` hands in the rows. Source: `protocol/groups.md`.
Invariant: the `user` and `done` frames of a row are the event that GET shows of it, with `kind` and
`groupId`; a delta's text is spliced in as it is stored, never decoded.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from dispatch.core.content import (
    DELTA_SUFFIX,
    REASONING_DELTA_PREFIX,
    TEXT_DELTA_PREFIX,
)
from dispatch.core.events import (
    AnyEvent,
    ProviderRetry,
    Request,
    RequestClosed,
    Steering,
    StepComplete,
    ToolCall,
    ToolOutput,
    ToolResult,
    TurnStart,
    Usage,
    decode_event,
)
from dispatch.core.notices import AnyNotice, GroupChangedNotice, GroupDeletedNotice
from dispatch.core.replay import Frame
from dispatch.core.timeline import (
    Changed,
    MessageAdded,
    RepliesEnded,
    ReplyEnded,
    decode_told,
)
from dispatch.protocol.groups.rows import (
    Object,
    Row,
    group_event,
    group_object,
    iso_ms,
    listed,
    of_reply,
)
from dispatch.protocol.sse import one_line

__all__ = [
    "Row",
    "frames",
    "group_event",
    "group_object",
    "iso_ms",
    "resume_gap",
    "sse",
    "ws",
    "ws_notice",
    "ws_resume_gap",
]

# A frame's id is its event's position and an index among the frames of that event.
FRAMES_PER_POSITION: Final = 16
# What surrounds the deltas of a reply is built once; this many replies stream at a time.
_REPLIES_MAX: Final = 1024
_ENCODER: Final = msgspec.json.Encoder()
_TEXT_START: Final = len(TEXT_DELTA_PREFIX)
_REASONING_START: Final = len(REASONING_DELTA_PREFIX)
_END: Final = -len(DELTA_SUFFIX)


class _Stamp(msgspec.Struct, rename="camel"):
    updated_at: str | None = None


_STAMPS: Final = msgspec.json.Decoder(_Stamp)


# ---------------------------------------------------------------- the log


def frames(
    group_id: str, position: int, payload: bytes, row: Row | None, *, is_own: bool
) -> list[Frame]:
    """The frames that show one event of a group's log.

    `is_own`: the event is the group's (`core.timeline`), otherwise of the turn of the reply `row`
    (`core.events`). An event of a turn that is nobody's reply shows nothing.
    """
    if is_own:
        return _own(group_id, position, payload, row)
    if row is None:
        return []
    began = row.began_position
    seq = row.seq if began is not None and position >= began else None
    if payload.startswith(TEXT_DELTA_PREFIX):
        kind, escaped = "assistant_chunk", payload[_TEXT_START:_END]
    elif payload.startswith(REASONING_DELTA_PREFIX):
        kind, escaped = "progress", payload[_REASONING_START:_END]
    else:
        return _of_turn(group_id, position, payload, row, seq)
    if not escaped:
        return []
    # Most deltas are ASCII, which is faster known than searched for separators.
    if not escaped.isascii():
        escaped = one_line(escaped)
    topic, before, after = _around(
        kind,
        group_id,
        row.agent,
        row.conversation,
        row.turn_id,
        row.reply_to,
        row.created_at_ms if row.started_at_ms is None else row.started_at_ms,
        seq,
    )
    return [Frame(position * FRAMES_PER_POSITION, topic, before + escaped + after)]


@lru_cache(maxsize=_REPLIES_MAX)
def _around(  # noqa: PLR0913 - the cache's key is the arguments
    kind: str,
    group_id: str,
    agent: str,
    conversation: str | None,
    turn_id: str | None,
    reply_to: int | None,
    began_at_ms: int,
    seq: int | None,
) -> tuple[str, bytes, bytes]:
    """The topic of a reply's deltas, and their frame's JSON before and after the escaped text."""
    head = {
        "kind": kind,
        "groupId": group_id,
        "seq": seq,
        "role": "familiar",
        "familiarId": agent,
        "streaming": True,
        "ts": iso_ms(began_at_ms),
    }
    named = {"replyTo": reply_to, "sessionId": conversation, "runId": turn_id}
    head |= {name: value for name, value in named.items() if value is not None}
    # In a frame of progress `text` would be taken for the whole answer.
    field = "text" if kind == "assistant_chunk" else "reasoning"
    if kind == "progress":
        head["progress"] = "reasoning"
    before = b'%b,"%b":"' % (one_line(_ENCODER.encode(head))[:-1], field.encode())
    return "" if reply_to is None else str(reply_to), before, b'"}'


def _own(group_id: str, position: int, payload: bytes, row: Row | None) -> list[Frame]:
    told = decode_told(payload)
    shown: list[Object] = []
    topic = ""
    match told:
        case MessageAdded() if row is not None:
            topic = str(row.seq)
            shown.append({"kind": "user", "groupId": group_id, **group_event(row)})
        case ReplyEnded() if row is not None:
            topic = "" if row.reply_to is None else str(row.reply_to)
            event = group_event(row)
            if row.outcome == "error":
                error = {"kind": "error", "groupId": group_id, **event, **event["error"]}
                shown.append(error)
            shown.append({"kind": "done", "groupId": group_id, **event})
        case RepliesEnded():
            topic = str(told.reply_to)
            shown.append(_group_done(group_id, told, row))
        case Changed(what="updated"):
            changed = {"kind": "group_updated", **_of_change(group_id, told), "group": told.shown}
            shown.append(changed)
        case Changed(what="deleted"):
            shown.append({"kind": "group_deleted", **_of_change(group_id, told)})
        case _:
            pass
    return _numbered(position, topic, shown)


def _group_done(group_id: str, told: RepliesEnded, row: Row | None) -> Object:
    """A group's terminal; `row` is the message that was answered."""
    results = told.results
    failed = results.error + results.interrupted
    kept = results.completed + results.cancelled + results.removed
    frame: Object = {
        "kind": "done",
        "groupId": group_id,
        "scope": "group",
        "seq": None,
        "streaming": False,
        "replyTo": told.reply_to,
        "isError": failed > 0 and not kept,
        "results": results,
        "lastSeq": told.last_seq,
    }
    if row is not None:
        frame["ts"] = iso_ms(row.created_at_ms)
    return frame


def _of_change(group_id: str, told: Changed) -> Object:
    stamp = _STAMPS.decode(told.shown).updated_at
    change: Object = {"groupId": group_id, "seq": None, "streaming": False}
    return change if stamp is None else {**change, "ts": stamp}


def _of_turn(
    group_id: str, position: int, payload: bytes, row: Row, seq: int | None
) -> list[Frame]:
    shown = _activity(decode_event(payload))
    if shown is None:
        return []
    frame = {
        "kind": shown.pop("kind"),
        "groupId": group_id,
        "seq": seq,
        "role": "familiar",
        "familiarId": row.agent,
        "streaming": True,
        **of_reply(row),
        **shown,
    }
    topic = "" if row.reply_to is None else str(row.reply_to)
    return _numbered(position, topic, [frame])


def _numbered(position: int, topic: str, shown: list[Object]) -> list[Frame]:
    first = position * FRAMES_PER_POSITION
    return [
        Frame(first + index, topic, one_line(_ENCODER.encode(frame)))
        for index, frame in enumerate(shown)
    ]


def _activity(event: AnyEvent) -> Object | None:
    """What a frame says of an event that is no delta, or None where it has none.

    A tool's own failure is `toolIsError`: `isError` is the member's. No frame here has a `text`,
    which would be taken for the whole answer.
    """
    match event:
        case TurnStart():
            return {"kind": "session"}
        case ToolCall():
            return _tool("call", event) | {"input": event.input}
        case ToolOutput():
            return _tool("output", event) | {"output": event.data, "stream": event.stream}
        case ToolResult():
            result = {"content": event.content, "toolIsError": event.is_error}
            return _tool("result", event) | result | _given(durationMs=event.duration_ms)
        case ProviderRetry() | Usage() | StepComplete() | Steering():
            return _progress(event)
        case Request():
            return {"kind": "request", "requestId": event.request_id, "request": _bare(event)}
        case RequestClosed():
            return {"kind": "request_closed", "requestId": event.request_id} | _closed(event)
        case _:
            return None


def _tool(phase: str, event: ToolCall | ToolOutput | ToolResult) -> Object:
    shown: Object = {"kind": "tool_use", "phase": phase, "toolCallId": event.tool_call_id}
    if not isinstance(event, ToolOutput):
        shown |= {"toolName": event.tool_name} | _given(stepId=event.step_id or None)
    return shown


def _progress(event: ProviderRetry | Usage | StepComplete | Steering) -> Object:
    """An event's own fields under its own name; the text that was taken in is `steering`."""
    fields = msgspec.to_builtins(event)
    kind = fields.pop("type")
    if isinstance(event, Steering):
        fields = {"steering": event.text}
    return {"kind": "progress", "progress": kind, **fields}


def _bare(event: Request) -> Object:
    """The request's object of `model.md`: an event without its type."""
    fields: Object = msgspec.to_builtins(event)
    del fields["type"]
    return fields


def _closed(event: RequestClosed) -> Object:
    """That it is closed, and by whom; the answer itself is for who follows the conversation."""
    closed = {"requestId": event.request_id, "outcome": event.outcome} | _given(by=event.by)
    return {"request": closed}


def _given(**fields: object) -> Object:
    return {name: value for name, value in fields.items() if value is not None}


# ---------------------------------------------------------------- lines


def sse(frame: Frame) -> bytes:
    """One frame as a server-sent event."""
    return b"id: %d\ndata: %b\n\n" % (frame.offset, frame.payload)


def ws(group_id: str, frame: Frame) -> bytes:
    """One frame as `group.event`."""
    return b'{"type":"group.event","groupId":%b,"frameId":%d,"event":%b}' % (
        _ENCODER.encode(group_id),
        frame.offset,
        frame.payload,
    )


def ws_notice(notice: AnyNotice) -> bytes | None:
    """What the account is told of its groups, or None: other notices are not of this dialect."""
    match notice:
        case GroupChangedNotice(view=view):
            told = {"type": "group.changed", "groupId": view.id, **listed(view)}
        case GroupDeletedNotice(group=group):
            told = {"type": "group.deleted", "groupId": group}
        case _:
            return None
    return _ENCODER.encode(told)


def resume_gap(group_id: str, cursor: int) -> bytes:
    """What a cursor that cannot be served gets; no id line, which would set the reader's cursor."""
    return b"data: %b\n\n" % _gap(group_id, cursor)


def ws_resume_gap(group_id: str, cursor: int) -> bytes:
    """The same as `group.event`, without a `frameId`."""
    return b'{"type":"group.event","groupId":%b,"event":%b}' % (
        _ENCODER.encode(group_id),
        _gap(group_id, cursor),
    )


def _gap(group_id: str, cursor: int) -> bytes:
    gap = {"kind": "progress", "id": "resume-gap", "groupId": group_id, "seq": None}
    return one_line(_ENCODER.encode({**gap, "cursor": cursor}))
