"""What devices read: pages and cursors of one instant, replays byte for byte, read cursors."""

import asyncio
from itertools import pairwise

import pytest

from dispatch.core.events import ReasoningDelta, Request, StepComplete, TokenUsage, ToolCall, Usage
from dispatch.core.identity import LOCAL, AccountId, Principal, UserId
from dispatch.errors import Forbidden, NotFound
from dispatch.protocol.groups.requests import GroupSend
from dispatch.storage.memory import MemoryStore
from dispatch.testing import FOR_EVER, Gate, HeldStore, ManualClock, ScriptedAgent, YieldingStore
from dispatch.testing.audit import audit
from tests.runtime.groups.room import LateStore, Room, fold, group_on, named, shown_rows, speakers


class Chatty(ScriptedAgent):
    """Says a lot, giving others their turn after every word."""

    def __init__(self, name: str, words: int = 20) -> None:
        async def speak(request, emit):  # type: ignore[no-untyped-def]
            from dispatch.core.events import TextDelta

            for number in range(words):
                await emit(TextDelta(f"{name}{number} “é\u2028\x85” "))
                if number == words // 2:
                    await emit(StepComplete())
                await asyncio.sleep(0)

        super().__init__(speak, name=name)


async def test_a_page_and_what_follows_its_cursor_are_the_rows_at_any_time() -> None:
    store = YieldingStore(YieldingStore(MemoryStore()))
    async with group_on([Chatty("ann"), Chatty("bob"), *speakers("cy")], store=store) as room:
        pages = []
        for number in range(4):
            await room.send(f"m{number}")
        while room.timeline.replies:
            page = await room.page()
            assert page.cursor == room.timeline.feed.head
            assert page.view.last_seq == len(page.rows)
            pages.append((page, shown_rows(page)))
            await asyncio.sleep(0)
        await room.settled()
        final = await room.events()
        assert len(final) == 16
        assert len(pages) > 20
        assert any(event["streaming"] and event["text"] for _, rows in pages for event in rows)
        for (page, rows), (later, later_rows) in pairwise(pages):
            assert page.cursor is not None
            assert later.cursor is not None
            assert fold(rows, await room.replayed(page.cursor, later.cursor)) == later_rows
        for page, rows in pages:
            assert page.cursor is not None
            assert fold(rows, room.shown(page.cursor)) == final
            assert fold(rows, await room.replayed(page.cursor)) == final
        await room.check()


async def test_a_page_that_is_read_while_a_commit_is_under_way_waits_for_it() -> None:
    store = HeldStore(MemoryStore())
    async with group_on(speakers("ann"), store=store) as room:
        store.hold(behind=True)
        sending = asyncio.ensure_future(room.send("one"))
        await store.reached()
        reading = asyncio.ensure_future(room.page())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not reading.done()
        store.release()
        page = await reading
        await sending
        rows = shown_rows(page)
        await room.settled()
        assert page.cursor is not None
        assert fold(rows, room.shown(page.cursor)) == await room.events()


async def test_a_page_is_of_the_instant_at_which_it_is_complete() -> None:
    gate = Gate()
    store = LateStore(MemoryStore())
    async with group_on([named("a", gate, "b", name="ann")], store=store) as room:
        await room.send()
        await gate.reached()
        await room.broker.services.journal.idle()
        store.hold("rows")
        reading = asyncio.ensure_future(room.page())
        await store.reached()
        gate.open()
        await room.settled()
        store.release()
        page = await reading
        assert page.cursor == room.timeline.feed.head
        assert page.settled_seq == 2
        assert shown_rows(page) == await room.events()
        assert await room.texts() == [("user", "hi"), ("ann", "ab")]


