"""What the routes about the daemon itself say, as types: health, agents, who one is.

Neighbours: `server.routes_service` answers with these; `schema` has everything about conversations.
Invariant: what may be absent on the wire is `UNSET` here.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from dispatch.protocol.chat.hello import ToldAgent
from dispatch.protocol.chat.wire import Count, EpochMs


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A JSON object of these routes."""


class Fine(Wire, frozen=True, kw_only=True):
    """`GET /health`, `GET /ready` and `DELETE /auth/session`."""

    ok: bool


class ModelList(Wire, frozen=True, kw_only=True):
    """`GET /models`: what `model` takes, the default agent's first."""

    models: tuple[str, ...]


class AgentStanding(ToldAgent, frozen=True, kw_only=True, rename="camel"):
    """An agent, and how many of its turns run and wait at this moment."""

    running: Count
    waiting: Count
    is_default: bool | UnsetType = UNSET


class AgentList(Wire, frozen=True, kw_only=True):
    """`GET /agents`: the default one first."""

    agents: tuple[AgentStanding, ...]


class Ticket(Wire, frozen=True, kw_only=True):
    """`POST /auth/ticket`: good for one upgrade, `/ws?ticket=…`."""

    ticket: str
    expires_at: EpochMs


class SignedIn(Wire, frozen=True, kw_only=True):
    """`POST /auth/session`: who one is; the cookie comes with it."""

    account: str
    user: str
    rights: tuple[str, ...]
    expires_at: EpochMs
