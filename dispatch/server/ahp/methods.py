"""What a client may ask: one function a method, from checked params to a result.

Neighbours: `connection` calls these in order, `runtime.ahp.host` does the work; `refusals` numbers
what goes wrong. Source: `protocol/ahp.md`, sections Methods and Errors.
Invariant: a snapshot is taken in the very step in which its channel is joined and its response
written: no action is in both, and none is in neither.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import structlog

from dispatch.errors import CloseCode, DispatchError, NotFound, PeerError, TooMany
from dispatch.protocol.ahp.conversion import down_summary, up_params
from dispatch.protocol.ahp.envelopes import Change, encode_envelope, envelopes, snapshot
from dispatch.protocol.ahp.objects import changed, present
from dispatch.protocol.ahp.params import (
    CreateChat,
    CreateSession,
    FetchTurns,
    Initialize,
    ListSessions,
    OfChannel,
    Reconnect,
    Subscribe,
    read_params,
)
from dispatch.protocol.ahp.uris import ROOT, parse_uri
from dispatch.protocol.ahp.versions import UNSUPPORTED_PROTOCOL_VERSION
from dispatch.protocol.codec import Object
from dispatch.protocol.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, RpcError
from dispatch.runtime.ahp.clients import Client
from dispatch.runtime.ahp.host import Host, cursor_before
from dispatch.runtime.ahp.replay import Pruned, Replay
from dispatch.runtime.ahp.scope import Scope
from dispatch.server.ahp.refusals import NOT_FOUND, SESSION_ALREADY_EXISTS, refusal
from dispatch.version import VERSION

if TYPE_CHECKING:
    from dispatch.server.ahp.connection import AhpConnection

log = structlog.get_logger()

_SERVER_INFO_SINCE: Final = (0, 5, 2)


class Methods:
    """See the module."""

    def __init__(self, host: Host) -> None:
        """See the module."""
        self._host = host
        self._known: dict[str, Callable[[AhpConnection, Client, Object], Awaitable[Any]]] = {
            "subscribe": self._subscribe,
            "listSessions": self._list_sessions,
            "createSession": self._create_session,
            "disposeSession": self._dispose_session,
            "createChat": self._create_chat,
            "disposeChat": self._dispose_chat,
            "fetchTurns": self._fetch_turns,
            "resolveSessionConfig": self._no_config,
            "sessionConfigCompletions": self._no_completions,
            "completions": self._no_completions,
            "authenticate": self._no_resource,
        }

    async def call(self, connection: AhpConnection, method: str, params: Object) -> Any:
        """The result of a request; raises `RpcError` and `DispatchError`."""
        client = connection.client
        if client is None:
            if method == "initialize":
                return await self._initialize(connection, read_params(params, Initialize))
            if method == "reconnect":
                return await self._reconnect(connection, read_params(params, Reconnect))
            raise RpcError(METHOD_NOT_FOUND, "Say `initialize` or `reconnect` first")
        act = self._known.get(method)
        if act is None:
            raise RpcError(METHOD_NOT_FOUND, "This host has no such method")
        try:
            params = up_params(client.version, method, params)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise RpcError(INVALID_PARAMS, "Malformed params") from None
        return await act(connection, client, params)

    def refused(self, connection: AhpConnection, error: RpcError) -> None:
        """A client that no version fits is told so, and is not waited for."""
        if error.code == UNSUPPORTED_PROTOCOL_VERSION:
            connection.close(CloseCode.POLICY)

    # -- the connection ------------------------------------------------------------------------

    async def _initialize(self, connection: AhpConnection, params: Initialize) -> Object:
        client = await self._host.clients.meet(
            connection.principal, params.client_id, params.protocol_versions
        )
        await self._follow_all(connection, client, params.initial_subscriptions)
        result: Object = {
            "protocolVersion": client.offer,
            "serverSeq": self._host.hub.number,
            "snapshots": self._snapshots(connection, params.initial_subscriptions),
        }
        if client.version.number >= _SERVER_INFO_SINCE:
            result["serverInfo"] = {"name": "dispatch", "version": VERSION}
        return result

    async def _reconnect(self, connection: AhpConnection, params: Reconnect) -> Object:
        try:
            client = await self._host.clients.known(connection.principal, params.client_id)
        except NotFound as error:
            raise refusal(error, not_found=NOT_FOUND) from error
        missing = await self._follow_all(connection, client, params.subscriptions)
        after, upto = params.last_seen_server_seq, self._host.hub.number
        # From the head on it is given what comes; a client that is ahead knows another history.
        if after <= upto:
            replays = [Replay(s, after=after, upto=upto) for s in set(connection.scopes.values())]
            try:
                async with self._host.replaying:
                    found = [change for replay in replays for change in await replay.changes()]
                    refused = connection.hub.refused.between(
                        connection.principal.account, client.id, after, upto
                    )
                    actions = _said(connection, client, found, refused)
            except Pruned:
                log.info("ahp.replay_pruned", sessions=len(replays))
            else:
                return {"type": "replay", "actions": actions, "missing": missing}
        connection.rebase()
        return {"type": "snapshot", "snapshots": self._snapshots(connection, params.subscriptions)}

    async def _follow_all(
        self, connection: AhpConnection, client: Client, channels: list[str]
    ) -> list[str]:
        """Follow what is there, cold: the response comes first. What is not there is returned."""
        connection.meet(client)
        connection.rebase()
        missing = []
        for channel in dict.fromkeys(channels):
            try:
                scope = await self._scope(connection, channel)
            except DispatchError:
                missing.append(channel)
            else:
                self._join(connection, channel, scope)
        connection.rebase()
        return missing

    async def _scope(self, connection: AhpConnection, channel: str) -> Scope | None:
        """A channel's session, held for the caller; None where it is followed, or is the root."""
        if channel == ROOT or channel in connection.scopes:
            return None
        limit = self._host.services.limits.subscriptions_max
        if len(connection.scopes) >= limit:
            raise TooMany(f"a connection may follow {limit} channels")
        return await self._host.follow(connection.principal, parse_uri(channel))

    def _join(self, connection: AhpConnection, channel: str, scope: Scope | None) -> None:
        if channel == ROOT:
            connection.hub.tell(connection)
        elif scope is not None and connection.is_open:
            connection.follow(channel, scope)
        elif scope is not None:
            self._host.unfollow(scope)

    def _snapshots(self, connection: AhpConnection, channels: list[str]) -> list[Object]:
        found = (self._snapshot(connection, channel) for channel in dict.fromkeys(channels))
        return [one for one in found if one is not None]

    def _snapshot(
        self, connection: AhpConnection, channel: str, turns: int | None = None
    ) -> Object | None:
        """A channel as it is now; None for one that is not followed, or is gone."""
        client = connection.client
        assert client is not None, "only a client is shown anything"
        number = self._host.hub.number
        if channel == ROOT:
            state: Object | None = self._host.directory.root_state()
            kind = "root"
        else:
            scope = connection.scopes.get(channel)
            state = None if scope is None else scope.state_of(channel)
            kind = "session" if scope is not None and channel == scope.uri else "chat"
        if state is None:
            return None
        if kind == "chat" and turns is not None and turns < len(state["turns"]):
            state = _tail(state, turns)
        return snapshot(client.version, channel, kind, state, number)

    async def _subscribe(
        self, connection: AhpConnection, _client: Client, params: Object
    ) -> Object:
        wanted = read_params(params, Subscribe)
        scope = await self._scope(connection, wanted.channel)
        await connection.until_hot()
        self._join(connection, wanted.channel, scope)
        found = self._snapshot(connection, wanted.channel, wanted.view.turns)
        if found is None:
            connection.unfollow(wanted.channel)
            raise NotFound("no such session or chat")
        return {"snapshot": found}

    # -- sessions and chats --------------------------------------------------------------------

    async def _list_sessions(
        self, connection: AhpConnection, client: Client, params: Object
    ) -> Object:
        wanted = read_params(params, ListSessions)
        page = await self._host.directory.sessions(client.principal, wanted.limit, wanted.cursor)
        connection.hub.listed(connection, page.items)
        items = [down_summary(client.version, item) for item in page.items.values()]
        result: Object = {"items": items, "nextCursor": page.next_cursor}
        return changed(result)

    async def _create_session(
        self, _connection: AhpConnection, client: Client, params: Object
    ) -> None:
        wanted = read_params(params, CreateSession)
        if wanted.active_client is not None and wanted.active_client.client_id != client.id:
            raise PeerError("a client speaks for itself alone")
        uri = parse_uri(wanted.channel)
        if uri == ROOT or wanted.fork is not None:
            raise PeerError("a session is made under a name of its own, and of nothing else")
        try:
            await self._host.create_session(client.principal, uri, wanted.provider)
        except DispatchError as error:
            raise refusal(error, conflict=SESSION_ALREADY_EXISTS) from error
        if wanted.active_client is not None:
            await self._host.take_part(client.principal, uri, params["activeClient"])

    async def _dispose_session(
        self, _connection: AhpConnection, client: Client, params: Object
    ) -> None:
        await self._host.dispose_session(client.principal, read_params(params, OfChannel).channel)

    async def _create_chat(self, connection: AhpConnection, client: Client, params: Object) -> None:
        wanted = read_params(params, CreateChat)
        uri, source = parse_uri(wanted.chat), wanted.source
        if source is None:
            await self._host.create_chat(client.principal, wanted.channel, uri)
        elif source.chat == uri:
            raise PeerError("a chat cannot come out of itself")
        else:
            origin = present(
                kind=source.kind,
                chat=source.chat,
                turnId=source.turn_id,
                selection=source.selection if source.kind == "sideChat" else None,
            )
            await self._host.branch_chat(client.principal, wanted.channel, uri, origin)
        if wanted.initial_message is not None:
            await connection.hub.dispatching.begin(client, uri, wanted.initial_message)

    async def _dispose_chat(
        self, _connection: AhpConnection, client: Client, params: Object
    ) -> None:
        await self._host.dispose_chat(client.principal, read_params(params, OfChannel).channel)

    async def _fetch_turns(
        self, connection: AhpConnection, client: Client, params: Object
    ) -> Object:
        """The turns are told to who asks for them: others have what they asked for."""
        wanted = read_params(params, FetchTurns)
        found = await self._host.older_turns(client.principal, wanted.channel, wanted.cursor)
        await connection.until_hot()
        action = present(
            type="chat/turnsLoaded", turns=found.turns, turnsNextCursor=found.next_cursor
        )
        change = Change(
            channel=wanted.channel,
            server_seq=self._host.hub.number,
            action=action,
            before={},
            after={},
        )
        for envelope in envelopes(client.version, change):
            connection.send(encode_envelope(envelope))
        return {}

    # -- what is not there ---------------------------------------------------------------------

    async def _no_config(self, _c: AhpConnection, _client: Client, _params: Object) -> Object:
        return {"schema": {"type": "object", "properties": {}}, "values": {}}

    async def _no_completions(self, _c: AhpConnection, _client: Client, _params: Object) -> Object:
        return {"items": []}

    async def _no_resource(self, _c: AhpConnection, _client: Client, _params: Object) -> Object:
        raise PeerError("no agent here protects a resource")


def _said(
    connection: AhpConnection, client: Client, changes: list[Change], refused: list[Object]
) -> list[Object]:
    """Envelopes of what the connection follows, and what the client was refused, by number."""
    said = [
        envelope
        for change in changes
        if change.channel in connection.scopes
        for envelope in envelopes(client.version, change)
    ]
    said += [envelope for envelope in refused if envelope["channel"] in connection.scopes]
    return sorted(said, key=lambda envelope: int(envelope["serverSeq"]))


def _tail(state: Object, turns: int) -> Object:
    """A chat with its last turns alone, and a cursor for those before."""
    first = state["turns"][len(state["turns"]) - turns] if turns else None
    cursor = cursor_before("" if first is None else first["id"])
    kept = state["turns"][len(state["turns"]) - turns :]
    return changed(state, turns=kept, turnsNextCursor=cursor)
