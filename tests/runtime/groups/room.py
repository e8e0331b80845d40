"""One group in a running broker, as tests of groups see it: verbs, rows, frames, and a claim.

The claim is the contract's: what a device folds from frames is what GET shows, a replay is what was
shown, and the rows are dense.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from dispatch.core.group import GroupView
from dispatch.core.identity import LOCAL, AccountId, ConversationId, Principal
from dispatch.core.replay import Frame, Gap
from dispatch.protocol.groups.requests import GroupCreate, GroupPatch, GroupSend
from dispatch.protocol.groups.rows import group_event
from dispatch.runtime.groups.reading import GroupPage
from dispatch.runtime.groups.sends import Sent
from dispatch.runtime.groups.stops import Stopped, in_order
from dispatch.runtime.groups.timeline import GroupTimeline
from dispatch.runtime.slots import Slots
from dispatch.storage.memory import MemoryStore
from dispatch.storage.port import ConversationRecord, Store
from dispatch.storage.timeline import RowRecord, TimelineRecord
from dispatch.testing import Harness, ScriptedAgent, StoreWrapper, broker_on
from dispatch.testing.audit import audit
from tests.protocol.published import saw

Event = dict[str, Any]

EVERYTHING = 2**31 - 1
_ENVELOPE = ("kind", "groupId")


def fold(events: Iterable[Event], frames: Iterable[Frame]) -> list[Event]:
    """What a device makes of a page and of the frames after its cursor."""
    rows = {event["seq"]: dict(event) for event in events}
    for frame in frames:
        payload = json.loads(frame.payload)
        saw("GroupStreamFrame", payload)
        kind, seq = payload["kind"], payload["seq"]
        bare = {name: value for name, value in payload.items() if name not in _ENVELOPE}
        if kind == "user" or (kind == "done" and "familiarId" in payload):
            rows[seq] = bare
        elif kind == "assistant_chunk":
            text = rows[seq]["text"] if seq in rows else ""
            rows[seq] = bare | {"text": text + payload["text"]}
    return [rows[seq] for seq in sorted(rows)]


def shown_rows(page: GroupPage) -> list[Event]:
    """The rows of a page as they travel."""
    events = [group_event(row, text=text) for row, text in page.rows]
    decoded: list[Event] = json.loads(json.dumps(events))
    return decoded


@dataclass
class Room:
    """One group of a broker."""

    broker: Harness
    timeline: GroupTimeline
    principal: Principal = LOCAL

    @property
    def id(self) -> str:
        return self.timeline.record.id

    async def send(self, text: str = "hi", **fields: Any) -> Sent:
        send = GroupSend(text=text, **fields)
        return await self.broker.groups.sends.send(self.principal, self.id, send)

    async def stop(self, **fields: Any) -> Stopped:
        return await self.broker.groups.stops.stop(self.principal, self.id, **fields)

    async def patch(self, **fields: Any) -> GroupView:
        return await self.broker.groups.groups.patch(self.principal, self.id, GroupPatch(**fields))

    async def page(self, after: int = 0, limit: int | None = None) -> GroupPage:
        return await self.broker.groups.reading.page(self.principal, self.timeline, after, limit)

    async def events(self) -> list[Event]:
        return shown_rows(await self.page())

    async def outcomes(self) -> list[tuple[str, str]]:
        """Who ended how, by seq."""
        return [
            (event["familiarId"], event.get("outcome", "open"))
            for event in await self.events()
            if event["role"] == "familiar"
        ]

    async def texts(self) -> list[tuple[str, str]]:
        """Who said what, by seq."""
        return [(event.get("familiarId", "user"), event["text"]) for event in await self.events()]

    def child(self, agent: str) -> ConversationId:
        member = self.timeline.group.member(agent)
        assert member is not None, f"{agent} is no member"
        return member.conversation

    def shown(self, after: int | None = None) -> list[Frame]:
        """What was shown since the room was opened, or after a frame."""
        ring = self.timeline.feed.ring
        frames = ring.read(ring.floor if after is None else after, bytes_max=EVERYTHING)
        assert not isinstance(frames, Gap)
        return frames

    def payloads(self, after: int | None = None) -> list[Event]:
        return [json.loads(frame.payload) for frame in self.shown(after)]

    async def replayed(self, after: int = 0, until: int | None = None) -> list[Frame]:
        end = self.timeline.feed.head if until is None else until
        pages = self.broker.groups.reading.replay(self.timeline, after, end)
        return [frame async for page in pages for frame in page]

    async def settled(self) -> None:
        """Return once nobody answers any more, and everything is durable."""
        while True:
            await self.broker.services.journal.idle()
            open_replies = in_order(self.timeline)
            if not open_replies:
                return
            await open_replies[0].over.wait()

    async def is_gap(self, after: int) -> bool:
        """Whether a cursor is too old to be served."""
        until = self.timeline.feed.head
        async for page in self.broker.groups.reading.replay(self.timeline, after, until):
            return not page
        return False

    async def check(self, *, is_whole: bool = True, is_pruned: bool = False) -> None:
        """The claim; `is_whole`: everything since the group's beginning was shown in here;
        `is_pruned`: some of it is not in the log any more.
        """
        page = await self.page()
        events = shown_rows(page)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        shown = self.shown()
        replayed = await self.replayed()
        if is_pruned:
            assert not is_whole or set(replayed) <= set(shown)
        elif is_whole:
            assert replayed == shown
        else:
            assert replayed[len(replayed) - len(shown) :] == shown
        if self.timeline.record.alias is None:
            assert fold([], replayed) == events
        ids = [frame.offset for frame in replayed]
        assert ids == sorted(set(ids))
        for index, after in enumerate(ids):
            if not is_pruned or not await self.is_gap(after):
                assert await self.replayed(after) == replayed[index + 1 :]
        if not self.timeline.replies:
            assert page.settled_seq == page.view.last_seq == len(events)
            assert page.view.runs == ()
            assert await audit(self.broker.store) == []


class LateStore(StoreWrapper):
    """Keeps what it has read to itself until it is told to let go; one verb, once."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._held = ""
        self._reached = asyncio.Event()
        self._free = asyncio.Event()

    def hold(self, verb: str) -> None:
        self._held = verb

    async def reached(self) -> None:
        await self._reached.wait()

    def release(self) -> None:
        self._free.set()

    async def _after(self, verb: str) -> None:
        if self._held == verb:
            self._held = ""
            self._reached.set()
            await self._free.wait()

    async def rows(self, *args: Any, **options: Any) -> list[RowRecord]:
        found = await super().rows(*args, **options)
        await self._after("rows")
        return found

    async def row_by_client_key(self, client_key: str) -> tuple[TimelineRecord, RowRecord] | None:
        found = await super().row_by_client_key(client_key)
        await self._after("row_by_client_key")
        return found

    async def conversation(
        self, account: AccountId, conversation_id: ConversationId
    ) -> ConversationRecord | None:
        found = await super().conversation(account, conversation_id)
        await self._after("conversation")
        return found


