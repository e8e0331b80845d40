"""Names of channels: what a client chose is an opaque key, what the host chooses VS Code can read.

Neighbours: the host keeps them as aliases of core ids. Source: `protocol/ahp.md`, section Names.
Invariant: a name is compared whole; only the shape that is minted here is ever taken apart.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final
from urllib.parse import quote, unquote

from dispatch.errors import PeerError

ROOT: Final = "ahp-root://"
_CHAT: Final = "ahp-chat://"
# What VS Code leaves as it is when it reads a URI and writes it again.
_UNCHANGED: Final = "-._~"
_AUTHORITY: Final = re.compile(r"[a-z0-9._-]+", re.ASCII)
URI_CHARACTERS_MAX: Final = 2_048
"""A name holds another one, encoded; VS Code's have some 150 characters."""


def parse_uri(text: object) -> str:
    """A channel's name; raises `PeerError` for what cannot be one."""
    if isinstance(text, str) and 0 < len(text) <= URI_CHARACTERS_MAX and ":" in text:
        return text
    raise PeerError(f"malformed channel: expected a URI of at most {URI_CHARACTERS_MAX} characters")


def session_uri(agent: str, session_id: str) -> str:
    """A session that was not made by an AHP client; clients read the provider from the scheme."""
    return f"{agent}:/{quote(session_id, safe=_UNCHANGED)}"


def parse_minted(uri: str) -> str:
    """The id of the session that a name of ours is of; empty for a name that cannot be ours."""
    if uri.startswith(_CHAT):
        _, _, encoded = uri.removeprefix(_CHAT).partition("/")
        try:
            uri = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
        except ValueError:
            return ""
    _, _, session = uri.partition(":/")
    return unquote(session) if not session.startswith("/") else ""


def chat_uri(session: str, chat_id: str = "default") -> str:
    """A chat that was not made by an AHP client; the session's name is in it.

    Clients write an authority in small letters, so an id with others is told in hex.
    """
    if not _AUTHORITY.fullmatch(chat_id):
        chat_id = f"x-{chat_id.encode().hex()}"
    encoded = urlsafe_b64encode(session.encode()).decode().rstrip("=")
    return f"{_CHAT}{chat_id}/{encoded}"
