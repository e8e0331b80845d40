"""The live timelines: found by kind and id, loaded once, let go when nobody needs them.

Neighbours: `conversations` has one attached to each live conversation that writes in it, `groups`
and `chats` open them for their verbs, `recovery` asks for what a crash left.
Invariant: there is one `Timeline` per timeline, and it stays as long as a conversation, a reader or
an open reply needs it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from dispatch.core.identity import AccountId, ConversationId, TurnId
from dispatch.errors import Gone, NotFound
from dispatch.protocol.groups.frames import frames
from dispatch.runtime.groups.timeline import GroupTimeline, stream_name
from dispatch.runtime.live import Live
from dispatch.runtime.scribes import timeline_scribe
from dispatch.runtime.services import Services
from dispatch.runtime.timeline import Timeline
from dispatch.storage.port import SealedTurn
from dispatch.storage.timeline import TimelineKind, TimelineRecord

_Name = tuple[AccountId, TimelineKind, str]
Builder = Callable[[TimelineRecord], Awaitable[Timeline]]

_LOG_PAGE: Final = 100


class Timelines:
    """Every timeline that is in memory, by account, kind and id."""

    def __init__(self, services: Services) -> None:
        """Begin with none."""
        self._services = services
        # Who makes the other kinds from what is stored.
        self.builders: dict[TimelineKind, Builder] = {}
        self._live: dict[_Name, Timeline] = {}
        self._loading: dict[_Name, asyncio.Event] = {}
        self._resting: OrderedDict[_Name, None] = OrderedDict()

    @asynccontextmanager
    async def group(self, account: AccountId, group: str) -> AsyncIterator[GroupTimeline]:
        """A group's timeline; raises `NotFound` and `Gone`."""
        async with self.using((account, "group", group)) as timeline:
            assert isinstance(timeline, GroupTimeline), "what a group keeps"
            yield timeline

    @asynccontextmanager
    async def using(self, name: _Name) -> AsyncIterator[Timeline]:
        """One that is kept in memory until the end."""
        timeline = await self.load(name)
        try:
            yield timeline
        finally:
            self.release(timeline)

    async def load(self, name: _Name) -> Timeline:
        """Find or read one; the caller holds it (`users`) until `release`."""
        while True:
            while (loading := self._loading.get(name)) is not None:
                await loading.wait()
            timeline = self._live.get(name)
            if timeline is None:
                timeline = await self._read(name)
            if timeline.record.status == "deleted":
                raise Gone("this was deleted")
            if self._live.get(name) is timeline:
                timeline.users += 1
                self._resting.pop(name, None)
                return timeline

    def find(self, name: _Name) -> Timeline | None:
        """One that is in memory."""
        return self._live.get(name)

    def bury(self, timeline: Timeline) -> None:
        """It is gone: nobody finds it any more; who holds it may let it go later."""
        self._resting.pop(_name(timeline.record), None)
        if self._live.get(_name(timeline.record)) is timeline:
            del self._live[_name(timeline.record)]

    def add(self, timeline: Timeline) -> None:
        """Take in a new one; the caller holds it until `release`."""
        timeline.users += 1
        self._live[_name(timeline.record)] = timeline

    def release(self, timeline: Timeline) -> None:
        """One user less; the last one lets it rest."""
        timeline.users -= 1
        self.rest(timeline)

    def rest(self, timeline: Timeline) -> None:
        """Keep it warm for a while if nobody needs it; the one that rested longest goes."""
        name = _name(timeline.record)
        if not timeline.is_at_rest:
            return
        if self._live.get(name) is not timeline:
            timeline.close()
            return
        self._resting[name] = None
        self._resting.move_to_end(name)
        if not timeline.is_stored:
            self.forget(timeline)
        while len(self._resting) > self._services.limits.conversations_warm_max:
            oldest, _ = self._resting.popitem(last=False)
            if self._live[oldest].is_at_rest:
                self.forget(self._live[oldest])

    def forget(self, timeline: Timeline) -> None:
        """Drop it from memory."""
        name = _name(timeline.record)
        self._resting.pop(name, None)
        if self._live.get(name) is timeline:
            del self._live[name]
            timeline.close()

    # -- conversations.Keeper ------------------------------------------------------------------

    async def attach(self, live: Live) -> None:
        """Have a conversation's timeline told of its turns, if it has one."""
        if live.details.timeline is None:
            return
        kind, timeline_id = live.details.timeline
        try:
            timeline = await self.load((live.record.account, kind, timeline_id))
        except (NotFound, Gone):
            # A crash between the end of a group and of its members: it is a plain conversation.
            if kind == "group":
                live.details = msgspec.structs.replace(live.details, timeline=None)
            return
        live.attach(timeline)

    def detach(self, live: Live) -> None:
        """The conversation leaves memory, or its timeline."""
        timeline = timeline_scribe(live.scribe)
        live.attach(None)
        if isinstance(timeline, Timeline):
            self.release(timeline)

    def placed(self, live: Live) -> None:
        """See `Keeper`: who places it says what timeline it has."""

    async def copied(self, live: Live, source: Live, turns: Sequence[SealedTurn]) -> None:
        """See `Keeper`: a timeline's turns are not copied into another one."""

    # -- reading -------------------------------------------------------------------------------

    async def _read(self, name: _Name) -> Timeline:
        loading = self._loading[name] = asyncio.Event()
        try:
            record = await self._services.store.timeline(*name)
            if record is None:
                raise NotFound(f"{name[1]} not found")
            if record.status == "deleted":
                raise Gone("this was deleted")
            timeline = await self._build(record)
            self._live[name] = timeline
            return timeline
        finally:
            del self._loading[name]
            loading.set()

    async def _build(self, record: TimelineRecord) -> Timeline:
        services, store = self._services, self._services.store
        rows = await store.open_rows(record.key)
        if record.kind != "group":
            timeline = await self.builders[record.kind](record)
            timeline.restore(rows)
            return timeline
        group = GroupTimeline(services, record, is_stored=True, head=await self._head(record))
        group.restore(rows)
        for reply_to in sorted({row.reply_to for row in rows if row.reply_to is not None}):
            ended = await store.replies_to(record.key, reply_to)
            outcomes = [row.outcome for row in ended if row.outcome is not None]
            group.ended_replies[reply_to] = Counter(outcomes)
        return group

    async def _head(self, record: TimelineRecord) -> int:
        """The id of the last frame; of what was pruned, the last there may have been."""
        page = await self._services.store.log(
            stream_name(record), record.last_position - 1, _LOG_PAGE, timeline=record.key
        )
        head = record.last_position * 16
        for found in page.records:
            row = None if found.row is None else page.rows.get(found.row)
            if row is not None and row.ended_position == 0:
                continue
            shown = frames(record.id, found.position, found.payload, row, is_own=found.is_own)
            head = max([head, *(frame.offset for frame in shown)])
        return head

    # -- recovery ------------------------------------------------------------------------------

    async def recover(self, is_alive: Callable[[AccountId, ConversationId, TurnId], bool]) -> None:
        """End the open replies whose turn neither waits nor runs; a crash was between the two."""
        for record in await self._services.store.open_timelines():
            async with self.using(_name(record)) as timeline:
                for turn, reply in list(timeline.replies.items()):
                    conversation = reply.row.conversation
                    assert conversation is not None, "a reply names its conversation"
                    if not is_alive(record.account, conversation, turn):
                        timeline.lose(turn)
        await self._services.journal.idle()


def _name(record: TimelineRecord) -> _Name:
    return record.account, record.kind, record.id
