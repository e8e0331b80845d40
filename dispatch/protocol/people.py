"""What travels on the routes about a person, as types: for `openapi.json`, clients and tests.

Neighbours: `server.routes_users` writes it, `client.people` reads replies with these. An export is
in the words of two dialects: conversations are `chat.schema`'s, sessions `sessions.schema`'s.
Source: `protocol/native.md`, 2.5.
Invariant: what may be absent on the wire is `UNSET` here, what may be null is None.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from dispatch.core.events import Image
from dispatch.protocol.chat.schema import EXPORT_LINES, Wire
from dispatch.protocol.chat.wire import Count, EpochMs
from dispatch.protocol.sessions.schema import ChatMessage, ChatSession


class UserLine(Wire, frozen=True, kw_only=True, tag_field="type", tag="user"):
    """The first line of a person's export."""

    account: str
    user: str
    exported_at: EpochMs


class ChatSessionLine(Wire, frozen=True, kw_only=True, tag_field="type", tag="chat-session"):
    """The conversation before it is this chat session; its messages are the lines behind it."""

    session: ChatSession


class ChatMessageLine(Wire, frozen=True, kw_only=True, tag_field="type", tag="chat-message"):
    """A message of a chat session that is over."""

    message: ChatMessage


class ReadLine(Wire, frozen=True, kw_only=True, tag_field="type", tag="read"):
    """How far the person has read; a chat session's `id` is its conversation's."""

    of: Literal["conversation", "group", "chat"]
    id: str
    last_read_seq: Count


class SaidLine(Wire, frozen=True, kw_only=True, tag_field="type", tag="said"):
    """What the person said in a conversation that is not theirs alone, or to a group.

    Of a conversation `turn_id`, of a group `seq`; `cancelled` ones were taken back in time.
    """

    said_at: EpochMs
    state: Literal["waiting", "running", "kept", "cancelled"]
    text: str
    conversation_id: str | UnsetType = UNSET
    turn_id: str | UnsetType = UNSET
    group_id: str | UnsetType = UNSET
    seq: int | UnsetType = UNSET
    images: tuple[Image, ...] | UnsetType = UNSET


class GroupLine(Wire, frozen=True, kw_only=True, tag_field="type", tag="group"):
    """A group that the person made, wrote `messages` to, or read."""

    group_id: str
    title: str
    created_at: EpochMs
    is_maker: bool
    messages: Count


class WholeLine(Wire, frozen=True, kw_only=True, tag_field="type", tag="whole"):
    """The last line of a person's export that is whole; conversations without chat sessions."""

    conversations: Count
    chat_sessions: Count
    read_cursors: Count
    messages: Count
    groups: Count


USER_EXPORT_LINES: Final[tuple[type[msgspec.Struct], ...]] = (
    UserLine,
    *EXPORT_LINES,
    ChatSessionLine,
    ChatMessageLine,
    ReadLine,
    SaidLine,
    GroupLine,
    WholeLine,
)


class RemovedOfUser(Wire, frozen=True, kw_only=True):
    """What went; `waiting_messages` had been taken back before they had a turn."""

    conversations: Count
    chat_sessions: Count
    read_cursors: Count
    waiting_messages: Count


class StayedOfUser(Wire, frozen=True, kw_only=True):
    """What stays: conversations that the person began and a group has, groups that they made, and
    messages in what is not theirs alone.
    """

    conversations: Count
    groups: Count
    messages: Count


class UserForgotten(Wire, frozen=True, kw_only=True):
    """`DELETE /users/:user`; `turns_ended` ran or waited in conversations of others."""

    account: str
    user: str
    turns_ended: Count
    removed: RemovedOfUser
    stayed: StayedOfUser
