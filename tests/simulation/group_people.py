"""Somebody with a group: sends, stops, changes members, looks away, and believes nothing twice.

Neighbours: `world` has the daemon that he talks to over no wire at all, and kills it; `test_groups`
has the runs. A call that a kill cuts off is asked again, as a device does.
"""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio

from dispatch.core.identity import LOCAL, ConversationId
from dispatch.errors import DispatchError
from dispatch.protocol.groups.requests import GroupCreate, GroupPatch, GroupSend
from dispatch.runtime.groups.sends import Sent
from dispatch.storage.memory import MemoryStore
from dispatch.testing import Harness
from tests.runtime.groups.room import Event, fold, shown_rows
from tests.simulation.world import World

MEMBERS = ("able", "plain")
EVERYTHING = 2**31 - 1

Call = Callable[[Harness], Awaitable[Any]]


@dataclass
class Message:
    """Something he sent: how often it was accepted, and as what."""

    text: str
    client_id: str
    targets: tuple[str, ...] | None
    seqs: set[int] = field(default_factory=set)
    is_answered: bool = False


class GroupPerson:
    """See the module; `trouble` is what he saw that cannot be."""

    def __init__(self, world: World, name: str, host: "GroupPerson | None" = None) -> None:
        self.world = world
        self.name = name
        # Who makes the group; the others wait for him.
        self.host = host
        self.group = ""
        self.sent: list[Message] = []
        self.trouble: list[str] = []
        self.rows: list[Event] = []
        self.cursor: int | None = None

    async def live(self, _conversations: tuple[str, ...]) -> None:
        while not self.group:
            if self.host is None:
                await self._ask(self._found)
            else:
                await self.world.wait(0.05)
                self.group = self.host.group
        while not self.world.is_calm:
            await self.world.wait(0.2)
            await self._do_something()
        for message in self.sent:
            while not message.is_answered:
                await self._send(message)
        await self._rest()
        await self._ask(self._look)

    async def drained(self) -> None:
        """He reads when he looks."""

    async def _rest(self) -> None:
        """Return once nobody answers him any more."""
        while True:
            view = await self._ask(lambda h: h.groups.groups.view(LOCAL, self.group))
            if view is not None and not isinstance(view, DispatchError) and not view.runs:
                return
            await self.world.wait(1.0)

    async def _ask(self, call: Call) -> Any:
        """What a daemon answers; None where it died meanwhile."""
        await self.world.reachable()
        harness, tasks = self.world.harness, self.world._tasks
        assert harness is not None
        assert tasks is not None
        told: list[Any] = []
        over = asyncio.Event()

        async def go() -> None:
            try:
                # A daemon that is dying takes no one in any more.
                if anyio.current_effective_deadline() > -math.inf:
                    told.append(await call(harness))
            except DispatchError as error:
                told.append(error)
            finally:
                over.set()

        try:
            tasks.start_soon(go)
        except RuntimeError:
            # It is dead, and nobody has noticed yet.
            over.set()
        await over.wait()
        if not told:
            await self.world.wait(0.05)
        return told[0] if told else None

    async def _found(self, harness: Harness) -> None:
        groups = harness.groups.groups
        listed = await groups.list(LOCAL)
        view = listed[0] if listed else await groups.create(LOCAL, GroupCreate(members=MEMBERS))
        self.group = view.id

    async def _do_something(self) -> None:
        random = self.world.random
        match random.randint(0, 15):
            case 0 | 1 | 2 | 3 | 4:
                number = len(self.sent)
                targets = random.choice([None, None, None, ("able",)])
                text, client_id = f"{self.name} says {number}", f"{self.name}-{number}"
                message = Message(text, client_id, targets)
                self.sent.append(message)
                await self._send(message)
            case 5 if self.sent:
                await self._send(random.choice(self.sent))
            case 6:
                await self._ask(lambda h: h.groups.stops.stop(LOCAL, self.group))
            case 7 if self.sent:
                client_id = random.choice(self.sent).client_id
                await self._ask(lambda h: h.groups.stops.stop(LOCAL, self.group, run_id=client_id))
            case 8:
                wanted = random.choice(
                    [
                        GroupPatch(remove=("plain",)),
                        GroupPatch(add=("plain",)),
                        GroupPatch(add=("plain",)),
                        GroupPatch(title=f"T{random.random():.3f}"),
                    ]
                )
                await self._ask(lambda h: h.groups.groups.patch(LOCAL, self.group, wanted))
            case 9 if random.random() < 0.2:
                await self._ask(self._lose)
            case _:
                await self._ask(self._look)

    async def _send(self, message: Message) -> None:
        wanted = GroupSend(
            text=message.text, client_message_id=message.client_id, targets=message.targets
        )
        told = await self._ask(lambda h: h.groups.sends.send(LOCAL, self.group, wanted))
        if isinstance(told, Sent):
            message.seqs.add(told.seq)
            message.is_answered = True
        elif told is not None and not told.retryable:
            self.trouble.append(f"{message.client_id} was refused: {told!r}")

    async def _lose(self, harness: Harness) -> None:
        """Delete a member's conversation behind the group's back."""
        view = await harness.groups.groups.view(LOCAL, self.group)
        conversation = ConversationId(view.group.members[0].conversation)
        self.world.closed.add(conversation)
        await harness.catalog.delete(LOCAL, conversation)

    async def _look(self, harness: Harness) -> None:
        """A page, and what the log says of the time since the last one."""
        groups = harness.groups
        async with groups.timelines.group(LOCAL.account, self.group) as timeline:
            page = await groups.reading.page(LOCAL, timeline, 0, None)
            rows, until = shown_rows(page), page.cursor
            assert until is not None
            # From 0 on means: from the first that is kept.
            if self.cursor is not None and (self.cursor or not self.world.prunes):
                if until < self.cursor:
                    self.trouble.append(f"the cursor went from {self.cursor} back to {until}")
                frames, is_gap = [], False
                async for part in groups.reading.replay(timeline, self.cursor, until):
                    frames += part
                    is_gap = is_gap or not part
                if not is_gap and fold(self.rows, frames) != rows:
                    self.trouble.append(f"frames {self.cursor} to {until} are not the rows")
            old = {row["seq"]: row for row in self.rows if not row["streaming"]}
            now = {row["seq"]: row for row in rows}
            self.trouble += [f"row {seq} changed" for seq in old if old[seq] != now.get(seq)]
            self.rows, self.cursor = rows, until


