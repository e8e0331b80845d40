"""What everybody in an account is told about its conversations; state, not history.

Neighbours: `runtime.feed` gathers and fans these out, dialects give them their wire form.
Invariant: a notice with a `user` is for that user's connections alone.
"""

from __future__ import annotations

import msgspec

from dispatch.core.conversation import Status
from dispatch.core.identity import AccountId, ConversationId, UserId


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Something changed in an account; `user` where only that person may know."""

    account: AccountId
    conversation: ConversationId
    user: UserId | None = None


class Opened(Notice, frozen=True, kw_only=True):
    """Somebody opened the conversation."""

    workspace: str


class StatusNotice(Notice, frozen=True, kw_only=True):
    """A turn began, the conversation fell idle, or it was closed."""

    workspace: str
    status: Status


class TitleNotice(Notice, frozen=True, kw_only=True):
    """The title changed."""

    title: str


class DeletedNotice(Notice, frozen=True, kw_only=True):
    """The conversation is gone for ever."""


class ReadNotice(Notice, frozen=True, kw_only=True):
    """A user read up to `last_read_seq`; `unread` chunks are after it."""

    last_read_seq: int
    unread: int


AnyNotice = Opened | StatusNotice | TitleNotice | DeletedNotice | ReadNotice
