"""Names and positions: what is well formed comes through, everything else is told by its rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.identity import (
    ADMIN,
    LOCAL,
    SEND,
    WATCH,
    AccountId,
    Position,
    Principal,
    UserId,
    parse_conversation_id,
    parse_position,
    require,
)
from dispatch.errors import Forbidden, PeerError

ALPHABET = "ABCXYZabcxyz0189._:-"
generations = st.text("abcXYZ019", min_size=1, max_size=32)


@given(st.text(ALPHABET, min_size=1, max_size=128))
def test_a_well_formed_conversation_id_is_taken_as_it_is(text: str) -> None:
    assert parse_conversation_id(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "a" * 129, "a b", "a/b", "é", "a\n", "\x00", "a\x00b", "../x y", 7, None, ["a"], b"a"],
)
def test_a_malformed_conversation_id_is_refused_by_its_rule(text: object) -> None:
    with pytest.raises(PeerError, match="expected 1 to 128 of A-Z a-z 0-9"):
        parse_conversation_id(text)


@given(generations, st.integers(0, 10**18 - 1))
def test_a_position_is_the_same_when_it_is_read_back(generation: str, offset: int) -> None:
    position = Position(generation, offset)
    assert str(position) == f"{generation}:{offset}"
    assert parse_position(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "g",
        "g:",
        ":1",
        "g:-1",
        "g:+1",
        "g:01",
        "g:1 ",
        " g:1",
        "g:1\n",
        "g:1:2",
        "g:1.0",
        "g:0x1",
        "g:\u0661",
        "g-h:1",
        "g" * 33 + ":1",
        "g:" + "9" * 19,
        5,
        None,
        {"generation": "g", "offset": 1},
    ],
)
def test_a_malformed_position_is_refused(text: object) -> None:
    with pytest.raises(PeerError, match="expected <generation>:<offset>"):
        parse_position(text)


def test_without_auth_there_is_one_principal_with_every_right() -> None:
    assert (LOCAL.account, LOCAL.user) == ("local", "local")
    assert LOCAL.rights == {WATCH, SEND, ADMIN}


def test_a_right_that_is_missing_is_refused_and_admin_has_all_of_them() -> None:
    watcher = Principal(AccountId("a"), UserId("u"), frozenset({WATCH}))
    admin = Principal(AccountId("a"), UserId("u"), frozenset({ADMIN}))
    require(watcher, WATCH)
    require(admin, SEND)
    with pytest.raises(Forbidden):
        require(watcher, SEND)
