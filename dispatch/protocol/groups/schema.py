"""What travels on the routes of groups, as types: for clients, tests and `protocol/openapi.json`.

Neighbours: `rows` and `frames` write what is answered, `requests` reads bodies and has the last
word about them; `client.groups` reads replies with these. A daemon that says more than this is
understood all the same.
Invariant: what may be absent on the wire is `UNSET` here, and encoding gives back what was read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dispatch.protocol.groups.refusals import MEMBERS_MAX
from dispatch.protocol.groups.requests import NAME_CHARACTERS_MAX, TITLE_CHARACTERS_MAX

Outcome = Literal["completed", "error", "cancelled", "interrupted", "removed"]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARACTERS_MAX)]
Names = Annotated[list[Name], Meta(min_length=1, max_length=MEMBERS_MAX)]
Title = Annotated[str, Meta(max_length=TITLE_CHARACTERS_MAX)]
Id = Annotated[str, Meta(pattern="^[A-Za-z0-9._:-]{1,128}$")]
Seq = Annotated[int, Meta(ge=1)]


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A JSON object of this dialect."""


class ActiveRun(Wire, frozen=True):
    """A message whose members have not all ended."""

    user_seq: int
    pending: tuple[str, ...]
    started_at: str


class ArchivedMember(Wire, frozen=True):
    """An agent that was a member, and the conversation that it had."""

    familiar_id: str
    session_id: str
    archived_at: str


class GroupConversation(Wire, frozen=True):
    """A group."""

    id: str
    title: str
    member_familiar_ids: tuple[str, ...]
    member_session_ids: dict[str, str]
    created_at: str
    updated_at: str
    last_seq: int
    active_runs: tuple[ActiveRun, ...]
    active_run: ActiveRun | None
    archived_members: tuple[ArchivedMember, ...]


class EventError(Wire, frozen=True):
    """Why a member's turn failed."""

    code: str
    message: str


class GroupEvent(Wire, frozen=True):
    """One row: a message, or what a member answers to it."""

    seq: int
    role: Literal["user", "familiar"]
    text: str
    streaming: bool
    ts: str
    familiar_id: str | UnsetType = UNSET
    reply_to: int | UnsetType = UNSET
    session_id: str | UnsetType = UNSET
    run_id: str | UnsetType = UNSET
    outcome: Outcome | UnsetType = UNSET
    is_error: bool | UnsetType = UNSET
    error: EventError | UnsetType = UNSET
    ended_at: str | UnsetType = UNSET
    target_familiar_ids: tuple[str, ...] | UnsetType = UNSET
    client_message_id: str | UnsetType = UNSET
    user_id: str | UnsetType = UNSET


class GroupList(Wire, frozen=True):
    """`GET /api/groups`: newest activity first."""

    ok: bool
    groups: tuple[GroupConversation, ...]


class GroupSnapshot(Wire, frozen=True):
    """`GET /api/groups/:id`: rows ascending, and the frame from which to follow."""

    group: GroupConversation
    events: tuple[GroupEvent, ...]
    last_seq: int
    settled_seq: int
    has_more: bool
    cursor: int | UnsetType = UNSET


class GroupStopped(Wire, frozen=True):
    """`POST /api/groups/:id/stop`: whose runs were ended; `queued`: the stop is remembered."""

    ok: bool
    stopped: tuple[str, ...]
    queued: bool


class GroupDeleted(Wire, frozen=True):
    """`DELETE /api/groups/:id`: false where it was deleted before."""

    ok: bool
    deleted: bool
    sessions_deleted: tuple[str, ...]
    sessions_kept: tuple[str, ...]


class GroupRead(Wire, frozen=True):
    """`POST /api/groups/:id/read`: where the cursor is, and what others said behind it."""

    ok: bool
    group_id: str
    last_read_seq: int
    unread: int


class ConversationText(Wire, frozen=True):
    """What one side said in a turn that is over."""

    turn_id: str
    role: Literal["user", "assistant"]
    text: str
    ts: str
    outcome: str | UnsetType = UNSET


class ConversationTexts(Wire, frozen=True):
    """A member's conversation."""

    id: str
    title: str
    status: Literal["active", "idle", "closed"]
    created_at: str
    updated_at: str
    turns: tuple[ConversationText, ...]


class ConversationShown(Wire, frozen=True):
    """`GET /api/chat/conversation/:id`."""

    ok: bool
    conversation: ConversationTexts


