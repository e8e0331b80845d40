"""What an account may have at once and how fast, and that an account at rest costs nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.identity import AccountId
from dispatch.errors import RateLimited, TooMany
from dispatch.runtime.accounts import Accounts, TokenBucket
from dispatch.settings import Limits
from dispatch.testing import ManualClock

A, B = AccountId("a"), AccountId("b")


def accounts(**limits: int) -> tuple[Accounts, ManualClock]:
    clock = ManualClock()
    return Accounts(Limits(**limits), clock), clock


def test_a_burst_is_let_through_and_then_one_at_a_time() -> None:
    counted, clock = accounts(sends_per_second_max=10, sends_burst_max=3)
    for _ in range(3):
        counted.check_send(A)
    with pytest.raises(RateLimited, match="more than 10 sends a second") as refused:
        counted.check_send(A)
    assert refused.value.retry_after_ms == 100
    assert refused.value.retryable
    clock.advance(0.1)
    counted.check_send(A)
    with pytest.raises(RateLimited):
        counted.check_send(A)


def test_who_comes_back_when_told_is_let_through() -> None:
    counted, clock = accounts(sends_per_second_max=7, sends_burst_max=1)
    counted.check_send(A)
    for _ in range(50):
        with pytest.raises(RateLimited) as refused:
            counted.check_send(A)
        assert refused.value.retry_after_ms is not None
        # A millisecond more than told, for it is told in whole ones.
        clock.advance((refused.value.retry_after_ms + 1) / 1000)
        counted.check_send(A)


def test_one_accounts_burst_is_nothing_to_another() -> None:
    counted, _ = accounts(sends_per_second_max=1, sends_burst_max=1)
    counted.check_send(A)
    counted.check_send(B)
    with pytest.raises(RateLimited):
        counted.check_send(A)


def test_a_clock_that_jumps_back_locks_nobody_out() -> None:
    counted, clock = accounts(sends_per_second_max=1, sends_burst_max=1)
    counted.check_send(A)
    clock.jump(-86_400)
    clock.advance(1)
    counted.check_send(A)


def test_running_turns_are_bounded_and_counted_down() -> None:
    counted, _ = accounts(turns_running_max=2)
    for _ in range(2):
        counted.check_send(A)
        counted.began(A)
    with pytest.raises(TooMany, match="2 turns are running already") as refused:
        counted.check_send(A)
    assert refused.value.retryable
    counted.check_send(B)
    counted.ended(A)
    counted.check_send(A)
    counted.check_running(A)
    assert counted.running_total == 1


def test_an_account_at_rest_is_forgotten() -> None:
    counted, clock = accounts(sends_per_second_max=10, sends_burst_max=10)
    for number in range(1_000):
        counted.check_send(AccountId(f"a{number}"))
        clock.advance(0.1)
    assert len(counted._buckets) <= 2
    counted.began(A)
    counted.ended(A)
    assert counted._running == {}
    assert counted.running_total == 0


@given(
    st.floats(0.1, 1_000),
    st.integers(1, 50),
    st.lists(st.floats(0, 2), max_size=60),
)
def test_never_more_than_the_burst_and_the_rate_allow(
    rate: float, burst: int, waits: list[float]
) -> None:
    bucket, now, taken = TokenBucket(rate, burst, 0.0), 0.0, 0
    for wait in waits:
        now += wait
        due = bucket.take(now)
        if due == 0:
            taken += 1
        else:
            assert 0 < due <= 1 / rate + 1e-9
        assert taken <= burst + now * rate + 1e-6
