"""What a group's stream says, one type for each kind of frame.

Neighbours: `frames` writes these, `socket` has the frames around them on a WebSocket; `schema` has
`GroupFrame`, which reads any of them. Source: `protocol/groups.md`, 4.
Invariant: what may be absent on the wire is `UNSET` here. A later server may say more: clients
ignore fields and kinds that they do not know.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dispatch.core.events import RequestOutcome, TokenUsage
from dispatch.protocol.groups.schema import EventError, GroupConversation, Outcome, Results

AgentRequest = Annotated[dict[str, Any], Meta(extra_json_schema={"$ref": "AgentRequest"})]


class Kind(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", rename="camel"):
    """One `data:` of a group's stream. `seq` is the row's, null before it has one."""

    group_id: str


class UserFrame(Kind, frozen=True, kw_only=True, tag="user"):
    """A message was accepted."""

    seq: int
    role: Literal["user"]
    text: str
    streaming: bool
    ts: str
    target_familiar_ids: tuple[str, ...] | UnsetType = UNSET
    client_message_id: str | UnsetType = UNSET
    user_id: str | UnsetType = UNSET


class MemberFrame(Kind, frozen=True, kw_only=True):
    """What every frame of a member has: its row, its turn (`runId`) and its conversation."""

    seq: int | None
    role: Literal["familiar"]
    familiar_id: str
    streaming: bool
    ts: str
    reply_to: int | UnsetType = UNSET
    session_id: str | UnsetType = UNSET
    run_id: str | UnsetType = UNSET


class SessionFrame(MemberFrame, frozen=True, kw_only=True, tag="session"):
    """A member's turn begins."""


class AssistantChunkFrame(MemberFrame, frozen=True, kw_only=True, tag="assistant_chunk"):
    """More of an answer."""

    text: str


class ToolCallFrame(MemberFrame, frozen=True, kw_only=True, tag="tool_use"):
    """A tool is called."""

    phase: Literal["call"]
    tool_call_id: str
    tool_name: str
    input: Any
    step_id: str | UnsetType = UNSET


class ToolOutputFrame(MemberFrame, frozen=True, kw_only=True, tag="tool_use"):
    """A running tool says something."""

    phase: Literal["output"]
    tool_call_id: str
    output: str
    stream: Literal["stdout", "stderr"]


class ToolResultFrame(MemberFrame, frozen=True, kw_only=True, tag="tool_use"):
    """A tool is done. `durationMs` in milliseconds."""

    phase: Literal["result"]
    tool_call_id: str
    tool_name: str
    content: str
    tool_is_error: bool
    step_id: str | UnsetType = UNSET
    duration_ms: float | UnsetType = UNSET


class ReasoningFrame(MemberFrame, frozen=True, kw_only=True, tag="progress"):
    """More of a member's thinking."""

    progress: Literal["reasoning"]
    reasoning: str


class UsageFrame(MemberFrame, frozen=True, kw_only=True, tag="progress"):
    """Token counts, of a step if it is named."""

    progress: Literal["usage"]
    usage: TokenUsage
    step_id: str | UnsetType = UNSET


class StepCompleteFrame(MemberFrame, frozen=True, kw_only=True, tag="progress"):
    """One call of the model ended; times in milliseconds."""

    progress: Literal["step-complete"]
    step_id: str | UnsetType = UNSET
    ttft_ms: float | UnsetType = UNSET
    decode_ms: float | UnsetType = UNSET
    gen_total_ms: float | UnsetType = UNSET


class ProviderRetryFrame(MemberFrame, frozen=True, kw_only=True, tag="progress"):
    """The provider failed and is tried again after `delayMs`; `attempt` counts from 0."""

    progress: Literal["provider-retry"]
    attempt: int
    delay_ms: float
    message: str
    code: str | UnsetType = UNSET


class SteeringFrame(MemberFrame, frozen=True, kw_only=True, tag="progress"):
    """The member took this text into its running turn."""

    progress: Literal["steering"]
    steering: str


class RequestFrame(MemberFrame, frozen=True, kw_only=True, tag="request"):
    """A member asks; answered at `POST /conversations/<sessionId>/requests/<requestId>`."""

    request_id: str
    request: AgentRequest


class ClosedRequest(msgspec.Struct, frozen=True, rename="camel"):
    """How a request ended; `by` is the user who answered."""

    request_id: str
    outcome: RequestOutcome
    by: str | UnsetType = UNSET


class RequestClosedFrame(MemberFrame, frozen=True, kw_only=True, tag="request_closed"):
    """A request is closed for everybody."""

    request_id: str
    request: ClosedRequest


class EndedFrame(MemberFrame, frozen=True, kw_only=True):
    """A row that is over: `text` is the whole of it, and will not change."""

    text: str
    outcome: Outcome
    is_error: bool
    error: EventError | UnsetType = UNSET
    ended_at: str | UnsetType = UNSET


class MemberErrorFrame(EndedFrame, frozen=True, kw_only=True, tag="error"):
    """A member failed; its `done` follows."""

    code: str
    message: str


class MemberDoneFrame(EndedFrame, frozen=True, kw_only=True, tag="done"):
    """A member is over."""


class GroupDoneFrame(Kind, frozen=True, kw_only=True, tag="done"):
    """Every member is over: the last frame of a message. `isError`: all of them failed."""

    scope: Literal["group"]
    seq: None
    streaming: bool
    reply_to: int
    is_error: bool
    results: Results
    last_seq: int
    ts: str | UnsetType = UNSET


class ResumeGapFrame(Kind, frozen=True, kw_only=True, tag="progress"):
    """The cursor cannot be served: read the group again, ignore frames up to its `cursor`."""

    id: Literal["resume-gap"]
    seq: None
    cursor: int


class GroupUpdatedFrame(Kind, frozen=True, kw_only=True, tag="group_updated"):
    """The title or the members changed."""

    seq: None
    streaming: bool
    group: GroupConversation
    ts: str | UnsetType = UNSET


class GroupDeletedFrame(Kind, frozen=True, kw_only=True, tag="group_deleted"):
    """The group is gone, and the stream ends."""

    seq: None
    streaming: bool
    ts: str | UnsetType = UNSET


STREAM_FRAMES: Final[tuple[type[msgspec.Struct], ...]] = (
    UserFrame,
    SessionFrame,
    AssistantChunkFrame,
    ToolCallFrame,
    ToolOutputFrame,
    ToolResultFrame,
    ReasoningFrame,
    UsageFrame,
    StepCompleteFrame,
    ProviderRetryFrame,
    SteeringFrame,
    RequestFrame,
    RequestClosedFrame,
    MemberErrorFrame,
    MemberDoneFrame,
    GroupDoneFrame,
    ResumeGapFrame,
    GroupUpdatedFrame,
    GroupDeletedFrame,
)
