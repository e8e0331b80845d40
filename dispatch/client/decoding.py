"""Bytes of the daemon to frames: decoded once, by tag.

Neighbours: `frames` and `mirrored` are what comes out, `session` reads with it. A frame type that
is unknown is skipped and an unknown event becomes `UnknownEvent`, because a newer daemon may say
more than this client knows.
Invariant: what leaves here makes sense; what does not is a `PeerError` that names the frame.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dispatch.client.frames import (
    Accepted,
    ChatError,
    Deleted,
    Delta,
    DeltaFrame,
    Forked,
    Frame,
    Hello,
    History,
    PlainError,
    ReadMoved,
    RequestDone,
    RequestOpened,
    Snapshot,
    Stopped,
    Subscribed,
    Truncated,
    UnknownEvent,
)
from dispatch.client.mirrored import ChatEventFrame, GroupError, GroupEventFrame, GroupSubscribed
from dispatch.core.events import AnyEvent, decode_event
from dispatch.errors import PeerError

ServerFrame = (
    Hello
    | Accepted
    | Stopped
    | Forked
    | Subscribed
    | History
    | DeltaFrame
    | RequestOpened
    | RequestDone
    | Snapshot
    | ReadMoved
    | Truncated
    | Deleted
    | ChatError
    | PlainError
    | GroupSubscribed
    | GroupEventFrame
    | GroupError
    | ChatEventFrame
)


class _Head(msgspec.Struct):
    type: str


class _Ids(msgspec.Struct, rename="camel"):
    type: str
    conversation_id: str
    turn_id: str = ""


_FRAMES: Final[msgspec.json.Decoder[ServerFrame]] = msgspec.json.Decoder(ServerFrame)
_HEADS: Final = msgspec.json.Decoder(_Head)
_IDS: Final = msgspec.json.Decoder(_Ids)
_KNOWN: Final = frozenset(
    str(kind.__struct_config__.tag) for kind in ServerFrame.__args__ if kind is not Frame
)


def decode_frame(text: bytes | str) -> ServerFrame | None:
    """Read one frame; None for a type that this client does not know."""
    try:
        return _FRAMES.decode(text)
    except msgspec.DecodeError as error:
        try:
            kind = _HEADS.decode(text).type
        except msgspec.DecodeError:
            raise PeerError("the server sent a frame that is not a JSON object") from error
        if kind in _KNOWN:
            raise PeerError(
                f"the server sent a {kind} frame that makes no sense: {error}"
            ) from error
        return None


def decode_delta(frame: DeltaFrame) -> Delta:
    """Read the event inside."""
    try:
        ids = _IDS.decode(frame.event)
    except msgspec.DecodeError as error:
        raise PeerError(f"the server sent an event that makes no sense: {error}") from error
    event: AnyEvent | UnknownEvent
    try:
        event = decode_event(bytes(frame.event))
    except msgspec.DecodeError:
        event = UnknownEvent(ids.type)
    return Delta(ids.conversation_id, ids.turn_id, event, frame)
