"""What a session says of its chats."""

from typing import Any

import pytest
from hypothesis import given

from dispatch.protocol.ahp.aggregation import catalogue_change, chat_summary, session_summary
from dispatch.protocol.ahp.reduce import reduce
from tests.protocol.ahp.histories import EMPTY_CHAT, EMPTY_SESSION, one_turn

Object = dict[str, Any]


def chat(name: str, status: int, at: str, **more: Any) -> Object:
    summary = {"resource": name, "title": name, "status": status, "modifiedAt": at}
    return {**summary, **more}


def summary(*chats: Object, **session: Any) -> Object:
    state = {**EMPTY_SESSION, "chats": list(chats), **session}
    return session_summary(state, resource="echo:/s", created_at="2026-01-01T00:00:00.000Z")


A = chat("a", 8, "2026-01-02T00:00:00.000Z", activity="thinking")
B = chat("b", 1, "2026-01-03T00:00:00.000Z")


def test_a_session_without_chats_is_idle() -> None:
    assert summary()["status"] == 1
    assert summary()["modifiedAt"] == "2026-01-01T00:00:00.000Z"


def test_a_session_shows_its_default_chat_else_its_newest() -> None:
    assert summary(A, B)["status"] == 1
    assert summary(A, B, defaultChat="a")["status"] == 8
    assert summary(A, B, defaultChat="a")["activity"] == "thinking"
    assert summary(A, B, defaultChat="gone")["status"] == 1


@pytest.mark.parametrize(("status", "shown"), [(24, 24), (2, 2)])
def test_a_chat_that_needs_somebody_shows_wherever_it_is(status: int, shown: int) -> None:
    other = chat("c", status, "2025-01-01T00:00:00.000Z")
    assert summary(A, other, defaultChat="a")["status"] == shown


def test_waiting_shows_before_failing() -> None:
    failed = chat("c", 2, "2026-01-09T00:00:00.000Z")
    waits = chat("d", 24, "2026-01-01T00:00:00.000Z")
    assert summary(failed, waits)["status"] == 24


def test_flags_of_a_session_are_its_own() -> None:
    assert summary(chat("a", 8 | 32, A["modifiedAt"]), status=1 | 64)["status"] == 8 | 64


@given(history=one_turn)
def test_the_catalogue_follows_a_chat_and_says_nothing_twice(history: Any) -> None:
    _, state, actions = history
    session: Object = EMPTY_SESSION
    for action in [{"type": "none"}, *actions]:
        state = reduce(state, action)
        told = catalogue_change(session, state)
        if told is not None:
            session = reduce(session, told)
        assert catalogue_change(session, state) is None
        [entry] = session["chats"]
        shown = {name: value for name, value in chat_summary(state).items() if value}
        assert {name: value for name, value in entry.items() if value} == shown


def test_the_catalogue_repeats_no_turns() -> None:
    assert "turns" not in chat_summary({**EMPTY_CHAT, "draft": {}})
