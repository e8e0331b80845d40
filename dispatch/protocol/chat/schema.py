"""What travels on the routes of the native dialect, as types: for `openapi.json` and tests.

Neighbours: the `routes_*` of `server` write what is answered and have the last word about
bodies; `wishes` has what a message may bring along, `shown` the events of a turn.
Invariant: what may be absent on the wire is `UNSET` here, what may be null is None.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dispatch.core.commands import ReasoningEffort
from dispatch.core.content import AnyChunk, Role, StoredChunk
from dispatch.core.conversation import Status
from dispatch.core.events import TokenUsage
from dispatch.core.turn import Outcome
from dispatch.protocol.chat.kinds import ForkedFrom
from dispatch.protocol.chat.surfaces import QueuedMessage
from dispatch.protocol.chat.wire import Count, EpochMs, Position, Stretches
from dispatch.protocol.chat.wishes import ClientId, Label, Path, SendFields, Text

Said = Annotated[str, Meta(pattern=r"\S", description="Not blank.")]


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A JSON object of this dialect."""


class OfConversation(Wire, frozen=True, kw_only=True):
    """A reply about one conversation."""

    conversation_id: str


class Refusal(Wire, frozen=True, kw_only=True):
    """Every error of these routes."""

    error: str
    code: str


# ---------------------------------------------------------------- what was said


class TurnPlace(Wire, frozen=True, kw_only=True):
    """A sealed turn and the chunks that are of it; `resumes` names the failed turn it goes on with,
    `agent` is not known of turns of old stores.
    """

    turn_id: str
    first_seq: Count
    last_seq: Count
    outcome: Outcome
    sealed_at: EpochMs
    agent: str | UnsetType = UNSET
    resumes: str | UnsetType = UNSET


class ChunkPage(Wire, frozen=True, kw_only=True):
    """`GET /conversations/:id`: chunks ascending; `latestSeq` is the last one's. `turns` are those
    of the chunks, in replies to a request with `limit`.

    `superseded`: what truncations left behind, here or before, as first and last seqs.
    """

    chunks: tuple[StoredChunk, ...]
    latest_seq: Count
    turns: tuple[TurnPlace, ...] | UnsetType = UNSET
    superseded: Stretches | UnsetType = UNSET


class StepTimes(Wire, frozen=True, kw_only=True):
    """One call of the model; times in milliseconds."""

    step_id: str
    usage: TokenUsage
    ttft_ms: float | UnsetType = UNSET
    decode_ms: float | UnsetType = UNSET
    gen_total_ms: float | UnsetType = UNSET


class TurnCosts(Wire, frozen=True, kw_only=True):
    """What a turn took; time in milliseconds."""

    usage: TokenUsage
    steps: tuple[StepTimes, ...]
    duration_ms: float | UnsetType = UNSET
    context_size: int | UnsetType = UNSET
    agent: str | UnsetType = UNSET


class TurnMetrics(TurnCosts, frozen=True, kw_only=True):
    """What a sealed turn took; one that is `superseded` was left behind by a truncation."""

    turn_id: str
    superseded: bool | UnsetType = UNSET


class ConversationMetrics(Wire, frozen=True, kw_only=True):
    """`GET /conversations/:id/metrics`: sealed turns, oldest first."""

    turns: tuple[TurnMetrics, ...]


class LastAnswer(OfConversation, frozen=True, kw_only=True):
    """`GET /conversations/:id/last`: the last answer's text, empty where there is none."""

    content: str
    turn_id: str | UnsetType = UNSET


class ConversationLine(Wire, frozen=True, kw_only=True, tag_field="type", tag="conversation"):
    """The first line of an export."""

    id: str
    created_at: EpochMs
    last_activity_at: EpochMs
    title: str | None
    status: Status
    workspace_id: str
    last_seq: Count
    model: str | UnsetType = UNSET
    reasoning_effort: str | UnsetType = UNSET
    cwd: str | UnsetType = UNSET
    forked_from: ForkedFrom | UnsetType = UNSET
    side_chat_of: ForkedFrom | UnsetType = UNSET


class TurnLine(Wire, frozen=True, kw_only=True, tag_field="type", tag="turn"):
    """A sealed turn of an export; its chunks are the lines behind it."""

    turn_id: str
    outcome: Outcome
    sealed_at: EpochMs
    first_seq: int
    chunk_count: Count
    superseded: bool | UnsetType = UNSET
    resumes: str | UnsetType = UNSET
    metrics: TurnCosts | UnsetType = UNSET


class ChunkLine(Wire, frozen=True, kw_only=True, tag_field="type", tag="chunk"):
    """A chunk of an export."""

    turn_id: str
    seq: int
    role: Role
    chunk: AnyChunk
    superseded: bool | UnsetType = UNSET


class EndLine(Wire, frozen=True, kw_only=True, tag_field="type", tag="end"):
    """The last line of an export that is whole."""

    turns: Count
    chunks: Count


EXPORT_LINES: Final[tuple[type[msgspec.Struct], ...]] = (
    ConversationLine,
    TurnLine,
    ChunkLine,
    EndLine,
)

# ---------------------------------------------------------------- conversations


class ConversationRow(Wire, frozen=True, kw_only=True):
    """A conversation in a list."""

    id: str
    created_at: EpochMs
    last_activity_at: EpochMs
    title: str | None
    status: Status
    workspace_id: str
    compacted_from: str | UnsetType = UNSET


class ConversationList(Wire, frozen=True, kw_only=True):
    """`GET /conversations`: newest activity first; `next` goes on, where there may be more."""

    conversations: tuple[ConversationRow, ...]
    next: str | UnsetType = UNSET


class ConversationStatus(OfConversation, frozen=True, kw_only=True):
    """`GET /conversations/:id/status`."""

    is_active: bool
    status: Status


