"""What may be done with AHP's sessions and chats as a whole: make, follow, list, fetch, dispose.

Neighbours: `dispatching` carries out actions, `scopes` and `directory` find things, `server.ahp`
calls all of them. Sessions and chats are made and deleted by the verbs of conversations.
Invariant: as in `broker`: what a verb says is durable, and a verb that raises changed nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import anyio
import msgspec

from dispatch.core.identity import SEND, WATCH, ConversationId, Principal, TurnId, require
from dispatch.errors import Conflict, DispatchError, Gone, NotFound, PeerError, Refused
from dispatch.protocol.ahp.records import SessionDetails
from dispatch.protocol.ahp.uris import chat_uri
from dispatch.protocol.codec import Object
from dispatch.runtime.ahp.clients import Clients
from dispatch.runtime.ahp.directory import Directory
from dispatch.runtime.ahp.hub import Hub
from dispatch.runtime.ahp.reading import counting, read_turns
from dispatch.runtime.ahp.scope import Scope
from dispatch.runtime.ahp.scopes import Scopes
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft
from dispatch.runtime.services import Services
from dispatch.runtime.verbs import Verbs

_FETCHED_TURNS_MAX: Final = 50
_BEFORE: Final = "before:"


class AgentUnknown(Refused):
    """A session was wanted with an agent that is not configured."""

    code = "agent_not_found"
    http_status = 404


class Exists(Conflict):
    """A session or chat of this name is there, or was named so by somebody else."""


class FetchedTurns(NamedTuple):
    """Older turns of a chat, and the cursor for those before them."""

    turns: list[Object]
    next_cursor: str | None


class Host:
    """See the module."""

    def __init__(self, services: Services, verbs: Verbs, hub: Hub) -> None:
        """Before anything is recovered: from here on chronicled conversations are."""
        self.services = services
        self.conversations = verbs.conversations
        self.broker = verbs.broker
        self.catalog = verbs.catalog
        self.accounts = verbs.accounts
        self.hub = hub
        self.scopes = Scopes(services, verbs.conversations, hub)
        self.directory = Directory(services, verbs.conversations, self.scopes)
        self.clients = Clients(services)
        # After a kill all clients come back at once: what each of them missed is read in turn.
        self.replaying = anyio.Lock()

    # -- following -----------------------------------------------------------------------------

    async def follow(self, principal: Principal, uri: str) -> Scope:
        """A session, or that of a chat, with states from here on, until `unfollow`.

        Raises `NotFound` and `Gone`.
        """
        require(principal, WATCH)
        scope = await self.scopes.load(principal, uri)
        is_followed = False
        try:
            await scope.follow()
            is_followed = True
        finally:
            if not is_followed:
                self.unfollow(scope)
        return scope

    def unfollow(self, scope: Scope) -> None:
        """The caller needs it no more."""
        scope.unfollow()
        self.scopes.release(scope)

    @asynccontextmanager
    async def following(self, principal: Principal, uri: str) -> AsyncIterator[Scope]:
        """`follow`, and `unfollow` at the end."""
        scope = await self.follow(principal, uri)
        try:
            yield scope
        finally:
            self.unfollow(scope)

    # -- sessions ------------------------------------------------------------------------------

    async def create_session(self, principal: Principal, uri: str, agent: str | None) -> None:
        """A session with one chat, its default; raises `Exists` and `AgentUnknown`."""
        require(principal, SEND)
        agent = agent or self.services.default_agent
        if agent not in self.services.agents:
            raise AgentUnknown(f"no agent is called {agent!r}")
        self.accounts.check_rate(principal.account)
        await self._check_free(principal, uri)
        conversation = ConversationId(self.services.ids.new("c"))
        async with self.conversations.using(principal, conversation) as live:
            live.details = msgspec.structs.replace(live.details, model=agent)
            details = SessionDetails(agent=agent, chats=(conversation,), default_chat=chat_uri(uri))
            scope = self.scopes.make(principal, live.record.session, uri, details)
            self.scopes.join(scope, live, is_default=True)
            try:
                await live.commit(lambda draft, offset: _write(scope, live, draft, offset))
            except Conflict as error:
                self.scopes.drop(scope)
                raise Exists("a session of this name is there") from error
            except DispatchError:
                self.scopes.drop(scope)
                raise
            self.hub.stir(principal.account, scope.id)

    async def dispose_session(self, principal: Principal, uri: str) -> None:
        """Delete all of its conversations; refused where one is a group's or a chat session."""
        require(principal, SEND)
        async with self.scopes.using(principal, uri) as scope:
            names = list(scope.ledger.details.chats)
            for name in names:
                await self._check_disposable(principal, name)
            for name in names:
                await self._delete(principal, name)

    async def take_part(self, principal: Principal, uri: str, client: Object) -> None:
        """A client takes part in a session that it has made."""
        async with self.scopes.using(principal, uri) as scope:
            await scope.keep({"type": "session/activeClientSet", "activeClient": client}, None)

    async def _delete(self, principal: Principal, name: ConversationId) -> None:
        try:
            await self.catalog.delete(principal, name)
        except (Gone, NotFound):
            return

    async def _check_disposable(self, principal: Principal, name: ConversationId) -> None:
        details = await self.catalog.details(principal, name)
        if details.timeline is not None:
            raise Conflict("a conversation of a group or a chat session is deleted there")

    async def _check_free(self, principal: Principal, uri: str) -> None:
        found = await self.services.store.timeline_by_alias(principal.account, uri)
        if found is not None:
            raise Exists("a session or chat of this name is there")

    # -- chats ---------------------------------------------------------------------------------

    async def create_chat(self, principal: Principal, session: str, uri: str) -> None:
        """An empty chat beside the others of a session; nothing where it is one already."""
        require(principal, SEND)
        async with self.scopes.using(principal, session) as scope:
            _check_session(scope, session)
            if scope.conversation_of(uri) is not None:
                return
            await self._check_room(principal, scope, uri)
            conversation = ConversationId(self.services.ids.new("c"))
            async with self.conversations.using(principal, conversation) as live:
                live.record.session = scope.id
                agent = scope.ledger.details.agent
                live.details = msgspec.structs.replace(live.details, model=agent)
                self.scopes.join(scope, live, uri=uri)
                await live.commit(live.write_row)

    async def branch_chat(
        self, principal: Principal, session: str, uri: str, origin: Object
    ) -> None:
        """A chat out of another of the session, as `origin` says it: a fork has the turns up to a
        finished one, a side chat none, but its agent knows them, and of the running one what was
        shown.
        """
        require(principal, SEND)
        async with self.following(principal, session) as scope:
            _check_session(scope, session)
            if scope.conversation_of(uri) is not None:
                raise Exists("a chat of this name is there")
            await self._check_room(principal, scope, uri)
            conversation, turn = _turn_of(scope, origin)
            is_fork = origin["kind"] == "fork"
            branch = self.catalog.fork if is_fork else self.catalog.side_chat
            await branch(
                principal, conversation, turn, lambda live: self.scopes.rename(live, uri, origin)
            )

    async def _check_room(self, principal: Principal, scope: Scope, uri: str) -> None:
        self.accounts.check_rate(principal.account)
        limit = self.services.limits.ahp_chats_max
        if len(scope.ledger.details.chats) >= limit:
            raise Conflict(f"a session has at most {limit} chats")
        await self._check_free(principal, uri)

    async def dispose_chat(self, principal: Principal, uri: str) -> None:
        """Delete a chat, and with its last chat the session."""
        require(principal, SEND)
        async with self.scopes.using(principal, uri) as scope:
            conversation = scope.conversation_of(uri)
            if conversation is None:
                raise NotFound("no such chat")
            await self._check_disposable(principal, conversation)
            await self._delete(principal, conversation)

    async def older_turns(self, principal: Principal, uri: str, cursor: str | None) -> FetchedTurns:
        """The turns before a cursor; without one, those before what a snapshot shows.

        Raises `PeerError` for a cursor that is none.
        """
        async with self.following(principal, uri) as scope:
            conversation, state = scope.conversation_of(uri), scope.state_of(uri)
            if conversation is None or state is None:
                raise NotFound("no such chat")
            held = _held_before(state, cursor)
            if held is not None:
                return held
            cursor = state.get("turnsNextCursor") if _is_ours(cursor) else cursor
            if cursor is None:
                return FetchedTurns([], None)
            if not (cursor.isdecimal() and len(cursor) <= 18):
                raise PeerError("this cursor is not one of ours")
            cut, store = scope.cut(conversation), self.services.store
            found = await counting(store, cut, int(cursor), _FETCHED_TURNS_MAX + 1)
            if not found:
                return FetchedTurns([], None)
            has_more, found = len(found) > _FETCHED_TURNS_MAX, found[-_FETCHED_TURNS_MAX:]
            events_max = self.services.limits.ahp_events_max
            turns, _ = await read_turns(store, cut.key, found, events_max=events_max)
            return FetchedTurns(turns, str(found[0].first_seq) if has_more else None)


