"""Fan-out: shared bytes for who keeps up, a cursor for who does not, nothing kept for either."""

from collections.abc import Sequence

import anyio
import pytest

from dispatch.core.identity import LOCAL, AccountId, ConversationId, Principal, TurnId, UserId
from dispatch.core.notices import AnyNotice, ReadNotice, StatusNotice
from dispatch.core.replay import Entry, Gap
from dispatch.runtime.feed import Cursor, Feed, Feeds
from dispatch.testing import PlainEncoding, Watcher, guard

C1, C2 = ConversationId("c1"), ConversationId("c2")
T = TurnId("t")


class CountingEncoding(PlainEncoding):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def entries(self, conversation: ConversationId, entries: Sequence[Entry]) -> bytes:
        self.asked += 1
        return super().entries(conversation, entries)

    def notice(self, notice: AnyNotice) -> bytes:
        self.asked += 1
        return f"<{type(notice).__name__}>".encode()


class Line:
    """A follower that keeps the very objects it is given, and may be told to hang up on a write."""

    def __init__(self, encoding: CountingEncoding, principal: Principal = LOCAL) -> None:
        self.account = principal.account
        self.user = principal.user
        self.outgoing = b""
        self.encoding = encoding
        self.writes: list[bytes] = []
        self.cursors: list[Cursor] = []
        self.leaves_on_write = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        if self.leaves_on_write:
            for cursor in self.cursors:
                cursor.feed.leave(cursor)

    def join(self, feed: Feed) -> Cursor:
        cursor = Cursor(feed, self, self.encoding, feed.head)
        feed.join(cursor)
        self.cursors.append(cursor)
        return cursor


def feeds(
    *, events_max: int = 1_000, bytes_max: int = 1_000_000, bytes_total_max: int = 10_000_000
) -> Feeds:
    return Feeds(events_max=events_max, bytes_max=bytes_max, bytes_total_max=bytes_total_max)


def entries(feed: Feed, *payloads: bytes) -> list[Entry]:
    first = feed.ring.head + 1
    return [Entry(offset, T, payload) for offset, payload in enumerate(payloads, first)]


def show(every: Feeds, feed: Feed, *payloads: bytes) -> None:
    every.publish(feed, entries(feed, *payloads))
    every.flush()


# -- who keeps up ------------------------------------------------------------------------------


def test_everybody_at_the_head_gets_the_same_object_and_it_is_encoded_once() -> None:
    every, encoding = feeds(), CountingEncoding()
    feed = every.new_feed(C1, 0)
    lines = [Line(encoding) for _ in range(50)]
    for line in lines:
        line.join(feed)
    show(every, feed, b"a", b"b")
    assert encoding.asked == 1
    assert len({id(line.writes[0]) for line in lines}) == 1
    assert [len(line.writes) for line in lines] == [1] * 50
    statistics = every.statistics()
    assert (statistics.deliveries, statistics.writes) == (100, 50)


def test_each_wire_form_is_encoded_once_for_all_who_read_it() -> None:
    every, one, other = feeds(), CountingEncoding(), CountingEncoding()
    feed = every.new_feed(C1, 0)
    for encoding in (one, one, other):
        Line(encoding).join(feed)
    show(every, feed, b"a")
    assert (one.asked, other.asked) == (1, 1)


def test_a_form_that_nobody_reads_is_not_encoded() -> None:
    every, encoding = feeds(), CountingEncoding()
    feed = every.new_feed(C1, 0)
    cursor = Line(encoding).join(feed)
    feed.leave(cursor)
    show(every, feed, b"a")
    assert encoding.asked == 0
    assert not feed.is_followed


