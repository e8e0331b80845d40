"""What a client says on `dispatch.v1`: one JSON object a frame.

Neighbours: `session`, `follow` and `mirror` send these; `frames` has what comes back.
Invariant: a field that is None is left out, so that the daemon's default holds.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

_ENCODER: Final = msgspec.json.Encoder()

FrameType = Literal[
    "chat.send",
    "chat.subscribe",
    "chat.unsubscribe",
    "chat.stop",
    "chat.fork",
    "chats.subscribe",
    "chats.unsubscribe",
    "group.subscribe",
    "group.unsubscribe",
]


def encode_command(kind: FrameType, fields: dict[str, object]) -> bytes:
    """One frame to the daemon; fields that are None are left out."""
    present = {name: value for name, value in fields.items() if value is not None}
    return _ENCODER.encode({"type": kind, **present})


def camel(name: str) -> str:
    """A field's name as it is on the wire."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
