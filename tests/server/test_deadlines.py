"""Many entries, one patience, one timer."""

import pytest

from dispatch.server.deadlines import Deadlines
from tests.server.wire import ManualLoop


@pytest.fixture
def loop() -> ManualLoop:
    return ManualLoop()


def deadlines(loop: ManualLoop, late: list[str]) -> Deadlines[str]:
    return Deadlines(loop, 10, late.append)  # type: ignore[arg-type]


def test_each_entry_is_late_once_and_in_its_own_time(loop: ManualLoop) -> None:
    late: list[str] = []
    waiting = deadlines(loop, late)
    waiting.add("a")
    loop.advance(5)
    waiting.add("b")
    waiting.add("a")
    loop.advance(4.9)
    assert late == []
    loop.advance(0.3)
    assert late == ["a"]
    assert "b" in waiting
    loop.advance(5)
    assert late == ["a", "b"]
    assert len(waiting) == 0


def test_a_discarded_entry_is_never_late(loop: ManualLoop) -> None:
    late: list[str] = []
    waiting = deadlines(loop, late)
    waiting.add("a")
    waiting.add("b")
    waiting.discard("a")
    waiting.discard("unknown")
    loop.advance(20)
    assert late == ["b"]


def test_there_is_one_timer_however_many_wait_and_none_when_none_does(loop: ManualLoop) -> None:
    waiting = deadlines(loop, [])
    assert loop.timers == 0
    for number in range(100):
        waiting.add(str(number))
        loop.advance(0.05)
    assert loop.timers == 1
    loop.advance(20)
    assert loop.timers == 0


def test_an_entry_that_is_late_may_take_others_along_or_come_back(loop: ManualLoop) -> None:
    late: list[str] = []

    def on_late(entry: str) -> None:
        late.append(entry)
        waiting.discard("b")
        if len(late) == 1:
            waiting.add("a")

    waiting: Deadlines[str] = Deadlines(loop, 10, on_late)  # type: ignore[arg-type]
    waiting.add("a")
    waiting.add("b")
    loop.advance(30)
    assert late == ["a", "a"]


def test_cancelling_forgets_everything(loop: ManualLoop) -> None:
    late: list[str] = []
    waiting = deadlines(loop, late)
    waiting.add("a")
    waiting.cancel()
    waiting.cancel()
    assert loop.timers == 0
    loop.advance(20)
    assert late == []
    waiting.add("b")
    loop.advance(11)
    assert late == ["b"]