class GroupRefusal(Wire, frozen=True):
    """Every error of these routes."""

    ok: bool
    error: str
    code: str


class Results(Wire, frozen=True):
    """How the members that were asked ended; the sum is how many they were."""

    completed: int
    error: int
    cancelled: int
    interrupted: int
    removed: int


class GroupFrame(Wire, frozen=True):
    """One `data:` of a group's stream; which fields there are depends on `kind`."""

    kind: Literal[
        "user",
        "session",
        "assistant_chunk",
        "tool_use",
        "progress",
        "request",
        "request_closed",
        "error",
        "done",
        "group_updated",
        "group_deleted",
    ]
    group_id: str
    seq: int | UnsetType | None = UNSET
    role: Literal["user", "familiar"] | UnsetType = UNSET
    familiar_id: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    streaming: bool | UnsetType = UNSET
    ts: str | UnsetType = UNSET
    reply_to: int | UnsetType = UNSET
    session_id: str | UnsetType = UNSET
    run_id: str | UnsetType = UNSET
    target_familiar_ids: tuple[str, ...] | UnsetType = UNSET
    client_message_id: str | UnsetType = UNSET
    user_id: str | UnsetType = UNSET
    outcome: Outcome | UnsetType = UNSET
    is_error: bool | UnsetType = UNSET
    error: EventError | UnsetType = UNSET
    ended_at: str | UnsetType = UNSET
    code: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    phase: Literal["call", "output", "result"] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET
    tool_name: str | UnsetType = UNSET
    step_id: str | UnsetType = UNSET
    input: Any = UNSET
    output: str | UnsetType = UNSET
    stream: Literal["stdout", "stderr"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_is_error: bool | UnsetType = UNSET
    duration_ms: float | UnsetType = UNSET
    progress: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    steering: str | UnsetType = UNSET
    usage: dict[str, Any] | UnsetType = UNSET
    ttft_ms: float | UnsetType = UNSET
    decode_ms: float | UnsetType = UNSET
    gen_total_ms: float | UnsetType = UNSET
    attempt: int | UnsetType = UNSET
    delay_ms: float | UnsetType = UNSET
    request_id: str | UnsetType = UNSET
    request: dict[str, Any] | UnsetType = UNSET
    scope: Literal["group"] | UnsetType = UNSET
    results: Results | UnsetType = UNSET
    last_seq: int | UnsetType = UNSET
    id: Literal["resume-gap"] | UnsetType = UNSET
    cursor: int | UnsetType = UNSET
    group: GroupConversation | UnsetType = UNSET


# ---------------------------------------------------------------- bodies


class CreateGroupBody(Wire, frozen=True):
    """`POST /api/groups`."""

    member_familiar_ids: Names
    title: Title | UnsetType | None = UNSET


class AdoptGroupBody(Wire, frozen=True):
    """`POST /api/groups/adopt`."""

    session_ids: Annotated[dict[str, Id], Meta(min_length=1, max_length=MEMBERS_MAX)]
    member_familiar_ids: Names | UnsetType | None = UNSET
    title: Title | UnsetType | None = UNSET
    client_group_id: Id | UnsetType | None = UNSET


class SendToGroupBody(Wire, frozen=True):
    """`POST /api/groups/:id/send`; `runId` is an alias of `clientMessageId`."""

    text: Annotated[str, Meta(min_length=1)]
    client_message_id: Id | UnsetType | None = UNSET
    run_id: Id | UnsetType | None = UNSET
    target_familiar_ids: Names | UnsetType | None = UNSET
    on_busy: Literal["queue", "reject"] | UnsetType | None = UNSET


class StopGroupBody(Wire, frozen=True):
    """`POST /api/groups/:id/stop`; what is given narrows it."""

    familiar_id: Name | UnsetType | None = UNSET
    reply_to: Seq | UnsetType | None = UNSET
    run_id: Id | UnsetType | None = UNSET


class ReadGroupBody(Wire, frozen=True):
    """`POST /api/groups/:id/read`."""

    up_to_seq: Annotated[int, Meta(ge=0)]


class PatchGroupBody(Wire, frozen=True):
    """`PATCH /api/groups/:id`: a title, and members to add and remove, or all of them in order."""

    title: Title | UnsetType | None = UNSET
    member_familiar_ids: Names | UnsetType | None = UNSET
    add_member_familiar_ids: list[Name] | UnsetType | None = UNSET
    remove_member_familiar_ids: list[Name] | UnsetType | None = UNSET