class TurnStopped(OfConversation, frozen=True, kw_only=True):
    """What a stop or a close ended."""

    aborted_turn: bool
    turn_id: str | UnsetType = UNSET


class MessageQueued(OfConversation, frozen=True, kw_only=True):
    """The message runs as `turnId`, or waits as `queueId`; the queue behind it."""

    started_turn: bool
    queue: tuple[QueuedMessage, ...]
    turn_id: str | UnsetType = UNSET
    queue_id: str | UnsetType = UNSET
    duplicate: bool | UnsetType = UNSET


class QueueReordered(OfConversation, frozen=True, kw_only=True):
    """What waits now, in the order in which it will run."""

    queue: tuple[QueuedMessage, ...]


class MessageUnqueued(OfConversation, frozen=True, kw_only=True):
    """Whether it still waited; what waits now."""

    cancelled: bool
    queue: tuple[QueuedMessage, ...]


class RequestAnswered(OfConversation, frozen=True, kw_only=True):
    """The answer was the first."""

    request_id: str
    outcome: Literal["answered"]


class ConversationRead(OfConversation, frozen=True, kw_only=True):
    """Where the user's read cursor is, and how many chunks follow it."""

    last_read_seq: Count
    unread: Count


class ConversationTruncated(OfConversation, frozen=True, kw_only=True):
    """The last turn that still counts, if any does, and where the log says so."""

    position: Position
    after_turn: str | UnsetType = UNSET
    duplicate: bool | UnsetType = UNSET


class TurnResumed(OfConversation, frozen=True, kw_only=True):
    """The new turn, and the one that it goes on with."""

    turn_id: str
    resumes: str
    duplicate: bool | UnsetType = UNSET


class ConversationForked(OfConversation, frozen=True, kw_only=True):
    """The new conversation: a fork or a side chat."""

    forked_from: ForkedFrom | UnsetType = UNSET
    side_chat_of: ForkedFrom | UnsetType = UNSET


class ConversationDeleted(OfConversation, frozen=True, kw_only=True):
    """It is gone for ever."""

    deleted: bool


class ConversationOpened(OfConversation, frozen=True, kw_only=True):
    """Everybody was told."""


class ConversationTitle(OfConversation, frozen=True, kw_only=True):
    """Its title, null where there is none."""

    title: str | None


class ConversationModel(OfConversation, frozen=True, kw_only=True):
    """Its model, null where none was chosen."""

    model: str | None


class ConversationEffort(OfConversation, frozen=True, kw_only=True):
    """Its reasoning effort, null where none was chosen."""

    reasoning_effort: ReasoningEffort | None


class ConversationDirectory(OfConversation, frozen=True, kw_only=True):
    """Where its agent works, null where nobody chose."""

    cwd: str | None


class NoServers(OfConversation, frozen=True, kw_only=True):
    """Language and tool servers: there are none."""

    cwd: None
    servers: tuple[dict[str, Any], ...]


# ---------------------------------------------------------------- bodies


class ChatBody(SendFields, frozen=True, kw_only=True):
    """`POST /chat`: `chat.send` as a body; the message is trimmed."""

    message: Said


class QueueBody(SendFields, frozen=True, kw_only=True):
    """`POST /conversations/:id/queue`."""

    text: Said


class QueueOrderBody(Wire, frozen=True, kw_only=True):
    """`PUT /conversations/:id/queue`: which messages run first, in this order."""

    message_ids: tuple[Text, ...]


class StopBody(Wire, frozen=True, kw_only=True):
    """`POST /conversations/:id/stop`: only this turn."""

    turn_id: str | UnsetType | None = UNSET


class OpenBody(Wire, frozen=True, kw_only=True):
    """`POST /conversations/:id/open`."""

    workspace_id: Label | UnsetType | None = UNSET


class ReadBody(Wire, frozen=True, kw_only=True):
    """`POST /conversations/:id/read`."""

    up_to_seq: Count


class TruncateBody(Wire, frozen=True, kw_only=True):
    """`POST /conversations/:id/truncate`: the last turn to stay, null for none."""

    after_turn: Text | None
    client_message_id: ClientId | UnsetType | None = UNSET


class ResumeBody(Wire, frozen=True, kw_only=True):
    """`POST /conversations/:id/resume`: the last turn, which failed or was interrupted."""

    turn_id: Text
    client_message_id: ClientId | UnsetType | None = UNSET


class ForkBody(Wire, frozen=True, kw_only=True):
    """`POST /conversations/:id/fork`: the last turn that goes along."""

    turn_id: Text
    side_chat: bool | UnsetType | None = UNSET


class TitleBody(Wire, frozen=True, kw_only=True):
    """`PUT /conversations/:id/title`."""

    title: Said


class ModelBody(Wire, frozen=True, kw_only=True):
    """`PUT /conversations/:id/model`."""

    model: Label


class EffortBody(Wire, frozen=True, kw_only=True):
    """`PUT /conversations/:id/reasoning-effort`."""

    reasoning_effort: ReasoningEffort


class DirectoryBody(Wire, frozen=True, kw_only=True):
    """`PUT /conversations/:id/cwd`."""

    cwd: Path


class AnswerBody(Wire, frozen=True, kw_only=True):
    """`POST /conversations/:id/requests/:requestId`: `approved` or `optionId` of an approval
    (both must agree), `action` of an input.
    """

    approved: bool | UnsetType | None = UNSET
    option_id: str | UnsetType | None = UNSET
    edited_input: Any = UNSET
    reason: str | UnsetType | None = UNSET
    action: Literal["accept", "decline", "cancel"] | UnsetType | None = UNSET
    answers: dict[str, Any] | UnsetType | None = UNSET
