"""Groups over a WebSocket: wishes and their answers, and what a connection that follows is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from dispatch.runtime.retention import prune_events
from dispatch.settings import Limits, RetentionSettings
from tests.e2e.wire import old_wire
from tests.server.groups.grouping import (
    Band,
    Payload,
    Socket,
    Told,
    is_group_end,
    kinds,
    playing,
    rebuilt,
    settings,
    until,
)

MESSY = json.dumps(
    {"ann": ["a", "!work", "b"], "bob": ["!fail"], "cy": ["x", "!fail"], "dee": ["!think"]}
)
ALL = ("ann", "bob", "cy", "dee")


@pytest.fixture
async def band(tmp_path: Path) -> AsyncIterator[Band]:
    async with playing(settings(tmp_path)) as band:
        yield band


def ends(reply_to: int | None = None) -> object:
    def is_it(frame: Payload) -> bool:
        event = frame["event"]
        return is_group_end(event) and reply_to in (None, event["replyTo"])

    return is_it


async def until_end(socket: Socket, reply_to: int | None = None) -> None:
    """Read up to the end of a message."""
    await socket.until("group.event", ends(reply_to))  # type: ignore[arg-type]


# -- wishes


async def test_a_send_is_accepted_and_followed_from_its_own_frame(band: Band) -> None:
    group = await band.group("ann", "bob")
    async with band.stream(group, "?cursor=0") as device, band.socket() as socket:
        await band.send(group, "before")
        await socket.ask("group.send", groupId=group, text="hi", clientMessageId="m", ref=7)
        accepted = await socket.next()
        await until_end(socket)
        await device.until(lambda e: is_group_end(e) and e["replyTo"] == 4)
    assert accepted == {
        "type": "group.accepted",
        "groupId": group,
        "userSeq": 4,
        "frameId": socket.events[0].id,
        "clientMessageId": "m",
        "ref": 7,
    }
    assert kinds(socket.events)[0] == "user"
    assert socket.events == [e for e in device.events if (e.id or 0) >= accepted["frameId"]]


async def test_a_repeat_is_told_as_one(band: Band) -> None:
    group = await band.group("ann")
    events = await band.send(group, "hi", clientMessageId="m")
    async with band.socket() as socket:
        await socket.ask("group.send", groupId=group, text="hi", clientMessageId="m")
        accepted = await socket.next()
        await until_end(socket)
        await socket.ask("group.send", groupId=group, text="ho", clientMessageId="m", ref="r")
        error = await socket.until("group.error")
    assert accepted["duplicate"] is True
    assert (accepted["userSeq"], accepted["frameId"]) == (1, events[0].id)
    assert socket.events == events
    assert (error["code"], error["ref"]) == ("client_message_conflict", "r")


async def test_stop_and_read_are_answered(band: Band) -> None:
    group = await band.group("ann", "bob")
    async with band.socket() as socket:
        text = json.dumps({"ann": ["a", "!hang"], "bob": ["b"]})
        await socket.ask("group.send", groupId=group, text=text)
        await socket.until("group.event", lambda f: f["event"].get("text") == "a")
        await socket.ask("group.stop", groupId=group, familiarId="ann", ref=1)
        stopped = await socket.until("group.stopped")
        assert stopped == {
            "type": "group.stopped",
            "groupId": group,
            "stopped": ["ann"],
            "queued": False,
            "ref": 1,
        }
        await socket.ask("group.read", groupId=group, upToSeq=2, ref=2)
        assert await socket.until("group.read") == {
            "type": "group.read",
            "groupId": group,
            "lastReadSeq": 2,
            "unread": 1,
            "ref": 2,
        }
    assert (await band.show(group))["events"][-1]["seq"] == 3


async def test_what_cannot_be_is_told(band: Band) -> None:
    group = await band.group("ann")
    gone = await band.group("ann")
    await band.http.delete(f"/api/groups/{gone}")
    wishes: list[tuple[Payload, str]] = [
        ({"type": "group.subscribe", "groupId": "none"}, "group_not_found"),
        ({"type": "group.subscribe", "groupId": gone}, "group_deleted"),
        ({"type": "group.subscribe"}, "invalid_request"),
        ({"type": "group.subscribe", "groupId": group, "cursor": "x"}, "invalid_cursor"),
        ({"type": "group.send", "groupId": group}, "text_required"),
        ({"type": "group.send", "groupId": "none", "text": "x"}, "group_not_found"),
        ({"type": "group.stop", "groupId": gone}, "group_deleted"),
        ({"type": "group.read", "groupId": group}, "invalid_request"),
    ]
    async with band.socket() as socket:
        for number, (wish, code) in enumerate(wishes):
            await socket.ask(**{"kind": wish["type"], **wish, "ref": number})  # type: ignore[arg-type]
            error = await socket.next()
            assert error["type"] == "group.error"
            assert (error["code"], error["ref"]) == (code, number), wish
            assert error["error"]
            assert error.get("groupId") == wish.get("groupId")
    assert band.daemon.connections.statistics().watches == 0


async def test_subscriptions_are_bounded(tmp_path: Path) -> None:
    async with playing(settings(tmp_path, limits=Limits(subscriptions_max=2))) as band:
        groups = [await band.group("ann") for _ in range(3)]
        async with band.socket() as socket:
            await socket.ask("chat.subscribe", conversationId="c")
            await socket.until("chat.subscribed")
            await socket.ask("group.subscribe", groupId=groups[0])
            await socket.until("group.subscribed")
            await socket.ask("group.subscribe", groupId=groups[1])
            assert (await socket.until("group.error"))["code"] == "too_many"
            await socket.ask("group.unsubscribe", groupId=groups[0])
            await socket.ask("group.subscribe", groupId=groups[1])
            await socket.until("group.subscribed")


# -- following


@pytest.mark.parametrize("source", ["ring", "log", "both"])
async def test_a_subscription_goes_on_from_every_frame(tmp_path: Path, source: str) -> None:
    limits = Limits(ring_events_max=9) if source == "both" else Limits()
    async with playing(settings(tmp_path, limits=limits)) as band:
        group = await band.group(*ALL)
        recorded = await band.send(group, MESSY) + await band.send(group, "two")
        if source == "log":
            band.timeline(group).feed.ring.clear()
        async with AsyncExitStack() as stack:
            sockets: list[tuple[int, Socket]] = []
            for event in [Told(0, {}), *recorded]:
                assert event.id is not None
                socket = await stack.enter_async_context(band.socket())
                await socket.ask("group.subscribe", groupId=group, cursor=event.id)
                assert await socket.next() == {
                    "type": "group.subscribed",
                    "groupId": group,
                    "cursor": event.id,
                }
                sockets.append((event.id, socket))
            sent = await band.send(group, MESSY)
            for start, socket in sockets:
                await until_end(socket, sent[-1].data["replyTo"])
                expected = [event for event in recorded if (event.id or 0) > start] + sent
                assert socket.events == expected
        shown = await band.show(group)
    assert rebuilt(recorded + sent) == shown["events"]


async def test_without_a_cursor_a_subscription_is_live(band: Band) -> None:
    group = await band.group("ann")
    before = await band.send(group, "before")
    async with band.socket() as socket:
        for _ in range(2):
            await socket.ask("group.subscribe", groupId=group)
            assert (await socket.next())["cursor"] == before[-1].id
        sent = await band.send(group, "after")
        await until_end(socket)
    assert socket.events == sent


async def test_a_cursor_that_cannot_be_served_is_told(band: Band) -> None:
    group = await band.group("ann")
    events = await band.send(group, "before")
    async with band.socket() as above, band.socket() as below:
        await above.ask("group.subscribe", groupId=group, cursor=10**9)
        await above.until("group.subscribed")
        clock = band.daemon.services.clock
        sealed_ms = clock.now_ms()
        while clock.now_ms() == sealed_ms:
            pass
        band.timeline(group).feed.ring.clear()
        await prune_events(band.daemon.services, RetentionSettings(events_seconds=0))
        await below.ask("group.subscribe", groupId=group, cursor=events[0].id)
        await below.until("group.subscribed")
        sent = await band.send(group, "after")
        for socket in (above, below):
            await until_end(socket, 3)
            gap, *rest = socket.events
            assert gap.id is None
            assert gap.data["id"] == "resume-gap"
            assert gap.data["cursor"] == events[-1].id
            assert rest == sent


async def test_unsubscribing_ends_it(band: Band) -> None:
    group = await band.group("ann")
    async with band.socket() as socket:
        await socket.ask("group.subscribe", groupId=group)
        await socket.until("group.subscribed")
        assert band.daemon.connections.statistics().watches == 1
        await socket.ask("group.unsubscribe", groupId=group)
        await until(lambda: band.daemon.connections.statistics().watches == 0)
        await band.send(group, "hi")
        await socket.ask("ping")
        assert (await socket.next())["type"] == "pong"
    assert not band.timeline(group).feed.is_followed


async def test_a_deleted_group_is_no_longer_followed(band: Band) -> None:
    group = await band.group("ann")
    async with band.socket() as socket:
        await socket.ask("group.send", groupId=group, text=json.dumps({"ann": ["a", "!hang"]}))
        await socket.until("group.event", lambda f: f["event"].get("text") == "a")
        await band.http.delete(f"/api/groups/{group}")
        await socket.until("group.event", lambda f: f["event"]["kind"] == "group_deleted")
        assert kinds(socket.events)[-3:] == ["done", "done", "group_deleted"]
        await socket.ask("group.subscribe", groupId=group)
        assert (await socket.until("group.error"))["code"] == "group_deleted"
        assert band.daemon.connections.statistics().watches == 0


async def test_a_lost_connection_lets_everything_go(band: Band) -> None:
    group = await band.group("ann")
    async with band.socket() as socket:
        text = json.dumps({"ann": ["a", "!gate g", "b"]})
        await socket.ask("group.send", groupId=group, text=text)
        await socket.until("group.event", lambda f: f["event"].get("text") == "a")
    await until(lambda: band.daemon.connections.statistics().watches == 0)
    assert not band.timeline(group).feed.is_followed
    band.open_gate("g")
    async with band.stream(group, "?cursor=0") as device:
        await device.until(is_group_end)
    assert (await band.show(group))["events"][1]["text"] == "ab"


async def test_a_slow_peer_gets_everything_once_it_reads(tmp_path: Path) -> None:
    limits = Limits(ring_events_max=50)
    async with playing(settings(tmp_path, limits=limits)) as band:
        group = await band.group("ann", "bob")
        async with band.socket() as slow:
            await slow.ask("group.subscribe", groupId=group)
            await slow.until("group.subscribed")
            # More than the network and the client's queue hold.
            sent = await band.send(group, json.dumps({"ann": ["!flood 800"], "bob": ["quick"]}))
            assert band.daemon.connections.statistics().paused == 1
            with anyio.fail_after(20):
                while len(slow.events) < len(sent):
                    await slow.next()
        assert slow.events == sent


async def test_old_dialects_know_no_groups(band: Band) -> None:
    async with old_wire(band.daemon.url) as wire:
        await wire.send(type="group.subscribe", groupId="g")
        assert (await wire.next())["type"] == "error"
