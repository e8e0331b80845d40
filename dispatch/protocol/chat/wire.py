"""What frames of the native dialect are made of: the parts that several of them have.

Neighbours: `kinds` and `surfaces` have the frames of the server, `wishes` those of clients.
Invariant: nothing here forbids fields that are not here: a later server may say more.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

Ref = str | int
Position = Annotated[
    str,
    Meta(
        pattern="^[A-Za-z0-9]{1,32}:(0|[1-9][0-9]{0,17})$",
        description="A place in a conversation: `<generation>:<offset>`. Compare, never count.",
    ),
]
EpochMs = Annotated[int, Meta(description="Milliseconds since 1970.")]
Count = Annotated[int, Meta(ge=0)]
Stretches = Annotated[
    tuple[Annotated[tuple[int, ...], Meta(min_length=2, max_length=2)], ...],
    Meta(description="Seqs that do not count any more, ascending: the first and last of each run."),
]


class ServerFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", rename="camel"):
    """One JSON object from the server."""


class Reply(ServerFrame, frozen=True):
    """`ref` is the one of the frame that is answered, where it had one."""

    ref: Ref | UnsetType = UNSET
