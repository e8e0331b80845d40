"""What a client asks with: one shape a method, read strictly.

Neighbours: `server.ahp.methods` reads these and does it; `client_actions` has those of actions.
Source: `protocol/ahp.md`, section What is served; canonical shapes.
Invariant: what was read has every member that is looked at, in its type and within its bound.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from dispatch.protocol.ahp.client_actions import ID_CHARACTERS_MAX, ActiveClient
from dispatch.protocol.ahp.uris import URI_CHARACTERS_MAX
from dispatch.protocol.ahp.versions import OFFERS_MAX
from dispatch.protocol.codec import Object
from dispatch.protocol.jsonrpc import INVALID_PARAMS, RpcError

SUBSCRIPTIONS_AT_ONCE_MAX: Final = 1_000
"""As many as a connection may have."""

ClientId = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_CHARACTERS_MAX)]
Uri = Annotated[str, msgspec.Meta(min_length=1, max_length=URI_CHARACTERS_MAX)]
Uris = Annotated[list[Uri], msgspec.Meta(max_length=SUBSCRIPTIONS_AT_ONCE_MAX)]
Shape = TypeVar("Shape", bound=msgspec.Struct)


class _Params(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Params by name; what nobody knows is passed over."""


class Initialize(_Params, frozen=True, kw_only=True):
    """`initialize`."""

    protocol_versions: Annotated[list[Any], msgspec.Meta(max_length=OFFERS_MAX)]
    client_id: ClientId
    initial_subscriptions: Uris = []


class Reconnect(_Params, frozen=True, kw_only=True):
    """`reconnect`; VS Code sends it without a channel."""

    client_id: ClientId
    last_seen_server_seq: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    subscriptions: Uris = []


class View(_Params, frozen=True, kw_only=True):
    """How much of a chat is wanted."""

    turns: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Subscribe(_Params, frozen=True, kw_only=True):
    """`subscribe`."""

    channel: Uri
    view: View = View()


class ListSessions(_Params, frozen=True, kw_only=True):
    """`listSessions`."""

    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    cursor: str | None = None


class CreateSession(_Params, frozen=True, kw_only=True):
    """`createSession`."""

    channel: Uri
    provider: str | None = None
    active_client: ActiveClient | None = None
    fork: dict[str, Any] | None = None


class Source(_Params, frozen=True, kw_only=True):
    """Where a chat begins."""

    chat: Uri
    turn_id: str
    kind: Literal["fork", "sideChat"]
    selection: dict[str, Any] | None = None


class CreateChat(_Params, frozen=True, kw_only=True):
    """`createChat`."""

    channel: Uri
    chat: Uri
    source: Source | None = None
    initial_message: dict[str, Any] | None = None


class OfChannel(_Params, frozen=True, kw_only=True):
    """`disposeSession` and `disposeChat`."""

    channel: Uri


class FetchTurns(_Params, frozen=True, kw_only=True):
    """`fetchTurns`."""

    channel: Uri
    cursor: str | None = None


def read_params(params: Object, shape: type[Shape]) -> Shape:
    """The params of a method; raises `RpcError` -32602, whose text says where and why."""
    try:
        return msgspec.convert(params, shape)
    except msgspec.ValidationError as error:
        raise RpcError(INVALID_PARAMS, f"Malformed params: {error}") from None
