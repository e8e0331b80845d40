"""Frames that clients get: shown entries by splicing, everything else by encoding.

Neighbours: `core.replay.Entry` is what is shown, `runtime.feed` asks for its encoding once for all
followers, `server.connection` writes replies. An entry's JSON is never decoded on the way out.
Invariant: an old connection gets `user-message` for `steering` and nothing for what it cannot know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from dispatch.core.commands import Accepted, Cut
from dispatch.core.content import (
    DELTA_SUFFIX,
    REASONING_DELTA_PREFIX,
    TEXT_DELTA_PREFIX,
    delta_text,
)
from dispatch.core.conversation import Waiting
from dispatch.core.identity import ConversationId
from dispatch.core.notices import (
    AnyNotice,
    DeletedNotice,
    Opened,
    ReadNotice,
    StatusNotice,
    TitleNotice,
)
from dispatch.core.replay import Entry
from dispatch.errors import DispatchError

SUBPROTOCOL: Final = "dispatch.v1"
QUEUE_SURFACE: Final = "message-queue"

_ENCODER: Final = msgspec.json.Encoder()
_PREFIXES: Final = {"text-delta": TEXT_DELTA_PREFIX, "reasoning-delta": REASONING_DELTA_PREFIX}
_STEERING: Final = b'{"type":"steering",'
_USER_MESSAGE: Final = b'{"type":"user-message",'
_REQUEST: Final = b'{"type":"request",'
_REQUEST_CLOSED: Final = b'{"type":"request-closed",'
_TRUNCATED: Final = b'{"type":"truncated",'
_PROVIDER_RETRY: Final = b'{"type":"provider-retry",'


def encode(frame: dict[str, Any]) -> bytes:
    """A reply's JSON text."""
    return _ENCODER.encode(frame)


class ChatDialect:
    """One wire form of the log: Part 1 alone, or with Part 2 (`is_v1`)."""

    def __init__(self, generation: str, *, is_v1: bool, delta_bytes_max: int) -> None:
        """`generation` is part of every position; runs are merged up to `delta_bytes_max`."""
        self.is_v1 = is_v1
        self._generation = generation.encode()
        self._delta_bytes_max = delta_bytes_max

    def entries(self, conversation: ConversationId, entries: Sequence[Entry]) -> list[bytes]:
        """See `protocol.dialect`."""
        name = conversation.encode()
        if len(entries) == 1:
            frame = self._frame(name, entries[0].payload, entries[0])
            return [] if frame is None else [frame]
        frames = []
        for payload, entry in _merged(entries, self._delta_bytes_max):
            frame = self._frame(name, payload, entry)
            if frame is not None:
                frames.append(frame)
        return frames

    def _frame(self, name: bytes, payload: bytes, entry: Entry) -> bytes | None:
        # Ids are of a restricted alphabet: they need no escaping.
        turn = entry.turn.encode()
        if self.is_v1:
            # Most of all are deltas, which need not be looked at.
            if not entry.delta:
                own = self._own_frame(name, turn, payload, entry.offset)
                if own is not None:
                    return own
            return (
                b'{"type":"chat.delta","event":%b,"conversationId":"%b","turnId":"%b"},'
                b'"position":"%b:%d"}' % (payload[:-1], name, turn, self._generation, entry.offset)
            )
        event = old_event(payload)
        if event is None:
            return None
        return b'{"type":"chat.delta","event":%b,"conversationId":"%b","turnId":"%b"}}' % (
            event[:-1],
            name,
            turn,
        )

    def _own_frame(self, name: bytes, turn: bytes, payload: bytes, offset: int) -> bytes | None:
        """What is a frame of its own and not a turn's event in a `chat.delta`."""
        place = self._generation, offset
        if payload.startswith(_REQUEST):
            return (
                b'{"type":"chat.request","conversationId":"%b","turnId":"%b",'
                b'"position":"%b:%d",%b' % (name, turn, *place, payload[len(_REQUEST) :])
            )
        if payload.startswith(_REQUEST_CLOSED):
            return (
                b'{"type":"chat.request.closed","conversationId":"%b","turnId":"%b",'
                b'"position":"%b:%d",%b' % (name, turn, *place, payload[len(_REQUEST_CLOSED) :])
            )
        if payload.startswith(_TRUNCATED):
            return (
                b'{"type":"conversation.truncated","conversationId":"%b",'
                b'"position":"%b:%d",%b' % (name, *place, payload[len(_TRUNCATED) :])
            )
        return None

    def notice(self, notice: AnyNotice) -> bytes | None:
        """See `protocol.dialect`."""
        frame: dict[str, Any]
        match notice:
            case Opened(workspace=workspace):
                frame = {"type": "conversation.open", "workspaceId": workspace}
            case StatusNotice(workspace=workspace, status=status):
                frame = {
                    "type": "conversation.statusChanged",
                    "status": status,
                    "workspaceId": workspace,
                }
            case TitleNotice(title=title) if self.is_v1:
                frame = {"type": "conversation.titleChanged", "title": title}
            case DeletedNotice() if self.is_v1:
                frame = {"type": "conversation.deleted"}
            case ReadNotice(last_read_seq=seq, unread=unread) if self.is_v1:
                frame = {"type": "chat.read", "lastReadSeq": seq, "unread": unread}
            case _:
                return None
        return encode({**frame, "conversationId": notice.conversation})

    def position(self, offset: int) -> str:
        """A position's wire form."""
        return f"{self._generation.decode()}:{offset}"

    def error(
        self,
        error: DispatchError,
        conversation: str | None = None,
        ref: str | int | None = None,
        *,
        kind: str = "chat.error",
    ) -> bytes:
        """`chat.error`, or `error` for what belongs to no conversation."""
        frame: dict[str, Any] = {"type": kind, "message": error.message}
        if conversation is not None:
            frame["conversationId"] = conversation
        if self.is_v1:
            frame |= {"code": error.code, "retryable": error.retryable}
            if error.retry_after_ms is not None:
                frame["retryAfterMs"] = error.retry_after_ms
        return self.reply(frame, ref)

    def accepted(
        self, accepted: Accepted, client_message_id: str | None, ref: str | int | None
    ) -> bytes:
        """`chat.accepted`."""
        frame: dict[str, Any] = {
            "type": "chat.accepted",
            "conversationId": accepted.conversation,
            "position": self.position(accepted.offset),
        }
        match accepted.place:
            case "started":
                frame["turnId"] = accepted.turn
            case "queued":
                frame["queueId"] = accepted.turn
            case "steered":
                frame["steered"] = True
        if client_message_id is not None:
            frame["clientMessageId"] = client_message_id
        if accepted.duplicate:
            frame["duplicate"] = True
        return self.reply(frame, ref)

    def truncated(self, cut: Cut, client_message_id: str | None, ref: str | int | None) -> bytes:
        """`chat.truncated`."""
        frame: dict[str, Any] = {
            "type": "chat.truncated",
            "conversationId": cut.conversation,
            "position": self.position(cut.offset),
        }
        if cut.after_turn is not None:
            frame["afterTurn"] = cut.after_turn
        if client_message_id is not None:
            frame["clientMessageId"] = client_message_id
        if cut.duplicate:
            frame["duplicate"] = True
        return self.reply(frame, ref)

    def reply(self, frame: dict[str, Any], ref: str | int | None) -> bytes:
        """A reply with the `ref` of what it answers."""
        return encode(frame if ref is None or not self.is_v1 else {**frame, "ref": ref})


