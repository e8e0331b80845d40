"""What may be done to groups as a whole: create, list, change, delete, read.

Neighbours: `sends` and `stops` have the verbs about what is said, `reading` the pages, `adopting`
wraps conversations that are there; `server.groups` calls all of them.
Invariant: what a verb says is durable, and a verb that raises changed nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from dispatch.core.group import (
    Group,
    GroupView,
    Member,
    deduplicated,
    encode_group,
    unprovisioned,
    with_members,
)
from dispatch.core.identity import SEND, WATCH, AccountId, Principal, UserId, require
from dispatch.core.notices import GroupDeletedNotice
from dispatch.core.timeline import Changed
from dispatch.errors import DispatchError, Gone, NotFound, StorageFull, StorageLocked
from dispatch.protocol.groups.refusals import FamiliarNotFound, LastMember, ProvisionFailed
from dispatch.protocol.groups.requests import GroupCreate, GroupPatch
from dispatch.runtime.catalog import Catalog
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.errand import carry_out
from dispatch.runtime.groups.members import Provision
from dispatch.runtime.groups.stops import GroupStops, in_order
from dispatch.runtime.groups.timeline import GroupTimeline
from dispatch.runtime.pending import Draft, PendingChange
from dispatch.runtime.services import Services
from dispatch.runtime.timeline import Reply, Timeline
from dispatch.runtime.timelines import Timelines
from dispatch.storage.keys import TimelineKey
from dispatch.storage.port import CursorRecord
from dispatch.storage.timeline import TimelineQuery, TimelineRecord

_LIST_PAGE = 500


class Deleted(NamedTuple):
    """What became of a group's conversations; not `was_there`: it was deleted before."""

    was_there: bool
    deleted: list[str]
    kept: list[str]


class Groups:
    """The verbs of groups."""

    def __init__(
        self,
        services: Services,
        conversations: Conversations,
        catalog: Catalog,
        timelines: Timelines,
        stops: GroupStops,
    ) -> None:
        """See the module."""
        self._services = services
        self._conversations = conversations
        self._catalog = catalog
        self._timelines = timelines
        self._stops = stops

    async def list(self, principal: Principal) -> list[GroupView]:
        """All groups of the account, newest activity first."""
        require(principal, WATCH)
        found: list[GroupView] = []
        before = None
        while True:
            query = TimelineQuery(
                account=principal.account, kind="group", before=before, limit=_LIST_PAGE
            )
            page = await self._services.store.timelines(query)
            for summary in page:
                live = self._timelines.find((principal.account, "group", summary.record.id))
                if isinstance(live, GroupTimeline):
                    found.append(live.view())
                else:
                    quiet = GroupTimeline(self._services, summary.record, is_stored=True, head=0)
                    found.append(quiet.view())
            if len(page) < _LIST_PAGE:
                return found
            last = page[-1].record
            before = last.active_at_ms, last.key

    async def create(self, principal: Principal, wanted: GroupCreate) -> GroupView:
        """A group with a new conversation for each member."""
        require(principal, SEND)
        agents = deduplicated(wanted.members)
        self._check_agents(agents)
        services = self._services
        now_ms = services.clock.now_ms()
        group = Group(members=unprovisioned(agents), title=wanted.title)
        group = msgspec.structs.replace(group, session=services.ids.new("s"))
        record = new_record(services, principal, services.ids.new("g"), now_ms)
        record.title = group.shown_title
        provision = Provision(self._conversations, principal, record, group, agents)
        members = tuple(provision.members[agent] for agent in agents)
        group = msgspec.structs.replace(group, members=members)
        record.details = encode_group(group)
        timeline = GroupTimeline(services, record, is_stored=False, head=0)
        self._timelines.add(timeline)

        def write(draft: Draft, _offset: int) -> None:
            timeline.stage(draft)
            provision.write(draft)

        def kept() -> None:
            provision.keep(timeline)
            self._timelines.release(timeline)

        def refused() -> None:
            provision.drop()
            self._timelines.release(timeline)

        try:
            await commit(timeline, write, then=kept, instead=refused)
        except (StorageFull, StorageLocked) as error:
            raise ProvisionFailed(error.message) from error
        return timeline.view()

    async def view(self, principal: Principal, group_id: str) -> GroupView:
        """One group."""
        require(principal, WATCH)
        async with self._timelines.group(principal.account, group_id) as timeline:
            return timeline.view()

    async def patch(self, principal: Principal, group_id: str, wanted: GroupPatch) -> GroupView:
        """Rename it, or have other members; returns once the runs of who leaves are over."""
        require(principal, SEND)
        return await carry_out(self._services, partial(self._patch, principal, group_id, wanted))

    async def _patch(self, principal: Principal, group_id: str, wanted: GroupPatch) -> GroupView:
        async with self._timelines.group(principal.account, group_id) as timeline:
            async with timeline.changing:
                if timeline.is_ending:
                    raise Gone("the group was deleted")
                await self._change(principal, timeline, wanted)
            return timeline.view()

    async def _change(
        self, principal: Principal, timeline: GroupTimeline, wanted: GroupPatch
    ) -> None:
        group = timeline.group
        members = _members(group, wanted)
        fresh = [agent for agent in members if group.member(agent) is None]
        self._check_agents(fresh)
        leaving = [member for member in group.members if member.agent not in members]
        is_same = members == tuple(member.agent for member in group.members)
        if is_same and wanted.title in (None, group.title):
            return
        while runs := _runs(timeline, leaving):
            await self._stops.end(timeline, runs, "removed")
        provision = Provision(self._conversations, principal, timeline.record, group, fresh)
        conversations = {a: member.conversation for a, member in provision.members.items()}
        now_ms = self._services.clock.now_ms()

        def write(draft: Draft, _offset: int) -> None:
            provision.write(draft)
            # A message may have renewed a member meanwhile.
            now = timeline.group_in(draft)
            changed = with_members(now, members, conversations, now_ms)
            title = now.title if wanted.title is None else wanted.title
            timeline.change(draft, msgspec.structs.replace(changed, title=title))

        def kept() -> None:
            provision.keep(timeline)
            # Those of a message that was faster.
            self._stops.end_soon(timeline, _runs(timeline, leaving), "removed")

        await commit(timeline, write, then=kept, instead=provision.drop)
        await self._stops.end(timeline, _runs(timeline, leaving), "removed")
        for member in leaving:
            await self._catalog.archive(principal, member.conversation)

    async def delete(
        self, principal: Principal, group_id: str, sessions: str | None = None
    ) -> Deleted:
        """End its runs and remove it; its id is never used again."""
        require(principal, SEND)
        try:
            # Whoever asks may leave: half of its conversations gone is nobody's wish.
            return await carry_out(
                self._services, partial(self._delete, principal, group_id, sessions)
            )
        except Gone:
            return Deleted(False, [], [])

    async def _delete(self, principal: Principal, group_id: str, sessions: str | None) -> Deleted:
        async with self._timelines.group(principal.account, group_id) as timeline:
            return await self._delete_all(principal, timeline, sessions)

    async def _delete_all(
        self, principal: Principal, timeline: GroupTimeline, sessions: str | None
    ) -> Deleted:
        async with timeline.changing:
            if timeline.is_ending:
                return Deleted(False, [], [])
            await self._end(timeline)
        group = timeline.group
        members = [(member.conversation, member.is_adopted) for member in group.members]
        members += [(former.conversation, former.is_adopted) for former in group.former]
        deleted, kept = [], []
        for conversation, is_adopted in members:
            if sessions == "keep" or (sessions is None and is_adopted):
                if await self._catalog.leave_timeline(principal, conversation):
                    kept.append(str(conversation))
                continue
            try:
                await self._catalog.delete(principal, conversation)
            except (Gone, NotFound):
                continue
            deleted.append(str(conversation))
        return Deleted(True, deleted, kept)

    async def _end(self, timeline: GroupTimeline) -> None:
        """End its runs, then itself."""
        timeline.is_ending = True
        is_gone = False
        try:
            while timeline.replies:
                # Those of a message that is on its way, too.
                await timeline.outbox.drained()
                await self._stops.end(timeline, in_order(timeline))
            key, shown = timeline.record.key, msgspec.Raw(b"{}")
            account, group = timeline.record.account, timeline.record.id
            notice = GroupDeletedNotice(account=account, group=group)

            def write(draft: Draft, _offset: int) -> None:
                timeline.stage(draft)
                timeline.emit(draft, Changed("deleted", shown))
                draft.burials.append(key)

            def gone() -> None:
                timeline.record.status = "deleted"
                self._timelines.bury(timeline)
                self._services.feeds.notify(notice)

            await commit(timeline, write, then=gone)
            is_gone = True
        finally:
            timeline.is_ending = is_gone

    async def read(self, principal: Principal, group_id: str, up_to_seq: int) -> tuple[int, int]:
        """Move the user's read cursor forward; where it is, and how many rows are behind it."""
        require(principal, WATCH)
        async with self._timelines.group(principal.account, group_id) as timeline:
            key, store = timeline.record.key, self._services.store
            before = await store.read_cursor(key, principal.user)
            seq = max(before, min(up_to_seq, timeline.settled_seq))
            if seq > before:
                await commit(timeline, _moves_cursor(key, principal.user, seq))
            return seq, await store.unread(key, principal.user)

    def _check_agents(self, agents: Sequence[str]) -> None:
        for agent in agents:
            if agent not in self._services.agents:
                raise FamiliarNotFound(f"no agent is called {agent!r}")