def test_all_that_is_due_for_a_connection_leaves_in_one_write() -> None:
    every, encoding = feeds(), CountingEncoding()
    one, two = every.new_feed(C1, 0), every.new_feed(C2, 0)
    line = Line(encoding)
    line.join(one)
    line.join(two)
    every.publish(one, entries(one, b"a"))
    every.publish(two, entries(two, b"b"))
    every.publish(one, entries(one, b"c"))
    assert line.writes == []
    every.flush()
    assert len(line.writes) == 1
    assert [line.writes[0].index(name) for name in (b"a", b"c", b"b")] == sorted(
        line.writes[0].index(name) for name in (b"a", b"c", b"b")
    )
    assert line.outgoing == b""


def test_nothing_new_is_nothing_written() -> None:
    every = feeds()
    feed = every.new_feed(C1, 0)
    line = Line(CountingEncoding())
    line.join(feed)
    every.flush()
    assert line.writes == []


# -- who does not ------------------------------------------------------------------------------


def test_who_leaves_keeps_its_place_and_goes_on_from_there() -> None:
    every = feeds()
    feed = every.new_feed(C1, 10)
    watcher = Watcher(feed, after=10)
    watcher.resume()
    show(every, feed, b"a")
    watcher.pause()
    watcher.pause()
    assert watcher.cursor.offset == 11
    show(every, feed, b"b", b"c")
    assert watcher.offsets == [11]
    watcher.resume(bytes_max=1)
    show(every, feed, b"d")
    assert watcher.offsets == [11, 12, 13, 14]


def test_who_leaves_in_the_middle_of_a_flush_was_given_all_of_it() -> None:
    every = feeds()
    feed = every.new_feed(C1, 0)
    lines = [Line(CountingEncoding()) for _ in range(3)]
    for line in lines:
        line.join(feed)
    lines[1].leaves_on_write = True
    show(every, feed, b"a", b"b")
    show(every, feed, b"c")
    assert [len(line.writes) for line in lines] == [2, 1, 2]
    assert lines[1].cursors[0].offset == 2


def test_who_leaves_before_the_flush_was_not_given_what_waits_for_it() -> None:
    # As a sender whose acknowledgement fills its transport just before the turn is shown.
    every = feeds()
    feed = every.new_feed(C1, 0)
    watcher = Watcher(feed, after=0)
    watcher.resume()
    every.publish(feed, entries(feed, b"a", b"b"))
    watcher.pause()
    every.flush()
    watcher.resume()
    show(every, feed, b"c")
    assert watcher.offsets == [1, 2, 3]


def test_who_comes_before_the_flush_is_given_what_waits_for_it_once() -> None:
    every = feeds()
    feed = every.new_feed(C1, 0)
    show(every, feed, b"a")
    every.publish(feed, entries(feed, b"b", b"c"))
    assert feed.head == 1
    watcher = Watcher(feed, after=0)
    watcher.resume()
    assert watcher.offsets == [1]
    every.flush()
    assert feed.head == 3
    assert watcher.offsets == [1, 2, 3]


def test_only_who_stands_at_the_head_may_be_hot() -> None:
    every = feeds()
    feed = every.new_feed(C1, 0)
    show(every, feed, b"a")
    encoding = CountingEncoding()
    cursor = Cursor(feed, Line(encoding), encoding, 0)
    with pytest.raises(AssertionError, match="only the head is hot"):
        feed.join(cursor)


def test_who_is_behind_the_ring_is_told_of_the_gap() -> None:
    every = feeds(events_max=4)
    feed = every.new_feed(C1, 0)
    watcher = Watcher(feed, after=0)
    for _ in range(10):
        show(every, feed, b"a")
    watcher.resume()
    assert watcher.gap == Gap(feed.ring.floor)
    assert watcher.entries == []
    late = Watcher(feed, after=feed.ring.floor)
    late.resume()
    assert late.offsets == list(range(feed.ring.floor + 1, 11))