def old_event(payload: bytes) -> bytes | None:
    """An event as Part 1 knows it, or None."""
    if payload.startswith((_REQUEST, _REQUEST_CLOSED, _PROVIDER_RETRY, _TRUNCATED)):
        return None
    if payload.startswith(_STEERING):
        return _USER_MESSAGE + payload[len(_STEERING) :]
    return payload


def event_line(conversation: ConversationId, entry: Entry) -> bytes | None:
    """One AgentEvent of Part 1 with its ids, for line streams."""
    event = old_event(entry.payload)
    if event is None:
        return None
    return b'%b,"conversationId":"%b","turnId":"%b"}' % (
        event[:-1],
        conversation.encode(),
        entry.turn.encode(),
    )


def chunks_frame(
    kind: str, conversation: ConversationId, chunks: Sequence[bytes], last_seq: int, *, more: bool
) -> bytes:
    """`chat.history`: chunks are spliced in as they are kept."""
    return b'{"type":"%b","conversationId":"%b","chunks":[%b],"latestSeq":%d,"more":%b}' % (
        kind.encode(),
        conversation.encode(),
        b",".join(chunks),
        last_seq,
        b"true" if more else b"false",
    )


def queue_messages(waiting: Iterable[Waiting]) -> list[dict[str, Any]]:
    """The queue as clients see it."""
    return [{"id": w.turn, "text": w.text, "queuedAt": w.queued_at_ms} for w in waiting]


def queue_surface(
    conversation: ConversationId, waiting: Iterable[Waiting], *, is_update: bool
) -> bytes:
    """The `message-queue` surface, whole, or as an update of it."""
    spec = {
        "id": QUEUE_SURFACE,
        "region": "side",
        "title": "Queue",
        "fields": [
            {
                "kind": "custom",
                "rendererId": QUEUE_SURFACE,
                "payload": {"messages": queue_messages(waiting)},
            }
        ],
    }
    if is_update:
        update = {"surfaceId": QUEUE_SURFACE, "spec": spec, "conversationId": conversation}
        return encode({"type": "update", "update": update})
    return encode({"type": "surface", "spec": spec, "conversationId": conversation})


def _merged(entries: Sequence[Entry], bytes_max: int) -> Iterable[tuple[bytes, Entry]]:
    """Adjacent deltas of one run as one payload; the entry is the run's last."""
    run: list[bytes] = []
    size = 0
    last: Entry | None = None
    for entry in entries:
        if (
            last is not None
            and entry.delta
            and entry.delta == last.delta
            and entry.turn == last.turn
            and size < bytes_max
        ):
            if not run:
                run.append(delta_text(last.payload))
            escaped = delta_text(entry.payload)
            run.append(escaped)
            size += len(escaped)
        else:
            if last is not None:
                yield _joined(run, last), last
            run, size = [], len(entry.payload)
        last = entry
    if last is not None:
        yield _joined(run, last), last


def _joined(run: list[bytes], last: Entry) -> bytes:
    if not run:
        return last.payload
    return _PREFIXES[last.delta] + b"".join(run) + DELTA_SUFFIX