def new_record(
    services: Services, principal: Principal, group_id: str, now_ms: int
) -> TimelineRecord:
    """The row of a group that is about to be."""
    return TimelineRecord(
        key=TimelineKey(next(services.keys)),
        account=AccountId(principal.account),
        kind="group",
        id=group_id,
        user=principal.user,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        active_at_ms=now_ms,
    )


async def commit(
    timeline: Timeline,
    write: Callable[[Draft, int], None],
    *,
    then: Callable[[], None] | None = None,
    instead: Callable[[], object] | None = None,
) -> None:
    """A change of a timeline, durable when it returns; raises what refused it.

    `then` runs once it is durable, `instead` when it is refused, also where the caller has stopped
    waiting.
    """
    settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def durable(_offset: int) -> None:
        if then is not None:
            then()
        if not settled.done():
            settled.set_result(None)

    def refused(error: DispatchError) -> None:
        if instead is not None:
            instead()
        if not settled.done():
            settled.set_exception(error)

    timeline.outbox.change(PendingChange(write, durable, refused))
    await settled


def _members(group: Group, wanted: GroupPatch) -> tuple[str, ...]:
    present = [member.agent for member in group.members]
    if wanted.members is not None:
        members = deduplicated(wanted.members)
    else:
        added = deduplicated([*present, *(wanted.add or ())])
        members = tuple(agent for agent in added if agent not in (wanted.remove or ()))
    if not members:
        raise LastMember
    return members


def _runs(timeline: GroupTimeline, members: Sequence[Member]) -> list[Reply]:
    agents = {member.agent for member in members}
    return [reply for reply in in_order(timeline) if reply.row.agent in agents]


def _moves_cursor(key: TimelineKey, user: UserId, seq: int) -> Callable[[Draft, int], None]:
    def write(draft: Draft, _offset: int) -> None:
        draft.cursors.append(CursorRecord(key, user, seq))

    return write