def test_a_read_is_bounded_and_never_empty_before_the_head() -> None:
    every, encoding = feeds(), CountingEncoding()
    feed = every.new_feed(C1, 0)
    show(every, feed, *[b"x" * 100] * 10)
    cursor = Cursor(feed, Line(encoding), encoding, 0)
    sizes = []
    while data := feed.read(cursor, bytes_max=250):
        assert isinstance(data, bytes)
        sizes.append(len(data))
    assert cursor.offset == 10
    assert len(sizes) == 4


def test_many_who_come_late_to_the_same_place_share_what_is_encoded() -> None:
    every, encoding = feeds(), CountingEncoding()
    feed = every.new_feed(C1, 0)
    show(every, feed, *[b"x" * 1_000] * 200)
    first = [
        feed.read(Cursor(feed, Line(encoding), encoding, 0), bytes_max=100_000) for _ in range(20)
    ]
    assert encoding.asked == 1
    assert len({id(data) for data in first}) == 1
    feed.forget_blocks()
    again = feed.read(Cursor(feed, Line(encoding), encoding, 0), bytes_max=100_000)
    assert encoding.asked == 2
    assert again == first[0]


def test_what_is_shared_is_bounded_however_many_places_readers_stopped_at() -> None:
    every, encoding = feeds(), CountingEncoding()
    feed = every.new_feed(C1, 0)
    show(every, feed, *[b"x" * 1_000] * 500)
    for offset in range(400):
        feed.read(Cursor(feed, Line(encoding), encoding, offset), bytes_max=50_000)
    assert sum(len(data) for _, data in feed._blocks.values()) < 2_000_000


def test_what_is_shared_is_forgotten_with_the_ring_it_was_read_from() -> None:
    every, encoding = feeds(bytes_max=100_000), CountingEncoding()
    feed = every.new_feed(C1, 0)
    show(every, feed, *[b"x" * 1_000] * 80)
    feed.read(Cursor(feed, Line(encoding), encoding, 0), bytes_max=50_000)
    show(every, feed, *[b"x" * 1_000] * 80)
    assert isinstance(feed.read(Cursor(feed, Line(encoding), encoding, 0), bytes_max=50_000), Gap)


# -- the bound on all rings --------------------------------------------------------------------


def test_all_rings_together_are_bounded_and_the_oldest_are_cut_first() -> None:
    every = feeds(bytes_total_max=1_000)
    three = [every.new_feed(ConversationId(f"c{n}"), 0) for n in range(3)]
    for feed in three:
        show(every, feed, b"x" * 400)
    assert [feed.ring.bytes_held for feed in three] == [0, 400, 400]
    assert every.statistics().ring_bytes == 800
    show(every, three[1], b"x" * 100)
    show(every, three[0], b"x" * 200)
    assert [feed.ring.bytes_held for feed in three] == [200, 500, 0]
    assert every.statistics().ring_bytes == 700


def test_the_feed_that_is_spoken_on_is_never_cut_for_the_others_sake() -> None:
    every = feeds(bytes_total_max=100)
    feed = every.new_feed(C1, 0)
    show(every, feed, b"x" * 400)
    assert feed.ring.bytes_held == 400


def test_who_reads_hot_does_not_notice_that_the_ring_was_cut() -> None:
    every = feeds(bytes_total_max=100)
    one, two = every.new_feed(C1, 0), every.new_feed(C2, 0)
    watcher = Watcher(one, after=0)
    watcher.resume()
    show(every, one, b"x" * 90)
    show(every, two, b"x" * 90)
    assert one.ring.bytes_held == 0
    show(every, one, b"y")
    assert watcher.offsets == [1, 2]


def test_a_feed_that_is_dropped_gives_its_bytes_back() -> None:
    every = feeds()
    feed = every.new_feed(C1, 0)
    show(every, feed, b"x" * 400)
    assert every.statistics().feeds == 1
    every.drop(feed)
    statistics = every.statistics()
    assert (statistics.ring_bytes, statistics.feeds) == (0, 0)


# -- notices -----------------------------------------------------------------------------------

ANN = Principal(LOCAL.account, UserId("ann"))
EVE = Principal(AccountId("other"), UserId("eve"))


