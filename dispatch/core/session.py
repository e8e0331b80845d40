"""One chat session beside its messages: what its timeline's row says of it, and how it is seen.

Neighbours: `runtime.chats` keeps it, `protocol.sessions` shows it; the conversation of the same id
holds the title and the turns. Source: `protocol/chat-sessions.md`.
Invariant: a session's agent never changes.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from dispatch.core.identity import UserId


class Session(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is stored with a session's timeline; `archived_at_ms` in epoch ms, None while active."""

    agent: str
    workspace: str = "default"
    archived_at_ms: int | None = None


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """A chat session as its user sees it; times in epoch ms."""

    id: str
    session: Session
    user: UserId
    title: str
    status: Literal["active", "archived"]
    created_at_ms: int
    updated_at_ms: int
    next_seq: int
    last_read_seq: int


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Session)


def encode_session(session: Session) -> bytes:
    """As stored with its timeline."""
    return _ENCODER.encode(session)


def decode_session(data: bytes) -> Session:
    """As read with its timeline."""
    return _DECODER.decode(data)
