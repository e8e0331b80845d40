"""The cursor against the model of a daemon.

Cut anywhere, resumed, pruned, merged or repeated: who reads on sees the same as who never left.
"""

from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.client.answer import Transcript
from dispatch.client.cursor import Cursor
from dispatch.client.decoding import ServerFrame, decode_delta
from dispatch.client.frames import DeltaFrame, History, Snapshot, Subscribed
from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
    ReasoningDelta,
    Steering,
    StepComplete,
    TextDelta,
    ToolCall,
    ToolOutput,
    ToolResult,
    TurnSealed,
    TurnStart,
    UserMessage,
)
from dispatch.errors import PeerError
from tests.client.recording import Recording

words = st.text('ab"\\\n\u2028é🙂', max_size=3)
spoken = st.one_of(
    st.builds(TextDelta, words),
    st.builds(TextDelta, words),
    st.builds(ReasoningDelta, words),
    st.just(ToolCall("k", "tool", msgspec.Raw(b"{}"))),
    st.just(ToolOutput("k", "out", "stdout")),
    st.just(ToolResult("k", "tool", "out", False)),
    st.just(StepComplete("s")),
    st.just(Steering("also")),
    st.just(ErrorEvent("oh")),
)


@st.composite
def turns(draw: st.DrawFn) -> list[list[AnyEvent]]:
    bodies = draw(st.lists(st.lists(spoken, max_size=8), min_size=1, max_size=4))
    return [[UserMessage("hi"), TurnStart(), *body, Done("stop"), TurnSealed()] for body in bodies]


class Watcher:
    """A cursor with a transcript, fed as `Follow` feeds them."""

    def __init__(self, recording: Recording, cursor: Cursor) -> None:
        self.recording = recording
        self.cursor = cursor
        self.transcript = Transcript()

    def take(self, frame: ServerFrame) -> None:
        given = decode_delta(frame) if isinstance(frame, DeltaFrame) else frame
        item = self.cursor.accept(given)  # type: ignore[arg-type]
        if item is None:
            return
        if isinstance(item, Snapshot):
            item = self._filled(item)
        self.transcript.apply(item)

    def _filled(self, snapshot: Snapshot) -> Snapshot:
        assert snapshot.missed_after is not None
        history = self.recording.history(len(self.recording.events))
        missed = [c for c in history if snapshot.missed_after < c.seq <= snapshot.last_seq]
        return msgspec.structs.replace(snapshot, missed=tuple(missed))


class Life(NamedTuple):
    """One connection. Fractions: of what is there, of what is still to come, of what is shown."""

    pruned: float
    grown: float
    shown: float
    away: float
    is_merged: bool
    is_repeated: bool


fractions = st.floats(0, 1)
lives = st.lists(
    st.builds(Life, fractions, fractions, fractions, fractions, st.booleans(), st.booleans()),
    max_size=6,
)
WHOLE = Life(0, 1, 1, 0, True, True)


@given(turns(), st.sampled_from([None, 0]), fractions, lives)
def test_any_cut_of_a_recording_resumed_gives_the_same_text(
    said: list[list[AnyEvent]], since_seq: int | None, first: float, cuts: list[Life]
) -> None:
    recording = Recording(said)
    last = len(recording.events)
    head = round(first * last)
    watcher = Watcher(recording, Cursor(since_seq=since_seq))
    before: str | None = None if since_seq is None else ""
    for life in [*cuts, WHOLE]:
        # Each connection shows what there is, then what comes, and breaks off somewhere.
        asked = watcher.cursor.resume()
        pruned = round(life.pruned * head)
        frames = recording.subscribe(asked, head, kept_after=pruned, is_merged=life.is_merged)
        grown = head + round(life.grown * (last - head))
        frames += recording.frames(head, grown, is_merged=life.is_merged)
        shown = round(life.shown * len(frames))
        if shown and before is None:
            running = recording.in_flight(head)
            before = recording.text(head if running is None else running)
        for frame in frames[:shown]:
            watcher.take(frame)
            if life.is_repeated and not isinstance(frame, Subscribed):
                watcher.take(frame)
        head = grown + round(life.away * (last - grown))
    assert before is not None
    assert before + watcher.transcript.text == recording.text(last)


