"""The event streams of groups: from every place, at every pace, to their end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from dispatch.runtime.retention import prune_events
from dispatch.server.groups import stream as group_stream
from dispatch.settings import Limits, RetentionSettings
from tests.server.groups.grouping import (
    Band,
    Reader,
    Told,
    is_group_end,
    kinds,
    playing,
    rebuilt,
    settings,
    told,
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


async def pruned(band: Band, group: str) -> None:
    """Forget everything that is over, in the ring and in the log."""
    clock = band.daemon.services.clock
    sealed_ms = clock.now_ms()
    while clock.now_ms() == sealed_ms:
        pass
    band.timeline(group).feed.ring.clear()
    assert await prune_events(band.daemon.services, RetentionSettings(events_seconds=0)) > 0


# -- where a stream begins


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("source", ["ring", "log", "both"])
async def test_a_stream_goes_on_from_every_frame(tmp_path: Path, kind: str, source: str) -> None:
    limits = Limits(ring_events_max=9) if source == "both" else Limits()
    async with playing(settings(tmp_path, limits=limits, kind=kind)) as band:
        group = await band.group(*ALL)
        async with band.stream(group, "?cursor=0") as first:
            for text in ("one", MESSY, "two"):
                await band.send(group, text)
            await band.http.patch(f"/api/groups/{group}", json={"title": "Other"})
            await first.until(lambda event: event["kind"] == "group_updated")
            recorded = first.events
            if source == "log":
                band.timeline(group).feed.ring.clear()
            async with AsyncExitStack() as stack:
                readers: list[tuple[int, Reader]] = []
                for event in [Told(0, {}), *recorded]:
                    assert event.id is not None
                    headers = {"Last-Event-ID": str(event.id)}
                    stream = band.stream(group, "?cursor=1", headers=headers)
                    readers.append((event.id, await stack.enter_async_context(stream)))
                sent = await band.send(group, MESSY)
                last = sent[-1].data["replyTo"]
                for start, reader in readers:
                    await reader.until(
                        lambda event: is_group_end(event) and event["replyTo"] == last
                    )
                    expected = [event for event in recorded if (event.id or 0) > start] + sent
                    assert reader.events == expected
        assert rebuilt(recorded + sent) == (await band.show(group))["events"]


async def test_without_a_cursor_a_stream_is_live(band: Band) -> None:
    group = await band.group("ann")
    await band.send(group, "before")
    async with band.stream(group) as reader:
        sent = await band.send(group, "after")
        await reader.until(is_group_end)
    assert reader.events == sent


async def test_a_cursor_that_was_never_given_is_told_and_live_goes_on(band: Band) -> None:
    group = await band.group("ann")
    events = await band.send(group, "before")
    async with band.stream(group, "?cursor=99999999999999999999999") as reader:
        sent = await band.send(group, "after")
        await reader.until(is_group_end)
    gap, *rest = reader.events
    assert gap.id is None
    assert (gap.data["kind"], gap.data["id"]) == ("progress", "resume-gap")
    assert gap.data["cursor"] == events[-1].id
    assert rest == sent


async def test_a_cursor_that_was_pruned_is_told_and_live_goes_on(band: Band) -> None:
    group = await band.group("ann", "bob")
    events = await band.send(group, "before")
    await pruned(band, group)
    async with (
        band.stream(group, f"?cursor={events[1].id}") as old,
        band.stream(group, "?cursor=0") as first,
        band.stream(group, f"?cursor={events[-1].id}") as newest,
    ):
        sent = await band.send(group, "after")
        for reader in (old, first, newest):
            await reader.until(lambda event: is_group_end(event) and event["replyTo"] == 4)
    assert old.events[0].data["id"] == "resume-gap"
    assert old.events[0].data["cursor"] == events[-1].id
    assert old.events[1:] == sent
    assert first.events[-len(sent) :] == sent
    assert newest.events == sent


async def test_a_repeat_of_a_pruned_message_gets_its_end(band: Band) -> None:
    group = await band.group("ann", "bob")
    text = json.dumps({"ann": ["!fail"]})
    events = await band.send(group, text, clientMessageId="m")
    await band.send(group, "between")
    await pruned(band, group)
    gap, end = await band.send(group, text, clientMessageId="m")
    assert gap.data["id"] == "resume-gap"
    assert end.id is None
    assert end.data == events[-1].data


async def test_a_restart_keeps_every_frame(tmp_path: Path) -> None:
    chosen = settings(tmp_path, kind="sqlite")
    async with playing(chosen) as band:
        group = await band.group(*ALL)
        before = await band.send(group, MESSY, clientMessageId="m")
    async with playing(chosen) as band:
        again = await band.send(group, MESSY, clientMessageId="m")
        assert again == before
        async with band.stream(group, f"?cursor={before[3].id}") as reader:
            sent = await band.send(group, "more")
            await reader.until(lambda event: is_group_end(event) and event["replyTo"] == 6)
        assert reader.events == before[4:] + sent


# -- what goes over the wire


async def test_line_separators_are_escaped(band: Band) -> None:
    group = await band.group("ann")
    text = "a\u2028b\u2029c\u0085d\ne"
    reply = await band.http.post(f"/api/groups/{group}/send", json={"text": text})
    assert not set("\u2028\u2029\u0085") & set(reply.text)
    assert told(reply.text)[0].data["text"] == text
    for block in reply.text.split("\n\n")[:-1]:
        number, data = block.split("\n")
        assert number.startswith("id: ")
        assert data.startswith("data: {")


async def test_an_idle_stream_has_a_heartbeat(band: Band, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_stream, "HEARTBEAT_SECONDS", 0.01)
    group = await band.group("ann")
    async with band.stream(group) as reader:
        with anyio.fail_after(10):
            while reader.text.count(": hb\n\n") < 3:
                await reader.more()
        sent = await band.send(group, "hi")
        await reader.until(is_group_end)
    assert reader.events == sent


async def test_head_has_no_stream_behind_it(band: Band) -> None:
    group = await band.group("ann")
    reply = await band.http.head(f"/api/groups/{group}/stream")
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (await band.http.head("/api/groups/none/stream")).status_code == 404
    assert band.timeline(group).users == len(band.members) - 3


async def test_a_connection_serves_other_requests_behind_a_stream(band: Band) -> None:
    group = await band.group("ann")
    host, _, port = band.daemon.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"text":"hi"}'
    head = (
        f"POST /api/groups/{group}/send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n"
    )
    shown = f"GET /api/groups/{group} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    writer.write(head.encode() + body + shown.encode())
    with anyio.fail_after(10):
        await reader.readuntil(b"\r\n\r\n")
        whole = b""
        while size := int(await reader.readline(), 16):
            whole += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        await reader.readexactly(2)
        assert is_group_end(told(whole.decode())[-1].data)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


# -- readers


async def test_a_client_that_leaves_takes_nothing_along(band: Band) -> None:
    group = await band.group("ann")
    async with band.sending(group, json.dumps({"ann": ["a", "!gate g", "b"]})) as reader:
        await reader.until(lambda event: event.get("text") == "a")
        assert len(band.daemon.connections.streams) == 1
    await until(lambda: not band.daemon.connections.streams)
    band.open_gate("g")
    async with band.stream(group, "?cursor=0") as device:
        await device.until(is_group_end)
    assert (await band.show(group))["events"][1]["text"] == "ab"
    await until(lambda: not band.daemon.connections.streams)
    assert not band.timeline(group).feed.is_followed


async def test_streams_that_are_over_leave_nothing_behind(band: Band) -> None:
    group = await band.group("ann")
    for _ in range(5):
        await band.send(group, "hi")
    await until(lambda: not band.daemon.connections.streams)
    feed = band.timeline(group).feed
    assert not feed.is_followed
    assert feed._hot == {}
    assert band.timeline(group).users == 1


class Slow:
    """A reader that takes nothing until it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, band: Band, group: str) -> Slow:
        host, _, port = band.daemon.url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        target = f"/api/groups/{group}/stream?cursor=0"
        writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        return cls(reader, writer)

    async def events(self, *, is_to_end: bool = False) -> list[Told]:
        """Everything up to the end of the stream or of a message; the last may be half."""
        whole = b""
        try:
            while line := await self.reader.readline():
                size = int(line, 16)
                if not size:
                    break
                part = await self.reader.readexactly(size + 2)
                whole += part[:-2]
                if b'"scope":"group"' in part and not is_to_end:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass
        self.writer.close()
        text, end, _ = whole.decode().rpartition("\n\n")
        return told(text + end)


