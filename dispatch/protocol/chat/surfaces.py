"""Surfaces: what a client may show beside a conversation. There is one, the message queue.

Neighbours: `frames` writes these, `kinds` has all other frames of the server. Source:
`protocol/native.md`, 1.3.
Invariant: a surface is always shown whole, also where it is an update.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from dispatch.protocol.chat.wire import EpochMs, ServerFrame


class CatalogFrame(ServerFrame, frozen=True, kw_only=True, tag="catalog"):
    """The first frame of Part 1: the surfaces that stand by themselves, of which there are none."""

    catalog: tuple[dict[str, Any], ...]


class QueuedMessage(msgspec.Struct, frozen=True, rename="camel"):
    """A message that waits for its turn; `id` is what `chat.queue.cancel` takes."""

    id: str
    text: str
    queued_at: EpochMs


class QueuePayload(msgspec.Struct, frozen=True, rename="camel"):
    """The queue, first to run first."""

    messages: tuple[QueuedMessage, ...]


class QueueField(msgspec.Struct, frozen=True, rename="camel"):
    """The one field of the queue's surface."""

    kind: Literal["custom"]
    renderer_id: Literal["message-queue"]
    payload: QueuePayload


class QueueSpec(msgspec.Struct, frozen=True, rename="camel"):
    """The queue's surface, the only one that there is."""

    id: Literal["message-queue"]
    region: Literal["side"]
    title: str
    fields: tuple[QueueField, ...]


class SurfaceUpdate(msgspec.Struct, frozen=True, rename="camel"):
    """What a surface has become."""

    surface_id: Literal["message-queue"]
    spec: QueueSpec
    conversation_id: str


class SurfaceFrame(ServerFrame, frozen=True, kw_only=True, tag="surface"):
    """A surface as it is, to who subscribed to it."""

    spec: QueueSpec
    conversation_id: str


class UpdateFrame(ServerFrame, frozen=True, kw_only=True, tag="update"):
    """A surface that changed."""

    update: SurfaceUpdate