async def test_two_pages_that_are_read_at_once_do_not_take_each_others_news() -> None:
    gate = Gate()
    store = LateStore(MemoryStore())
    async with group_on([named("a", gate, "b", name="ann")], store=store) as room:
        await room.send()
        await gate.reached()
        await room.broker.services.journal.idle()
        store.hold("rows")
        reading = asyncio.ensure_future(room.page())
        await store.reached()
        await room.page()
        gate.open()
        await room.settled()
        store.release()
        assert shown_rows(await reading) == await room.events()


async def test_polling_from_the_settled_seq_sees_every_row_in_its_last_state() -> None:
    store = YieldingStore(MemoryStore())
    async with group_on([Chatty("ann"), Chatty("bob", 5)], store=store) as room:
        for number in range(3):
            await room.send(f"m{number}")
        rows, settled = {}, 0
        while room.timeline.replies or settled < room.timeline.record.last_seq:
            page = await room.page(after=settled)
            rows |= {event["seq"]: event for event in shown_rows(page)}
            assert all(not rows[seq]["streaming"] for seq in range(1, page.settled_seq + 1))
            assert page.settled_seq >= settled
            settled = page.settled_seq
            await asyncio.sleep(0)
        assert [rows[seq] for seq in sorted(rows)] == await room.events()


async def test_a_limited_page_says_whether_there_is_more() -> None:
    async with group_on(speakers("ann", "bob")) as room:
        for _ in range(3):
            await room.send()
        await room.settled()
        everything = await room.events()
        page = await room.page(limit=4)
        assert (shown_rows(page), page.has_more, page.cursor) == (everything[:4], True, None)
        page = await room.page(after=4, limit=5)
        assert (shown_rows(page), page.has_more) == (everything[4:], False)
        assert page.cursor == room.timeline.feed.head
        page = await room.page(after=99)
        assert (page.rows, page.has_more, page.settled_seq) == ([], False, 9)
        assert page.cursor is None


async def test_there_is_no_cursor_behind_a_row_that_is_open() -> None:
    ann = named("a", FOR_EVER, name="ann")
    async with group_on([ann, *speakers("bob")]) as room:
        await room.send()
        while len(await room.outcomes()) < 2:
            await room.timeline.kept()
        page = await room.page(after=1)
        assert (page.settled_seq, page.cursor) == (1, room.timeline.feed.head)
        assert (await room.page(after=2)).cursor is None
        await room.stop()
        assert (await room.page(after=2)).cursor is not None
        await room.check()


async def test_everything_a_member_does_is_replayed_as_it_was_shown() -> None:
    clock = ManualClock()

    async def pass_time(_request: object, _emit: object) -> None:
        clock.advance(1.5)

    steps = [
        ReasoningDelta("hm \u2028"),
        ToolCall("c1", "look", {"at": "it"}),
        pass_time,
        "text \x85",
        Usage(TokenUsage(1, 2)),
        StepComplete(),
        Request("r1", "approval", "May I?"),
        " more",
        ReasoningDelta("so"),
    ]
    async with group_on([named(*steps, name="ann"), *speakers("bob")], clock=clock) as room:
        await room.send("one")
        await room.settled()
        clock.advance(1)
        await room.patch(title="T")
        await room.send("two", targets=("ann",))
        await room.settled()
        kinds = {frame["kind"] for frame in room.payloads()}
        assert kinds == {
            "user",
            "session",
            "progress",
            "tool_use",
            "assistant_chunk",
            "request",
            "request_closed",
            "done",
            "group_updated",
        }
        for frame in room.shown():
            assert "\u2028" not in frame.payload.decode()
            assert "\x85" not in frame.payload.decode()
        await room.check()


async def test_a_replay_ends_where_it_is_told_to() -> None:
    async with group_on([Chatty("ann", 60)]) as room:
        await room.send()
        await room.settled()
        shown = room.shown()
        for index in range(0, len(shown), 7):
            until = shown[index].offset
            assert await room.replayed(0, until) == shown[: index + 1]
        assert await room.replayed(room.timeline.feed.head + 99) == []


