"""Everything that can go wrong, by whose fault it is, with its published code.

A leaf: it imports nothing of the package and carries plain data, so every ring may raise from it.
`PeerError` means their bytes, `Refused` a rule of ours, `Fault` ourselves; only the last is logged
with a traceback. `protocol/errors.md` is generated from the classes and the close codes below.
Invariant: one class per failure, and a code never changes its meaning.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class DispatchError(Exception):
    """A failure with a published code.

    `message` is for people; `code` is for programs; `retryable` says whether the same request may
    succeed later, `retry_after_ms` (milliseconds) when.
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        """Keep the text for people and the hint for programs."""
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms


class PeerError(DispatchError):
    """What the other side sent is not what the protocol says."""

    code = "invalid"
    http_status = 400


class UnknownType(PeerError):
    """A frame of a type that nobody here knows."""

    code = "unknown_type"


class Refused(DispatchError):
    """A well-formed request that a rule of the broker does not allow."""

    code = "refused"
    http_status = 409


class Fault(DispatchError):
    """The broker itself failed; logged with a traceback."""

    code = "internal"
    http_status = 500
    retryable = True


class Busy(Refused):
    """A turn is already running and the sender asked for nothing else."""

    code = "busy"
    retryable = True

    def __init__(self, message: str = "a turn is already generating for this conversation") -> None:
        """The text is part of the public contract of Part 1."""
        super().__init__(message)


class AgentFixed(Refused):
    """A message for another agent than the one that a group or chat session is with."""

    code = "agent_fixed"


class Archived(Refused):
    """A message into a chat session that was archived: restore it first."""

    code = "archived"


class InTimeline(Refused):
    """A group or chat session keeps rows of this conversation: its past is not changed alone."""

    code = "in_timeline"


class NotResumable(Refused):
    """Only the last turn can be resumed, and only if it failed or was interrupted."""

    code = "not_resumable"


class Conflict(Refused):
    """The same client id was used before with another body."""

    code = "conflict"


class RequestClosed(Refused):
    """An agent's question that was already answered or cancelled."""

    code = "closed"


class NotFound(Refused):
    """No such thing for this principal; also what another account's id looks like."""

    code = "not_found"
    http_status = 404


class Gone(Refused):
    """The conversation was deleted; its id is never used again."""

    code = "gone"
    http_status = 410


class Unauthorized(Refused):
    """No credential, or one that is not accepted."""

    code = "unauthorized"
    http_status = 401


class Forbidden(Refused):
    """The principal is known and lacks the right, or the origin is not allowed."""

    code = "forbidden"
    http_status = 403


class Misdirected(Refused):
    """The Host header names a host this daemon does not serve (DNS rebinding)."""

    code = "misdirected"
    http_status = 421


class RateLimited(Refused):
    """Too many requests in too short a time."""

    code = "rate_limited"
    http_status = 429
    retryable = True


class TooMany(Refused):
    """A published bound on how many may exist at once is reached."""

    code = "too_many"
    http_status = 429
    retryable = True


class TooLarge(PeerError):
    """A frame, body or text over its published bound."""

    code = "too_large"
    http_status = 413


class Unavailable(Refused):
    """The daemon is draining or its agent cannot be started now."""

    code = "unavailable"
    http_status = 503
    retryable = True


class StorageFull(Unavailable):
    """The disk took no more; reads go on, running turns wait, new turns are refused."""

    code = "storage_full"


class StorageLocked(Unavailable):
    """Another process held the database beyond the busy time-out."""

    code = "storage_locked"


class StorageCorrupt(Fault):
    """The file is not a database of ours, or is damaged; it is never overwritten."""

    code = "storage_corrupt"
    retryable = False


class StorageFailed(Fault):
    """A read or write failed in a way that leaves the file's state unknown; the daemon ends."""

    code = "storage_failed"
    retryable = False


class Fenced(Fault):
    """A later incarnation owns the data; this one must stop writing."""

    code = "fenced"
    retryable = False


class StorageBusy(Fault):
    """Another daemon already has the data directory."""

    code = "storage_in_use"
    retryable = False


class ConfigError(DispatchError):
    """A setting that cannot work; the message begins with its name."""

    code = "config"


class CloseCode(IntEnum):
    """WebSocket close codes. 4000-4499: come back; 4500-4999: stop and tell a person."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_DATA = 1007
    TOO_BIG = 1009
    INTERNAL = 1011
    STALLED = 4000
    DRAINING = 4001
    RESYNC = 4002
    OVERLOADED = 4003
    PING_TIMEOUT = 4004
    UNAUTHORIZED = 4500
    FORBIDDEN = 4501
    POLICY = 4502


CLOSE_REASONS: dict[CloseCode, str] = {
    CloseCode.NORMAL: "closed by either side in good order",
    CloseCode.GOING_AWAY: "the daemon goes away; reconnect and resume",
    CloseCode.PROTOCOL_ERROR: "bytes that are not WebSocket",
    CloseCode.UNSUPPORTED_DATA: "a binary message; only text is understood",
    CloseCode.INVALID_DATA: "a text frame that is not UTF-8",
    CloseCode.TOO_BIG: "a frame over `frame_bytes_max`",
    CloseCode.INTERNAL: "the daemon failed while serving this connection; reconnect and resume",
    CloseCode.STALLED: "no byte drained for `stall_seconds_max` while data waited; resume",
    CloseCode.DRAINING: "the daemon is shutting down in good order; reconnect and resume",
    CloseCode.RESYNC: "the connection's position cannot be served any more; resume",
    CloseCode.OVERLOADED: "more commands waiting than `commands_waiting_max`; reconnect later",
    CloseCode.PING_TIMEOUT: "no answer to a ping in time; reconnect and resume",
    CloseCode.UNAUTHORIZED: "no credential in time, or one that is not (or no longer) accepted",
    CloseCode.FORBIDDEN: "the principal may not use this endpoint",
    CloseCode.POLICY: "a published limit was broken on purpose or by a defect",
}
