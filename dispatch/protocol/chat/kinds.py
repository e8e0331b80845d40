"""Frames of the native dialect that the server sends, one type for each.

Neighbours: `frames` and the connection write them, `shown` has the events inside, `surfaces` the
queue, `wishes` is the other way. Source: `protocol/native.md`, 1.3 and Part 2.
Invariant: what may be absent on the wire is `UNSET` here; nothing in these frames is ever null. A
later server may say more: clients ignore fields and types that they do not know.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dispatch.core.content import StoredChunk, StoredLine
from dispatch.core.conversation import Status
from dispatch.core.events import (
    RequestAction,
    RequestKind,
    RequestOption,
    RequestOutcome,
    RequestQuestion,
)
from dispatch.protocol.chat.hello import HelloFrame
from dispatch.protocol.chat.shown import AgentRequest
from dispatch.protocol.chat.surfaces import CatalogFrame, SurfaceFrame, UpdateFrame
from dispatch.protocol.chat.wire import (
    Count,
    EpochMs,
    Position,
    Reply,
    ServerFrame,
    Stretches,
)

ShownEvent = Annotated[msgspec.Raw, Meta(extra_json_schema={"$ref": "ShownEvent"})]
Part1Event = Annotated[msgspec.Raw, Meta(extra_json_schema={"$ref": "Part1Event"})]


class PongFrame(Reply, frozen=True, kw_only=True, tag="pong"):
    """The answer to `ping`."""


# -- answers -----------------------------------------------------------------------------------


class ChatAcceptedFrame(Reply, frozen=True, kw_only=True, tag="chat.accepted"):
    """The message is durable. `position` is the one just before its turn, or now if it waits.

    One of `turnId` (it began), `queueId` (it had to wait; its turn has this id) or `steered` (it
    went into the running turn). `duplicate`: it was accepted before, and nothing was done again;
    the others say what they said then, whatever became of it.
    """

    conversation_id: str
    position: Position
    turn_id: str | UnsetType = UNSET
    queue_id: str | UnsetType = UNSET
    steered: bool | UnsetType = UNSET
    client_message_id: str | UnsetType = UNSET
    duplicate: bool | UnsetType = UNSET


class ChatSubscribedFrame(Reply, frozen=True, kw_only=True, tag="chat.subscribed"):
    """What follows starts right behind the position asked for, or with the turn in flight.

    `recovered` is false where that is not possible: a `chat.snapshot` follows. `position` is the
    head at this instant, `turnId` the turn in flight, `superseded` what truncations left behind.
    """

    conversation_id: str
    recovered: bool
    position: Position
    status: Status
    last_seq: Count
    superseded: Stretches | UnsetType = UNSET
    turn_id: str | UnsetType = UNSET


class ChatHistoryFrame(ServerFrame, frozen=True, kw_only=True, tag="chat.history"):
    """Sealed chunks, asked for with `sinceSeq`; `more`: another frame of them follows."""

    conversation_id: str
    chunks: tuple[StoredChunk, ...]
    latest_seq: Count
    more: bool


class TurnSoFar(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the turn in flight has said, and what its agent asks."""

    turn_id: str
    started_at: EpochMs
    chunks: tuple[StoredLine, ...]
    requests: tuple[AgentRequest, ...]
    resumes: str | UnsetType = UNSET


class ChatSnapshotFrame(ServerFrame, frozen=True, kw_only=True, tag="chat.snapshot"):
    """Events cannot fill the gap: history up to `lastSeq` and `turn` replace what was shown."""

    conversation_id: str
    position: Position
    last_seq: Count
    superseded: Stretches | UnsetType = UNSET
    turn: TurnSoFar | UnsetType = UNSET


class ChatStoppedFrame(Reply, frozen=True, kw_only=True, tag="chat.stopped"):
    """What a stop did: `abortedTurn` is false where there was nothing to end."""

    conversation_id: str
    aborted_turn: bool
    turn_id: str | UnsetType = UNSET


class ChatQueueCancelledFrame(Reply, frozen=True, kw_only=True, tag="chat.queue.cancelled"):
    """Whether the message still waited."""

    conversation_id: str
    message_id: str
    cancelled: bool


class ChatQueueReorderedFrame(Reply, frozen=True, kw_only=True, tag="chat.queue.reordered"):
    """The order in which all that wait will run."""

    conversation_id: str
    message_ids: tuple[str, ...]


class ForkedFrom(msgspec.Struct, frozen=True, rename="camel"):
    """Where a fork or a side chat branched off."""

    conversation_id: str
    turn_id: str


class ChatForkedFrame(Reply, frozen=True, kw_only=True, tag="chat.forked"):
    """A new conversation: a fork has the history up to and including a turn, a side chat's agent
    knows it.
    """

    conversation_id: str
    forked_from: ForkedFrom | UnsetType = UNSET
    side_chat_of: ForkedFrom | UnsetType = UNSET


class ChatReadMovedFrame(Reply, frozen=True, kw_only=True, tag="chat.read"):
    """The user read up to `lastReadSeq`, here or on another device; `unread` chunks follow it."""

    conversation_id: str
    last_read_seq: Count
    unread: Count


class ChatErrorFrame(Reply, frozen=True, kw_only=True, tag="chat.error"):
    """A refusal; it ends no subscription. `retryable`: the same may succeed later."""

    message: str
    code: str
    retryable: bool
    conversation_id: str | UnsetType = UNSET
    retry_after_ms: Count | UnsetType = UNSET


class ErrorFrame(Reply, frozen=True, kw_only=True, tag="error"):
    """A refusal of what belongs to no conversation: JSON that is none, an unknown type."""

    message: str
    code: str
    retryable: bool
    retry_after_ms: Count | UnsetType = UNSET