FLOOD = json.dumps({"ann": ["!flood 800"], "bob": ["quick"]})


async def test_a_slow_reader_gets_everything_once_it_reads(tmp_path: Path) -> None:
    limits = Limits(ring_events_max=50)
    async with playing(settings(tmp_path, limits=limits)) as band:
        group = await band.group("ann", "bob")
        slow = await Slow.of(band, group)
        sent = await band.send(group, FLOOD)
        with anyio.fail_after(20):
            events = await slow.events()
    assert events == sent


async def test_a_reader_that_takes_nothing_is_cut_and_misses_nothing_before(
    tmp_path: Path,
) -> None:
    limits = Limits(stall_seconds_max=0.3, ring_events_max=50)
    async with playing(settings(tmp_path, limits=limits)) as band:
        group = await band.group("ann", "bob")
        slow = await Slow.of(band, group)
        sent = await band.send(group, FLOOD)
        await until(lambda: not band.daemon.connections.streams)
        with anyio.fail_after(20):
            events = await slow.events()
        assert len(events) < len(sent)
        last = events[-1].id if events else 0
        async with band.stream(group, f"?cursor={last}") as reader:
            await reader.until(is_group_end)
        assert events + reader.events == sent
        assert (await band.show(group))["settledSeq"] == 3


@pytest.mark.parametrize("sessions", ["keep", "delete"])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_slow_reader_of_a_deleted_group_is_told_what_it_missed(
    tmp_path: Path, sessions: str, kind: str
) -> None:
    chosen = settings(tmp_path, limits=Limits(ring_events_max=50), kind=kind)
    async with playing(chosen) as band:
        group = await band.group("ann", "bob")
        slow = await Slow.of(band, group)
        sent = await band.send(group, FLOOD)
        await band.http.delete(f"/api/groups/{group}?sessions={sessions}")
        with anyio.fail_after(20):
            events = await slow.events(is_to_end=True)
        assert kinds(events)[-1] == "group_deleted"
        ids, every = [event.id for event in events[:-1]], [event.id for event in sent]
        assert ids.count(None) == 1
        at = ids.index(None)
        assert events[at].data["id"] == "resume-gap"
        # Lists of hundreds: what differs is not worth the wait.
        is_as_sent = ids[:at] == every[:at]
        assert is_as_sent
        assert 0 < len(ids) - at - 1 <= 50
        is_as_sent = ids[at + 1 :] == every[at + 1 - len(ids) :]
        assert is_as_sent
        await until(lambda: not band.daemon.connections.streams)
        feeds = band.daemon.services.feeds.statistics().feeds
        assert feeds == (2 if sessions == "keep" else 0)