def status(user: str | None = None) -> StatusNotice:
    return StatusNotice(
        account=LOCAL.account,
        conversation=C1,
        user=None if user is None else UserId(user),
        workspace="w",
        status="active",
    )


def read(user: str) -> ReadNotice:
    return ReadNotice(
        account=LOCAL.account, conversation=C1, user=UserId(user), last_read_seq=1, unread=0
    )


STATUS, READ = b"<StatusNotice>", b"<ReadNotice>"


def test_an_accounts_notice_goes_to_its_connections_that_asked() -> None:
    every, encoding = feeds(), CountingEncoding()
    asked, other, stranger = Line(encoding), Line(encoding), Line(encoding, EVE)
    every.listen(asked, account=True)
    every.listen(other, account=False)
    every.listen(stranger, account=True)
    every.notify(status())
    every.flush()
    assert (asked.writes, other.writes, stranger.writes) == ([STATUS], [], [])
    assert every.is_listening(asked)
    assert not every.is_listening(other)


def test_what_only_one_person_may_know_goes_to_that_person() -> None:
    every, encoding = feeds(), CountingEncoding()
    mine, hers = Line(encoding), Line(encoding, ANN)
    for line in (mine, hers):
        every.listen(line, account=True)
    every.notify(status(user="ann"))
    every.flush()
    assert (mine.writes, hers.writes) == ([], [STATUS])


def test_what_a_person_read_goes_to_all_of_that_persons_other_connections() -> None:
    every, encoding = feeds(), CountingEncoding()
    reader, second, mine = Line(encoding, ANN), Line(encoding, ANN), Line(encoding)
    every.listen(reader, account=True)
    every.listen(second, account=False)
    every.listen(mine, account=True)
    every.notify(read("ann"), but=reader)
    every.flush()
    assert (reader.writes, second.writes, mine.writes) == ([], [READ], [])


def test_notices_are_gathered_in_order_behind_the_frames_and_encoded_once() -> None:
    every, encoding = feeds(), CountingEncoding()
    feed = every.new_feed(C1, 0)
    lines = [Line(encoding) for _ in range(10)]
    for line in lines:
        every.listen(line, account=True)
        line.join(feed)
    every.notify(status())
    every.notify(status())
    every.publish(feed, entries(feed, b"frame"))
    every.flush()
    assert encoding.asked == 3
    for line in lines:
        (data,) = line.writes
        assert data.endswith(STATUS + STATUS)
        assert b"frame" in data


def test_who_hung_up_is_told_nothing_and_nothing_is_kept_for_nobody() -> None:
    every, encoding = feeds(), CountingEncoding()
    line = Line(encoding)
    every.listen(line, account=True)
    every.unlisten(line)
    every.unlisten(line)
    every.notify(status())
    every.flush()
    assert line.writes == []
    assert encoding.asked == 0
    assert every._notices == {}
    assert every._listeners == {}


# -- waiting -----------------------------------------------------------------------------------


async def test_waiting_returns_once_the_head_is_past_an_offset() -> None:
    every = feeds()
    feed = every.new_feed(C1, 0)
    returned: list[int] = []

    async def wait(after: int) -> None:
        await feed.wait(after)
        returned.append(after)

    with guard():
        async with anyio.create_task_group() as tasks:
            for after in (0, 1):
                tasks.start_soon(wait, after)
            await anyio.wait_all_tasks_blocked()
            assert feed.is_followed
            show(every, feed, b"a")
            await anyio.wait_all_tasks_blocked()
            assert returned == [0]
            show(every, feed, b"b")
        assert returned == [0, 1]
        assert not feed.is_followed
        await feed.wait(1)


async def test_who_stops_waiting_is_forgotten() -> None:
    feed = feeds().new_feed(C1, 0)
    with anyio.move_on_after(0.001):
        await feed.wait(0)
    assert not feed.is_followed
