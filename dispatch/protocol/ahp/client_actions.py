"""What a client may dispatch, typed: one class an action, read strictly.

Neighbours: `validation` says whether the state allows it, `intents` what the core is to do.
Source: `protocol/ahp.md`; canonical shapes, so an older client's action is brought up first.
Invariant: an action that was read has every member that reducers look at, in its type; members
nobody knows are kept in the object beside, for the echo.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from dispatch.protocol.codec import Object

ID_CHARACTERS_MAX: Final = 256
"""A client's id of a turn, message, question or itself: VS Code's have 44 characters."""
TITLE_CHARACTERS_MAX: Final = 1_000
"""More than any list shows."""
PENDING_MAX: Final = 1_000
"""How many ids an order may name: more messages never wait."""

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_CHARACTERS_MAX)]
Title = Annotated[str, msgspec.Meta(max_length=TITLE_CHARACTERS_MAX)]
Meta = dict[str, Any]


class _Shape(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A shape inside of an action."""


class Attachment(_Shape, frozen=True, kw_only=True):
    """Beside a message; which members there are depends on the type."""

    type: str
    label: str
    data: str | None = None
    content_type: str | None = None
    uri: str | None = None
    resource: str | None = None
    end_turn: str | None = None
    model_representation: str | None = None


class Model(_Shape, frozen=True, kw_only=True):
    """Which model is to answer."""

    id: str


class Origin(_Shape, frozen=True, kw_only=True):
    """Who says a message; a client speaks for its user alone."""

    kind: Literal["user"]


class Message(_Shape, frozen=True, kw_only=True):
    """What a user says."""

    text: str
    origin: Origin
    attachments: list[Attachment] = []
    model: Model | None = None


class AnswerValue(_Shape, frozen=True, kw_only=True):
    """A value, in the type that its kind names."""

    kind: Literal["text", "number", "boolean", "selected", "selected-many"]
    value: str | bool | int | float | list[str]


class Answer(_Shape, frozen=True, kw_only=True):
    """An answer to one question."""

    state: Literal["draft", "submitted", "skipped"]
    value: AnswerValue | None = None


class ActiveClient(_Shape, frozen=True, kw_only=True):
    """A client that takes part in a session."""

    client_id: Id
    tools: list[Meta]
    display_name: str | None = None


class ClientAction(_Shape, frozen=True, kw_only=True, tag_field="type"):
    """An action that clients may dispatch."""


class RootConfigChanged(ClientAction, frozen=True, kw_only=True, tag="root/configChanged"):
    """Settings of the host: it has none, and nothing changes."""

    config: Meta
    replace: bool = False


class TitleChanged(ClientAction, frozen=True, kw_only=True, tag="session/titleChanged"):
    """A session's title."""

    title: Title


class SessionRead(ClientAction, frozen=True, kw_only=True, tag="session/isReadChanged"):
    """A session was read, or is to be again."""

    is_read: bool


class SessionArchived(ClientAction, frozen=True, kw_only=True, tag="session/isArchivedChanged"):
    """A session goes to the archive or comes back."""

    is_archived: bool


class SessionConfigChanged(ClientAction, frozen=True, kw_only=True, tag="session/configChanged"):
    """A session's settings."""

    config: Meta
    replace: bool = False


class ActiveClientSet(ClientAction, frozen=True, kw_only=True, tag="session/activeClientSet"):
    """A client takes part."""

    active_client: ActiveClient


class ActiveClientRemoved(
    ClientAction, frozen=True, kw_only=True, tag="session/activeClientRemoved"
):
    """A client takes part no more."""

    client_id: Id


class DefaultChatChanged(ClientAction, frozen=True, kw_only=True, tag="session/defaultChatChanged"):
    """Which chat is shown first."""

    default_chat: str | None = None


class TurnStarted(ClientAction, frozen=True, kw_only=True, tag="chat/turnStarted"):
    """A message that is to be answered now; `turn_id` is the client's."""

    turn_id: Id
    message: Message
    started_at: str
    queued_message_id: Id | None = None


