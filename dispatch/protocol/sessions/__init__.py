"""The dialect of chat sessions, `/v1/chat`: what clients say, how they are told, what goes wrong.

`requests` reads bodies, queries and WebSocket frames, `frames` shows sessions, messages and what
happens to them; `schema` (routes) and `kinds` (events and a WebSocket) are what is published, as
types. Here are the errors, which both the routes and the runtime raise. The contract is
`protocol/chat-sessions.md`.
Invariant: a snapshot and the frames say the same of the same row; every error has a code in
capitals and a status.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, NamedTuple

from dispatch.errors import Conflict, DispatchError, Gone, NotFound, PeerError, Refused, Unavailable

# What is wrong is told back, but not at the length of what was sent.
_DETAILS_MAX: Final = 16
# Codes of other dialects that have another name here; the rest are put in capitals.
_CODES: Final = {"invalid": "INVALID_REQUEST", "archived": "SESSION_ARCHIVED"}


class InvalidRequest(PeerError):
    """A body or query that is not what the contract says; `details` name the fields."""

    code = "INVALID_REQUEST"
    text: ClassVar[str] = "Invalid request body"

    def __init__(self, *details: str) -> None:
        """One detail for everything that is wrong."""
        super().__init__(self.text)
        self.details = details[:_DETAILS_MAX]


class InvalidQuery(InvalidRequest):
    """A field of the query that cannot be."""

    text = "Invalid query"


class ContentRequired(PeerError):
    """A message without text."""

    code = "CONTENT_REQUIRED"

    def __init__(self, message: str = "content is required") -> None:
        """The text says it all."""
        super().__init__(message)


class AgentNotFound(NotFound):
    """No agent has this key."""

    code = "AGENT_NOT_FOUND"


class SessionNotFound(NotFound):
    """No such session in the account, or it was purged."""

    code = "SESSION_NOT_FOUND"

    def __init__(self, message: str = "Chat session not found") -> None:
        """The same text, whether there never was one or not for this account."""
        super().__init__(message)


class TaskNotFound(NotFound):
    """The session has no such task."""

    code = "TASK_NOT_FOUND"


class SessionArchived(Refused):
    """Nothing is sent into an archived session: restore it first."""

    code = "SESSION_ARCHIVED"


class MessageConflict(Conflict):
    """The client's id was used for another content."""

    code = "CONFLICT"


class AgentUnavailable(Unavailable):
    """The agent cannot take a message now."""

    code = "AGENT_UNAVAILABLE"


class Refusal(NamedTuple):
    """An error as an answer: the status, the body, and when to come back."""

    status: int
    body: dict[str, Any]
    retry_after_ms: int | None


def refusal(error: DispatchError) -> Refusal:
    """What this dialect answers, also to errors that it shares with others."""
    if error.code in (NotFound.code, Gone.code):
        # A purged session is not told from one that never was.
        error = SessionNotFound()
    code = _CODES.get(error.code, error.code.upper())
    body: dict[str, Any] = {"error": error.message, "code": code}
    if isinstance(error, InvalidRequest):
        body["details"] = list(error.details)
    return Refusal(error.http_status, body, error.retry_after_ms)
