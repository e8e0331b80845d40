"""An endpoint's own words, and what is made of them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.agents.openai.failures import (
    READ_CHARACTERS_MAX,
    failure_of_status,
    fit,
    retry_after_seconds,
)

KEY = "sk-very-secret"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error":{"message":"no"}}', "no"),
        ('{"error":"no"}', "no"),
        ('[{"error":{"message":"no"}}]', "no"),
        ('{"message":"no"}', "no"),
        ('{"detail":"no"}', "no"),
        ('{"detail":[{"msg":"no"}]}', '[{"msg":"no"}]'),
        ('{"error":{"error":{"message":"no"}}}', "no"),
        ("no\n", "no"),
        ("<html><h1>Bad gateway</h1>", ""),
        ("", ""),
        ("[]", ""),
        ("7", ""),
        ("null", ""),
        ('{"error":null}', ""),
        ('{"error":{"message":7}}', "7"),
        ("[" * 100_000, "[" * 299 + "…"),
    ],
)
def test_servers_put_their_words_in_many_places(body: str, words: str) -> None:
    heading = "the endpoint failed (502)"
    failure = failure_of_status(502, {}, body.encode(), "")
    assert failure.message == (f"{heading}: {words}" if words else heading)


@given(st.integers(300, 999), st.binary(max_size=200))
def test_no_refusal_does_more_than_fail(status: int, body: bytes) -> None:
    failure = failure_of_status(status, {}, body, KEY)
    assert failure.message.isprintable()
    assert failure.code


@given(
    st.text(max_size=300),
    st.text(max_size=300),
    st.sampled_from(["", "\x1b[1m", "\u202e", "\xad"]),
)
def test_the_key_is_in_no_words_whatever_stands_around_it(
    before: str, after: str, within: str
) -> None:
    found = fit(before + KEY[:4] + within + KEY[4:] + after, KEY)
    assert KEY not in found
    assert len(found) <= 300


@pytest.mark.parametrize("kept", range(1, len(KEY)))
def test_a_key_that_the_bound_cuts_in_two_is_not_told_in_part(kept: int) -> None:
    assert fit(" " * (READ_CHARACTERS_MAX - kept) + KEY + "!", KEY) == ""


@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), st.text(max_size=40)))
def test_a_time_to_ask_again_is_a_number_of_seconds_or_nothing(headers: dict[str, str]) -> None:
    found = retry_after_seconds(headers)
    assert found is None or 0 <= found < float("inf")
    assert msgspec.json.encode(found)
