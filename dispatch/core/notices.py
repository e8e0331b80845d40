"""What everybody in an account is told of its conversations and groups; state, not history.

Neighbours: `runtime.feed` gathers and fans these out, dialects give them their wire form.
Invariant: a notice with a `user` is for that user's connections alone.
"""

from __future__ import annotations

import msgspec

from dispatch.core.conversation import Status
from dispatch.core.group import GroupView
from dispatch.core.identity import AccountId, ConversationId, UserId


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Something changed in an account; `user` where only that person may know."""

    account: AccountId
    user: UserId | None = None


class OfConversation(Notice, frozen=True, kw_only=True):
    """Something changed about one conversation."""

    conversation: ConversationId


class Opened(OfConversation, frozen=True, kw_only=True):
    """Somebody opened the conversation."""

    workspace: str


class StatusNotice(OfConversation, frozen=True, kw_only=True):
    """A turn began, the conversation fell idle, or it was closed."""

    workspace: str
    status: Status


class TitleNotice(OfConversation, frozen=True, kw_only=True):
    """The title changed."""

    title: str


class DeletedNotice(OfConversation, frozen=True, kw_only=True):
    """The conversation is gone for ever."""


class ReadNotice(OfConversation, frozen=True, kw_only=True):
    """A user read up to `last_read_seq`; `unread` chunks are after it."""

    last_read_seq: int
    unread: int


class GroupChangedNotice(Notice, frozen=True, kw_only=True):
    """A group was made, or has another title, other members or a member's new conversation."""

    view: GroupView


class GroupDeletedNotice(Notice, frozen=True, kw_only=True):
    """The group is gone for ever."""

    group: str


AnyConversationNotice = Opened | StatusNotice | TitleNotice | DeletedNotice | ReadNotice
AnyNotice = AnyConversationNotice | GroupChangedNotice | GroupDeletedNotice
