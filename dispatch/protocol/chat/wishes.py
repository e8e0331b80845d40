"""Frames of the native dialect that clients send, one type for each.

Neighbours: `requests` reads them and has the last word about them, `kinds` is the other way.
Source: `protocol/native.md`, 1.2 and Part 2.
Invariant: an optional field may be null, which is as good as absent; a field that is not here is
passed over.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dispatch.core.commands import OnBusy, ReasoningEffort
from dispatch.core.events import Image, Response
from dispatch.protocol.chat.requests import LABEL_CHARACTERS_MAX
from dispatch.protocol.chat.wire import Count, Position, Ref

Id = Annotated[str, Meta(pattern="^[A-Za-z0-9._:-]{1,128}$")]
Text = Annotated[str, Meta(min_length=1)]
Label = Annotated[str, Meta(min_length=1, max_length=LABEL_CHARACTERS_MAX)]
ClientId = Annotated[str, Meta(min_length=1, max_length=128)]
Path = Annotated[str, Meta(min_length=1, max_length=4096)]
SentImage = Annotated[
    Image, Meta(description="Its `url` is a data, http or https URL, which is passed on unread.")
]


class ClientFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", rename="camel"):
    """One JSON object from a client. `ref` is echoed in its reply, on `dispatch.v1`."""

    ref: Ref | UnsetType | None = UNSET


class SendFields(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a message may bring along, as a frame and as a body.

    Without `conversationId` a conversation is made. The same `clientMessageId` with the same
    message and images again is answered as the first time, and does nothing. `onBusy` says what
    becomes of it while a turn runs; `reject` unless given.
    """

    conversation_id: Id | UnsetType | None = UNSET
    model: Label | UnsetType | None = UNSET
    cwd: Path | UnsetType | None = UNSET
    reasoning_effort: ReasoningEffort | UnsetType | None = UNSET
    workspace_id: Label | UnsetType | None = UNSET
    computer_id: str | UnsetType | None = UNSET
    images: tuple[SentImage, ...] | UnsetType | None = UNSET
    client_message_id: ClientId | UnsetType | None = UNSET
    on_busy: OnBusy | UnsetType = UNSET


class AuthFrame(ClientFrame, frozen=True, kw_only=True, tag="auth"):
    """Who one is: the first frame, where the upgrade did not say so."""

    token: str


class ChatSendFrame(SendFields, frozen=True, kw_only=True, tag_field="type", tag="chat.send"):
    """Say something, and watch the conversation. The message is not trimmed."""

    message: Text
    ref: Ref | UnsetType | None = UNSET


class ChatQueueFrame(ClientFrame, frozen=True, kw_only=True, tag="chat.queue"):
    """Say something once everything before it is answered. Blank text is refused."""

    conversation_id: Id
    text: Annotated[str, Meta(pattern=r"\S")]
    workspace_id: Label | UnsetType | None = UNSET
    client_message_id: ClientId | UnsetType | None = UNSET


class ChatQueueCancelFrame(ClientFrame, frozen=True, kw_only=True, tag="chat.queue.cancel"):
    """Take a queued message back; nothing if it is gone already. Answered if it has a `ref`."""

    conversation_id: Id
    message_id: Text


class ChatQueueReorderFrame(ClientFrame, frozen=True, kw_only=True, tag="chat.queue.reorder"):
    """Let these queued messages run first, in this order; who does not wait is passed over."""

    conversation_id: Id
    message_ids: tuple[Text, ...]


class ChatSubscribeFrame(ClientFrame, frozen=True, kw_only=True, tag="chat.subscribe"):
    """Watch. `after`: go on behind this position. `sinceSeq`: history first. Not both of them."""

    conversation_id: Id
    after: Position | UnsetType | None = UNSET
    since_seq: Count | UnsetType | None = UNSET


class ChatUnsubscribeFrame(ClientFrame, frozen=True, kw_only=True, tag="chat.unsubscribe"):
    """Watch no more."""

    conversation_id: Id


class ChatStopFrame(ClientFrame, frozen=True, kw_only=True, tag="chat.stop"):
    """End the running turn, or only this one."""

    conversation_id: Id
    turn_id: Text | UnsetType | None = UNSET


class ChatTruncateFrame(ClientFrame, frozen=True, kw_only=True, tag="chat.truncate"):
    """Keep what is said up to and including a sealed turn (null: nothing), ending what runs.

    The same `clientMessageId` with the same turn again is answered as the first time.
    """

    conversation_id: Id
    after_turn: Text | None
    client_message_id: ClientId | UnsetType | None = UNSET


class ChatResumeFrame(ClientFrame, frozen=True, kw_only=True, tag="chat.resume"):
    """Let the last turn go on, which failed or was interrupted, in a turn without a message.

    Otherwise as `chat.send`.
    """

    conversation_id: Id
    turn_id: Text
    client_message_id: ClientId | UnsetType | None = UNSET


class ChatForkFrame(ClientFrame, frozen=True, kw_only=True, tag="chat.fork"):
    """A new conversation with the history up to and including a sealed turn. A `sideChat` begins
    empty, and its agent knows that history; its turn may be the running one.
    """

    conversation_id: Id
    turn_id: Text
    side_chat: bool | UnsetType | None = UNSET


class ChatRespondFrame(Response, frozen=True, kw_only=True, tag_field="type", tag="chat.respond"):
    """Answer a request: an approval by `approved` or `optionId` (both must agree), an input by
    `action`.
    """

    conversation_id: Id
    ref: Ref | UnsetType | None = UNSET


class ChatReadFrame(ClientFrame, frozen=True, kw_only=True, tag="chat.read"):
    """Move the user's read cursor, forward only."""

    conversation_id: Id
    up_to_seq: Count


class ConversationsWatchFrame(ClientFrame, frozen=True, kw_only=True, tag="conversations.watch"):
    """Be told of the whole account: `conversation.*`, `group.changed` and `group.deleted`."""


class PingFrame(ClientFrame, frozen=True, kw_only=True, tag="ping"):
    """Ask for a `pong`; browsers cannot send a ping of the protocol's own."""


class SurfaceSubscribeFrame(ClientFrame, frozen=True, kw_only=True, tag="subscribe"):
    """See a surface from now on: `message-queue` of a conversation."""

    surface_id: Text
    conversation_id: Id | UnsetType | None = UNSET


class SurfaceUnsubscribeFrame(ClientFrame, frozen=True, kw_only=True, tag="unsubscribe"):
    """See it no more."""

    surface_id: Text
    conversation_id: Id | UnsetType | None = UNSET


class SurfaceInvokeFrame(ClientFrame, frozen=True, kw_only=True, tag="invoke"):
    """Do what a surface offers; the queue offers nothing."""

    surface_id: Text
    conversation_id: Id | UnsetType | None = UNSET
    action_id: str | UnsetType | None = UNSET
    payload: Any = UNSET


CLIENT_FRAMES: Final[tuple[type[msgspec.Struct], ...]] = (
    AuthFrame,
    ChatSendFrame,
    ChatQueueFrame,
    ChatQueueCancelFrame,
    ChatQueueReorderFrame,
    ChatSubscribeFrame,
    ChatUnsubscribeFrame,
    ChatStopFrame,
    ChatTruncateFrame,
    ChatResumeFrame,
    ChatForkFrame,
    ChatRespondFrame,
    ChatReadFrame,
    ConversationsWatchFrame,
    PingFrame,
    SurfaceSubscribeFrame,
    SurfaceUnsubscribeFrame,
    SurfaceInvokeFrame,
)
