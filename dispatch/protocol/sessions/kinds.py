"""What a person's event stream says, one type for each event, and the frames of a WebSocket.

Neighbours: `frames` writes these, `requests` reads what clients send; `schema` has `ChatFrame`,
which reads any of them. Source: `protocol/chat-sessions.md`, 3 and 4.
Invariant: what may be absent on the wire is `UNSET` here, what may be null is None. A later server
may say more: clients ignore fields and events that they do not know.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dispatch.core.events import RequestOutcome
from dispatch.protocol.sessions.schema import ChatMessage, ChatRead, ChatSession

AgentRequest = Annotated[dict[str, Any], Meta(extra_json_schema={"$ref": "AgentRequest"})]
EventId = Annotated[int, Meta(ge=0, description="Grows; what a stream resumes from.")]


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object of this dialect."""


# -- what is in them ---------------------------------------------------------------------------


class ChatCursor(Wire, frozen=True, kw_only=True):
    """What follows has larger ids."""

    cursor: EventId


class ChatDelta(Wire, frozen=True, kw_only=True):
    """More of an answer, behind `offset` UTF-16 code units of its content."""

    chat_session_id: str
    task_id: str
    message_id: str
    text: str
    offset: int


class ChatTypingState(Wire, frozen=True, kw_only=True):
    """Somebody types, or does not any more; a person's has the `device_id` as it was given."""

    chat_session_id: str
    by: Literal["agent", "user"]
    typing: bool
    phase: Literal["queued", "running"] | None
    device_id: str | UnsetType | None = UNSET


class CountedChatSession(ChatSession, frozen=True, kw_only=True):
    """A session and what is unread in it."""

    unread_count: int


class ChatTaskEnd(Wire, frozen=True, kw_only=True):
    """A task that ended without an answer."""

    chat_session_id: str
    task_id: str | None
    failure_reason: str | None


class ChatAsked(Wire, frozen=True, kw_only=True):
    """What an agent asks; answered at `POST /conversations/:id/requests/:requestId`."""

    chat_session_id: str
    task_id: str
    request: AgentRequest


class ChatAskedNoMore(Wire, frozen=True, kw_only=True):
    """A request that is closed for everybody; `by` is the user who answered."""

    chat_session_id: str
    task_id: str
    request_id: str
    outcome: RequestOutcome
    by: str | None


# -- events ------------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """One `data:` of a person's event stream."""


class SessionEvent(Event, frozen=True, kw_only=True):
    """An event of one session; without an `id` it is not kept, and is not replayed."""

    session_id: str = msgspec.field(name="sessionId")
    timestamp: str


class KeptEvent(SessionEvent, frozen=True, kw_only=True):
    """An event that is replayed to who asks for what is behind an earlier id."""

    id: EventId


class ConnectedEvent(Event, frozen=True, kw_only=True, tag="connected"):
    """The first one."""

    data: ChatCursor


class ResyncRequiredEvent(Event, frozen=True, kw_only=True, tag="resync_required"):
    """What was asked for cannot be replayed: read the snapshots; live goes on."""

    data: ChatCursor


class ShutdownEvent(Event, frozen=True, kw_only=True, tag="shutdown"):
    """The last one of a daemon that goes."""


class ChatMessageEvent(KeptEvent, frozen=True, kw_only=True, tag="chat_message"):
    """A message, once: a person's when it is accepted, an answer's when it is over."""

    data: ChatMessage


class ChatMessageDeltaEvent(SessionEvent, frozen=True, kw_only=True, tag="chat_message_delta"):
    """More of an answer, to who asked for `deltas`."""

    data: ChatDelta


class ChatTypingEvent(SessionEvent, frozen=True, kw_only=True, tag="chat_typing"):
    """The agent has something to do, or a person types."""

    data: ChatTypingState
    id: EventId | UnsetType = UNSET


class ChatSessionReadEvent(KeptEvent, frozen=True, kw_only=True, tag="chat_session_read"):
    """The user read up to a message."""

    data: ChatRead


class ChatSessionCreatedEvent(KeptEvent, frozen=True, kw_only=True, tag="chat_session_created"):
    """A session was made."""

    data: ChatSession


class ChatSessionUpdatedEvent(KeptEvent, frozen=True, kw_only=True, tag="chat_session_updated"):
    """A session was named."""

    data: ChatSession


class ChatSessionArchivedEvent(KeptEvent, frozen=True, kw_only=True, tag="chat_session_archived"):
    """A session was put away."""

    data: CountedChatSession


class ChatSessionRestoredEvent(KeptEvent, frozen=True, kw_only=True, tag="chat_session_restored"):
    """A session was taken back."""

    data: CountedChatSession


class ChatSessionDeletedEvent(KeptEvent, frozen=True, kw_only=True, tag="chat_session_deleted"):
    """A session is gone for ever."""

    data: ChatSession


class ChatTaskFailedEvent(KeptEvent, frozen=True, kw_only=True, tag="chat_task_failed"):
    """A task failed; its message came before."""

    data: ChatTaskEnd


class ChatTaskCancelledEvent(KeptEvent, frozen=True, kw_only=True, tag="chat_task_cancelled"):
    """A task was cancelled; its message came before."""

    data: ChatTaskEnd


class ChatRequestEvent(KeptEvent, frozen=True, kw_only=True, tag="chat_request"):
    """The agent asks."""

    data: ChatAsked


class ChatRequestClosedEvent(KeptEvent, frozen=True, kw_only=True, tag="chat_request_closed"):
    """A request was answered, or is over without an answer."""

    data: ChatAskedNoMore


STREAM_EVENTS: Final[tuple[type[msgspec.Struct], ...]] = (
    ConnectedEvent,
    ResyncRequiredEvent,
    ShutdownEvent,
    ChatMessageEvent,
    ChatMessageDeltaEvent,
    ChatTypingEvent,
    ChatSessionReadEvent,
    ChatSessionCreatedEvent,
    ChatSessionUpdatedEvent,
    ChatSessionArchivedEvent,
    ChatSessionRestoredEvent,
    ChatSessionDeletedEvent,
    ChatTaskFailedEvent,
    ChatTaskCancelledEvent,
    ChatRequestEvent,
    ChatRequestClosedEvent,
)

# -- on a WebSocket ----------------------------------------------------------------------------


class ChatsEventFrame(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="chats.event"
):
    """An event of the stream, with a `type` in front of its own fields.

    `ref` is the one of `chats.subscribe`, on its reply: `connected`.
    """

    ref: str | int | UnsetType = UNSET


class ChatsSubscribeFrame(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="chats.subscribe"
):
    """Follow one's sessions, from behind an event or live from now. `connected` is the reply."""

    last_event_id: int | str | UnsetType | None = msgspec.field(default=UNSET, name="lastEventId")
    deltas: bool | UnsetType | None = UNSET
    ref: str | int | UnsetType | None = UNSET


class ChatsUnsubscribeFrame(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="chats.unsubscribe"
):
    """Follow them no more; there is no reply."""

    ref: str | int | UnsetType | None = UNSET


CLIENT_FRAMES: Final[tuple[type[msgspec.Struct], ...]] = (
    ChatsSubscribeFrame,
    ChatsUnsubscribeFrame,
)
SERVER_FRAMES: Final[tuple[type[msgspec.Struct], ...]] = (ChatsEventFrame,)
