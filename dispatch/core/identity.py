"""Names of things: accounts, users, conversations, turns, rights and positions in a log.

Neighbours: everything else in `core` uses these; `server.auth` makes principals.
Invariant: a `ConversationId` that exists matches `ID_PATTERN`; nothing else reaches an engine.
"""

from __future__ import annotations

import re
from typing import Final, NewType

import msgspec

from dispatch.errors import Forbidden, PeerError

AccountId = NewType("AccountId", str)
UserId = NewType("UserId", str)
ConversationId = NewType("ConversationId", str)
TurnId = NewType("TurnId", str)
RequestId = NewType("RequestId", str)

ID_CHARACTERS_MAX: Final = 128
ID_PATTERN: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

WATCH: Final = "watch"
SEND: Final = "send"
ADMIN: Final = "admin"
RIGHTS_ALL: Final = frozenset({WATCH, SEND, ADMIN})


class Principal(msgspec.Struct, frozen=True):
    """Who asks: a user in an account, with rights out of `watch`, `send`, `admin`."""

    account: AccountId
    user: UserId
    rights: frozenset[str] = RIGHTS_ALL


LOCAL: Final = Principal(AccountId("local"), UserId("local"))
"""The one principal of a daemon without `[auth]`."""


def may(principal: Principal, right: str) -> bool:
    """Whether the principal has the right (`admin` has all of them)."""
    return right in principal.rights or ADMIN in principal.rights


def require(principal: Principal, right: str) -> None:
    """Raise `Forbidden` unless the principal has the right."""
    if not may(principal, right):
        raise Forbidden(f"the right to {right} is missing")


class Position(msgspec.Struct, frozen=True):
    """A place in a conversation's log: everything up to `offset` was seen.

    `generation` names the data directory's history; a position of another one proves nothing.
    Written `"<generation>:<offset>"`.
    """

    generation: str
    offset: int

    def __str__(self) -> str:
        """The wire form."""
        return f"{self.generation}:{self.offset}"


_POSITION = re.compile(r"([A-Za-z0-9]{1,32}):(0|[1-9][0-9]{0,17})")


def parse_position(text: object) -> Position:
    """Read the wire form; raises `PeerError` for anything else."""
    match = _POSITION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise PeerError("malformed position: expected <generation>:<offset>")
    return Position(match[1], int(match[2]))


def parse_conversation_id(text: object) -> ConversationId:
    """Check an id that a client minted; raises `PeerError` naming the rule."""
    if isinstance(text, str) and ID_PATTERN.fullmatch(text):
        return ConversationId(text)
    raise PeerError("malformed conversationId: expected 1 to 128 of A-Z a-z 0-9 . _ : -")
