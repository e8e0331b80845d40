"""The status of sessions and chats: a number of bits, the same in every version.

Neighbours: the reducers set it, `aggregation` derives a session's from its chats.
Source: `protocol/ahp.md`, section Status.
Invariant: bits that are not known here are kept as they are.
"""

from __future__ import annotations

from typing import Final

IDLE: Final = 1
ERROR: Final = 2
IN_PROGRESS: Final = 8
INPUT_NEEDED: Final = 24
IS_READ: Final = 32
IS_ARCHIVED: Final = 64

_ACTIVITY: Final = 31
_WAITING: Final = 16


def activity_of(status: int) -> int:
    """The one activity of a status."""
    return status & _ACTIVITY


def with_activity(status: int, activity: int) -> int:
    """The status with this activity and its own flags."""
    return status & ~_ACTIVITY | activity


def with_flag(status: int, flag: int, on: bool) -> int:
    """The status with a flag set or cleared."""
    return status | flag if on else status & ~flag


def is_waiting(status: int) -> bool:
    """Whether somebody has to answer before it goes on."""
    return bool(status & _WAITING)


def answered(status: int) -> int:
    """The status when nothing has to be answered any more: in progress, if that."""
    return status & ~_WAITING
