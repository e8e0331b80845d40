"""Accepted actions as wishes of the core."""

from typing import Any

import msgspec
import pytest

from dispatch.core.events import (
    Image,
    Request,
    RequestOption,
    RequestQuestion,
    Response,
    ToolCall,
    TurnStart,
    UserMessage,
)
from dispatch.protocol.ahp.intents import (
    Answered,
    Forget,
    Intent,
    Keep,
    Prompt,
    Rename,
    StartTurn,
    StopTurn,
    TakePart,
    Transcript,
    TruncateChat,
    Wait,
    intent_of,
)
from dispatch.protocol.ahp.projection import Projection
from dispatch.protocol.ahp.reduce import fold
from dispatch.protocol.ahp.validation import accept
from dispatch.protocol.ahp.versions import V0_9
from tests.protocol.ahp.histories import EMPTY_CHAT, EMPTY_SESSION

AT = "2026-01-01T00:00:00.000Z"
HI = {"text": "hi", "origin": {"kind": "user"}}


def asking(request: Request) -> dict[str, Any]:
    """A chat whose running turn asks, through a call if the request names one."""
    projection = Projection("t1")
    call = ToolCall("c", "shell", msgspec.Raw(b"{}"))
    events = [UserMessage("hi"), TurnStart(), call, request]
    actions = [action for event in events for action in projection.project(event, 0)]
    return fold(EMPTY_CHAT, actions)


def intent(action: dict[str, Any], state: dict[str, Any] = EMPTY_CHAT) -> Intent:
    kind = action["type"].partition("/")[0]
    read = accept(kind, state, action, version=V0_9, client_id="k1")
    return intent_of(read, state)


def test_a_turn_is_asked_for_with_everything_attached() -> None:
    message = {
        **HI,
        "model": {"id": "big"},
        "attachments": [
            {"type": "embeddedResource", "label": "i", "data": "QUJD", "contentType": "image/png"},
            {"type": "resource", "label": "File", "uri": "file:///a.txt"},
            {"type": "simple", "label": "s", "modelRepresentation": "as text"},
            {"type": "chat", "label": "other", "resource": "ahp-chat:/b", "endTurn": "t7"},
        ],
    }
    start = {"type": "chat/turnStarted", "turnId": "t1", "startedAt": AT, "message": message}
    assert intent(start) == StartTurn(
        turn_id="t1",
        prompt=Prompt(
            text="hi\n\n[File: file:///a.txt]\n\nas text",
            images=(Image("data:image/png;base64,QUJD", "image/png"),),
            transcripts=(Transcript("ahp-chat:/b", "t7"),),
            model="big",
        ),
    )


@pytest.mark.parametrize("how", ["steering", "queued"])
def test_a_message_that_waits_says_how(how: Any) -> None:
    action = {"type": "chat/pendingMessageSet", "kind": how, "id": "q", "message": HI}
    assert intent(action) == Wait(pending_id="q", how=how, prompt=Prompt(text="hi"))
    waiting = fold(EMPTY_CHAT, [action])
    removal = {"type": "chat/pendingMessageRemoved", "kind": how, "id": "q"}
    assert intent(removal, waiting) == Forget("q")


APPROVAL = Request(
    "r",
    "approval",
    "Run?",
    tool_call_id="c",
    options=(RequestOption("y", "Yes", "allow"), RequestOption("n", "No", "deny")),
)


def test_a_confirmed_call_answers_the_request_behind_it() -> None:
    confirm = {
        "type": "chat/toolCallConfirmed",
        "turnId": "t1",
        "toolCallId": "c",
        "approved": True,
        "confirmed": "user-action",
        "selectedOptionId": "y",
    }
    chat = asking(APPROVAL)
    assert intent(confirm, chat) == Answered(Response("r", approved=True, option_id="y"))
    deny = {
        "type": "chat/toolCallConfirmed",
        "turnId": "t1",
        "toolCallId": "c",
        "approved": False,
        "reason": "denied",
        "reasonMessage": {"markdown": "too risky"},
    }
    assert intent(deny, chat) == Answered(Response("r", approved=False, reason="too risky"))


def test_answers_go_back_under_the_ids_of_the_questions() -> None:
    chat = asking(
        Request("r", "input", "Which?", questions=(RequestQuestion("q", "Colour", "text"),))
    )
    action = {
        "type": "chat/inputCompleted",
        "requestId": "r",
        "response": "accept",
        "answers": {"q": {"state": "submitted", "value": {"kind": "text", "value": "red"}}},
    }
    assert intent(action, chat) == Answered(
        Response("r", action="accept", answers={"q": msgspec.Raw(b'"red"')})
    )


@pytest.mark.parametrize(("value", "approved"), [(True, True), (False, False)])
def test_an_approval_that_was_a_question_is_answered_as_one(value: bool, approved: bool) -> None:
    chat = asking(Request("r", "approval", "Go on?"))
    answer = {"state": "submitted", "value": {"kind": "boolean", "value": value}}
    action = {
        "type": "chat/inputCompleted",
        "requestId": "r",
        "response": "accept",
        "answers": {"approval": answer},
    }
    assert intent(action, chat) == Answered(Response("r", approved=approved))


def test_a_declined_approval_is_a_denial() -> None:
    chat = asking(Request("r", "approval", "Go on?"))
    action = {"type": "chat/inputCompleted", "requestId": "r", "response": "decline"}
    assert intent(action, chat) == Answered(Response("r", approved=False))


def test_the_rest_is_what_it_says() -> None:
    running = asking(APPROVAL)
    assert intent({"type": "chat/turnCancelled", "turnId": "t1"}, running) == StopTurn("t1")
    assert intent({"type": "chat/truncated"}) == TruncateChat(None)
    rename = {"type": "session/titleChanged", "title": "x"}
    assert intent(rename, EMPTY_SESSION) == Rename("x")
    client = {"clientId": "k1", "tools": []}
    join = {"type": "session/activeClientSet", "activeClient": client}
    assert intent(join, EMPTY_SESSION) == TakePart("k1", is_there=True)
    assert intent({"type": "chat/draftChanged", "draft": HI}) == Keep()