def _turn_of(scope: Scope, origin: Object) -> tuple[ConversationId, TurnId]:
    """The turn of the core that an origin names; raises `PeerError` for one that is not there."""
    conversation = scope.conversation_of(origin["chat"])
    if conversation is None or scope.fold is None:
        raise PeerError("the source is no chat of this session")
    chat, name = scope.fold.chats[conversation], origin["turnId"]
    is_running = chat.running is not None and chat.running.turn_id == name
    if is_running and origin["kind"] == "fork":
        raise PeerError("a turn that runs cannot be forked; a side chat may begin at it")
    if not is_running and all(turn["id"] != name for turn in chat.state["turns"]):
        raise PeerError("the source has no such turn")
    return conversation, chat.names[name]


def _check_session(scope: Scope, channel: str) -> None:
    """Raise `PeerError` where a chat is named in the place of its session."""
    if channel != scope.uri:
        raise PeerError("a chat is made in a session, and this is a chat")


def cursor_before(turn_id: str) -> str:
    """The cursor of a client that was shown the turns from this one on."""
    return f"{_BEFORE}{turn_id}"


def _is_ours(cursor: str | None) -> bool:
    return cursor is None or cursor.startswith(_BEFORE)


def _held_before(state: Object, cursor: str | None) -> FetchedTurns | None:
    """Turns that the state has and the client was not shown; None where there are none."""
    turns: list[Object] = state["turns"]
    if cursor is None or not _is_ours(cursor):
        return None
    first = cursor.removeprefix(_BEFORE)
    end = next(
        (i for i, turn in enumerate(turns) if turn["id"] == first), 0 if first else len(turns)
    )
    if end == 0:
        return None
    start = max(0, end - _FETCHED_TURNS_MAX)
    rest = cursor_before(turns[start]["id"]) if start else state.get("turnsNextCursor")
    return FetchedTurns(turns[start:end], rest)


def _write(scope: Scope, live: Live, draft: Draft, offset: int) -> None:
    """A session's own row goes with its first chat's."""
    scope.ledger.stage(draft)
    live.write_row(draft, offset)
