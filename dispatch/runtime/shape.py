"""What is remembered of a conversation beside its log: its row, and the details inside the row.

Neighbours: `live` keeps one and changes it ahead of the disk, `intake` and `catalog` take a change
back that the disk refused; `storage.port` keeps the details as opaque bytes.
Invariant: taking a change back leaves what somebody else has changed since.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from dispatch.core.commands import ReasoningEffort
from dispatch.core.identity import ConversationId, TurnId
from dispatch.storage.keys import TurnKey
from dispatch.storage.port import ConversationRecord
from dispatch.storage.timeline import TimelineKind

PREVIEW_CHARACTERS: Final = 200
"""How much of its last message a conversation's row shows."""


class Background(msgspec.Struct, frozen=True):
    """What its agent knows that was said elsewhere: the chunks of a marker in the same store."""

    marker: TurnKey


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a conversation remembers for its next turn, and where it came from.

    `forked_from` and `side_chat_of` are (conversation, turn). `title_is_given`: a person's title,
    which the automatic one never replaces. `timeline` is the kind and id of the timeline that is
    kept of its turns; `is_chronicled`: AHP has met its session, and what happens to it is written
    down for AHP too.
    """

    model: str | None = None
    reasoning_effort: ReasoningEffort | None = None
    cwd: str | None = None
    title_is_given: bool = False
    forked_from: tuple[ConversationId, TurnId] | None = None
    side_chat_of: tuple[ConversationId, TurnId] | None = None
    background: Background | None = None
    timeline: tuple[TimelineKind, str] | None = None
    is_chronicled: bool = False


class Shape(NamedTuple):
    """A conversation's row and details at one time."""

    record: ConversationRecord
    details: Details


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Details)


def encode_details(details: Details) -> bytes:
    """As stored in the conversation's row."""
    return _ENCODER.encode(details)


def decode_details(data: bytes) -> Details:
    """As read from the conversation's row."""
    return _DECODER.decode(data)


def take_back(record: ConversationRecord, details: Details, before: Shape, after: Shape) -> Details:
    """Undo in `record` what was changed between two shapes and not since; the details undone."""
    for name, value in _undone(record, before.record, after.record).items():
        setattr(record, name, value)
    return msgspec.structs.replace(details, **_undone(details, before.details, after.details))


def _undone(
    now: msgspec.Struct, before: msgspec.Struct, after: msgspec.Struct
) -> dict[str, object]:
    return {
        name: getattr(before, name)
        for name in now.__struct_fields__
        if getattr(before, name) != getattr(after, name) == getattr(now, name)
    }
