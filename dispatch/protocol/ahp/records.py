"""What AHP alone knows, as it is stored: the state of sessions and chats, and what happened there.

Neighbours: `runtime.ahp.ledger` keeps these as a timeline's details and log, `session_fold` makes
actions of them. What turns say is not repeated here: it is in the log of conversations.
Invariant: details are what folding all of a ledger's records gives, so a record may be forgotten.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from dispatch.core.identity import ConversationId, TurnId
from dispatch.protocol.ahp.envelopes import Origin
from dispatch.protocol.codec import Object


class Waits(msgspec.Struct, frozen=True):
    """A message that waits: what clients call it, its turn, and the message as they see it."""

    id: str
    turn: TurnId
    message: Object


class SessionDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A session. `flags` are bits of its status; `chats` are its conversations, in order.

    `is_private`: it is a person's own, as a chat session is. `was_asked`: an agent has asked
    somebody in it, after which the reducers leave its status in progress.
    """

    agent: str
    is_private: bool = False
    was_asked: bool = False
    title: str = ""
    is_title_given: bool = False
    flags: int = 0
    chats: tuple[ConversationId, ...] = ()
    default_chat: str | None = None
    active_clients: tuple[Object, ...] = ()


class ChatDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A chat. No action changes a chat's own title, so `listed_title` is what its session says.

    `sealed_position` is where its last turn ended; nothing a turn said is behind that.
    `modified_at` is what it made of the chat's time, as on the wire.
    """

    uri: str
    title: str
    listed_title: str
    origin: Object
    created_at_ms: int
    flags: int = 0
    draft: Object | None = None
    queue: tuple[Waits, ...] = ()
    steers: tuple[Waits, ...] = ()
    sealed_position: int = 0
    modified_at: str | None = None


class ClientDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A client that was met: the version it gets, as it wrote it, and of which history it knows."""

    version: str
    generation: str


class Acted(msgspec.Struct, frozen=True, tag="acted", omit_defaults=True):
    """An action of the ledger's channel, in canonical shapes; no origin: the host's own."""

    action: Object
    origin: Origin | None = None


class Claimed(msgspec.Struct, frozen=True, tag="claimed", omit_defaults=True):
    """What comes next to this is a client's wish; in the same commit as that, and before it.

    `subject` is a request that is closed, a turn that is cancelled, or a truncation by its own id.
    """

    subject: str
    origin: Origin


Record = Acted | Claimed

_ENCODER: Final = msgspec.json.Encoder()
_RECORD_DECODER: Final[msgspec.json.Decoder[Record]] = msgspec.json.Decoder(Record)


def encode_record(record: Record) -> bytes:
    """As stored in the log."""
    return _ENCODER.encode(record)


def decode_record(payload: bytes) -> Record:
    """As read from the log."""
    return _RECORD_DECODER.decode(payload)


def encode_details(details: Any) -> bytes:
    """As stored with the timeline."""
    return _ENCODER.encode(details)
