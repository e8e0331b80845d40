"""Reducers: the conformance data of 0.7.0, and what 0.9 changed."""

import copy
from typing import Any

import pytest
from hypothesis import given

from dispatch.protocol.ahp.reduce import fold, reduce
from dispatch.protocol.ahp.rules import RULES_0_7
from tests.protocol.ahp.conformance import CLOCK, fixtures, stripped
from tests.protocol.ahp.histories import EMPTY_CHAT, EMPTY_SESSION, histories, one_turn

FIXTURES = fixtures("reducers/root") + fixtures("reducers/session") + fixtures("reducers/chat")


@pytest.mark.parametrize("fixture", FIXTURES)
def test_a_fixture_of_0_7_folds_to_what_it_expects(fixture: dict[str, Any]) -> None:
    state = stripped(fixture["initial"])
    for action in fixture["actions"]:
        before = copy.deepcopy(state)
        after = reduce(state, action, RULES_0_7, now=CLOCK)
        assert state == before, "a reducer changed its argument"
        state = after
    assert stripped(state) == stripped(fixture["expected"])


def folded(*actions: dict[str, Any], state: dict[str, Any] = EMPTY_CHAT) -> dict[str, Any]:
    return fold(state, actions)


STARTED = {
    "type": "chat/turnStarted",
    "turnId": "t1",
    "startedAt": "2026-01-01T00:00:00.000Z",
    "message": {"text": "hi", "origin": {"kind": "user"}},
}
LOST = {"kind": "error", "error": {"errorType": "e", "message": "lost"}, "resumable": True}
FAILED = {"type": "chat/error", "turnId": "t1", "duration": 1_500, "part": LOST}
RESUMED = {"type": "chat/turnResume", "turnId": "t1"}


def test_a_turn_changes_a_chat_when_it_begins_and_when_it_ends() -> None:
    assert folded(STARTED)["modifiedAt"] == "2026-01-01T00:00:00.000Z"
    ended = folded(STARTED, {"type": "chat/turnComplete", "turnId": "t1", "duration": 1_500})
    assert ended["modifiedAt"] == "2026-01-01T00:00:01.500Z"


def test_an_error_is_the_last_part_of_its_turn() -> None:
    [turn] = folded(STARTED, FAILED)["turns"]
    assert turn["responseParts"] == [LOST]
    assert "error" not in turn


def test_a_failed_turn_is_opened_again_with_what_it_said() -> None:
    chat = folded(STARTED, FAILED, RESUMED)
    assert chat["turns"] == []
    assert chat["activeTurn"]["responseParts"] == [LOST]
    assert chat["status"] == 8


@pytest.mark.parametrize(
    "before",
    [
        [],
        [STARTED],
        [STARTED, {"type": "chat/turnComplete", "turnId": "t1", "duration": 1}],
        [STARTED, {**FAILED, "part": {**LOST, "resumable": False}}],
        [STARTED, FAILED, {**STARTED, "turnId": "t2"}],
    ],
)
def test_nothing_else_can_be_opened_again(before: list[dict[str, Any]]) -> None:
    chat = folded(*before)
    assert reduce(chat, RESUMED) is chat


def test_an_error_is_no_part_that_can_be_said_on_its_own() -> None:
    chat = folded(STARTED)
    assert reduce(chat, {"type": "chat/responsePart", "turnId": "t1", "part": LOST}) is chat


def test_a_chat_that_asks_is_not_read_any_more() -> None:
    read = {"type": "chat/isReadChanged", "isRead": True}
    asked = {"type": "chat/inputRequested", "request": {"id": "r"}}
    assert folded(STARTED, read)["status"] == 8 | 32
    assert folded(STARTED, read, asked)["status"] == 24


def test_what_a_client_has_to_run_asks_for_nobody() -> None:
    run = {"kind": "toolClientExecution", "id": "i", "chat": "x:/y"}
    action = {"type": "session/inputNeededSet", "request": run}
    assert reduce(EMPTY_SESSION, action)["status"] == 1
    assert reduce(EMPTY_SESSION, action, RULES_0_7)["status"] == 24


@given(history=histories | one_turn)
def test_a_reducer_is_total_and_leaves_its_argument_alone(history: Any) -> None:
    _, state, actions = history
    for action in actions:
        before, sent = copy.deepcopy(state), copy.deepcopy(action)
        after = reduce(state, action)
        assert (state, action) == (before, sent)
        state = after


@given(history=histories)
def test_an_action_of_no_channel_changes_nothing(history: Any) -> None:
    _, state, actions = history
    for action in [{}, {"type": "chat"}, *actions]:
        strange = {**action, "type": str(action.get("type")).replace("/", ".")}
        assert reduce(state, strange) is state
