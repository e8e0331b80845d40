"""Everything that a group's clients may be refused for, each with its published code.

Neighbours: `requests` raises those that a request alone decides, `runtime` and `server` the others.
Source: `protocol/groups.md`.
Invariant: one class per code, each with a text of its own, so that it can be raised as it is.
"""

from __future__ import annotations

from typing import ClassVar, Final

from dispatch.errors import Conflict, DispatchError, Gone, NotFound, PeerError, Refused

MEMBERS_MAX: Final = 256


class Refusal(DispatchError):
    """An error with a text of its own."""

    text: ClassVar[str] = "the request cannot be carried out"

    def __init__(self, message: str | None = None, *, retry_after_ms: int | None = None) -> None:
        """Say the class's text unless there is a better one."""
        super().__init__(message or self.text, retry_after_ms=retry_after_ms)


class InvalidBody(Refusal, PeerError):
    """A body that is no JSON object."""

    code, text = "invalid_json_body", "invalid json body"


class InvalidRequest(Refusal, PeerError):
    """A field that cannot be and has no code of its own; the text names it."""

    code, text = "invalid_request", "invalid request"


class TextRequired(Refusal, PeerError):
    """A send without text."""

    code, text = "text_required", "text is required"


class InvalidTargets(Refusal, PeerError):
    """Targets that are none, or not all members."""

    code, text = "invalid_targets", "targetFamiliarIds must name members of the group"


class InvalidMembers(Refusal, PeerError):
    """A member list that cannot be."""

    code = "invalid_members"
    text = f"expected a list of 1 to {MEMBERS_MAX} names of agents"


class LastMember(Refusal, PeerError):
    """A change that would leave a group without members."""

    code, text = "last_member", "a group needs at least one member"


class NothingToPatch(Refusal, PeerError):
    """A change of nothing."""

    code, text = "nothing_to_patch", "nothing to patch"


class InvalidCursor(Refusal, PeerError):
    """A cursor that is no number."""

    code, text = "invalid_cursor", "a cursor is a non-negative integer"


class ClientMessageConflict(Refusal, Conflict):
    """A `clientMessageId` that was used for another message."""

    code, text = "client_message_conflict", "clientMessageId was used for another message"


class ClientGroupConflict(Refusal, Conflict):
    """A `clientGroupId` that was used for other conversations."""

    code, text = "client_group_conflict", "clientGroupId was used for other sessions"


class SessionInGroup(Refusal, Refused):
    """A conversation that belongs to another group."""

    code, text = "session_in_group", "a session is in another group"


class SessionBusy(Refusal, Refused):
    """A conversation with a turn that is not sealed cannot be adopted."""

    code, text, retryable = "session_busy", "a session has an unfinished turn", True


class TurnInProgress(Refusal, Refused):
    """A resync while a turn is live."""

    code, text, retryable = "turn_in_progress", "a turn is in progress", True


class GroupNotFound(Refusal, NotFound):
    """No such group for this principal."""

    code, text = "group_not_found", "group not found"


class FamiliarNotFound(Refusal, NotFound):
    """No agent of this name."""

    code, text = "familiar_not_found", "agent not found"


class SessionNotFound(Refusal, NotFound):
    """No conversation of this name."""

    code, text = "session_not_found", "session not found"


class GroupDeleted(Refusal, Gone):
    """The group was deleted."""

    code, text = "group_deleted", "group deleted"


class ProvisionFailed(Refusal, Refused):
    """A member's conversation could not be made."""

    code, text, http_status = "provision_failed", "a session could not be provisioned", 502
