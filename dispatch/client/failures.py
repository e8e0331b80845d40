"""What can go wrong between a client and a daemon, beside what the daemon itself refuses.

Neighbours: `frames` and `http` turn published codes back into the classes of `dispatch.errors`, so
that a program catches the same `Busy` on both sides of the wire; `session` decides by `ending_of`
whether a lost connection is resumed or reported.
Invariant: an unknown code is still a `DispatchError` that carries it.
"""

from __future__ import annotations

import os
import re
from typing import Final

from websockets.exceptions import ConnectionClosed

from dispatch import errors
from dispatch.errors import CloseCode, DispatchError, Fault, Forbidden, Refused, Unauthorized


class CannotConnect(DispatchError):
    """No daemon answers at the address, or it went away and did not come back in time."""

    code = "cannot_connect"
    http_status = 503
    retryable = True


class ConnectionLost(CannotConnect):
    """The connection was lost before the reply: whether the request was carried out is unknown."""

    code = "connection_lost"


class ServerError(DispatchError):
    """A refusal whose code this version of the client does not know."""

    def __init__(self, message: str, *, code: str, retryable: bool) -> None:
        """Carry the code as the server gave it."""
        super().__init__(message)
        # A class variable everywhere else; here each failure has its own.
        self.__dict__.update(code=code, retryable=retryable)


_BY_CODE: Final[dict[str, type[DispatchError]]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, DispatchError)
} | {Fault.code: Fault}

_BY_STATUS: Final[dict[int, type[DispatchError]]] = {
    401: Unauthorized,
    403: Forbidden,
    404: errors.NotFound,
    410: errors.Gone,
    413: errors.TooLarge,
    421: errors.Misdirected,
    429: errors.RateLimited,
    503: errors.Unavailable,
}

# The peer could not read what we sent: sending it again would only close the next connection too.
OUR_FAULT: Final = frozenset({CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.TOO_BIG})


def failure_from_wire(
    message: str,
    code: str | None,
    *,
    status: int = 0,
    retryable: bool = False,
    retry_after_ms: int | None = None,
) -> DispatchError:
    """The error that the daemon raised, from its published code; `status`: of HTTP, if it was."""
    kind = _BY_CODE.get(code or "")
    # A dialect has codes of its own for what every dialect knows, such as GROUP_NOT_FOUND.
    alike = _BY_STATUS.get(status) if kind is None and code else None
    error = (
        ServerError(message, code=code or "refused", retryable=retryable)
        if kind is None and alike is None
        else DispatchError.__new__(kind or alike or ServerError)
    )
    if alike is not None:
        error.__dict__["code"] = code
    # Past the subclasses' own constructors, whose texts and arguments are for the daemon.
    DispatchError.__init__(error, message, retry_after_ms=retry_after_ms)
    return error


def failure_from_status(status: int, message: str) -> DispatchError:
    """The error behind an HTTP status that came without a code."""
    kind = _BY_STATUS.get(status, Fault if status >= 500 else Refused)
    return kind(message)


def ending_of(closed: ConnectionClosed) -> tuple[str, DispatchError | None]:
    """Why a connection ended, in words, and the failure to report if it must not be resumed."""
    received = closed.rcvd
    if received is None:
        return "the connection was lost", None
    reason = received.reason or f"the server closed the connection with code {received.code}"
    if not 4500 <= received.code <= 4999:
        return reason, None
    match received.code:
        case CloseCode.UNAUTHORIZED:
            return reason, Unauthorized(reason)
        case CloseCode.FORBIDDEN:
            return reason, Forbidden(reason)
        case _:
            return reason, Refused(reason)


def reason_of(error: OSError) -> str:
    """Why the network said no, in the system's words."""
    # asyncio says "Connect call failed", or lists that for every address of a host.
    listed = re.search(r"\[Errno (\d+)\]", str(error))
    number = error.errno or (int(listed[1]) if listed else 0)
    # Name look-up has numbers of its own, below zero.
    return os.strerror(number) if number > 0 else error.strerror or str(error)
