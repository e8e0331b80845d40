"""What happens to a timeline, as it is stored."""

import msgspec
import pytest

from dispatch.core.timeline import (
    AskClosed,
    Asked,
    Changed,
    MessageAdded,
    ReadTo,
    RepliesEnded,
    ReplyEnded,
    Results,
    RowDetails,
    TaskEnded,
    Told,
    Typing,
    decode_row_details,
    decode_told,
    encode_row_details,
    encode_told,
)

EVERYTHING = [
    MessageAdded(),
    ReplyEnded(),
    RepliesEnded(1, Results(completed=2, removed=1), 4),
    Changed("updated", msgspec.Raw(b'{"a":1}')),
    Typing(True, "queued"),
    ReadTo(3, 0),
    TaskEnded("failed", "why"),
    Asked("t", msgspec.Raw(b"{}")),
    AskClosed("t", "r", "cancelled"),
    AskClosed("t", "r", "answered", by="u"),
]


@pytest.mark.parametrize("told", EVERYTHING, ids=lambda told: type(told).__name__)
def test_what_was_told_is_read_as_it_was_written(told: Told) -> None:
    stored = encode_told(told)
    read = decode_told(stored)
    assert type(read) is type(told)
    assert encode_told(read) == stored


def test_every_kind_has_a_name_of_its_own() -> None:
    names = [msgspec.json.decode(encode_told(told))["type"] for told in EVERYTHING]
    assert len(set(names)) == len(set(map(type, EVERYTHING)))


def test_a_kind_that_nobody_knows_is_damage() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_told(b'{"type":"else"}')


@pytest.mark.parametrize(
    "details",
    [
        RowDetails(),
        RowDetails(targets=("a", "b"), client_message_id="m"),
        RowDetails(error_code="timeout", error="too late"),
    ],
)
def test_details_are_read_as_they_were_written(details: RowDetails) -> None:
    assert decode_row_details(encode_row_details(details)) == details


def test_a_row_without_details_stores_none() -> None:
    assert encode_row_details(RowDetails()) == b"{}"
