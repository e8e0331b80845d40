"""What may be done to chat sessions: create, name, put away, purge, read, type, stop.

Neighbours: `chats.sends` has what is said, `chats.reading` the snapshots, `chats.timeline` is one
session; `server.chats.routes` calls all of them. Source: `protocol/chat-sessions.md`.
Invariant: what a verb says is durable, a verb that raises changed nothing, and nobody but the
user who made it comes near a session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, NamedTuple

import anyio.lowlevel

from dispatch.core.identity import SEND, WATCH, ConversationId, Principal, TurnId, require
from dispatch.core.session import Session, SessionView, encode_session
from dispatch.errors import Forbidden
from dispatch.protocol.sessions import AgentNotFound, SessionNotFound, TaskNotFound
from dispatch.protocol.sessions.frames import message_object
from dispatch.protocol.sessions.requests import Create
from dispatch.runtime.accounts import Accounts
from dispatch.runtime.broker import Broker
from dispatch.runtime.catalog import Catalog
from dispatch.runtime.chats.presence import ChatTyping
from dispatch.runtime.chats.streams import ChatStreams
from dispatch.runtime.chats.timeline import ChatTimeline
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft
from dispatch.runtime.services import Services
from dispatch.runtime.shape import Details
from dispatch.runtime.timelines import Timelines
from dispatch.storage.keys import TimelineKey
from dispatch.storage.timeline import RowRecord, TimelineRecord

_READ_PAGE: Final = 200


class ReadUpTo(NamedTuple):
    """Where a user's read cursor is, and what is behind it."""

    last_read_seq: int
    unread: int


class Cancelled(NamedTuple):
    """What became of a task that somebody wanted to end; `idle` where there was none."""

    task: str | None
    status: str


