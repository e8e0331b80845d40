"""What a client offers as WebSocket subprotocols: dialects, and perhaps its token.

Neighbours: `gate` takes the token out, `listener` chooses among the rest. A browser cannot set a
header on a WebSocket, so its token may travel as `dispatch.token.<base64url>` beside a dialect.
Invariant: an offer that carries a token is never chosen, hence never echoed.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Sequence
from typing import Final

from dispatch.errors import PeerError, Unauthorized
from dispatch.server.head import Head

DISPATCH_V1: Final = "dispatch.v1"
TOKEN_PREFIX: Final = "dispatch.token."
AHP_PATH: Final = "/ahp"
"""Where AHP is served."""


def offers_of(head: Head) -> list[str]:
    """Every subprotocol that is offered, in the client's order."""
    return [
        offer
        for line in head.values(b"sec-websocket-protocol")
        for part in line.split(",")
        if (offer := part.strip())
    ]


def token_of(offers: Sequence[str]) -> str | None:
    """The token among the offers; raises `Unauthorized` for one that is none, or for several."""
    tokens = [offer for offer in offers if offer.startswith(TOKEN_PREFIX)]
    if not tokens:
        return None
    encoded = tokens[0].removeprefix(TOKEN_PREFIX)
    try:
        token = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("ascii")
    except ValueError as error:
        raise Unauthorized(f"the subprotocol {TOKEN_PREFIX}… is not base64url") from error
    if len(tokens) > 1 or not token:
        raise Unauthorized(f"exactly one token may be offered as {TOKEN_PREFIX}…")
    return token


def dialects_of(offers: Sequence[str]) -> list[str]:
    """The offers that are dialects."""
    return [offer for offer in offers if not offer.startswith(TOKEN_PREFIX)]


def choose_dispatch(path: str, dialects: Sequence[str]) -> str | None:
    """`dispatch.v1` if it is offered, none if nothing is; raises `PeerError` for others alone."""
    if path == AHP_PATH:
        # It has no subprotocol: whatever is offered, none is chosen.
        return None
    if DISPATCH_V1 in dialects:
        return DISPATCH_V1
    if dialects:
        raise PeerError(f"no subprotocol in common: {path} speaks {DISPATCH_V1}, or none at all")
    return None
