"""Every verb of groups in any order, through refusals, losses and crashes, against the contract.

The model knows what was accepted and for whom; after every step the rows, the frames and the disk
must be what `protocol/groups.md` says of exactly that.
"""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from dispatch.core.identity import LOCAL
from dispatch.errors import Busy, Gone, StorageFull
from dispatch.protocol.groups.refusals import ClientMessageConflict, InvalidTargets, LastMember
from dispatch.runtime.groups.sends import Sent
from dispatch.testing.audit import audit
from tests.properties.groups_world import AGENTS, RUNS_MAX, DrivenGroup, Word
from tests.runtime.groups.room import Event, fold, shown_rows


@dataclass
class Message:
    """A message that was accepted, and who is to answer it."""

    text: str
    client_id: str
    targets: tuple[str, ...] | None
    seq: int
    agents: tuple[str, ...]


class GroupsMachine(DrivenGroup):
    """One group of three agents, driven by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.accepted: list[Message] = []
        self.stopped_ahead: set[str] = set()
        self.ended: dict[int, Event] = {}
        # Somebody deleted a member's conversation, and with it some of the log.
        self.has_lost = False
        # A device that is away now and then: its rows, and its cursor.
        self.device: tuple[list[Event], int] = ([], 0)

    def teardown(self) -> None:
        try:
            if self._daemon is not None:
                self.run(self._end_of_everything())
                self.everything_that_was_accepted_is_answered()
                self._runner.run(self._stop())
        finally:
            self._runner.close()
            self._logs.__exit__(None, None, None)

    async def _end_of_everything(self) -> None:
        for live in self.broker.conversations:
            while await self.broker.stop(live.record.id):
                pass
        await self.room.stop()
        assert self.room.timeline.replies == {}
        await self.broker.until_idle()

    # -- rules ---------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self._runner.run(self._start())

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(member.agent for member in self.room.timeline.group.members)

    @rule(
        to=st.none() | st.lists(st.sampled_from(AGENTS), min_size=1, max_size=3, unique=True),
        on_busy=st.sampled_from(["queue", "queue", "reject"]),
        is_full=st.integers(0, 5),
    )
    def send(self, to: list[str] | None, on_busy: str, is_full: int) -> None:
        self.count += 1
        text, client_id = f"m{self.count}", f"id{self.count}"
        chosen = None if to is None else tuple(to)
        is_busy = bool(self.room.timeline.replies)
        if is_full == 1:
            self.store.fail(StorageFull("full"))
        told = self.run(
            self.room.send(text, client_message_id=client_id, targets=chosen, on_busy=on_busy)
        )
        is_refused = isinstance(told, StorageFull)
        self._runner.run(self._repaired())
        if chosen is not None and not set(chosen) <= set(self.members):
            assert isinstance(told, InvalidTargets)
        elif on_busy == "reject" and is_busy:
            assert isinstance(told, Busy)
        elif is_refused:
            assert is_full == 1
        else:
            assert isinstance(told, Sent), told
            assert not told.is_duplicate
            self._accept(text, client_id, chosen, told)

    async def _repaired(self) -> None:
        self.store._once.clear()
        await self._settle()
        assert self.broker.services.journal.trouble is None

    def _accept(
        self, text: str, client_id: str, targets: tuple[str, ...] | None, told: Sent
    ) -> None:
        wanted = self.members if targets is None else targets
        agents = tuple(agent for agent in self.members if agent in wanted)
        self.accepted.append(Message(text, client_id, targets, told.seq, agents))

    @precondition(lambda self: self.accepted)
    @rule(data=st.data(), is_changed=st.booleans())
    def send_again(self, data: st.DataObject, is_changed: bool) -> None:
        message = data.draw(st.sampled_from(self.accepted))
        text = message.text + "?" * is_changed
        told = self.run(
            self.room.send(text, client_message_id=message.client_id, targets=message.targets)
        )
        if is_changed:
            assert isinstance(told, ClientMessageConflict)
        else:
            assert (told.seq, told.is_duplicate) == (message.seq, True)
            replayed = self._runner.run(self.room.replayed(told.frame - 1))
            assert self.has_lost or json.loads(replayed[0].payload)["seq"] == message.seq

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), word=st.sampled_from(["say", "say", "think", "finish", "fail"]))
    def order(self, data: st.DataObject, word: Word) -> None:
        turn = data.draw(st.sampled_from(sorted(self.asked)))

        async def give() -> None:
            self.orders[turn].put_nowait(word)

        self.run(give())

    @rule(agent=st.none() | st.sampled_from(AGENTS), data=st.data())
    def stop(self, agent: str | None, data: st.DataObject) -> None:
        seqs = [message.seq for message in self.accepted if message.seq not in self.done]
        reply_to = data.draw(st.none() | st.sampled_from(seqs)) if seqs else None
        told = self.run(self.room.stop(agent=agent, reply_to=reply_to))
        assert not told.is_remembered
        for reply in self.room.timeline.replies.values():
            assert agent not in (None, reply.row.agent) or reply_to not in (
                None,
                reply.row.reply_to,
            )

    @rule(is_ahead=st.integers(0, 3), data=st.data())
    def stop_by_id(self, is_ahead: int, data: st.DataObject) -> None:
        if is_ahead == 0:
            client_id = f"id{self.count + 1}"
            assert self.run(self.room.stop(run_id=client_id)).is_remembered
            self.stopped_ahead.add(client_id)
        elif self.accepted:
            message = data.draw(st.sampled_from(self.accepted))
            assert not self.run(self.room.stop(run_id=message.client_id)).is_remembered
            assert message.seq in self.done

    @rule(agent=st.sampled_from(AGENTS), is_added=st.booleans(), is_titled=st.booleans())
    def change(self, agent: str, is_added: bool, is_titled: bool) -> None:
        before = self.members
        fields: dict[str, Any] = {"add" if is_added else "remove": (agent,)}
        told = self.run(self.room.patch(title="T" if is_titled else None, **fields))
        if before == (agent,) and not is_added:
            assert isinstance(told, LastMember)
        elif is_added:
            assert self.members == (before if agent in before else (*before, agent))
        else:
            assert agent not in self.members
            assert all(r.row.agent != agent for r in self.room.timeline.replies.values())

    @rule(agent=st.sampled_from(AGENTS), is_meant=st.integers(0, 3))
    def lose(self, agent: str, is_meant: int) -> None:
        if agent in self.members and not is_meant:
            self.has_lost = True
            told = self.run(self.broker.catalog.delete(LOCAL, self.room.child(agent)))
            assert told is None or isinstance(told, Gone)

    @rule(agent=st.sampled_from(AGENTS), on_busy=st.sampled_from(["reject", "queue", "interrupt"]))
    def send_directly(self, agent: str, on_busy: Any) -> None:
        if agent in self.members:
            child = self.room.child(agent)
            told = self.run(self.broker.send("direct", child, on_busy=on_busy))
            if isinstance(told, Busy):
                live = self.broker.live(child)
                assert live.current is not None or live.state.queue

    @rule(cut=st.integers(0, 14), is_sent=st.booleans())
    def crash(self, cut: int, is_sent: bool) -> None:
        """Killed somewhere on the way of one more send, which is sent again afterwards."""
        self.count += 1
        text, client_id = f"m{self.count}", f"id{self.count}"

        async def killed() -> None:
            sending = asyncio.ensure_future(self.room.send(text, client_message_id=client_id))
            for _ in range(cut):
                await asyncio.sleep(0)
            self._note_shown()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await self._stop()
            await self._start()

        async def restarted() -> None:
            await self._stop()
            await self._start()

        self.stopped_ahead.clear()
        if not is_sent:
            self._runner.run(restarted())
            return
        self._runner.run(killed())
        told = self.run(self.room.send(text, client_message_id=client_id))
        assert isinstance(told, Sent), told
        self._accept(text, client_id, None, told)

    @rule(is_fresh=st.booleans())
    def come_back(self, is_fresh: bool) -> None:
        """The device takes a page, or follows from its cursor."""
        rows, cursor = self.device
        page = self._runner.run(self.room.page())
        assert page.cursor is not None
        gap = self._runner.run(self.room.is_gap(cursor))
        if is_fresh or gap:
            assert is_fresh or self.has_lost
            rows = shown_rows(page)
        else:
            rows = fold(rows, self._runner.run(self.room.replayed(cursor)))
        assert rows == shown_rows(page)
        self.device = rows, page.cursor

    # -- what must hold after every step -------------------------------------------------------

    @property
    def done(self) -> set[int]:
        """The messages that nobody answers any more."""
        return {m.seq for m in self.accepted} - {
            reply.row.reply_to or 0 for reply in self.room.timeline.replies.values()
        }

    @invariant()
    def rows_are_dense_and_what_has_ended_stays(self) -> None:
        if self._daemon is None:
            return
        page = self._runner.run(self.room.page())
        rows = shown_rows(page)
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        ended = {row["seq"]: row for row in rows if not row["streaming"]}
        assert self.ended.items() <= ended.items()
        self.ended = ended
        settled = page.settled_seq
        assert all(not row["streaming"] for row in rows[:settled])
        assert settled == len(rows) or rows[settled]["streaming"]

    @invariant()
    def everything_that_was_accepted_is_answered(self) -> None:
        if self._daemon is None:
            return
        pending = Counter(
            (reply.row.reply_to, reply.row.agent) for reply in self.room.timeline.replies.values()
        )
        rows = self._runner.run(self.room.events())
        over = Counter(
            (row["replyTo"], row["familiarId"])
            for row in rows
            if row["role"] == "familiar" and not row["streaming"]
        )
        due = Counter((message.seq, agent) for message in self.accepted for agent in message.agents)
        assert over + pending == due
        said = [row["seq"] for row in rows if row["role"] == "user"]
        assert said == [message.seq for message in self.accepted]
        for message in self.accepted:
            if message.client_id in self.stopped_ahead:
                assert message.seq in self.done

    @invariant()
    def frames_are_kept_and_fold_to_the_rows(self) -> None:
        if self._daemon is None:
            return
        self._note_shown()
        replayed = self._runner.run(self.room.replayed())
        ids = [frame.offset for frame in replayed]
        assert ids == sorted(set(ids))
        kept = {frame.offset: frame for frame in replayed}
        if not self.has_lost:
            assert self.shown.items() <= kept.items()
        rows = fold([], replayed)
        assert max(ids, default=0) == self.room.timeline.feed.head
        if not self.has_lost:
            assert rows == self._runner.run(self.room.events())
        lasts = Counter(
            payload["replyTo"]
            for payload in map(json.loads, (frame.payload for frame in replayed))
            if payload.get("scope") == "group"
        )
        assert lasts == Counter(self.done)

    @invariant()
    def slots_are_held_by_what_runs(self) -> None:
        if self._daemon is None:
            return
        held = self.broker.services.slots._running
        assert len(held) <= RUNS_MAX
        assert held <= set(self.room.timeline.replies)

    @invariant()
    def the_disk_keeps_every_rule(self) -> None:
        if self._daemon is None or self.has_lost:
            return
        is_at_rest = not self.room.timeline.replies and not self.asked
        assert self._runner.run(audit(self.broker.store, is_at_rest=is_at_rest)) == []


TestGroups = GroupsMachine.TestCase
TestGroups.settings = settings(max_examples=60, stateful_step_count=30)