class Chats:
    """See the module; `typing` is who types."""

    def __init__(
        self,
        services: Services,
        conversations: Conversations,
        timelines: Timelines,
        broker: Broker,
        catalog: Catalog,
        accounts: Accounts,
    ) -> None:
        """See the module."""
        self.services = services
        self.conversations = conversations
        self.timelines = timelines
        self.streams = streams = ChatStreams(services)
        self.broker = broker
        self.typing = ChatTyping(streams, services.clock)
        self._catalog = catalog
        self._accounts = accounts
        timelines.builders["chat"] = self._build

    async def _build(self, record: TimelineRecord) -> ChatTimeline:
        timeline = ChatTimeline(self.services, record, self.streams, is_stored=True)
        await timeline.fetch()
        return timeline

    @asynccontextmanager
    async def own(
        self, principal: Principal, session: str, right: str = WATCH
    ) -> AsyncIterator[ChatTimeline]:
        """One of the principal's own; raises `NotFound`, `Gone` and `Forbidden`."""
        require(principal, right)
        async with self.timelines.using((principal.account, "chat", session)) as timeline:
            assert isinstance(timeline, ChatTimeline), "what a chat session keeps"
            if timeline.record.user != principal.user:
                raise Forbidden("this chat session belongs to another user")
            yield timeline

    # -- the session ---------------------------------------------------------------------------

    async def create(self, principal: Principal, wish: Create) -> SessionView:
        """A new session, and the conversation that it is."""
        require(principal, SEND)
        services = self.services
        if wish.agent_key not in services.agents:
            raise AgentNotFound(f"no agent is called {wish.agent_key!r}")
        self._accounts.check_rate(principal.account)
        session = ConversationId(services.ids.new("c"))
        workspace = wish.workspace_id or "default"
        async with self.conversations.using(principal, session) as live:
            live.record.visibility = "user"
            live.record.title = wish.title
            live.record.workspace = workspace
            live.details = Details(
                model=wish.agent_key,
                title_is_given=bool(wish.title),
                timeline=("chat", session),
            )
            timeline = self._new_timeline(live, Session(agent=wish.agent_key, workspace=workspace))
            timeline.title = wish.title
            # Until the conversation leaves memory.
            self.timelines.add(timeline)
            live.attach(timeline)

            def write(draft: Draft, offset: int) -> None:
                timeline.create(draft)
                live.write_row(draft, offset)

            await live.commit(write)
            return timeline.view()

    def _new_timeline(self, live: Live, session: Session) -> ChatTimeline:
        services, record = self.services, live.record
        return ChatTimeline(
            services,
            TimelineRecord(
                key=TimelineKey(next(services.keys)),
                account=record.account,
                kind="chat",
                id=record.id,
                user=record.user,
                created_at_ms=record.created_at_ms,
                updated_at_ms=record.created_at_ms,
                active_at_ms=record.created_at_ms,
                epoch=services.opened.incarnation,
                details=encode_session(session),
            ),
            self.streams,
            is_stored=False,
        )

    async def rename(self, principal: Principal, session: str, title: str) -> SessionView:
        """Name it; the automatic title never comes back."""
        async with self.own(principal, session, SEND) as timeline:
            await self._catalog.set_title(principal, ConversationId(session), title)
            return timeline.view()

    async def archive(self, principal: Principal, session: str) -> SessionView:
        """Put it away; what runs in it goes on."""
        return await self._put_away(principal, session, archived=True)

    async def restore(self, principal: Principal, session: str) -> SessionView:
        """Take it back, with what has come meanwhile."""
        return await self._put_away(principal, session, archived=False)

    async def _put_away(self, principal: Principal, session: str, *, archived: bool) -> SessionView:
        async with self.own(principal, session, SEND) as timeline:
            await _commit(timeline, partial(timeline.put_away, archived=archived))
            return timeline.view()

    async def purge(self, principal: Principal, session: str) -> None:
        """Remove it and all that was said in it, for ever."""
        async with self.own(principal, session, SEND) as timeline:
            trouble = self.services.journal.trouble
            if trouble is not None:
                # Or what runs and waits would be ended for nothing.
                raise type(trouble)(trouble.message, retry_after_ms=1_000)
            await self._catalog.delete(principal, ConversationId(session))
            self.timelines.bury(timeline)

    # -- reading and typing --------------------------------------------------------------------

    async def read(self, principal: Principal, session: str, up_to_seq: int | None) -> ReadUpTo:
        """Move the read cursor forward, to where nothing that still comes would be swallowed."""
        async with self.own(principal, session) as timeline, timeline.reads:
            before = timeline.standing.last_read_seq
            newest = _newest_readable(timeline)
            seq = newest if up_to_seq is None else min(up_to_seq, newest)
            if seq > before and timeline.record.status == "active":
                row, passed = await self._passed(timeline, before, seq)
                if row is not None:
                    await _commit(timeline, partial(timeline.read_to, row=row, passed=passed))
            return ReadUpTo(timeline.standing.last_read_seq, timeline.unread)

    async def _passed(
        self, timeline: ChatTimeline, after: int, seq: int
    ) -> tuple[RowRecord | None, int]:
        """The row of a seq, and how many ended replies there are up to it: they never change."""
        row, passed = None, 0
        while after < seq:
            page = await self.services.store.rows(
                timeline.record.key, after_seq=after, before_seq=seq + 1, limit=_READ_PAGE
            )
            if not page:
                return None, 0
            passed += sum(row.role == "reply" for row in page)
            row = page[-1]
            after = row.seq or seq
        return row, passed

    async def note_typing(
        self, principal: Principal, session: str, device: str | None, *, typing: bool
    ) -> None:
        """Show that its user types, or does not any more."""
        async with self.own(principal, session) as timeline:
            self.typing.note(timeline, device, typing=typing)

    # -- tasks ---------------------------------------------------------------------------------

    async def cancel(self, principal: Principal, session: str, task: str | None) -> Cancelled:
        """End a task: the one that is named, else the running, else the oldest that waits."""
        async with self.own(principal, session, SEND) as timeline:
            if task is None:
                replies = timeline.open_replies
                running = [r for r in replies if r.row.started_at_ms is not None]
                first = next(iter(running or replies), None)
                if first is None or first.row.turn_id is None:
                    return Cancelled(None, "idle")
                task = first.row.turn_id
            return Cancelled(task, await self._cancel(principal, timeline, TurnId(task)))

    async def _cancel(self, principal: Principal, timeline: ChatTimeline, task: TurnId) -> str:
        """Until it is over, for it may begin between two looks."""
        conversation = ConversationId(timeline.record.id)
        while (reply := timeline.replies.get(task)) is not None:
            async with self.conversations.using(principal, conversation) as live:
                if live.current is not None and live.current.id == task:
                    await self.broker.stop(principal, conversation, task)
                else:
                    await self.broker.cancel(principal, conversation, task)
                await live.written()
            # What is on its way may need a moment, and others the loop.
            await anyio.lowlevel.checkpoint()
            if reply.over.is_set():
                return _status(reply.row)
        row = await self.services.store.row_of_turn(timeline.record.key, task)
        if row is None:
            raise TaskNotFound("this chat session has no such task")
        return _status(row)


def _status(row: RowRecord) -> str:
    status: str = message_object(row)["status"]
    return status


def _newest_readable(timeline: ChatTimeline) -> int:
    """Below the lowest reply that is still being said."""
    spoken = [reply.row.seq for reply in timeline.replies.values() if reply.row.seq is not None]
    return min([timeline.record.last_seq, *(seq - 1 for seq in spoken)])


async def _commit(timeline: ChatTimeline, write: Callable[[Draft], None]) -> None:
    """A change of a session, durable when it returns; raises what refused it."""
    await timeline.outbox.commit(write)
    if timeline.standing.is_buried:
        raise SessionNotFound
