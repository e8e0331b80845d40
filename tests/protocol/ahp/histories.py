"""What Hypothesis draws for AHP: states to begin with, and what happens to them.

`histories` wander over everything, `one_turn` stays with one turn, one call and one question.
"""

from typing import Any

from hypothesis import strategies as st

from dispatch.protocol.ahp.objects import iso_time
from tests.protocol.ahp.chat_actions import (
    call_actions,
    chat_actions,
    ending_actions,
    other_actions,
    question_actions,
)
from tests.protocol.ahp.session_actions import root_actions, session_actions
from tests.protocol.ahp.shapes import Strategy

EMPTY_CHAT = {
    "resource": "ahp-chat:/a",
    "title": "",
    "status": 1,
    "modifiedAt": iso_time(0),
    "turns": [],
}
EMPTY_SESSION = {
    "provider": "echo",
    "title": "",
    "status": 1,
    "lifecycle": "creating",
    "activeClients": [],
    "chats": [],
}
EMPTY_ROOT: dict[str, Any] = {"agents": []}
_CONFIG = {"schema": {"type": "object", "properties": {}}, "values": {"a": "x"}}

histories = st.one_of(
    st.tuples(st.just("chat"), st.just(EMPTY_CHAT), st.lists(chat_actions, max_size=14)),
    st.tuples(
        st.just("session"),
        st.sampled_from([EMPTY_SESSION, {**EMPTY_SESSION, "config": _CONFIG}]),
        st.lists(session_actions, max_size=10),
    ),
    st.tuples(
        st.just("root"),
        st.sampled_from([EMPTY_ROOT, {**EMPTY_ROOT, "config": _CONFIG}]),
        st.lists(root_actions, max_size=4),
    ),
)
"""A channel's kind, its state at the beginning, and what happens."""


_ONLY = {"turnId": "t1", "toolCallId": "c1", "partId": "p1", "requestId": "r1"}


def _in_one_turn(act: dict[str, Any]) -> dict[str, Any]:
    """The action, about the one turn and the one call of it."""
    pinned = {name: _ONLY.get(name, value) for name, value in act.items()}
    if "request" in pinned:
        pinned["request"] = {**pinned["request"], "id": "r1"}
    return pinned


def _of(*words: str) -> Strategy:
    """Actions of these words alone, in one turn."""
    drawn = {
        "call": call_actions.filter(lambda act: act["type"] != "chat/toolCallStart"),
        "question": question_actions,
        "other": other_actions,
        "end": ending_actions,
    }
    # Mapped, so that each keeps its weight: bare unions would be drawn action by action.
    return st.one_of(*(drawn[word].map(_in_one_turn) for word in words))


_BEGINNING = [
    {
        "type": "chat/turnStarted",
        "turnId": "t1",
        "startedAt": iso_time(5),
        "message": {"text": "", "origin": {"kind": "user"}},
    },
    {
        "type": "chat/responsePart",
        "turnId": "t1",
        "part": {"kind": "markdown", "id": "p1", "content": ""},
    },
]
_CALL = {
    "type": "chat/toolCallStart",
    "turnId": "t1",
    "toolCallId": "c1",
    "toolName": "shell",
    "displayName": "Shell",
}
_MCP = {**_CALL, "contributor": {"kind": "mcp", "customizationId": "m1"}}
_OF_CALL = {"turnId": "t1", "toolCallId": "c1"}
_READY = {"type": "chat/toolCallReady", **_OF_CALL, "invocationMessage": "Run"}
_RUNNING = {**_READY, "confirmed": "not-needed"}
_PARTIAL = {
    "type": "chat/toolCallContentChanged",
    **_OF_CALL,
    "content": [{"type": "text", "text": "a"}],
}
_AUTH = {
    "type": "chat/toolCallAuthRequired",
    **_OF_CALL,
    "auth": {"reason": "required", "resource": {"resource": "https://mcp.example"}},
}
_RESULT = {
    "type": "chat/toolCallComplete",
    **_OF_CALL,
    "result": {"success": False, "pastTenseMessage": "Ran"},
    "requiresResultConfirmation": True,
}
_ASKED = {"type": "chat/inputRequested", "request": {"id": "r1"}}
_ANSWERED = {"type": "chat/inputCompleted", "requestId": "r1", "response": "accept"}
_FAILED = {
    "type": "chat/error",
    "turnId": "t1",
    "duration": 7,
    "part": {
        "kind": "error",
        "error": {"errorType": "e", "message": "m"},
        "resumable": True,
    },
}
_RESUMED = {"type": "chat/turnResume", "turnId": "t1"}

# A way into each state of a call and of a question.
_ways = st.sampled_from(
    [
        [],
        [_CALL],
        [_CALL, _READY],
        [_CALL, _RUNNING],
        [_CALL, _RUNNING, _RESULT],
        [_MCP, _RUNNING, _PARTIAL, _AUTH],
        [_ASKED],
        [_ASKED, _ANSWERED],
        [_ASKED, _CALL, _READY],
    ]
)
_second_lives = st.sampled_from([[], [], [_FAILED], [_FAILED, _RESUMED]])

one_turn = st.tuples(
    _ways,
    st.lists(_of("call", "question"), max_size=6),
    _second_lives,
    _ways,
    st.lists(_of("call", "question", "other", "end"), max_size=6),
).map(lambda drawn: ("chat", EMPTY_CHAT, sum(drawn, [*_BEGINNING])))
"""The life of one turn with one call and one question: what is rare among many is common here."""