class SurfaceErrorFrame(Reply, frozen=True, kw_only=True, tag="error"):
    """A refusal of something about a surface."""

    message: str
    surface_id: str


# -- turns -------------------------------------------------------------------------------------


class ChatDeltaFrame(ServerFrame, frozen=True, kw_only=True, tag="chat.delta"):
    """An event of a turn; one that merges deltas has the position of the last."""

    event: ShownEvent
    position: Position


class ChatRequestFrame(ServerFrame, frozen=True, kw_only=True, tag="chat.request"):
    """The agent asks its watchers; answered by `chat.respond`, the first answer counts."""

    conversation_id: str
    turn_id: str
    position: Position
    request_id: str
    kind: RequestKind
    title: str
    message: str | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET
    options: tuple[RequestOption, ...] | UnsetType = UNSET
    questions: tuple[RequestQuestion, ...] | UnsetType = UNSET


class ChatRequestClosedFrame(Reply, frozen=True, kw_only=True, tag="chat.request.closed"):
    """A request is closed for everybody, by a user's answer or without one.

    Behind `by` is the answer. Who answered without watching is told without `turnId`, `position`
    and the answer.
    """

    conversation_id: str
    request_id: str
    outcome: RequestOutcome
    turn_id: str | UnsetType = UNSET
    position: Position | UnsetType = UNSET
    by: str | UnsetType = UNSET
    approved: bool | UnsetType = UNSET
    option_id: str | UnsetType = UNSET
    edited_input: Any = UNSET
    reason: str | UnsetType = UNSET
    action: RequestAction | UnsetType = UNSET
    answers: dict[str, Any] | UnsetType = UNSET


# -- broadcasts --------------------------------------------------------------------------------


class ConversationOpenFrame(ServerFrame, frozen=True, kw_only=True, tag="conversation.open"):
    """Somebody opened the conversation."""

    conversation_id: str
    workspace_id: str


class ConversationStatusChangedFrame(
    ServerFrame, frozen=True, kw_only=True, tag="conversation.statusChanged"
):
    """A turn began, the conversation fell idle, or it was closed."""

    conversation_id: str
    workspace_id: str
    status: Status


class ConversationTitleChangedFrame(
    ServerFrame, frozen=True, kw_only=True, tag="conversation.titleChanged"
):
    """The title changed."""

    conversation_id: str
    title: str


class ConversationDeletedFrame(ServerFrame, frozen=True, kw_only=True, tag="conversation.deleted"):
    """The conversation is gone for ever."""

    conversation_id: str


class ConversationTruncatedFrame(
    ServerFrame, frozen=True, kw_only=True, tag="conversation.truncated"
):
    """What is behind this turn (none: everything) does not count any more: the chunks behind
    `afterSeq`, up to `lastSeq`. It is an event, in order with those of turns.
    """

    conversation_id: str
    position: Position
    after_seq: Count
    last_seq: Count
    after_turn: str | UnsetType = UNSET


class ChatTruncatedFrame(Reply, frozen=True, kw_only=True, tag="chat.truncated"):
    """A conversation was truncated; `position` is that of its `conversation.truncated`."""

    conversation_id: str
    position: Position
    after_turn: str | UnsetType = UNSET
    client_message_id: str | UnsetType = UNSET
    duplicate: bool | UnsetType = UNSET


class ConversationCompactedFrame(
    ServerFrame, frozen=True, kw_only=True, tag="conversation.compacted"
):
    """Reserved: a conversation goes on in another one, summed up."""

    conversation_id: str
    new_conversation_id: str
    messages_summarized: Count
    messages_kept: Count


# -- Part 1 ------------------------------------------------------------------------------------


class Part1DeltaFrame(ServerFrame, frozen=True, kw_only=True, tag="chat.delta"):
    """An event of a turn."""

    event: Part1Event


class Part1ChatErrorFrame(ServerFrame, frozen=True, kw_only=True, tag="chat.error"):
    """A refusal; it ends no subscription."""

    message: str
    conversation_id: str | UnsetType = UNSET


class Part1ErrorFrame(ServerFrame, frozen=True, kw_only=True, tag="error"):
    """A refusal of what belongs to no conversation, or of something about a surface."""

    message: str
    surface_id: str | UnsetType = UNSET


_OF_BOTH: Final = (
    ChatStoppedFrame,
    ChatTruncatedFrame,
    ChatQueueReorderedFrame,
    ChatForkedFrame,
    ChatReadMovedFrame,
    ChatRequestClosedFrame,
    PongFrame,
    SurfaceFrame,
    UpdateFrame,
    ConversationOpenFrame,
    ConversationStatusChangedFrame,
    ConversationCompactedFrame,
)
PART1_FRAMES: Final[tuple[type[msgspec.Struct], ...]] = (
    CatalogFrame,
    Part1DeltaFrame,
    Part1ChatErrorFrame,
    Part1ErrorFrame,
    *_OF_BOTH,
)
SERVER_FRAMES: Final[tuple[type[msgspec.Struct], ...]] = (
    HelloFrame,
    ChatAcceptedFrame,
    ChatSubscribedFrame,
    ChatHistoryFrame,
    ChatSnapshotFrame,
    ChatDeltaFrame,
    ChatRequestFrame,
    ChatErrorFrame,
    ErrorFrame,
    SurfaceErrorFrame,
    ConversationTitleChangedFrame,
    ConversationDeletedFrame,
    ConversationTruncatedFrame,
    ChatQueueCancelledFrame,
    *_OF_BOTH,
)
