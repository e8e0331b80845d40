"""What a client's frame asks for, once it was read: one class a frame.

Neighbours: `requests` makes these, `server.connection` carries them out; `wishes` are the frames as
they are published.
Invariant: nothing behind these validates a field again.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dispatch.core.commands import Send, Subscribe, Truncate
from dispatch.core.events import Response
from dispatch.core.identity import ConversationId, TurnId


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What every frame may carry: `ref` is echoed in its reply."""

    ref: str | int | None = None


class ChatSend(Frame, frozen=True, kw_only=True):
    """`chat.send`, or `chat.queue` (which never subscribes a sender who has to wait)."""

    send: Send
    is_queue: bool = False


class ChatSubscribe(Frame, frozen=True, kw_only=True):
    """`chat.subscribe`."""

    subscribe: Subscribe


class ChatUnsubscribe(Frame, frozen=True, kw_only=True):
    """`chat.unsubscribe`."""

    conversation: ConversationId


class ChatQueueCancel(Frame, frozen=True, kw_only=True):
    """`chat.queue.cancel`."""

    conversation: ConversationId
    message: TurnId


class ChatQueueReorder(Frame, frozen=True, kw_only=True):
    """`chat.queue.reorder`."""

    conversation: ConversationId
    messages: tuple[TurnId, ...]


class ChatStop(Frame, frozen=True, kw_only=True):
    """`chat.stop`."""

    conversation: ConversationId
    turn: TurnId | None = None


class ChatTruncate(Frame, frozen=True, kw_only=True):
    """`chat.truncate`."""

    truncate: Truncate


class ChatFork(Frame, frozen=True, kw_only=True):
    """`chat.fork`."""

    conversation: ConversationId
    turn: TurnId
    is_side_chat: bool = False


class ChatRespond(Frame, frozen=True, kw_only=True):
    """`chat.respond`."""

    conversation: ConversationId
    response: Response


class ChatRead(Frame, frozen=True, kw_only=True):
    """`chat.read`."""

    conversation: ConversationId
    up_to_seq: int


class ConversationsWatch(Frame, frozen=True, kw_only=True):
    """`conversations.watch`: tell this connection its account's notices."""


class Ping(Frame, frozen=True, kw_only=True):
    """`ping`, for browsers, which cannot send one of their own."""


class SurfaceFrame(Frame, frozen=True, kw_only=True):
    """`subscribe`, `unsubscribe` or `invoke` of a surface."""

    verb: Literal["subscribe", "unsubscribe", "invoke"]
    surface: str
    conversation: ConversationId | None = None
