"""What came against what is written: names, words, fields and arrays."""

import itertools
from typing import Any

import pytest

from dispatch.conformance.matching import Mismatch, Names


def names(*, exact: bool = False) -> Names:
    numbers = itertools.count(1)
    return Names(lambda: str(next(numbers)), exact=exact)


def test_a_name_stands_for_what_it_first_met() -> None:
    seen = names()
    seen.match(["$turn1", "$turn2", "$turn1#3"], ["a", "b", "a#3"])
    with pytest.raises(Mismatch):
        seen.match("$turn1", "b")


def test_two_names_of_a_kind_are_two_values() -> None:
    seen = names()
    seen.match(
        {"turnId": "$turn1", "conversationId": "$conversation1"},
        dict.fromkeys(["turnId", "conversationId"], "a"),
    )
    with pytest.raises(Mismatch, match="which is \\$turn1"):
        seen.match("$turn2", "a")


def test_what_has_no_value_yet_is_made_up_once() -> None:
    seen = names()
    assert seen.fill({"a": "$client1", "b": ["x-$client1-${client1}0"]}) == {
        "a": "client-1",
        "b": ["x-client-1-client-10"],
    }


def test_what_the_server_has_to_tell_first_is_not_made_up() -> None:
    with pytest.raises(Mismatch):
        names().fill("?cursor=$cursor")


@pytest.mark.parametrize(
    ("word", "right", "wrong"),
    [
        ("$time", "2026-01-02T03:04:05.678Z", "2026-01-02"),
        ("$ms", 1_700_000_000_000, 1_700_000_000),
        ("$duration", 0.5, -1),
        ("$count", 0, True),
        ("$id", 7, "7"),
        ("$cursor", 7, None),
    ],
)
def test_a_word_stands_for_a_kind_of_value(word: str, right: Any, wrong: Any) -> None:
    names().match(word, right)
    with pytest.raises(Mismatch):
        names().match(word, wrong)


@pytest.mark.parametrize(
    ("written", "came"),
    [
        (True, 1),
        (1, True),
        (None, False),
        (0, None),
        ("1", 1),
        ({}, []),
        ([1], [1, 2]),
        ("$turn1", 5),
    ],
)
def test_values_of_different_kinds_differ(written: Any, came: Any) -> None:
    with pytest.raises(Mismatch):
        names().match(written, came)


def test_further_fields_are_passed_over_unless_it_is_to_be_exact() -> None:
    names().match({"a": 1}, {"a": 1, "b": 2})
    with pytest.raises(Mismatch, match="no further fields, got b"):
        names(exact=True).match({"a": 1}, {"a": 1, "b": 2})


def test_a_field_may_have_to_be_absent() -> None:
    names(exact=True).match({"b": "$absent"}, {})
    with pytest.raises(Mismatch, match="no such field"):
        names().match({"b": "$absent"}, {"b": None})


def test_words_for_people_beside_a_code_are_the_servers_own() -> None:
    written = {"message": "no", "code": "busy"}
    names().match(written, {"message": "nein", "code": "busy"})
    for came in ({"message": 5, "code": "busy"}, {"message": "no", "code": "gone"}):
        with pytest.raises(Mismatch):
            names().match(written, came)
    with pytest.raises(Mismatch):
        names(exact=True).match(written, {"message": "nein", "code": "busy"})
    with pytest.raises(Mismatch):
        names().match({"message": "no"}, {"message": "nein"})


def test_others_may_follow_but_nothing_that_has_a_name() -> None:
    seen = names()
    seen.match([{"id": "$group1"}, "$others"], [{"id": "a"}, {"id": "b"}])
    seen.match(["$others"], [])
    with pytest.raises(Mismatch, match="nothing further"):
        seen.match(["$others"], [{"id": "b"}, {"id": "a"}])


def test_a_comparison_that_failed_binds_nothing() -> None:
    seen = names()
    branch = seen.branch()
    branch.match("$turn1", "a")
    assert seen.values == {}
    seen.adopt(branch)
    assert seen.values == {"turn1": "a"}
