"""The AHP sessions in memory: found by name, made of what is stored, let go when nobody needs them.

Neighbours: `conversations` has this for its keeper, in front of `timelines`; `scope` is one of
these, `verbs` asks for them. A session is chronicled from the first time that AHP asks for it.
Invariant: there is one `Scope` per session, and it stays as long as a conversation or a follower
of its needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import msgspec

from dispatch.core.conversation import Waiting
from dispatch.core.identity import RIGHTS_ALL, AccountId, ConversationId, Principal
from dispatch.errors import DispatchError, Gone, NotFound
from dispatch.protocol.ahp.objects import iso_time
from dispatch.protocol.ahp.records import ChatDetails, SessionDetails, Waits, encode_details
from dispatch.protocol.ahp.uris import chat_uri, parse_minted, session_uri
from dispatch.protocol.codec import Object
from dispatch.runtime.ahp.chronicle import ChatChronicle, waits_of
from dispatch.runtime.ahp.ledger import Ledger, new_record
from dispatch.runtime.ahp.reading import read_copies
from dispatch.runtime.ahp.scope import Scope, Shows
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft
from dispatch.runtime.scribes import chronicle_of, timeline_scribe, together
from dispatch.runtime.services import Services
from dispatch.runtime.shape import decode_details
from dispatch.storage.port import ConversationRecord, SealedTurn
from dispatch.storage.timeline import TimelineRecord

_Name = tuple[AccountId, str]
_SESSION: Final = msgspec.json.Decoder(SessionDetails)
_CHAT: Final = msgspec.json.Decoder(ChatDetails)


class Scopes:
    """See the module; a `conversations.Keeper`."""

    def __init__(self, services: Services, conversations: Conversations, shows: Shows) -> None:
        """Stand in front of whoever keeps conversations already."""
        self._services = services
        self._conversations = conversations
        self._shows = shows
        self._live: dict[_Name, Scope] = {}
        self._busy: dict[_Name, asyncio.Event] = {}
        self._inner = conversations.keeper
        conversations.keeper = self

    # -- finding -------------------------------------------------------------------------------

    @asynccontextmanager
    async def using(self, principal: Principal, uri: str) -> AsyncIterator[Scope]:
        """The session that a channel is, or is a chat of; raises `NotFound` and `Gone`."""
        scope = await self.load(principal, uri)
        try:
            yield scope
        finally:
            self.release(scope)

    async def load(self, principal: Principal, uri: str) -> Scope:
        """As `using`; the caller holds it until `release`."""
        account, store = principal.account, self._services.store
        record = await store.timeline_by_alias(account, uri)
        match record:
            case TimelineRecord(kind="ahp-session"):
                session = record.id
            case TimelineRecord(kind="ahp-chat"):
                row = await store.conversation(account, ConversationId(record.id))
                session = "" if row is None else row.session
            case _:
                session = parse_minted(uri)
        scope = await self._load((account, session), principal)
        if scope.is_visible_to(principal) and (
            uri == scope.uri or scope.conversation_of(uri) is not None
        ):
            return scope
        self.release(scope)
        raise NotFound("no such session or chat")

    def peek(self, account: AccountId, session: str) -> Scope | None:
        """One that is in memory."""
        return self._live.get((account, session))

    def __iter__(self) -> Iterator[Scope]:
        """All that are in memory."""
        return iter(list(self._live.values()))

    def release(self, scope: Scope) -> None:
        """One user less."""
        scope.users -= 1
        name = (scope.account, scope.id)
        if scope.users == 0 and scope.outbox.is_empty and self._live.get(name) is scope:
            del self._live[name]

    async def _load(self, name: _Name, principal: Principal) -> Scope:
        while (busy := self._busy.get(name)) is not None:
            await busy.wait()
        scope = self._live.get(name)
        if scope is None:
            busy = self._busy[name] = asyncio.Event()
            try:
                scope = await self._read(name, principal)
            finally:
                del self._busy[name]
                busy.set()
        scope.users += 1
        return scope

    async def _read(self, name: _Name, principal: Principal) -> Scope:
        """What is stored of it, with what it has got meanwhile; or all of it anew."""
        store, limits = self._services.store, self._services.limits
        rows = await store.conversations_of(*name, limits.ahp_chats_max)
        record = await store.timeline(name[0], "ahp-session", name[1])
        if record is not None and record.status == "deleted":
            raise Gone("the session was deleted")
        if record is None:
            return await self._adopt(name, principal, rows)
        ledger = self._ledger(record, _SESSION.decode(record.details), is_stored=True)
        chats = {}
        for conversation in ledger.details.chats:
            found = await store.timeline(name[0], "ahp-chat", conversation)
            if found is not None and found.status != "deleted":
                chats[conversation] = Ledger(
                    self._services,
                    found,
                    _CHAT.decode(found.details),
                    stream_of(*name),
                    is_stored=True,
                )
        scope = Scope(self._conversations, ledger, chats, self._shows)
        self._live[name] = scope
        missing = [row for row in rows if row.id not in chats]
        if missing:
            await self._chronicle(scope, missing)
        return scope

    async def _adopt(
        self, name: _Name, principal: Principal, rows: Sequence[ConversationRecord]
    ) -> Scope:
        """A session that AHP has not met: from here on what happens to it is written down."""
        own = [row for row in rows if row.visibility == "account" or row.user == principal.user]
        if not own:
            raise NotFound("no such session or chat")
        first = own[0]
        agent = self._services.agent_of(model_of(first))[0]
        details = SessionDetails(
            agent=agent,
            title=first.title,
            is_private=any(row.visibility == "user" for row in own),
            chats=tuple(row.id for row in own),
            default_chat=chat_uri(session_uri(agent, name[1])),
        )
        owner = Principal(name[0], first.user, RIGHTS_ALL)
        scope = self.make(owner, name[1], session_uri(agent, name[1]), details)
        try:
            await self._chronicle(scope, own)
        except DispatchError:
            del self._live[name]
            raise
        return scope

    def make(self, owner: Principal, session: str, uri: str, details: SessionDetails) -> Scope:
        """A session that is yet to be written."""
        services = self._services
        record = new_record(services, owner, "ahp-session", session, details, alias=uri)
        ledger = self._ledger(record, details, is_stored=False)
        scope = Scope(self._conversations, ledger, {}, self._shows)
        self._live[owner.account, session] = scope
        return scope

    def drop(self, scope: Scope) -> None:
        """It was not written in the end."""
        self._live.pop((scope.account, scope.id), None)

    def _ledger(
        self, record: TimelineRecord, details: SessionDetails, *, is_stored: bool
    ) -> Ledger[SessionDetails]:
        stream = stream_of(record.account, record.id)
        return Ledger(self._services, record, details, stream, is_stored=is_stored)

    # -- chronicling ---------------------------------------------------------------------------

    async def _chronicle(self, scope: Scope, rows: Sequence[ConversationRecord]) -> None:
        """Have conversations written down from here on, in one commit."""
        async with AsyncExitStack() as held:
            lives = []
            for row in rows:
                owner = Principal(row.account, row.user, RIGHTS_ALL)
                try:
                    using = self._conversations.using(owner, row.id)
                    lives.append(await held.enter_async_context(using))
                except Gone:
                    continue
            for live in lives:
                if live.record.id not in scope.chronicles:
                    is_first = scope.ledger.details.chats[:1] == (live.record.id,)
                    self.join(scope, live, is_default=is_first)

            def write(draft: Draft) -> None:
                scope.ledger.stage(draft)
                for live in lives:
                    live.write_row(draft, live.outbox.head)

            await scope.outbox.commit(write)

    def join(
        self,
        scope: Scope,
        live: Live,
        *,
        is_default: bool = False,
        uri: str | None = None,
        origin: Object | None = None,
    ) -> ChatChronicle:
        """Write a conversation down as a chat of a session; with its row it is durable."""
        record = live.record
        live.details = msgspec.structs.replace(live.details, is_chronicled=True)
        name = "default" if is_default else record.id
        title = record.title
        details = ChatDetails(
            uri=uri or chat_uri(scope.uri, name),
            title=title,
            listed_title=title,
            origin=origin or _origin(scope, live),
            created_at_ms=record.created_at_ms,
            # Of what was there before, its last turn says when.
            modified_at=None if live.is_stored else iso_time(record.created_at_ms),
            queue=_waiting(live, live.state.queue),
            steers=_waiting(live, live.state.steers),
        )
        owner = Principal(record.account, record.user, RIGHTS_ALL)
        row = new_record(self._services, owner, "ahp-chat", record.id, details, alias=details.uri)
        ledger = Ledger(
            self._services, row, details, stream_of(scope.account, scope.id), is_stored=False
        )
        scope.chats[record.id] = ledger
        return self._attach(scope, live)

    def rename(self, live: Live, uri: str, origin: Object) -> None:
        """A chat that is yet to be written has the name that its client chose."""
        chronicle = chronicle_of(live.scribe)
        assert isinstance(chronicle, ChatChronicle), "only what was joined has a name"
        ledger = chronicle.ledger
        ledger.details = msgspec.structs.replace(ledger.details, uri=uri, origin=origin)
        ledger.record.alias, ledger.record.details = uri, encode_details(ledger.details)

    def _attach(self, scope: Scope, live: Live) -> ChatChronicle:
        chronicle = ChatChronicle(scope, live, scope.chats[live.record.id])
        scope.chronicles[live.record.id] = chronicle
        scope.users += 1
        live.scribe = live.outbox.mirror = together(timeline_scribe(live.scribe), chronicle)
        return chronicle

    # -- conversations.Keeper ------------------------------------------------------------------

    async def attach(self, live: Live) -> None:
        """Go on writing a conversation down that comes into memory."""
        await self._inner.attach(live)
        if not live.details.is_chronicled:
            return
        owner = Principal(live.record.account, live.record.user, RIGHTS_ALL)
        try:
            scope = await self._load_written((live.record.account, live.record.session), owner)
        except (NotFound, Gone):
            return
        if live.record.id in scope.chats:
            self._attach(scope, live)
        self.release(scope)

    async def _load_written(self, name: _Name, owner: Principal) -> Scope:
        """One that is being read may be waiting for this very conversation to be in memory."""
        scope = self._live.get(name)
        if scope is None:
            return await self._load(name, owner)
        scope.users += 1
        return scope

    def detach(self, live: Live) -> None:
        """It leaves memory."""
        self._inner.detach(live)
        chronicle = chronicle_of(live.scribe)
        if not isinstance(chronicle, ChatChronicle):
            return
        live.scribe = live.outbox.mirror = None
        scope = chronicle.scope
        scope.chronicles.pop(live.record.id, None)
        if not chronicle.ledger.is_stored or chronicle.ledger.is_gone:
            scope.chats.pop(live.record.id, None)
        self.release(scope)

    def placed(self, live: Live) -> None:
        """A fork, or another member of a group, joins a session."""
        self._inner.placed(live)
        scope = self._live.get((live.record.account, live.record.session))
        if scope is None:
            live.details = msgspec.structs.replace(live.details, is_chronicled=False)
        elif live.record.id not in scope.chronicles:
            self.join(scope, live)

    async def copied(self, live: Live, source: Live, turns: Sequence[SealedTurn]) -> None:
        """A fork begins as it will be read later: nothing is kept of a copy but its chunks."""
        await self._inner.copied(live, source, turns)
        chronicle = chronicle_of(live.scribe)
        if isinstance(chronicle, ChatChronicle) and turns:
            most = self._services.limits.ahp_turns_max
            key = source.record.key
            chronicle.copied = await read_copies(self._services.store, key, turns, turns_max=most)


def _waiting(live: Live, entries: Sequence[Waiting]) -> tuple[Waits, ...]:
    return tuple(waits_of(live.queued[entry.turn]) for entry in entries)


def stream_of(account: AccountId, session: str) -> str:
    """The log that a session and its chats share."""
    return f"ahp:{account}:{session}"


def model_of(row: ConversationRecord) -> str | None:
    """What answers in a conversation."""
    return decode_details(row.details).model


def _origin(scope: Scope, live: Live) -> Object:
    """Where a conversation comes from, as AHP says it."""
    details = live.details
    if details.forked_from is not None:
        kind, (source, turn) = "fork", details.forked_from
    elif details.side_chat_of is not None:
        kind, (source, turn) = "sideChat", details.side_chat_of
    else:
        return {"kind": "user"}
    ledger = scope.chats.get(source)
    if ledger is None:
        return {"kind": "user"}
    named: str = turn
    fold = None if scope.fold is None else scope.fold.chats.get(source)
    for name, other in () if fold is None else fold.names.items():
        if other == turn:
            named = name
    return {"kind": kind, "chat": ledger.details.uri, "turnId": named}