def named(*steps: Any, name: str) -> ScriptedAgent:
    return ScriptedAgent(*steps, name=name)


def speakers(*names: str) -> list[ScriptedAgent]:
    """Agents that say who they are, and what they were told."""

    def script(name: str) -> ScriptedAgent:
        return ScriptedAgent(script=lambda request: [f"{name}: ", request.message], name=name)

    return [script(name) for name in names]


@asynccontextmanager
async def group_on(
    agents: Sequence[ScriptedAgent],
    *,
    store: Store | None = None,
    group: str | None = None,
    members: Sequence[str] | None = None,
    title: str | None = None,
    runs_max: int | None = None,
    **options: Any,
) -> AsyncIterator[Room]:
    """A broker with a new group of all agents, or with one that is there already."""
    async with broker_on(store or MemoryStore(), agents=agents, **options) as broker:
        if runs_max is not None:
            broker.services.slots = Slots(runs_max)
        if group is None:
            names = tuple(members or [agent.info.name for agent in agents])
            wanted = GroupCreate(title=title, members=names)
            group = (await broker.groups.groups.create(LOCAL, wanted)).id
        async with broker.groups.timelines.group(LOCAL.account, group) as timeline:
            yield Room(broker, timeline)


@asynccontextmanager
async def another(room: Room, *members: str) -> AsyncIterator[Room]:
    """Another group in the same broker."""
    groups = room.broker.groups
    view = await groups.groups.create(room.principal, GroupCreate(members=members))
    async with groups.timelines.group(room.principal.account, view.id) as timeline:
        yield Room(room.broker, timeline, room.principal)
