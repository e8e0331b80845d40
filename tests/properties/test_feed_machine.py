"""Any interleaving of publish, follow, pause, resume and drop: a gap-free run, or a `Gap`."""

from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from dispatch.core.identity import ConversationId, TurnId
from dispatch.core.replay import Entry
from dispatch.runtime import feed as feed_module
from dispatch.runtime.feed import Feed, Feeds
from dispatch.testing import Watcher

TURN = TurnId("t")
FEEDS = 3


class Following(RuleBasedStateMachine):
    """Three feeds with small rings, and followers that come, stop, go on and leave."""

    watchers: Bundle[Watcher] = Bundle("watchers")

    def __init__(self) -> None:
        super().__init__()
        # So small that what late joiners share is used all the time, and bounded too.
        self._patches = [
            mock.patch.object(feed_module, "_BLOCK_BYTES", 40),
            mock.patch.object(feed_module, "_BLOCKS_MAX", 2),
        ]
        for patch in self._patches:
            patch.start()

    def teardown(self) -> None:
        for patch in self._patches:
            patch.stop()

    @initialize(
        events_max=st.integers(1, 12),
        bytes_max=st.integers(20, 200),
        bytes_total_max=st.integers(30, 400),
        head=st.integers(0, 5),
    )
    def begin(self, events_max: int, bytes_max: int, bytes_total_max: int, head: int) -> None:
        self.head = head
        self.events_max, self.bytes_max = events_max, bytes_max
        self.bytes_total_max = bytes_total_max
        self.every = Feeds(
            events_max=events_max, bytes_max=bytes_max, bytes_total_max=bytes_total_max
        )
        self.feeds = [
            self.every.new_feed(ConversationId(f"c{number}"), head) for number in range(FEEDS)
        ]
        # Everything that was ever shown, by feed; and where each watcher began, and in which.
        self.logs: list[list[Entry]] = [[] for _ in range(FEEDS)]
        self.following: dict[Watcher, tuple[int, int]] = {}

    @rule(
        runs=st.lists(
            st.tuples(st.integers(0, FEEDS - 1), st.lists(st.integers(0, 30), max_size=6)),
            min_size=1,
            max_size=4,
        )
    )
    def publish(self, runs: list[tuple[int, list[int]]]) -> None:
        """Runs of several conversations, to be shown by the next flush."""
        for number, sizes in runs:
            log, feed = self.logs[number], self.feeds[number]
            entries = [
                Entry(offset, TURN, f"{number}:{offset}:".encode() + b"x" * size)
                for offset, size in enumerate(sizes, feed.ring.head + 1)
            ]
            if entries:
                log += entries
                self.every.publish(feed, entries)

    @rule()
    def flush(self) -> None:
        self.every.flush()

    @rule(target=watchers, number=st.integers(0, FEEDS - 1), back=st.integers(0, 30))
    def follow(self, number: int, back: int) -> Watcher:
        feed = self.feeds[number]
        after = max(self.head, feed.head - back)
        watcher = Watcher(feed, after=after)
        self.following[watcher] = (number, after)
        watcher.resume(bytes_max=60)
        return watcher

    @rule(watcher=watchers)
    def pause(self, watcher: Watcher) -> None:
        watcher.pause()

    @rule(watcher=watchers, bytes_max=st.integers(1, 200))
    def resume(self, watcher: Watcher, bytes_max: int) -> None:
        watcher.resume(bytes_max=bytes_max)

    @rule(target=watchers, watcher=consumes(watchers))
    def drop_and_come_back(self, watcher: Watcher) -> Watcher:
        """Another connection goes on from the position of the last."""
        number, after = self.following.pop(watcher)
        watcher.pause()
        last = watcher.offsets[-1] if watcher.entries else after
        again = Watcher(self.feeds[number], after=last)
        self.following[again] = (number, last)
        again.resume()
        return again

    @rule(watcher=consumes(watchers))
    def drop(self, watcher: Watcher) -> None:
        watcher.pause()
        del self.following[watcher]

    @rule(number=st.integers(0, FEEDS - 1))
    def forget_blocks(self, number: int) -> None:
        self.feeds[number].forget_blocks()

    @invariant()
    def everybody_has_seen_a_run_without_gap_or_duplicate(self) -> None:
        for watcher, (number, after) in getattr(self, "following", {}).items():
            start = after - self.head
            log = self.logs[number]
            assert watcher.entries == log[start : start + len(watcher.entries)]

    @invariant()
    def who_stands_at_the_head_has_seen_everything(self) -> None:
        for watcher, (number, after) in getattr(self, "following", {}).items():
            if watcher.cursor.is_hot:
                assert len(watcher.entries) == self.feeds[number].head - after

    @invariant()
    def who_was_told_of_a_gap_is_behind_the_ring(self) -> None:
        for watcher, (number, after) in getattr(self, "following", {}).items():
            if watcher.gap is not None and not watcher.cursor.is_hot:
                assert after + len(watcher.entries) < watcher.gap.floor
                assert watcher.gap.floor <= self.feeds[number].ring.floor

    @invariant()
    def rings_are_bounded_each_and_together(self) -> None:
        feeds: list[Feed] = getattr(self, "feeds", [])
        for feed in feeds:
            held = feed.ring.head - feed.ring.floor
            assert held <= self.events_max
            assert feed.ring.bytes_held <= self.bytes_max or held == 1
        total = sum(feed.ring.bytes_held for feed in feeds)
        if feeds:
            assert self.every.statistics().ring_bytes == total
            largest = max(feed.ring.bytes_held for feed in feeds)
            assert total <= max(self.bytes_total_max, largest)


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=100, stateful_step_count=50)