async def broken_group_claims(world: World, people: list[GroupPerson]) -> list[str]:
    """What must be true of the group when it is over."""
    found = [f"{person.name}: {problem}" for person in people for problem in person.trouble]
    store = MemoryStore(world.disk)
    await store.open()
    record = await store.timeline(LOCAL.account, "group", people[0].group)
    assert record is not None
    rows = await store.rows(record.key, limit=EVERYTHING)
    if [row.seq for row in rows] != list(range(1, len(rows) + 1)):
        found.append(f"seqs are {[row.seq for row in rows]}")
    if record.last_seq != len(rows):
        found.append(f"the last seq is {record.last_seq} of {len(rows)}")
    found += [f"row {row.key} is open" for row in await store.open_rows(record.key)]
    texts = Counter(row.text for row in rows if row.role == "message")
    log = await store.log(f"group:{record.key}", -1, EVERYTHING, timeline=record.key)
    own = [json.loads(one.payload) for one in log.records if one.is_own]
    lasts = Counter(told["replyTo"] for told in own if told["type"] == "all-ended")
    for person in people:
        for message in person.sent:
            if texts[message.text] != 1 or len(message.seqs) != 1:
                found.append(f"{message.client_id} is {texts[message.text]} rows: {message.seqs}")
    for row in rows:
        if row.role == "message":
            if not world.prunes and lasts[row.seq] != 1:
                found.append(f"message {row.seq} has {lasts[row.seq]} last words")
            if not any(reply.reply_to == row.seq for reply in rows):
                found.append(f"message {row.seq} was answered by nobody")
    return found
