"""The ring: bounded, gap-free, and a read is a contiguous run or a gap, never a part of one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.identity import TurnId
from dispatch.core.replay import Entry, Frame, Gap, Ring

TURN = TurnId("t")


def entries(after: int, sizes: list[int]) -> list[Entry]:
    return [Entry(offset, TURN, b"x" * size) for offset, size in enumerate(sizes, after + 1)]


def filled(
    sizes: list[int], *, head: int = 0, events_max: int = 100, bytes_max: int = 1000
) -> Ring[Entry]:
    ring = Ring(head, events_max=events_max, bytes_max=bytes_max)
    ring.extend(entries(head, sizes))
    return ring


def read(ring: Ring[Entry], after: int, bytes_max: int) -> list[Entry]:
    found = ring.read(after, bytes_max=bytes_max)
    assert not isinstance(found, Gap)
    return found


def test_a_new_ring_stands_at_the_head_it_continues_after() -> None:
    ring = Ring(41, events_max=4, bytes_max=100)
    assert (ring.head, ring.floor) == (41, 41)
    assert ring.read(41, bytes_max=10) == []
    assert ring.read(40, bytes_max=10) == Gap(41)
    ring.extend(entries(41, [1]))
    assert (ring.head, ring.floor) == (42, 41)


def test_a_run_that_does_not_follow_the_head_is_a_defect() -> None:
    ring = filled([1, 1])
    for after in (0, 1, 3):
        with pytest.raises(AssertionError, match="gap-free"):
            ring.extend(entries(after, [1]))
    ring.extend([])
    assert ring.head == 2


def test_a_read_gives_at_least_one_entry_however_large() -> None:
    ring = filled([500, 1])
    assert [e.offset for e in read(ring, 0, 1)] == [1]
    assert [e.offset for e in read(ring, 1, 1)] == [2]
    assert read(ring, 2, 1) == []


def test_the_newest_entry_is_kept_even_when_it_alone_is_over_the_bound() -> None:
    ring = filled([10, 5000], bytes_max=100)
    assert [e.offset for e in read(ring, 1, 1)] == [2]
    assert ring.read(0, bytes_max=1) == Gap(1)


def test_clearing_frees_the_bytes_and_keeps_the_head() -> None:
    ring = filled([3, 4])
    assert ring.clear() == 7
    assert (ring.head, ring.floor, ring.bytes_held) == (2, 2, 0)
    assert ring.read(1, bytes_max=10) == Gap(2)
    ring.extend(entries(2, [1]))
    assert [e.offset for e in read(ring, 2, 10)] == [3]


@given(
    st.lists(st.lists(st.integers(0, 40), max_size=8), max_size=30),
    st.integers(1, 12),
    st.integers(1, 200),
    st.integers(0, 5),
)
def test_a_ring_is_bounded_and_never_shows_a_part(
    batches: list[list[int]], events_max: int, bytes_max: int, head: int
) -> None:
    ring = Ring(head, events_max=events_max, bytes_max=bytes_max)
    everything: list[Entry] = []
    for sizes in batches:
        run = entries(head + len(everything), sizes)
        ring.extend(run)
        everything += run
        held = [e for e in everything if e.offset > ring.floor]
        assert ring.head == head + len(everything)
        assert ring.bytes_held == sum(len(e.payload) for e in held)
        assert len(held) <= events_max
        assert ring.bytes_held <= bytes_max or len(held) == 1
        for after in range(head, ring.head + 1):
            found = ring.read(after, bytes_max=25)
            if after < ring.floor:
                assert found == Gap(ring.floor)
                continue
            assert not isinstance(found, Gap)
            start = after - head
            assert found == everything[start : start + len(found)]
            assert bool(found) == (after < ring.head)
            assert sum(len(e.payload) for e in found[:-1]) < 25


@given(
    st.lists(st.integers(0, 40), max_size=30),
    st.integers(1, 100),
)
def test_reading_on_from_what_was_read_gives_everything_once(
    sizes: list[int], bytes_max: int
) -> None:
    ring = filled(sizes, events_max=1000, bytes_max=10_000)
    seen: list[Entry] = []
    while found := read(ring, len(seen), bytes_max):
        seen += found
    assert seen == entries(0, sizes)


# -- rings of frames, whose ids only grow ---------------------------------------------------------


def frames(ids: list[int], size: int = 1) -> list[Frame]:
    return [Frame(number, "1", b"x" * size) for number in ids]


def sparse(head: int = 0, *, events_max: int = 100, bytes_max: int = 1000) -> Ring[Frame]:
    return Ring[Frame](head, events_max=events_max, bytes_max=bytes_max, is_sparse=True)


def test_ids_of_frames_only_grow() -> None:
    ring = sparse(16)
    ring.extend(frames([32, 33, 80]))
    assert (ring.head, ring.floor) == (80, 16)
    for wrong in (80, 79, 16):
        with pytest.raises(AssertionError, match="only grow"):
            ring.extend(frames([wrong]))


def test_a_cursor_between_two_frames_is_served_from_the_next() -> None:
    ring = sparse(16)
    ring.extend(frames([32, 33, 80]))
    assert ring.read(16, bytes_max=99) == frames([32, 33, 80])
    assert ring.read(32, bytes_max=99) == frames([33, 80])
    assert ring.read(50, bytes_max=99) == frames([80])
    assert ring.read(80, bytes_max=99) == []
    assert ring.read(999, bytes_max=99) == []
    assert ring.read(15, bytes_max=99) == Gap(16)


def test_skipping_forgets_what_was_held_and_goes_on_behind() -> None:
    ring = sparse()
    ring.extend(frames([16, 32], size=5))
    assert ring.skip(160) == 10
    assert (ring.head, ring.floor, ring.bytes_held) == (160, 160, 0)
    assert ring.read(32, bytes_max=9) == Gap(160)
    ring.extend(frames([176]))
    assert ring.read(160, bytes_max=9) == frames([176])


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 30)), max_size=8), max_size=20),
    st.integers(1, 12),
    st.integers(1, 200),
    st.integers(0, 50),
)
def test_a_sparse_ring_is_bounded_and_never_shows_a_part(
    batches: list[list[tuple[int, int]]], events_max: int, bytes_max: int, head: int
) -> None:
    ring = sparse(head, events_max=events_max, bytes_max=bytes_max)
    everything: list[Frame] = []
    newest = head
    for batch in batches:
        run = []
        for step, size in batch:
            newest += step
            run += frames([newest], size)
        ring.extend(run)
        everything += run
        held = [frame for frame in everything if frame.offset > ring.floor]
        assert ring.head == newest
        assert ring.bytes_held == sum(len(frame.payload) for frame in held)
        assert len(held) <= events_max
        assert ring.bytes_held <= bytes_max or len(held) == 1
        for after in range(head, newest + 2):
            found = ring.read(after, bytes_max=25)
            if after < ring.floor:
                assert found == Gap(ring.floor)
                continue
            assert not isinstance(found, Gap)
            due = [frame for frame in everything if frame.offset > after]
            assert found == due[: len(found)]
            assert bool(found) == bool(due)
