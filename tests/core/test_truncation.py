"""What still counts after truncations, whatever their order."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.events import Truncated
from dispatch.core.identity import TurnId
from dispatch.core.truncation import (
    NOTHING,
    Kept,
    Superseded,
    count_after,
    decode_superseded,
    encode_superseded,
    is_superseded,
    last_counting,
    truncate,
)
from dispatch.errors import NotFound, TooMany

# Turns of two chunks each: turn N has the seqs 2N-1 and 2N.
CHUNKS = 2


def kept(number: int) -> Kept | None:
    return Kept(TurnId(f"t{number}"), CHUNKS * number - 1, CHUNKS) if number else None


def cut(superseded: Superseded, turns: int, after: int, most: int = 1_000) -> Superseded:
    now, _ = truncate(superseded, CHUNKS * turns, kept(after), truncations_max=most)
    return now


def test_what_is_behind_the_kept_turn_does_not_count() -> None:
    superseded, event = truncate(NOTHING, 10, kept(2), truncations_max=1)
    assert superseded == ((5, 10),)
    assert event == Truncated(4, 10, "t2")
    assert [seq for seq in range(1, 13) if is_superseded(superseded, seq)] == [5, 6, 7, 8, 9, 10]


def test_truncated_to_nothing_nothing_counts() -> None:
    superseded, event = truncate(NOTHING, 10, None, truncations_max=1)
    assert superseded == ((1, 10),)
    assert event == Truncated(0, 10)
    assert last_counting(superseded, 10) == 0


def test_where_nothing_is_behind_the_kept_turn_nothing_changes() -> None:
    assert cut(NOTHING, 3, 3) == NOTHING
    assert cut(NOTHING, 0, 0) == NOTHING


def test_a_truncation_further_back_takes_in_those_behind_it() -> None:
    twice = cut(cut(NOTHING, 5, 2), 8, 7)
    assert twice == ((5, 10), (15, 16))
    assert cut(twice, 9, 6) == ((5, 10), (13, 18))
    assert cut(twice, 9, 1) == ((3, 18),)
    assert cut(twice, 9, 9) == twice


def test_a_turn_that_was_truncated_cannot_be_kept() -> None:
    superseded = cut(NOTHING, 5, 2)
    with pytest.raises(NotFound, match="t3 was truncated"):
        cut(superseded, 5, 3)


def test_the_places_are_bounded_and_the_past_can_still_be_left_behind() -> None:
    superseded = cut(cut(NOTHING, 2, 1), 4, 3)
    with pytest.raises(TooMany, match="in 2 places"):
        cut(superseded, 6, 5, most=2)
    assert cut(superseded, 6, 1, most=2) == ((3, 12),)
    assert cut(superseded, 6, 6, most=1) == superseded


@given(st.data())
def test_any_truncations_leave_what_a_list_of_turns_would(data: st.DataObject) -> None:
    """Beside the stretches, the plain thing: which turns are left."""
    superseded, counting, turns = NOTHING, list[int](), 0
    for _ in range(data.draw(st.integers(1, 8))):
        fresh = data.draw(st.integers(0, 3))
        counting += range(turns + 1, turns + fresh + 1)
        turns += fresh
        after = data.draw(st.sampled_from([0, *counting]))
        superseded = cut(superseded, turns, after)
        counting = [turn for turn in counting if turn <= after]
    seqs = [seq for turn in counting for seq in (CHUNKS * turn - 1, CHUNKS * turn)]
    last = CHUNKS * turns
    assert [s for s in range(1, last + 1) if not is_superseded(superseded, s)] == seqs
    assert decode_superseded(encode_superseded(superseded)) == superseded
    for seq in range(last + 2):
        assert count_after(superseded, seq, last) == len([s for s in seqs if s > seq])
        assert last_counting(superseded, seq) == max(
            (s for s in [*seqs, last + 1] if s <= seq), default=0
        )
    for (_, end), (first, _) in itertools.pairwise(superseded):
        assert end + 1 < first