class TurnCancelled(ClientAction, frozen=True, kw_only=True, tag="chat/turnCancelled"):
    """The running turn is to stop."""

    turn_id: Id


class TurnResumed(ClientAction, frozen=True, kw_only=True, tag="chat/turnResume"):
    """The failed turn is to go on."""

    turn_id: Id


class _OfCall(ClientAction, frozen=True, kw_only=True):
    turn_id: Id
    tool_call_id: Id


class CallConfirmed(_OfCall, frozen=True, kw_only=True, tag="chat/toolCallConfirmed"):
    """A tool call may run, or may not."""

    approved: bool
    confirmed: Literal["not-needed", "user-action", "setting"] | None = None
    reason: Literal["denied", "skipped"] | None = None
    reason_message: str | Meta | None = None
    user_suggestion: Message | None = None
    edited_tool_input: str | None = None
    selected_option_id: str | None = None


class CallResultConfirmed(_OfCall, frozen=True, kw_only=True, tag="chat/toolCallResultConfirmed"):
    """A tool call's result may be used, or may not."""

    approved: bool


class PendingSet(ClientAction, frozen=True, kw_only=True, tag="chat/pendingMessageSet"):
    """A message that waits: to steer the running turn, or for its end."""

    kind: Literal["steering", "queued"]
    id: Id
    message: Message


class PendingRemoved(ClientAction, frozen=True, kw_only=True, tag="chat/pendingMessageRemoved"):
    """A message waits no more."""

    kind: Literal["steering", "queued"]
    id: Id


class QueueReordered(ClientAction, frozen=True, kw_only=True, tag="chat/queuedMessagesReordered"):
    """In which order messages wait."""

    order: Annotated[list[str], msgspec.Meta(max_length=PENDING_MAX)]


class DraftChanged(ClientAction, frozen=True, kw_only=True, tag="chat/draftChanged"):
    """What is being written, on every device of its user."""

    draft: Message | None = None


class AnswerChanged(ClientAction, frozen=True, kw_only=True, tag="chat/inputAnswerChanged"):
    """A draft of an answer."""

    request_id: Id
    question_id: Id
    answer: Answer | None = None


class InputCompleted(ClientAction, frozen=True, kw_only=True, tag="chat/inputCompleted"):
    """The answer to an agent's questions."""

    request_id: Id
    response: Literal["accept", "decline", "cancel"]
    answers: dict[str, Answer] = {}


class Truncated(ClientAction, frozen=True, kw_only=True, tag="chat/truncated"):
    """Turns are to be forgotten: those after this one, or all."""

    turn_id: Id | None = None


class ChatRead(ClientAction, frozen=True, kw_only=True, tag="chat/isReadChanged"):
    """A chat was read, or is to be again."""

    is_read: bool


class ChatArchived(ClientAction, frozen=True, kw_only=True, tag="chat/isArchivedChanged"):
    """A chat goes to the archive or comes back."""

    is_archived: bool


AnyClientAction = (
    RootConfigChanged
    | TitleChanged
    | SessionRead
    | SessionArchived
    | SessionConfigChanged
    | ActiveClientSet
    | ActiveClientRemoved
    | DefaultChatChanged
    | TurnStarted
    | TurnCancelled
    | TurnResumed
    | CallConfirmed
    | CallResultConfirmed
    | PendingSet
    | PendingRemoved
    | QueueReordered
    | DraftChanged
    | AnswerChanged
    | InputCompleted
    | Truncated
    | ChatRead
    | ChatArchived
)

DISPATCHABLE: Final = frozenset(
    str(struct.__struct_config__.tag) for struct in AnyClientAction.__args__
)
"""The types of all of them."""


def read_action(action: Object) -> AnyClientAction:
    """The action, typed; raises `msgspec.ValidationError`, whose text says where and why.

    The action itself, not this, is what is folded and echoed; no null may be in its own members,
    for null there means absent and an echo must not say otherwise.
    """
    if None in action.values():
        raise msgspec.ValidationError("Expected no null: leave the member out")
    read: AnyClientAction = msgspec.convert(action, AnyClientAction)
    return read
