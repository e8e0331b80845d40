"""What a checked credential is worth: a principal, until when, and by which token.

Neighbours: `claims`, `tickets` and `auth` make them; `gate` puts one into every request and
upgrade; `connection` asks `auth` now and then whether its own still stands.
Invariant: a `token_id` names a token without being it, so it may be logged.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from dispatch.core.identity import LOCAL, Principal


class Credential(msgspec.Struct, frozen=True):
    """Who is asking, and what says so. `expires_at` is on the wall clock; None is for ever."""

    principal: Principal
    token_id: str
    expires_at: float | None = None
    # Of the session it was made by, if it was.
    session_id: str | None = None


ANYONE: Final = Credential(LOCAL, "anyone")
"""What everyone has who reaches a daemon without `[auth]`."""


class Stale(Exception):
    """An authentic credential whose time is over: refused, but not a guess."""


class KeyWanted(Exception):
    """The signature needs a key that has to be fetched first: the one reason to wait."""


def digest(text: str) -> str:
    """The SHA-256 of a token, in hex, as `[auth]` stores static ones."""
    return hashlib.sha256(text.encode()).hexdigest()