async def test_the_frames_of_a_part_of_the_stream_have_its_topic() -> None:
    async with group_on(speakers("ann", "bob")) as room:
        first = await room.send("one")
        second = await room.send("two")
        await room.patch(title="T")
        await room.settled()
        for frame, payload in zip(room.shown(), room.payloads(), strict=True):
            if payload["kind"] == "user":
                assert frame.topic == str(payload["seq"])
            else:
                assert frame.topic == str(payload.get("replyTo", ""))
        for sent in (first, second):
            (*_, last) = [f for f in room.shown() if f.topic == str(sent.seq)]
            assert b'"scope":"group"' in last.payload


async def test_what_was_pruned_is_a_gap_and_the_rest_is_served() -> None:
    clock = ManualClock()
    async with group_on(speakers("ann"), clock=clock) as room:
        await room.send("one")
        await room.settled()
        old = room.shown()
        clock.advance(10)
        until = clock.now_ms()
        clock.advance(10)
        await room.send("two")
        await room.settled()
        rows = await room.events()
        while await room.broker.store.prune(until, 1000):
            pass
        assert await room.is_gap(old[0].offset)
        served = await room.replayed(0)
        assert served
        assert set(served) <= set(room.shown())
        assert set(room.shown()) - set(old) <= set(served)
        assert await room.replayed(old[-1].offset) == room.shown(old[-1].offset)
        assert await room.events() == rows
        page = await room.page()
        assert page.cursor is not None
        assert not await room.is_gap(page.cursor)


async def test_a_read_cursor_moves_forward_only_and_tells_what_is_unread() -> None:
    ann = named("a", FOR_EVER, name="ann")
    other = Principal(AccountId("local"), UserId("other"))
    async with group_on([ann, *speakers("bob")]) as room:
        groups = room.broker.groups.groups
        await room.send("one", targets=("bob",))
        await room.settled()
        await room.send("two", targets=("ann",))
        assert await groups.read(LOCAL, room.id, 1) == (1, 1)
        assert await groups.read(LOCAL, room.id, 99) == (3, 0)
        assert await groups.read(LOCAL, room.id, 2) == (3, 0)
        assert await groups.read(other, room.id, 0) == (0, 3)
        await room.stop()
        assert await groups.read(LOCAL, room.id, 3) == (3, 1)
        seqs = await asyncio.gather(*(groups.read(other, room.id, n) for n in (4, 2, 3)))
        assert max(seqs)[0] == 4
        assert await groups.read(other, room.id, 0) == (4, 0)


async def test_a_group_is_its_accounts_own() -> None:
    stranger = Principal(AccountId("else"), UserId("local"))
    watcher = Principal(AccountId("local"), UserId("w"), frozenset({"watch"}))
    async with group_on(speakers("ann")) as room:
        groups = room.broker.groups
        assert await groups.groups.list(stranger) == []
        for verb in (
            groups.groups.view(stranger, room.id),
            groups.groups.delete(stranger, room.id),
            groups.stops.stop(stranger, room.id),
            groups.sends.send(stranger, room.id, GroupSend(text="x")),
        ):
            with pytest.raises(NotFound):
                await verb
        assert len(await groups.groups.list(watcher)) == 1
        for refused in (
            Room(room.broker, room.timeline, watcher).send(),
            Room(room.broker, room.timeline, watcher).stop(),
            groups.groups.delete(watcher, room.id),
        ):
            with pytest.raises(Forbidden):
                await refused


async def test_users_of_an_account_are_named_and_their_ids_do_not_meet() -> None:
    other = Principal(AccountId("local"), UserId("other"))
    async with group_on(speakers("ann")) as room:
        theirs = Room(room.broker, room.timeline, other)
        await room.send("one", client_message_id="m")
        sent = await theirs.send("two", client_message_id="m")
        assert not sent.is_duplicate
        await room.settled()
        users = [e.get("userId") for e in await room.events() if e["role"] == "user"]
        assert users == [None, "other"]
        await room.check()
        assert await audit(room.broker.store) == []
