"""The fan-out of AHP: one order of numbers for each follower, whatever its channels."""

import pytest

from dispatch.protocol.ahp.envelopes import Change
from dispatch.protocol.ahp.versions import V0_9, Version
from dispatch.runtime.ahp.hub import Hub, Line
from dispatch.runtime.feed import Feeds

ACCOUNT = "local"


class Log:
    """The journal, as far as the hub asks it."""

    head = 0


class Reader:
    """A follower that keeps what it is given."""

    def __init__(self, *, is_hot: bool = True) -> None:
        self.outgoing = b""
        self.seq = 0
        self.lines: dict[str, Line] = {}
        self.is_hot = is_hot
        self.has_failed = False
        self.given: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.given += [part for part in data.split(b"\n") if part]

    def fail(self) -> None:
        self.has_failed = True

    @property
    def numbers(self) -> list[int]:
        return [int(part.split(b'"serverSeq":')[1].split(b"}")[0]) for part in self.given]


class Stage:
    """A hub, and what is published there."""

    def __init__(self, *, events_max: int = 100) -> None:
        self.feeds = Feeds(events_max=events_max, bytes_max=10**6, bytes_total_max=10**7)
        self.log = Log()
        self.hub = Hub(self.feeds, self.log, lambda text: text + b"\n")  # type: ignore[arg-type]

    def reader(self, *channels: str, version: Version = V0_9) -> Reader:
        reader = Reader()
        reader.seq = self.hub.number
        for channel in channels:
            self.hub.join(reader, ACCOUNT, channel, version)
        return reader

    def commit(self, *said: tuple[str, int]) -> None:
        """One batch: channels with the numbers of their actions."""
        self.log.head = max(number for _, number in said) // 16
        for channel, number in said:
            action = {"type": "session/titleChanged", "title": str(number)}
            change = Change(
                channel=channel, server_seq=number, action=action, before={}, after={"a": 1}
            )
            self.hub.publish(ACCOUNT, change)
        self.feeds.flush()


def test_channels_that_spoke_by_turns_are_told_in_the_order_of_the_numbers() -> None:
    stage = Stage()
    both, one = stage.reader("a", "b"), stage.reader("a")
    stage.commit(("a", 17), ("b", 18), ("a", 33), ("b", 34))
    stage.commit(("b", 49))
    assert both.numbers == [17, 18, 33, 34, 49]
    assert one.numbers == [17, 33]


def test_a_follower_that_fell_behind_goes_on_where_it_was_across_its_channels() -> None:
    stage = Stage()
    reader = stage.reader("a", "b")
    stage.commit(("a", 17))
    stage.hub.cool(reader)
    stage.commit(("b", 33), ("a", 34))
    stage.commit(("a", 49))
    assert reader.numbers == [17]
    while (behind := stage.hub.behind(reader, 1)).data:
        reader.write(behind.data)
    stage.hub.warm(reader)
    stage.commit(("b", 65))
    assert reader.numbers == [17, 33, 34, 49, 65]


def test_what_left_memory_cannot_be_given_any_more() -> None:
    stage = Stage(events_max=4)
    reader = stage.reader("a")
    stage.hub.cool(reader)
    for position in range(1, 20):
        stage.commit(("a", position * 16 + 1))
    assert stage.hub.behind(reader, 10**6).is_lost


def test_a_channel_is_encoded_for_those_who_follow_it_and_let_go_with_the_last() -> None:
    stage = Stage()
    reader = stage.reader("a")
    stage.commit(("a", 17), ("b", 18))
    assert reader.numbers == [17]
    stage.hub.leave(reader, ACCOUNT, "a", V0_9)
    stage.commit(("a", 33))
    assert reader.numbers == [17]
    assert stage.feeds.statistics().ring_bytes == 0


def test_accounts_are_walls() -> None:
    stage = Stage()
    stranger = Reader()
    stage.hub.join(stranger, "other", "a", V0_9)
    stage.commit(("a", 17))
    assert stranger.given == []


def test_who_cannot_be_told_any_more_is_told_so() -> None:
    stage = Stage()
    reader, other = stage.reader("a"), stage.reader("b")
    stage.hub.fail(ACCOUNT, ["a"])
    assert reader.has_failed
    assert not other.has_failed


@pytest.mark.parametrize("account", [ACCOUNT, "other"])
def test_a_session_that_is_stirred_is_told_to_its_account(account: str) -> None:
    stage = Stage()
    told: list[str] = []
    stage.hub.listeners[ACCOUNT] = {told.append: None}
    stage.hub.stir(account, "s")
    assert told == (["s"] if account == ACCOUNT else [])
