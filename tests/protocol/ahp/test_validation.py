"""What a client may dispatch: every refusal has a reason, and what is accepted is folded."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.protocol.ahp.client_actions import DISPATCHABLE, PENDING_MAX, TITLE_CHARACTERS_MAX
from dispatch.protocol.ahp.conversion import down_actions, up_action
from dispatch.protocol.ahp.intents import intent_of
from dispatch.protocol.ahp.reduce import fold, reduce
from dispatch.protocol.ahp.validation import Rejected, accept
from dispatch.protocol.ahp.versions import ACTIONS_SINCE, SERVED, V0_5_1, V0_7, V0_9
from tests.properties.strategies import json_values
from tests.protocol.ahp.chat_actions import chat_actions
from tests.protocol.ahp.histories import EMPTY_CHAT, EMPTY_ROOT, EMPTY_SESSION, histories, one_turn
from tests.protocol.ahp.session_actions import session_actions

Object = dict[str, Any]
STATES: dict[str, Object] = {"chat": EMPTY_CHAT, "session": EMPTY_SESSION, "root": EMPTY_ROOT}
AT = "2026-01-01T00:00:00.000Z"
HI = {"text": "hi", "origin": {"kind": "user"}}
START = {"type": "chat/turnStarted", "turnId": "t1", "startedAt": AT, "message": HI}
OF_CALL = {"turnId": "t1", "toolCallId": "c1"}
CALL = {"type": "chat/toolCallStart", **OF_CALL, "toolName": "shell", "displayName": "Shell"}
OPTIONS = [
    {"id": "y", "label": "Yes", "kind": "approve"},
    {"id": "n", "label": "No", "kind": "deny"},
]
READY = {
    "type": "chat/toolCallReady",
    **OF_CALL,
    "invocationMessage": "Run",
    "options": OPTIONS,
    "_meta": {"requestId": "r"},
}
ASKED = {
    "type": "chat/inputRequested",
    "request": {
        "id": "r1",
        "questions": [{"id": "q", "kind": "text", "message": "?", "required": True}],
    },
}
CONFIRM = {
    "type": "chat/toolCallConfirmed",
    **OF_CALL,
    "approved": True,
    "confirmed": "user-action",
}
DENY = {"type": "chat/toolCallConfirmed", **OF_CALL, "approved": False, "reason": "denied"}
DONE = {"type": "chat/turnComplete", "turnId": "t1", "duration": 1}
ANSWER = {"state": "submitted", "value": {"kind": "text", "value": "x"}}
COMPLETE = {"type": "chat/inputCompleted", "requestId": "r1", "response": "accept"}


def accepted(kind: str, action: Object, *before: Object, client_id: str = "k1") -> Any:
    state = fold(STATES[kind], before)
    return accept(kind, state, action, version=V0_9, client_id=client_id)


def reason_of(kind: str, action: Object, *before: Object) -> str:
    with pytest.raises(Rejected) as refused:
        accepted(kind, action, *before)
    return refused.value.reason


REFUSED = [
    ([], {"type": "chat/bogus"}, "no action of this type"),
    ([], {}, "no action of this type"),
    ([], {"type": 7}, "no action of this type"),
    ([], {"type": ["chat/turnStarted"]}, "no action of this type"),
    ([START], DONE, "may not dispatch"),
    ([START], {"type": "chat/delta", "turnId": "t1", "partId": "p", "content": ""}, "may not"),
    ([], {"type": "session/titleChanged", "title": "x"}, "another kind of channel"),
    ([], {**START, "turnId": ""}, "Malformed"),
    ([], {**START, "turnId": "x" * 300}, "Malformed"),
    ([], {**START, "turnId": {"a": 1}}, "Malformed"),
    ([], {**START, "message": None}, "no null"),
    ([], {**START, "message": {**HI, "origin": {"kind": "agent"}}}, "Malformed"),
    ([], {**START, "message": {**HI, "text": " "}}, "empty"),
    ([START], {**START, "turnId": "t2"}, "A turn is running"),
    ([START, DONE], START, "There was a turn"),
    ([], {"type": "chat/turnCancelled", "turnId": "t1"}, "not running"),
    ([START], {"type": "chat/turnCancelled", "turnId": "t2"}, "not running"),
    ([START, DONE], {"type": "chat/turnResume", "turnId": "t1"}, "cannot be resumed"),
    ([START], CONFIRM, "not waiting"),
    ([START, CALL], CONFIRM, "not waiting"),
    ([START, CALL, READY], {**CONFIRM, "turnId": "t2"}, "not waiting"),
    ([START, CALL, READY], {**CONFIRM, "selectedOptionId": "n"}, "option"),
    ([START, CALL, READY], {**DENY, "selectedOptionId": "y"}, "option"),
    ([START, CALL, READY], {**CONFIRM, "selectedOptionId": "z"}, "option"),
    ([START, CALL, READY], {**CONFIRM, "editedToolInput": "x"}, "may not be edited"),
    ([START, CALL, READY], {"type": CONFIRM["type"], **OF_CALL, "approved": True}, "Malformed"),
    ([START, CALL, READY], {"type": CONFIRM["type"], **OF_CALL, "approved": False}, "Malformed"),
    (
        [START, CALL, READY],
        {"type": "chat/toolCallResultConfirmed", **OF_CALL, "approved": True},
        "not waiting",
    ),
    ([], {"type": "chat/pendingMessageRemoved", "kind": "queued", "id": "q"}, "No such message"),
    ([], {"type": "chat/pendingMessageRemoved", "kind": "steering", "id": "q"}, "No such message"),
    (
        [],
        {"type": "chat/pendingMessageSet", "kind": "other", "id": "q", "message": HI},
        "Malformed",
    ),
    ([START], COMPLETE, "not open"),
    ([START, ASKED], COMPLETE, "required answer"),
    ([START, ASKED], {**COMPLETE, "answers": {"q": {"state": "skipped"}}}, "required answer"),
    ([START, ASKED], {**COMPLETE, "answers": {"z": ANSWER}}, "no such question"),
    (
        [START, ASKED],
        {"type": "chat/inputAnswerChanged", "requestId": "r1", "questionId": "z"},
        "no such question",
    ),
    ([], {"type": "chat/truncated", "turnId": "t9"}, "No such turn"),
    (
        [],
        {"type": "chat/queuedMessagesReordered", "order": ["x"] * (PENDING_MAX + 1)},
        "Malformed",
    ),
]


@pytest.mark.parametrize(("before", "action", "reason"), REFUSED)
def test_a_chat_refuses_with_a_reason(before: list[Object], action: Object, reason: str) -> None:
    assert reason in reason_of("chat", action, *before)


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ({"type": "session/ready"}, "may not dispatch"),
        ({"type": "session/defaultChatChanged", "defaultChat": "ahp-chat:/z"}, "no such chat"),
        (
            {"type": "session/activeClientSet", "activeClient": {"clientId": "k2", "tools": []}},
            "itself alone",
        ),
        ({"type": "session/activeClientRemoved", "clientId": "k2"}, "itself alone"),
        ({"type": "session/activeClientRemoved", "clientId": "k1"}, "takes no part"),
        ({"type": "session/titleChanged", "title": "x" * (TITLE_CHARACTERS_MAX + 1)}, "Malformed"),
        ({"type": "session/workingDirectorySet", "directory": "x:/"}, "may not dispatch"),
    ],
)
def test_a_session_refuses_with_a_reason(action: Object, reason: str) -> None:
    assert reason in reason_of("session", action)


def test_a_version_that_has_no_such_action_cannot_dispatch_it() -> None:
    with pytest.raises(Rejected, match="negotiated version"):
        accept(
            "chat",
            EMPTY_CHAT,
            {"type": "chat/isReadChanged", "isRead": True},
            version=V0_7,
            client_id="k1",
        )


def test_settings_of_the_host_are_accepted_and_change_nothing() -> None:
    action = {"type": "root/configChanged", "config": {"telemetry": "off"}}
    accepted("root", action)
    assert reduce(EMPTY_ROOT, action) is EMPTY_ROOT


def test_a_draft_that_was_given_answers_a_required_question() -> None:
    draft = {
        "type": "chat/inputAnswerChanged",
        "requestId": "r1",
        "questionId": "q",
        "answer": {**ANSWER, "state": "draft"},
    }
    accepted("chat", COMPLETE, START, ASKED, draft)


@given(history=histories | one_turn, client=st.sampled_from(["k1", "k2"]))
def test_what_is_accepted_is_folded_and_asks_something_of_the_core(
    history: Any, client: str
) -> None:
    kind, state, actions = history
    for action in actions:
        with suppress(Rejected):
            read = accept(kind, state, action, version=V0_9, client_id=client)
            intent_of(read, state)
        state = reduce(state, action)


@given(
    kind=st.sampled_from(sorted(STATES)),
    name=st.sampled_from(sorted(ACTIONS_SINCE)),
    data=st.data(),
)
def test_no_rubbish_is_folded_or_raises(kind: str, name: str, data: st.DataObject) -> None:
    members = st.sampled_from(["turnId", "toolCallId", "message", "kind", "id", "answers", "order"])
    rubbish = data.draw(st.dictionaries(members | st.text(max_size=5), json_values, max_size=6))
    action = {**rubbish, "type": name}
    state = fold(STATES["chat"], [START, CALL, READY, ASKED]) if kind == "chat" else STATES[kind]
    try:
        read = accept(kind, state, action, version=V0_9, client_id="k1")
    except Rejected:
        return
    intent_of(read, state)
    reduce(state, action)


@pytest.mark.parametrize("version", SERVED, ids=lambda version: version.offered_as)
@given(action=chat_actions | session_actions, history=one_turn)
def test_the_echo_of_an_accepted_action_is_what_its_client_sent(
    version: Any, action: Object, history: Any
) -> None:
    """Else a client would wait for its own action for ever."""
    if action["type"] not in DISPATCHABLE or ACTIONS_SINCE[action["type"]] > version.number:
        return
    kind = action["type"].partition("/")[0]
    state = fold(history[1], history[2]) if kind == "chat" else EMPTY_SESSION
    # What a client of the version can send at all.
    sent = action
    if version is V0_5_1:
        sent = {k: v for k, v in action.items() if k not in {"startedAt", "duration"}}
    canonical = up_action(version, sent, AT)
    try:
        accept(kind, state, canonical, version=version, client_id="k1")
    except Rejected:
        return
    said = down_actions(version, canonical, state, reduce(state, canonical))
    assert said
    assert said[-1]["type"] == sent["type"]
    if version is not V0_5_1:
        assert said == [sent]
