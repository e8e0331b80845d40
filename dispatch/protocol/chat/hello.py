"""The first frame on `dispatch.v1`, as types: who one is, what is allowed, which agents there are.

Neighbours: `kinds` has the frames behind it, `service` the routes that say the same.
Invariant: what may be absent on the wire is `UNSET` here.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from dispatch.protocol.chat.wire import ServerFrame


class ToldLimits(msgspec.Struct, frozen=True, rename="camel"):
    """The bounds that a client can run into; see `limits.md`."""

    frame_bytes_max: int
    subscriptions_max: int
    frames_per_second_max: float
    commands_waiting_max: int
    queue_turns_max: int
    queue_bytes_max: int
    turn_bytes_max: int
    turns_running_max: int
    sends_per_second_max: float
    history_page_max: int
    json_depth_max: int
    stall_seconds_max: float


class ToldAgent(msgspec.Struct, frozen=True, rename="camel"):
    """An agent that `model` may name, alone or as `<agent>/<model>`.

    `steer`: it takes steering. `turnsMax`: how many of its turns run at a time. `problem`: why it
    cannot run now.
    """

    name: str
    kind: str
    models: tuple[str, ...] | UnsetType = UNSET
    steer: bool | UnsetType = UNSET
    turns_max: int | UnsetType = UNSET
    problem: str | UnsetType = UNSET


class HelloFrame(ServerFrame, frozen=True, kw_only=True, tag="hello"):
    """The first frame on `dispatch.v1`: whom the server takes the client for, what it allows."""

    protocol: Literal["dispatch.v1"]
    server: str
    connection_id: str
    account: str
    user: str
    limits: ToldLimits
    heartbeat_seconds: float
    agents: tuple[ToldAgent, ...]
