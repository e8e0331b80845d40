"""What the daemon says of groups and chat sessions on `dispatch.v1`, as types.

Neighbours: `mirror` takes these, `frames` has those of conversations; what is inside of them is as
the dialects have it. Source: `protocol/groups.md`, 5, and `protocol/chat-sessions.md`, 4.
Invariant: a frame without an id has no place in the log, and moves nobody's.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from dispatch.client.failures import failure_from_wire
from dispatch.client.frames import Frame
from dispatch.errors import DispatchError

# A group's dialect has names of its own for what every dialect knows.
_GROUP_STATUS: Final = {"group_not_found": 404, "group_deleted": 410}


class GroupSubscribed(Frame, frozen=True, tag="group.subscribed"):
    """Following a group begins behind the frame `cursor`, or goes on."""

    group_id: str
    cursor: int
    ref: str | None = None


class GroupEventFrame(Frame, frozen=True, tag="group.event"):
    """A frame of a group; without `frame_id` it has no place in the log."""

    group_id: str
    event: dict[str, Any]
    frame_id: int | None = None


class GroupError(Frame, frozen=True, tag="group.error"):
    """A refusal about a group."""

    code: str
    error: str
    group_id: str | None = None
    ref: str | None = None

    def failure(self) -> DispatchError:
        """The exception that stands for it."""
        return failure_from_wire(self.error, self.code, status=_GROUP_STATUS.get(self.code, 0))


class ChatEventFrame(Frame, frozen=True, tag="chats.event"):
    """A frame of chat sessions; without `id` it has no place in the log."""

    event: str
    # The wire has camelCase around what is snake_case within.
    session_id: str | None = None
    timestamp: str | None = None
    id: int | None = None
    data: dict[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """The frame as an event stream has it."""
        frame = msgspec.to_builtins(self)
        del frame["type"]
        return cast("dict[str, Any]", frame)
