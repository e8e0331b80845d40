"""Frames about groups on a WebSocket of `dispatch.v1`, one type for each, both ways.

Neighbours: `requests` reads those of clients, `server.groups.watch` writes the others, `frames`
what the account is told; `kinds` is what a `group.event` carries. Source: `protocol/groups.md`, 5.
Invariant: an optional field of a client may be null, which is as good as absent; what may be absent
from the server is `UNSET`.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dispatch.protocol.groups.schema import Id, ReadGroupBody, SendToGroupBody, StopGroupBody

Ref = str | int
StreamFrame = Annotated[msgspec.Raw, Meta(extra_json_schema={"$ref": "GroupStreamFrame"})]
Cursor = Annotated[int, Meta(ge=0)]


class FromClient(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", rename="camel"):
    """A wish about one group; `ref` is echoed in its reply."""

    group_id: Id
    ref: Ref | UnsetType | None = UNSET


class GroupSubscribeFrame(FromClient, frozen=True, kw_only=True, tag="group.subscribe"):
    """Follow a group, from behind this frame, or live from now."""

    cursor: Cursor | Annotated[str, Meta(pattern="^[0-9]{1,40}$")] | UnsetType | None = UNSET


class GroupUnsubscribeFrame(FromClient, frozen=True, kw_only=True, tag="group.unsubscribe"):
    """Follow it no more."""


class GroupSendFrame(
    SendToGroupBody, frozen=True, kw_only=True, tag_field="type", tag="group.send"
):
    """Say something to all members, or to some, and follow the group."""

    group_id: Id
    ref: Ref | UnsetType | None = UNSET


class GroupStopFrame(StopGroupBody, frozen=True, kw_only=True, tag_field="type", tag="group.stop"):
    """End what runs or waits; what is given narrows it."""

    group_id: Id
    ref: Ref | UnsetType | None = UNSET


class GroupReadFrame(ReadGroupBody, frozen=True, kw_only=True, tag_field="type", tag="group.read"):
    """Move the user's read cursor, forward only."""

    group_id: Id
    ref: Ref | UnsetType | None = UNSET


class FromServer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", rename="camel"):
    """One JSON object from the server about one group."""

    group_id: str


class Answer(FromServer, frozen=True, kw_only=True):
    """`ref` is the one of the frame that is answered, where it had one."""

    ref: Ref | UnsetType = UNSET


class GroupSubscribedFrame(Answer, frozen=True, kw_only=True, tag="group.subscribed"):
    """Frames behind `cursor` follow."""

    cursor: int


class GroupAcceptedFrame(Answer, frozen=True, kw_only=True, tag="group.accepted"):
    """The message is durable, as row `userSeq`; its first frame is `frameId`."""

    user_seq: int
    frame_id: int
    client_message_id: str | UnsetType = UNSET
    duplicate: bool | UnsetType = UNSET


class GroupStoppedFrame(Answer, frozen=True, kw_only=True, tag="group.stopped"):
    """Whose runs were ended; `queued`: the stop is remembered."""

    stopped: tuple[str, ...]
    queued: bool


class GroupReadMovedFrame(Answer, frozen=True, kw_only=True, tag="group.read"):
    """Where the user's read cursor is, and how many rows of others follow it."""

    last_read_seq: int
    unread: int


class GroupEventFrame(FromServer, frozen=True, kw_only=True, tag="group.event"):
    """A frame of the group's stream. Without `frameId` it moves no cursor."""

    event: StreamFrame
    frame_id: int | UnsetType = UNSET


class GroupChangedFrame(FromServer, frozen=True, kw_only=True, tag="group.changed"):
    """A group was made, or its title, its members or their conversations changed: its row in a
    list, without what messages move.
    """

    title: str
    member_familiar_ids: tuple[str, ...]
    member_session_ids: dict[str, str]
    created_at: str
    updated_at: str


class GroupGoneFrame(FromServer, frozen=True, kw_only=True, tag="group.deleted"):
    """The group is gone for ever."""


class GroupErrorFrame(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="group.error", rename="camel"
):
    """A refusal."""

    code: str
    error: str
    group_id: str | UnsetType = UNSET
    ref: Ref | UnsetType = UNSET


CLIENT_FRAMES: Final[tuple[type[msgspec.Struct], ...]] = (
    GroupSubscribeFrame,
    GroupUnsubscribeFrame,
    GroupSendFrame,
    GroupStopFrame,
    GroupReadFrame,
)
SERVER_FRAMES: Final[tuple[type[msgspec.Struct], ...]] = (
    GroupSubscribedFrame,
    GroupAcceptedFrame,
    GroupStoppedFrame,
    GroupReadMovedFrame,
    GroupEventFrame,
    GroupChangedFrame,
    GroupGoneFrame,
    GroupErrorFrame,
)
