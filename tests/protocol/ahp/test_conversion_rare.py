"""What Hypothesis seldom draws: one history for each place where versions need another word."""

from typing import Any

import pytest

from dispatch.protocol.ahp.objects import iso_time
from dispatch.protocol.ahp.versions import V0_5_1, V0_7, Version
from tests.protocol.ahp.histories import EMPTY_CHAT, EMPTY_SESSION
from tests.protocol.ahp.test_conversion import assert_the_law

Object = dict[str, Any]
MESSAGE = {"text": "", "origin": {"kind": "user"}}
START = {"type": "chat/turnStarted", "turnId": "t1", "startedAt": iso_time(5), "message": MESSAGE}
OF_CALL = {"turnId": "t1", "toolCallId": "c1"}
CALL = {
    "type": "chat/toolCallStart",
    **OF_CALL,
    "toolName": "shell",
    "displayName": "Shell",
    "contributor": {"kind": "mcp", "customizationId": "m1"},
}
READY = {"type": "chat/toolCallReady", **OF_CALL, "invocationMessage": "Run"}
RUNNING = {**READY, "confirmed": "not-needed"}
AUTH = {"type": "chat/toolCallAuthRequired", **OF_CALL, "auth": {"reason": "required"}}
RESOLVED = {"type": "chat/toolCallAuthResolved", **OF_CALL}
APPROVED = {
    "type": "chat/toolCallConfirmed",
    **OF_CALL,
    "approved": True,
    "confirmed": "user-action",
}
RESULT = {"success": True, "pastTenseMessage": "Ran"}
COMPLETE = {"type": "chat/toolCallComplete", **OF_CALL, "result": RESULT}
LOST = {"kind": "error", "error": {"errorType": "e", "message": "m"}, "resumable": True}
FAILED = {"type": "chat/error", "turnId": "t1", "duration": 7, "part": LOST}
RESUMED = {"type": "chat/turnResume", "turnId": "t1"}
PAGED = {"type": "chat/turnsLoaded", "turns": [], "turnsNextCursor": "more"}
REFERENCE = {"uri": "file:///input.json"}


def needed(kind: str, name: str) -> Object:
    call = {"toolCallId": "c1", "displayName": "Shell", "status": "running"}
    request = {"kind": kind, "id": name, "chat": "ahp-chat:/a", "toolCall": call}
    return {"type": "session/inputNeededSet", "request": request}


def removed(name: str) -> Object:
    return {"type": "session/inputNeededRemoved", "id": name}


CHATS: dict[str, list[Object]] = {
    "an authentication that brings metadata": [START, CALL, RUNNING, {**AUTH, "_meta": {"a": 1}}],
    "its end that brings metadata": [START, CALL, RUNNING, AUTH, {**RESOLVED, "_meta": {"a": 1}}],
    "a success that is none": [START, CALL, RUNNING, AUTH, COMPLETE, RESOLVED],
    "text for an input that is kept elsewhere": [
        START,
        CALL,
        {**READY, "toolInput": REFERENCE},
        {**APPROVED, "editedToolInput": "x"},
    ],
    "an error among the parts": [
        START,
        {"type": "chat/responsePart", "turnId": "t1", "part": LOST},
    ],
    "a first turn resumed, with older ones unread": [START, FAILED, PAGED, RESUMED],
    "resumed, and failed again": [START, FAILED, RESUMED, FAILED],
    "a turn in the place of one that asks": [
        START,
        {"type": "chat/inputRequested", "request": {"id": "r1"}},
        {**START, "turnId": "t2"},
    ],
    "input without text": [START, CALL, {"type": "chat/toolCallDelta", **OF_CALL}],
}
SESSIONS: dict[str, list[Object]] = {
    "a confirmation becomes a run": [
        needed("toolConfirmation", "i1"),
        needed("toolClientExecution", "i1"),
    ],
    "a run among others becomes a confirmation": [
        needed("toolConfirmation", "i1"),
        needed("toolConfirmation", "i2"),
        needed("toolClientExecution", "i1"),
        needed("toolConfirmation", "i1"),
        removed("i2"),
    ],
    "a run alone asks for nobody": [needed("toolClientExecution", "i1"), removed("i1")],
    "an authentication is shown": [needed("toolAuthentication", "i1"), removed("i1")],
}


@pytest.mark.parametrize("version", [V0_7, V0_5_1], ids=lambda version: version.offered_as)
@pytest.mark.parametrize("name", CHATS)
def test_a_rare_chat_keeps_the_law(version: Version, name: str) -> None:
    assert_the_law(version, ("chat", EMPTY_CHAT, CHATS[name]))


@pytest.mark.parametrize("version", [V0_7, V0_5_1], ids=lambda version: version.offered_as)
@pytest.mark.parametrize("name", SESSIONS)
def test_a_rare_session_keeps_the_law(version: Version, name: str) -> None:
    assert_the_law(version, ("session", EMPTY_SESSION, SESSIONS[name]))
