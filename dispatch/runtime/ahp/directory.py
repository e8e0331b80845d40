"""What there is: the agents, and a list of all sessions, those too that AHP has never met.

Neighbours: `host` answers with these, `heralds` tells of changes. Lists are made of rows and of
what runs at this moment; a session that is followed is listed as its followers see it.
Invariant: nobody is shown a session that is another account's, or another person's own.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from dispatch.core.identity import RIGHTS_ALL, AccountId, ConversationId, Principal
from dispatch.errors import PeerError
from dispatch.protocol.ahp.aggregation import session_summary
from dispatch.protocol.ahp.objects import changed, iso_time, present
from dispatch.protocol.ahp.records import ChatDetails, SessionDetails
from dispatch.protocol.ahp.status import ERROR, IDLE, IN_PROGRESS, INPUT_NEEDED
from dispatch.protocol.ahp.uris import chat_uri, session_uri
from dispatch.protocol.codec import Object
from dispatch.runtime.ahp.scope import Scope
from dispatch.runtime.ahp.scopes import Scopes, model_of
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.services import Services
from dispatch.storage.port import ConversationQuery, ConversationRecord

_PAGE: Final = 200
_SESSION: Final = msgspec.json.Decoder(SessionDetails)
_CHAT: Final = msgspec.json.Decoder(ChatDetails)


class SessionPage(NamedTuple):
    """Summaries by session id, newest first, and where the list goes on."""

    items: dict[str, Object]
    next_cursor: str | None


class Directory:
    """See the module."""

    def __init__(self, services: Services, conversations: Conversations, scopes: Scopes) -> None:
        """See the module."""
        self._services = services
        self._conversations = conversations
        self._scopes = scopes

    def root_state(self) -> Object:
        """The state of the root channel."""
        return {"agents": [self._agent(name) for name in self._services.agents]}

    def _agent(self, name: str) -> Object:
        info = self._services.agents[name].info
        # A client picks a model before it sends: an agent without any is one.
        models = [{"id": one, "provider": name, "name": one} for one in info.models or (name,)]
        return {
            "provider": name,
            "displayName": name,
            "description": info.kind,
            "models": models,
            "capabilities": {"multipleChats": {"fork": True, "sideChat": True}},
        }

    async def sessions(
        self, principal: Principal, limit: int | None, cursor: str | None
    ) -> SessionPage:
        """A page of the list; raises `PeerError` for a cursor that is none."""
        limits = self._services.limits
        wanted = min(limit or limits.list_page_max, limits.list_page_max)
        before = None if cursor is None else _parse_cursor(cursor)
        items: dict[str, Object] = {}
        # A session stands where its newest conversation does; the others of it come later.
        while len(items) < wanted:
            rows = await self._services.store.conversations(
                ConversationQuery(
                    account=principal.account, user=principal.user, before=before, limit=_PAGE
                )
            )
            for row in rows:
                before = (row.active_at_ms, row.key)
                item = await self._first_of(principal, row)
                if item is not None:
                    items[row.session] = item
                if len(items) == wanted:
                    return SessionPage(items, f"{before[0]}.{before[1]}")
            if len(rows) < _PAGE:
                break
        return SessionPage(items, None)

    async def _first_of(self, principal: Principal, row: ConversationRecord) -> Object | None:
        rows = await self._rows(principal, row.session)
        newest = max(rows, key=lambda one: (one.active_at_ms, one.key), default=None)
        if newest is None or newest.key != row.key:
            return None
        return await self._summary(principal, row.session, rows)

    async def summary(self, principal: Principal, session: str) -> Object | None:
        """A session in a list; None where there is none for this person."""
        rows = await self._rows(principal, session)
        return await self._summary(principal, session, rows) if rows else None

    async def _rows(self, principal: Principal, session: str) -> list[ConversationRecord]:
        rows = await self._services.store.conversations_of(
            principal.account, session, self._services.limits.ahp_chats_max
        )
        return [row for row in rows if row.visibility == "account" or row.user == principal.user]

    async def _summary(
        self, principal: Principal, session: str, rows: list[ConversationRecord]
    ) -> Object | None:
        created = iso_time(min(row.created_at_ms for row in rows))
        scope = self._scopes.peek(principal.account, session)
        if scope is not None and (state := scope.state_of(scope.uri)) is not None:
            return _with_chats(
                session_summary(state, resource=scope.uri, created_at=created), state
            )
        uri, details, chats = await self._known(principal.account, session, rows)
        listed = []
        for row in rows:
            chat = chats.get(row.id)
            name = "default" if row is rows[0] else row.id
            listed.append(
                present(
                    resource=chat_uri(uri, name) if chat is None else chat.uri,
                    title=row.title if chat is None else chat.listed_title,
                    status=await self._status(row) | (0 if chat is None else chat.flags),
                    modifiedAt=iso_time(row.active_at_ms),
                    origin={"kind": "user"} if chat is None else chat.origin,
                )
            )
        state = present(
            provider=details.agent,
            title=details.title,
            status=IDLE | details.flags,
            chats=listed,
            defaultChat=details.default_chat,
        )
        return _with_chats(session_summary(state, resource=uri, created_at=created), state)

    async def _known(
        self, account: AccountId, session: str, rows: list[ConversationRecord]
    ) -> tuple[str, SessionDetails, dict[ConversationId, ChatDetails]]:
        """What AHP calls a session and its chats, where it has met them."""
        store = self._services.store
        record = await store.timeline(account, "ahp-session", session)
        if record is None or record.status == "deleted" or record.alias is None:
            agent = self._services.agent_of(model_of(rows[0]))[0]
            details = SessionDetails(agent=agent, title=rows[0].title)
            uri = session_uri(agent, session)
            return uri, msgspec.structs.replace(details, default_chat=chat_uri(uri)), {}
        chats = {}
        for row in rows:
            found = await store.timeline(account, "ahp-chat", row.id)
            if found is not None and found.status != "deleted":
                chats[row.id] = _CHAT.decode(found.details)
        return record.alias, _SESSION.decode(record.details), chats

    async def _status(self, row: ConversationRecord) -> int:
        live = self._conversations.find(row.account, row.id)
        if live is not None and live.state.running is not None:
            return INPUT_NEEDED if live.state.running.open_requests else IN_PROGRESS
        turns = await self._services.store.sealed_turns(row.key, newest_first=True, limit=1)
        return ERROR if turns and turns[0].outcome in {"error", "interrupted"} else IDLE


def owner_of(scope: Scope) -> Principal:
    """Who may do with a session what the host itself has to."""
    return Principal(scope.account, scope.ledger.record.user, RIGHTS_ALL)


def _with_chats(summary: Object, state: Object) -> Object:
    """The chats of a session, for lists that show them."""
    names = ("resource", "title", "origin", "interactivity")
    chats = [{name: chat[name] for name in names if name in chat} for chat in state["chats"]]
    return changed(summary, chats=chats, defaultChat=state.get("defaultChat"))


def _parse_cursor(text: str) -> tuple[int, int]:
    active, _, key = text.partition(".")
    if not (active.isdecimal() and key.isdecimal() and len(text) <= 40):
        raise PeerError("this cursor is not one of ours")
    return int(active), int(key)
