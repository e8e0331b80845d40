"""Errors as AHP numbers them: one place from what went wrong to what a client is told.

Neighbours: `methods` and `connection` answer with these. Source: `protocol/ahp.md`, section Errors.
Invariant: every refusal of ours has a number; of a defect nothing is told.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from dispatch.errors import (
    Conflict,
    DispatchError,
    Forbidden,
    Gone,
    NotFound,
    PeerError,
    RateLimited,
    TooMany,
    Unavailable,
)
from dispatch.protocol.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from dispatch.runtime.ahp.host import AgentUnknown, Exists

SESSION_NOT_FOUND: Final = -32001
PROVIDER_NOT_FOUND: Final = -32002
SESSION_ALREADY_EXISTS: Final = -32003
NOT_FOUND: Final = -32008
PERMISSION_DENIED: Final = -32009
ALREADY_EXISTS: Final = -32010
CONFLICT: Final = -32011

# The first that fits.
_NUMBERS: Final[tuple[tuple[type[DispatchError], int], ...]] = (
    (AgentUnknown, PROVIDER_NOT_FOUND),
    (Exists, ALREADY_EXISTS),
    (NotFound, SESSION_NOT_FOUND),
    (Gone, SESSION_NOT_FOUND),
    (Forbidden, PERMISSION_DENIED),
    (PeerError, INVALID_PARAMS),
    (Conflict, CONFLICT),
    (RateLimited, INTERNAL_ERROR),
    (TooMany, INTERNAL_ERROR),
    (Unavailable, INTERNAL_ERROR),
)


def refusal(error: DispatchError, **numbers: int) -> RpcError:
    """The error's number; `numbers` says others for the codes of some, as `conflict=-32003`."""
    number = numbers.get(error.code)
    if number is None:
        number = next((n for kind, n in _NUMBERS if isinstance(error, kind)), INTERNAL_ERROR)
    data: Any = msgspec.UNSET
    if error.retryable:
        data = {"code": error.code, "retryable": True}
        if error.retry_after_ms is not None:
            data["retryAfterMs"] = error.retry_after_ms
    return RpcError(number, error.message, data=data)