@given(turns(), st.data())
def test_a_resume_from_any_position_shows_exactly_what_comes_after_it(
    said: list[list[AnyEvent]], data: st.DataObject
) -> None:
    recording = Recording(said)
    last = len(recording.events)
    after = data.draw(st.integers(0, last))
    watcher = Watcher(recording, Cursor(after=f"g:{after}"))
    asked = watcher.cursor.resume()
    for frame in recording.subscribe(asked, last, kept_after=0, is_merged=data.draw(st.booleans())):
        watcher.take(frame)
    assert recording.text(after) + watcher.transcript.text == recording.text(last)
    assert watcher.cursor.seq == len(recording.history(last))


TURN: list[AnyEvent] = [UserMessage("hi"), TurnStart(), TextDelta("a"), Done("stop"), TurnSealed()]


def frames_of(recording: Recording, asked: dict[str, object], head: int) -> list[ServerFrame]:
    return recording.subscribe(asked, head, kept_after=0, is_merged=False)


def test_the_head_of_an_idle_conversation_is_where_a_follower_goes_on() -> None:
    recording, cursor = Recording([TURN]), Cursor()
    for frame in frames_of(recording, cursor.resume(), 5):
        cursor.accept(frame)  # type: ignore[arg-type]
    assert cursor.resume() == {"after": "g:5"}


def test_before_the_first_event_of_a_running_turn_history_is_where_a_follower_goes_on() -> None:
    """The head is behind events that were not seen yet, so it is no place to resume from."""
    recording, cursor = Recording([TURN, TURN]), Cursor()
    cursor.accept(frames_of(recording, cursor.resume(), 8)[0])  # type: ignore[arg-type]
    assert cursor.resume() == {"sinceSeq": 2}


def test_sealed_chunks_are_counted_as_the_daemon_counts_them() -> None:
    recording, cursor = Recording([TURN, TURN]), Cursor()
    for frame in frames_of(recording, cursor.resume(), 0) + recording.frames(0, 10, is_merged=True):
        given = decode_delta(frame) if isinstance(frame, DeltaFrame) else frame
        cursor.accept(given)  # type: ignore[arg-type]
    assert cursor.seq == len(recording.history(10)) == 4


def test_a_snapshot_of_another_generation_does_not_say_what_was_missed() -> None:
    cursor = Cursor(after="old:9", since_seq=None)
    cursor.accept(Subscribed("c", False, "g:5", "idle", 2))
    item = cursor.accept(Snapshot("c", "g:5", 2))
    assert isinstance(item, Snapshot)
    assert item.missed_after is None
    assert cursor.resume() == {"after": "g:5"}


def test_a_snapshot_that_ends_before_what_was_seen_does_not_say_what_was_missed() -> None:
    cursor = Cursor(since_seq=9)
    cursor.accept(Subscribed("c", False, "g:5", "idle", 2))
    assert cursor.resume() == {"sinceSeq": 9}
    item = cursor.accept(Snapshot("c", "g:5", 2))
    assert isinstance(item, Snapshot)
    assert item.missed_after is None
    assert (cursor.position, cursor.seq) == ("g:5", 2)


def test_a_history_page_that_was_seen_is_dropped() -> None:
    recording, cursor = Recording([TURN]), Cursor(since_seq=0)
    pages = [f for f in frames_of(recording, {"sinceSeq": 0}, 5) if isinstance(f, History)]
    assert [cursor.accept(page) is None for page in pages + pages] == [False, False, True, True]


def test_a_malformed_position_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(PeerError, match="position"):
        Cursor(after="12")
