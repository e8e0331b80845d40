"""What travels on the routes of chat sessions, as types: for clients, tests and `openapi.json`.

Neighbours: `frames` writes what is answered, `requests` reads bodies and has the last word about
them; `client.chats` reads replies with these. A daemon that says more than this is understood all
the same.
Invariant: what may be absent on the wire is `UNSET` here, what may be null is None.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dispatch.protocol.sessions.requests import ID_CHARACTERS_MAX, TITLE_CHARACTERS_MAX

Word = Annotated[str, Meta(min_length=1, max_length=ID_CHARACTERS_MAX)]
Title = Annotated[str, Meta(min_length=1, max_length=TITLE_CHARACTERS_MAX)]

Role = Literal["user", "assistant"]
MessageStatus = Literal["complete", "streaming", "failed", "cancelled", "no_response"]


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object of this dialect."""


class ChatSession(Wire, frozen=True):
    """A chat session."""

    id: str
    workspace_id: str
    agent_key: str
    creator_id: str
    title: str
    status: Literal["active", "archived"]
    created_at: str
    updated_at: str
    next_seq: int
    last_read_seq: int
    archived_at: str | None


class ChatMessage(Wire, frozen=True):
    """A message; `streaming` ones have the text so far."""

    id: str
    chat_session_id: str
    role: Role
    content: str
    task_id: str | None
    created_at: str
    seq: int
    status: MessageStatus
    failure_reason: str | None
    elapsed_ms: int | None
    client_message_id: str | None


class LastMessage(Wire, frozen=True):
    """What a list shows of a session's newest message."""

    content: str
    role: Role
    created_at: str
    failure_reason: str | None


class ChatListItem(ChatSession, frozen=True):
    """A session in a list."""

    unread_count: int
    has_unread: bool
    last_message: LastMessage | None
    agent_typing: bool


class ChatList(Wire, frozen=True):
    """`GET /v1/chat`: newest activity first, and the id from which to follow."""

    sessions: tuple[ChatListItem, ...]
    unread_total: int
    next_cursor: str | None
    cursor: int


class ChatTask(Wire, frozen=True):
    """A task that is not over."""

    task_id: str
    status: Literal["queued", "running"]
    created_at: str


class PendingTask(ChatTask, frozen=True):
    """The first task that is not over, and those behind it."""

    queued_tasks: tuple[ChatTask, ...]


class NoTask(Wire, frozen=True):
    """`GET /v1/chat/:id/pending-task` where there is none: an empty object."""


class ChatDetail(ChatSession, frozen=True):
    """`GET /v1/chat/:id`: messages ascending, the newest so many."""

    unread_count: int
    has_unread: bool
    agent_typing: bool
    messages: tuple[ChatMessage, ...]
    pending: PendingTask | None
    requests: list[dict[str, Any]]
    has_more: bool
    cursor: int


class ChatSent(Wire, frozen=True):
    """`POST /v1/chat/:id/messages`; `response` only with `wait`, null where time ran out."""

    message_id: str
    task_id: str
    queued: bool
    created_at: str
    message: ChatMessage
    response: ChatMessage | UnsetType | None = UNSET
    duplicate: bool | UnsetType = UNSET


class ChatRead(Wire, frozen=True):
    """`POST /v1/chat/:id/read`: where the cursor is, and what is behind it."""

    chat_session_id: str
    last_read_seq: int
    unread_count: int


class ChatTyping(Wire, frozen=True):
    """`POST /v1/chat/:id/typing`."""

    chat_session_id: str
    typing: bool


class ChatCancelled(Wire, frozen=True):
    """`POST /v1/chat/:id/cancel`: what became of the task; `idle` where there was none."""

    task_id: str | None
    status: Literal["complete", "streaming", "failed", "cancelled", "no_response", "idle"]


class ChatPurged(Wire, frozen=True):
    """`DELETE /v1/chat/:id?purge=true`."""

    id: str
    purged: bool


class ChatRefusal(Wire, frozen=True):
    """Every error of these routes; `details` where the body or the query is wrong."""

    error: str
    code: str
    details: tuple[str, ...] | UnsetType = UNSET


class ChatFrame(Wire, frozen=True):
    """One `data:` of a person's event stream; what `data` is depends on `event`."""

    event: Literal[
        "connected",
        "resync_required",
        "shutdown",
        "chat_message",
        "chat_message_delta",
        "chat_typing",
        "chat_session_read",
        "chat_session_created",
        "chat_session_updated",
        "chat_session_archived",
        "chat_session_restored",
        "chat_session_deleted",
        "chat_task_failed",
        "chat_task_cancelled",
        "chat_request",
        "chat_request_closed",
    ]
    id: int | UnsetType = UNSET
    session_id: str | UnsetType = msgspec.field(default=UNSET, name="sessionId")
    timestamp: str | UnsetType = UNSET
    data: dict[str, Any] | UnsetType = UNSET


# ---------------------------------------------------------------- bodies


class Body(Wire, frozen=True, forbid_unknown_fields=True):
    """What a client sends: strict, a key that nobody knows is refused. Camel case passes, too."""


class CreateChatBody(Body, frozen=True):
    """`POST /v1/chat`."""

    agent_key: Word
    title: Annotated[str, Meta(max_length=TITLE_CHARACTERS_MAX)] | UnsetType | None = UNSET
    workspace_id: Title | UnsetType | None = UNSET


class ChatMessageBody(Body, frozen=True):
    """`POST /v1/chat/:id/messages`."""

    content: Annotated[str, Meta(min_length=1)]
    client_message_id: Word | UnsetType | None = UNSET


class RenameChatBody(Body, frozen=True):
    """`PATCH /v1/chat/:id`."""

    title: Title


class ReadChatBody(Body, frozen=True):
    """`POST /v1/chat/:id/read`; without a seq, as far as it goes."""

    up_to_seq: Annotated[int, Meta(ge=0)] | UnsetType | None = UNSET


class ChatTypingBody(Body, frozen=True):
    """`POST /v1/chat/:id/typing`."""

    typing: bool
    device_id: Word | UnsetType | None = UNSET


class CancelChatBody(Body, frozen=True):
    """`POST /v1/chat/:id/cancel`; without a task, the running one, else the oldest queued."""

    task_id: Word | UnsetType | None = UNSET
