"""What happens to a timeline: one tagged union, the payload of every event of its own log.

Neighbours: `runtime.timeline` decides these, `storage.timeline` keeps them beside the row they are
about, `protocol.groups` and `protocol.sessions` show them. What a turn says is not repeated here:
it is in its conversation's log, and the dialects project that. Source: `protocol/groups.md`,
`protocol/chat-sessions.md`.
Invariant: with the row that it is about, an event says all that any dialect shows of it, so that a
replay is what was shown live, byte for byte.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

RunOutcome = Literal["completed", "error", "cancelled", "interrupted", "removed", "no_response"]


class Told(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True, rename="camel"):
    """What happened to a timeline."""


class MessageAdded(Told, frozen=True, tag="message"):
    """A person's message took its place: the row has the rest."""


class ReplyEnded(Told, frozen=True, tag="ended"):
    """A reply is over: the row has its seq, text and outcome."""


class Results(msgspec.Struct, frozen=True):
    """How the replies to one message ended; the sum is how many there were."""

    completed: int = 0
    error: int = 0
    cancelled: int = 0
    interrupted: int = 0
    removed: int = 0


class RepliesEnded(Told, frozen=True, tag="all-ended"):
    """Every reply to a message is over; `last_seq` is the timeline's then."""

    reply_to: int
    results: Results
    last_seq: int


class Changed(Told, frozen=True, tag="changed"):
    """Something about the timeline as a whole; `what` names it, `shown` is how it is shown."""

    what: Literal["created", "updated", "archived", "restored", "deleted"]
    shown: msgspec.Raw


class Typing(Told, frozen=True, tag="typing"):
    """The agent of a chat session has something to do, or has nothing any more."""

    typing: bool
    phase: Literal["queued", "running"]


class ReadTo(Told, frozen=True, tag="read"):
    """Its user read up to `last_read_seq`; `unread` ended replies are behind that."""

    last_read_seq: int
    unread: int


class TaskEnded(Told, frozen=True, tag="task-ended"):
    """A task of a chat session ended without an answer: the row has its turn and its reason."""

    what: Literal["failed", "cancelled"]
    reason: str


class Asked(Told, frozen=True, tag="asked"):
    """An agent asks; `request` is the request's JSON object, of `model.md`."""

    task: str
    request: msgspec.Raw


class AskClosed(Told, frozen=True, tag="ask-closed"):
    """A request is closed for everybody."""

    task: str
    request_id: str
    outcome: str
    by: str | None = None


AnyTold = (
    MessageAdded
    | ReplyEnded
    | RepliesEnded
    | Changed
    | Typing
    | ReadTo
    | TaskEnded
    | Asked
    | AskClosed
)


class RowDetails(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What a row says beside its columns.

    `targets`: the agents that a message addresses, where those are not all. `client_message_id` is
    the client's own. `error_code` and `error` say why a reply failed.
    """

    targets: tuple[str, ...] | None = None
    client_message_id: str | None = None
    error_code: str | None = None
    error: str | None = None


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(AnyTold)
_DETAILS_DECODER: Final = msgspec.json.Decoder(RowDetails)


def encode_told(told: Told) -> bytes:
    """The stored form."""
    return _ENCODER.encode(told)


def decode_told(payload: bytes) -> AnyTold:
    """Read a stored event back."""
    told: AnyTold = _DECODER.decode(payload)
    return told


def encode_row_details(details: RowDetails) -> bytes:
    """As stored with the row."""
    return _ENCODER.encode(details)


def decode_row_details(data: bytes) -> RowDetails:
    """As read with the row."""
    return _DETAILS_DECODER.decode(data)
