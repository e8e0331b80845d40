"""What the daemon says on `dispatch.v1`, as types; the source is `protocol/native.md`, Part 2.

Neighbours: `decoding` makes these of bytes, `session` answers calls with them, `cursor` turns those
of a conversation into items; `mirrored` are the frames of the other dialects.
Invariant: `encode_item` gives a frame's JSON object, which `decode_frame` reads back.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dispatch.client.failures import failure_from_wire
from dispatch.core.content import StoredChunk, StoredLine
from dispatch.core.events import (
    AnyEvent,
    RequestAction,
    RequestKind,
    RequestOption,
    RequestOutcome,
    RequestQuestion,
    TextDelta,
)
from dispatch.errors import DispatchError


class Frame(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True, rename="camel"):
    """One JSON object from the daemon."""


class HelloLimits(msgspec.Struct, frozen=True, rename="camel"):
    """The published bounds that a client has to keep."""

    frame_bytes_max: int = 1024 * 1024


class AgentInfo(msgspec.Struct, frozen=True, rename="camel"):
    """An agent that may be named in `model`, and whether it takes steering."""

    name: str
    models: tuple[str, ...] = ()
    steer: bool = False


class Hello(Frame, frozen=True, tag="hello"):
    """The first frame: who the daemon takes us for, and what it allows."""

    connection_id: str
    account: str = ""
    user: str = ""
    limits: HelloLimits = HelloLimits()
    agents: tuple[AgentInfo, ...] = ()


class Accepted(Frame, frozen=True, tag="chat.accepted"):
    """The message is durable. `position` is the one just before its turn, or now if it waits."""

    conversation_id: str
    position: str
    turn_id: str | None = None
    queue_id: str | None = None
    client_message_id: str | None = None
    steered: bool = False
    duplicate: bool = False
    ref: str | None = None

    @property
    def turn(self) -> str:
        """The turn that answers the message, running or waiting (a queue id is its turn's id)."""
        return self.turn_id or self.queue_id or ""


class Stopped(Frame, frozen=True, tag="chat.stopped"):
    """What a stop did; `aborted_turn` is false where nothing ran."""

    conversation_id: str
    aborted_turn: bool
    turn_id: str | None = None
    ref: str | None = None


class ForkedFrom(msgspec.Struct, frozen=True, rename="camel"):
    """Where a fork branched off."""

    conversation_id: str
    turn_id: str


class Forked(Frame, frozen=True, tag="chat.forked"):
    """A new conversation with the history up to and including a sealed turn."""

    conversation_id: str
    forked_from: ForkedFrom | None = None
    side_chat_of: ForkedFrom | None = None
    ref: str | None = None


class Subscribed(Frame, frozen=True, tag="chat.subscribed"):
    """Following begins, or goes on after a lost connection. `position` is the head right now."""

    conversation_id: str
    recovered: bool
    position: str
    status: str
    last_seq: int
    turn_id: str | None = None
    ref: str | None = None


class History(Frame, frozen=True, tag="chat.history"):
    """Sealed chunks, asked for with `since_seq`."""

    conversation_id: str
    chunks: tuple[StoredChunk, ...]
    latest_seq: int
    more: bool = False


class DeltaFrame(Frame, frozen=True, tag="chat.delta"):
    """An event as it came; see `Delta`."""

    event: msgspec.Raw
    position: str | None = None


class AgentRequest(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A question of the agent that is still open."""

    request_id: str
    kind: RequestKind
    title: str
    message: str | None = None
    tool_call_id: str | None = None
    options: tuple[RequestOption, ...] = ()
    questions: tuple[RequestQuestion, ...] = ()


class RequestOpened(Frame, frozen=True, tag="chat.request"):
    """The agent asks its watchers; the first answer counts."""

    conversation_id: str
    turn_id: str
    request_id: str
    kind: RequestKind
    title: str
    position: str | None = None
    message: str | None = None
    tool_call_id: str | None = None
    options: tuple[RequestOption, ...] = ()
    questions: tuple[RequestQuestion, ...] = ()


class RequestDone(Frame, frozen=True, tag="chat.request.closed"):
    """A question was answered (`by` a user, in which way the other fields say) or cancelled."""

    conversation_id: str
    request_id: str
    outcome: RequestOutcome
    by: str | None = None
    position: str | None = None
    approved: bool | None = None
    option_id: str | None = None
    edited_input: msgspec.Raw | None = None
    reason: str | None = None
    action: RequestAction | None = None
    answers: dict[str, msgspec.Raw] | None = None


class TurnSoFar(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What the running turn has said up to a snapshot. `started_at` in epoch milliseconds."""

    turn_id: str
    started_at: float
    chunks: tuple[StoredLine, ...]
    requests: tuple[AgentRequest, ...] = ()


class Snapshot(Frame, frozen=True, tag="chat.snapshot"):
    """A gap that events cannot fill: `turn` replaces what was shown of an unsealed turn.

    The client adds `missed`, the chunks sealed after seq `missed_after`; None: it cannot know where
    the gap began (a position of another data directory, say), and history up to `last_seq` is what
    there is.
    """

    conversation_id: str
    position: str
    last_seq: int
    turn: TurnSoFar | None = None
    missed: tuple[StoredChunk, ...] = ()
    missed_after: int | None = None


class ReadMoved(Frame, frozen=True, tag="chat.read"):
    """The user read up to `last_read_seq` on another device."""

    conversation_id: str
    last_read_seq: int
    unread: int


class Truncated(Frame, frozen=True, tag="conversation.truncated"):
    """What is behind this turn (None: everything) does not count any more: the chunks behind
    `after_seq`, up to `last_seq`.
    """

    conversation_id: str
    position: str | None = None
    after_seq: int = 0
    last_seq: int = 0
    after_turn: str | None = None


class Deleted(Frame, frozen=True, tag="conversation.deleted"):
    """The conversation is gone for ever."""

    conversation_id: str


class ChatError(Frame, frozen=True, tag="chat.error"):
    """A refusal."""

    message: str
    code: str | None = None
    retryable: bool = False
    retry_after_ms: int | None = None
    conversation_id: str | None = None
    ref: str | None = None

    def failure(self) -> DispatchError:
        """The exception that stands for it."""
        return failure_from_wire(
            self.message,
            self.code,
            retryable=self.retryable,
            retry_after_ms=self.retry_after_ms,
        )


class PlainError(ChatError, frozen=True, tag="error"):
    """A refusal that belongs to no conversation."""


class Reconnecting(Frame, frozen=True, tag="client.reconnecting"):
    """The client's own word: the connection is lost and will be resumed; nothing is missed."""

    reason: str


class UnknownEvent(msgspec.Struct, frozen=True):
    """An event of a kind that this client does not know."""

    type: str


class Delta(msgspec.Struct, frozen=True):
    """One event of a turn, with its place in the conversation."""

    conversation_id: str
    turn_id: str
    event: AnyEvent | UnknownEvent
    frame: DeltaFrame

    @property
    def position(self) -> str | None:
        """Give it to `follow(after=…)` to go on from here, also in another process."""
        return self.frame.position

    @property
    def text(self) -> str:
        """What it adds to the answer; empty for every event but `TextDelta`."""
        return self.event.delta if isinstance(self.event, TextDelta) else ""


ConversationFrame = (
    Subscribed | History | Delta | RequestOpened | RequestDone | Snapshot | ReadMoved | Truncated
)
"""What belongs to a follower's conversation."""

Item = ConversationFrame | Reconnecting
"""What following a conversation yields."""


_ENCODER: Final = msgspec.json.Encoder()


def encode_item(item: Item | Accepted) -> bytes:
    """An item as the frame it came in."""
    return _ENCODER.encode(item.frame if isinstance(item, Delta) else item)
