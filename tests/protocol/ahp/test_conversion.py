"""Versions side by side: what an older client folds is what an older snapshot says."""

from typing import Any

import pytest
from hypothesis import given, settings

from dispatch.protocol.ahp.conversion import (
    down_actions,
    down_notification,
    down_state,
    up_action,
    up_params,
)
from dispatch.protocol.ahp.reduce import reduce
from dispatch.protocol.ahp.versions import SERVED, V0_5_1, V0_7, V0_9, Version, knows
from tests.protocol.ahp.histories import histories, one_turn

History = tuple[str, dict[str, Any], list[dict[str, Any]]]
VERSIONS = pytest.mark.parametrize("version", SERVED, ids=lambda version: version.offered_as)


def starts_a_call_again(state: dict[str, Any], action: dict[str, Any]) -> bool:
    """Ids of calls are unique in a turn: the projection that makes the actions sees to that."""
    if action["type"] != "chat/toolCallStart":
        return False
    parts = state.get("activeTurn", {}).get("responseParts", [])
    return any(part.get("toolCall", {}).get("toolCallId") == action["toolCallId"] for part in parts)


def assert_the_law(version: Version, history: History) -> None:
    """`down(fold(actions)) == fold_v(down(actions))`, for every prefix of the actions."""
    kind, state, actions = history
    theirs = down_state(version, kind, state)
    for action in actions:
        if starts_a_call_again(state, action):
            continue
        after = reduce(state, action)
        for said in down_actions(version, action, state, after):
            # A client's own clock is the host's here; every version before 0.9 reads one.
            theirs = reduce(theirs, said, version.rules, now=after.get("modifiedAt", ""))
        state = after
        assert theirs == down_state(version, kind, state), action


@VERSIONS
@settings(max_examples=300)
@given(history=histories)
def test_what_a_client_folds_is_its_snapshot(version: Version, history: History) -> None:
    assert_the_law(version, history)


@VERSIONS
@settings(max_examples=300)
@given(history=one_turn)
def test_what_a_client_folds_of_one_turn_is_its_snapshot(
    version: Version, history: History
) -> None:
    assert_the_law(version, history)


@VERSIONS
@given(history=one_turn)
def test_no_action_leaves_that_a_version_does_not_know(version: Version, history: History) -> None:
    _, state, actions = history
    for action in actions:
        after = reduce(state, action)
        for said in down_actions(version, action, state, after):
            assert knows(version, said["type"])
        state = after


SUMMARY = {
    "resource": "echo:/s",
    "title": "",
    "workingDirectories": ["file:///one", "file:///two"],
    "chats": [],
    "defaultChat": "ahp-chat:/a",
}


def test_a_summary_loses_what_a_version_does_not_know() -> None:
    params = {"channel": "ahp-root://", "summary": SUMMARY}
    newest = down_notification(V0_9, "root/sessionAdded", params)
    assert newest == params
    older = down_notification(V0_7, "root/sessionAdded", params)
    assert older is not None
    assert older["summary"].keys() == {"resource", "title", "workingDirectories"}
    oldest = down_notification(V0_5_1, "root/sessionAdded", params)
    assert oldest is not None
    assert oldest["summary"] == {
        "resource": "echo:/s",
        "title": "",
        "workingDirectory": "file:///one",
    }


def test_a_notification_that_a_version_does_not_know_is_not_sent() -> None:
    assert down_notification(V0_9, "channel/frame", {}) is None
    assert down_notification(V0_5_1, "root/progress", {"progress": 1}) == {"progress": 1}


def test_an_older_request_is_brought_up() -> None:
    created = up_params(V0_5_1, "createSession", {"workingDirectory": "file:///one"})
    assert created == {"workingDirectories": ["file:///one"]}
    source = {"chat": "ahp-chat:/a", "turnId": "t"}
    forked = up_params(V0_5_1, "createChat", {"source": source})
    assert forked["source"] == {**source, "kind": "fork"}
    assert up_params(V0_7, "createChat", {"source": source}) == {"source": source}


def test_an_older_action_is_brought_up_with_its_time() -> None:
    start = {"type": "chat/turnStarted", "turnId": "t", "message": {}}
    assert up_action(V0_5_1, start, "now")["startedAt"] == "now"
    assert up_action(V0_7, start, "now") == start