async def test_streams_end_when_the_daemon_does(band: Band) -> None:
    group = await band.group("ann", "bob")
    async with band.stream(group) as device:
        async with band.sending(group, json.dumps({"ann": ["a", "!hang"]})) as reader:
            await reader.until(lambda event: event.get("text") == "a")
            await band.daemon.drain(0)
            events = await reader.rest()
        assert is_group_end(events[-1].data)
        assert events[-1].data["results"]["interrupted"] == 1
        assert (await device.rest())[: len(events)] == events


# -- many at once


async def test_two_devices_see_the_same_under_fifty_messages_at_once(band: Band) -> None:
    group = await band.group(*ALL)
    answers: list[list[Told]] = []
    texts = [MESSY, "plain", json.dumps({name: ["!fail"] for name in ALL})]

    async def send(number: int) -> None:
        answers.append(await band.send(group, texts[number % 3], clientMessageId=f"m{number}"))

    async with band.stream(group) as one, band.stream(group) as two, band.socket() as three:
        await three.ask("group.subscribe", groupId=group)
        await three.until("group.subscribed")
        # The console would spend seconds on the traces of a hundred failures.
        with capture_logs():
            async with anyio.create_task_group() as tasks:
                for number in range(50):
                    tasks.start_soon(send, number)
        ends = {answer[-1].id for answer in answers}
        for device in (one, two):
            last = max(number for number in ends if number is not None)
            with anyio.fail_after(10):
                while not device.events or device.events[-1].id != last:
                    await device.more()
        events = one.events
        assert one.text == two.text
        while len(three.events) < len(events):
            await three.next()
        is_same = three.events == events
        assert is_same
    rows = (await band.http.get(f"/api/groups/{group}")).content
    assert rows == (await band.http.get(f"/api/groups/{group}")).content
    shown = await band.show(group)
    assert [row["seq"] for row in shown["events"]] == list(range(1, 50 * 5 + 1))
    assert rebuilt(events) == shown["events"]
    for answer in answers:
        seq = answer[0].data["seq"]
        mine = [e for e in events if e.data.get("replyTo") == seq or e.data.get("seq") == seq]
        assert answer == mine
        assert kinds(answer).count("user") == 1
        assert sum(is_group_end(event.data) for event in answer) == 1
        assert sum("familiarId" in e.data for e in answer if e.data["kind"] == "done") == 4
        assert sum(answer[-1].data["results"].values()) == 4
