"""What a group and its rows look like outside: `GroupConversation` and `GroupEvent`.

Neighbours: `frames` shows the log with these; `storage.timeline.RowRecord` is a `Row`, though this
ring does not know it. Source: `protocol/groups.md`.
Invariant: what a row shows once it has ended never changes.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from dispatch.core.group import GroupView
from dispatch.core.timeline import RowDetails, decode_row_details

Object = dict[str, Any]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FAILED: Final = frozenset({"error", "interrupted"})
_DEFAULT_ERRORS: Final = {
    "error": ("member_failed", "the familiar failed"),
    "interrupted": ("interrupted", "the daemon ended while the familiar answered"),
}
_NO_DETAILS: Final = RowDetails()
_LOCAL_USER: Final = "local"


class Row(Protocol):
    """A row as a store has it; what is shown of it is read from these alone. Times in epoch ms."""

    @property
    def seq(self) -> int | None:
        """Its place in the group, once it has one."""

    @property
    def reply_to(self) -> int | None:
        """The seq of the message that it answers."""

    @property
    def turn_id(self) -> str | None:
        """The turn that wrote it."""

    @property
    def conversation(self) -> str | None:
        """The member's conversation."""

    @property
    def agent(self) -> str:
        """The member."""

    @property
    def user(self) -> str:
        """Who wrote it, or whose message it answers."""

    @property
    def outcome(self) -> str | None:
        """How a reply ended, or None while it is open."""

    @property
    def role(self) -> str:
        """`message` or `reply`."""

    @property
    def began_position(self) -> int | None:
        """From here on its turn's events carry its seq."""

    @property
    def created_at_ms(self) -> int:
        """When it was accepted."""

    @property
    def started_at_ms(self) -> int | None:
        """When its turn began."""

    @property
    def ended_at_ms(self) -> int | None:
        """When its turn ended."""

    @property
    def details(self) -> bytes:
        """An encoded `core.timeline.RowDetails`."""

    @property
    def text(self) -> str:
        """The whole text of a message or of an ended reply."""


def iso_ms(at_ms: int) -> str:
    """Epoch milliseconds as ISO-8601 in UTC."""
    at = _EPOCH + timedelta(milliseconds=at_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def group_event(row: Row, *, text: str | None = None) -> Object:
    """The `GroupEvent` of a row; `text` is what an open reply has said so far."""
    details = _details(row)
    if row.role == "message":
        event: Object = {
            "seq": row.seq,
            "role": "user",
            "text": row.text,
            "streaming": False,
            "ts": iso_ms(row.created_at_ms),
        }
        if details.targets is not None:
            event["targetFamiliarIds"] = details.targets
        if details.client_message_id is not None:
            event["clientMessageId"] = details.client_message_id
        if row.user != _LOCAL_USER:
            event["userId"] = row.user
        return event
    event = {
        "seq": row.seq,
        "role": "familiar",
        "familiarId": row.agent,
        "text": row.text if text is None else text,
        "streaming": row.outcome is None,
        **of_reply(row),
    }
    if row.outcome is not None:
        event["outcome"] = row.outcome
        event["isError"] = row.outcome in _FAILED
        if row.outcome in _FAILED:
            code, message = _reason(row.outcome, details)
            event["error"] = {"code": code, "message": message}
        if row.ended_at_ms is not None:
            event["endedAt"] = iso_ms(row.ended_at_ms)
    return event


def listed(view: GroupView) -> Object:
    """What lists show of a group and no message changes, as in its `GroupConversation`."""
    members = view.group.members
    return {
        "title": view.group.shown_title,
        "memberFamiliarIds": [member.agent for member in members],
        "memberSessionIds": {member.agent: member.conversation for member in members},
        "createdAt": iso_ms(view.created_at_ms),
        "updatedAt": iso_ms(view.updated_at_ms),
    }


def group_object(view: GroupView) -> Object:
    """The `GroupConversation` of a group."""
    runs = [
        {
            "userSeq": run.user_seq,
            "pending": list(run.pending),
            "startedAt": iso_ms(run.started_at_ms),
        }
        for run in view.runs
    ]
    return {
        "id": view.id,
        **listed(view),
        "lastSeq": view.last_seq,
        "activeRuns": runs,
        "activeRun": runs[0] if runs else None,
        "archivedMembers": [
            {
                "familiarId": former.agent,
                "sessionId": former.conversation,
                "archivedAt": iso_ms(former.archived_at_ms),
            }
            for former in view.group.former
        ],
    }


def _details(row: Row) -> RowDetails:
    return _NO_DETAILS if row.details in (b"{}", b"") else decode_row_details(row.details)


def _reason(outcome: str, details: RowDetails) -> tuple[str, str]:
    code, message = _DEFAULT_ERRORS[outcome]
    return details.error_code or code, details.error or message


def of_reply(row: Row) -> Object:
    """What every frame of a reply says besides: none of it changes once its turn began."""
    began = row.created_at_ms if row.started_at_ms is None else row.started_at_ms
    said: Object = {"ts": iso_ms(began)}
    if row.reply_to is not None:
        said["replyTo"] = row.reply_to
    if row.conversation is not None:
        said["sessionId"] = row.conversation
    if row.turn_id is not None:
        said["runId"] = row.turn_id
    return said
