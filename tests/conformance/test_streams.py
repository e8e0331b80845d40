"""Frames as they come: text in any pieces, members in any order, and nothing else."""

from typing import Any

import pytest

from dispatch.conformance.matching import Mismatch, Names
from dispatch.conformance.streams import Expectation


def delta(text: str, position: str, turn: str = "t") -> dict[str, Any]:
    event = {"type": "text-delta", "delta": text, "turnId": turn}
    return {"type": "chat.delta", "event": event, "position": position}


def chunk(member: str, text: str, number: int) -> dict[str, Any]:
    data = {"kind": "assistant_chunk", "familiarId": member, "text": text}
    return {"id": number, "data": data}


def expecting(*frames: Any) -> Expectation:
    return Expectation(Names(str, exact=True), frames)


def take_all(expectation: Expectation, frames: list[Any]) -> None:
    for frame in frames:
        expectation.take(frame)


@pytest.mark.parametrize("pieces", [["abc"], ["a", "bc"], ["a", "b", "c"]])
def test_a_run_of_text_may_be_cut_anywhere(pieces: list[str]) -> None:
    expectation = expecting(delta("abc", "$position1", "$turn1"), {"type": "pong"})
    for number, piece in enumerate(pieces):
        expectation.take(delta(piece, f"g:{number}"))
    expectation.take({"type": "pong"})
    assert expectation.is_met
    assert expectation.taken[0]["event"]["delta"] == "abc"
    assert expectation.taken[0]["position"] == f"g:{len(pieces) - 1}"


@pytest.mark.parametrize(
    "frames",
    [
        [delta("abd", "g:1")],
        [delta("a", "g:1"), {"type": "pong"}],
        [delta("abc", "g:1"), delta("d", "g:2")],
        [delta("a", "g:1", "t"), delta("bc", "g:2", "u")],
    ],
    ids=["another text", "cut short", "more of it", "of two turns"],
)
def test_text_is_the_text_that_is_written(frames: list[Any]) -> None:
    expectation = expecting(delta("abc", "$position1", "$turn1"), {"type": "pong"})
    with pytest.raises(Mismatch):
        take_all(expectation, frames)


def test_members_do_not_wait_for_each_other() -> None:
    expectation = expecting(chunk("ann", "one", 1), chunk("bob", "two", 2))
    for frame in (chunk("bob", "t", 1), chunk("ann", "one", 1), chunk("bob", "wo", 2)):
        assert not expectation.is_met
        expectation.take(frame)
    assert expectation.is_met


def test_a_frame_of_nobody_who_is_written_is_a_mismatch() -> None:
    expectation = expecting(chunk("ann", "one", 1))
    with pytest.raises(Mismatch):
        expectation.take(chunk("bob", "one", 1))
    assert expectation.missing.startswith('{"id":1')
