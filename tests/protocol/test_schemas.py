"""The published schemas of routes, against what daemons have really said."""

import json
import re
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from dispatch.protocol.groups import requests as group_requests
from dispatch.protocol.groups import schema as groups
from dispatch.protocol.sessions import requests as session_requests
from dispatch.protocol.sessions import schema as sessions
from dispatch.server import (
    routes_chat,
    routes_conversations,
    routes_history,
    routes_service,
    routes_users,
)
from dispatch.server.call import Site
from dispatch.server.chats import routes as routes_sessions
from dispatch.server.groups import routes as routes_groups
from scripts import openapi
from scripts.routes import GROUP_OPERATIONS, SESSION_OPERATIONS, Operation
from scripts.routes_native import NATIVE_OPERATIONS
from tests.protocol.published import check

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = (*GROUP_OPERATIONS, *SESSION_OPERATIONS)
Object = dict[str, Any]


def recorded() -> list[tuple[str, Object]]:
    """Every step of every transcript."""
    found = []
    for path in sorted((ROOT / "protocol" / "fixtures").glob("*/*.json")):
        steps = json.loads(path.read_text("utf-8"))["steps"]
        found += [
            (f"{path.stem}-{index}", step)
            for index, step in enumerate(steps)
            # What is of another dialect is in `tests/server/test_replies_published.py`.
            if "path" in step.get("request", {})
            and step["request"]["path"].startswith(("/api/groups", "/v1/chat"))
        ]
    return found


STEPS = recorded()
# What the client reads a stream's frames as.
STREAMED = {"GroupStreamFrame": groups.GroupFrame, "ChatStreamEvent": sessions.ChatFrame}


def operation_of(step: Object) -> Operation:
    path = step["request"]["path"].partition("?")[0]
    for one in OPERATIONS:
        pattern = re.escape(one.path).replace(r"\{id\}", "[^/]+")
        if one.method == step["request"]["method"].lower() and re.fullmatch(pattern, path):
            return one
    raise AssertionError(f"nothing is published of {path}")


def with_values(value: Any) -> Any:
    """A recorded value with something in place of the names of what differs from run to run."""
    text = json.dumps(_without_others(value))
    text = re.sub(r'"\$(count|cursor|duration|id)[0-9]*"', "1", text)
    return json.loads(re.sub(r"\$([a-z]+[0-9]*)", r"\1", text))


def _without_others(value: Any) -> Any:
    """Without what stands in a list for items that nobody wrote down."""
    match value:
        case dict():
            return {key: _without_others(inner) for key, inner in value.items()}
        case list():
            return [_without_others(inner) for inner in value if inner != "$others"]
        case _:
            return value


def kept(value: object, kind: Any) -> object:
    """What is left of a value once it was read as a type."""
    return json.loads(msgspec.json.encode(msgspec.json.decode(json.dumps(value), type=kind)))


@pytest.mark.parametrize(("name", "step"), STEPS, ids=[name for name, _ in STEPS])
def test_what_was_said_is_what_is_published(name: str, step: Object) -> None:
    one = operation_of(step)
    if "frames" in step:
        assert one.stream is not None
        for frame in step["frames"]:
            data = with_values(frame["data"])
            check(one.stream, data)
            assert kept(data, STREAMED[one.stream]) == data
        return
    status, reply = step["status"], with_values(step["reply"])
    if status >= 400:
        refusal = groups.GroupRefusal if one.path.startswith("/api/") else sessions.ChatRefusal
        assert status in openapi.refusals_of(one)
        assert kept(reply, refusal) == reply
        return
    kinds = one.replies[status]
    fitting = [
        kind for kind in (kinds if isinstance(kinds, tuple) else (kinds,)) if fits(reply, kind)
    ]
    assert fitting


def fits(reply: object, kind: type[msgspec.Struct]) -> bool:
    try:
        return kept(reply, kind) == reply
    except msgspec.ValidationError:
        return False


@pytest.mark.parametrize(("name", "step"), STEPS, ids=[name for name, _ in STEPS])
def test_what_was_taken_is_what_is_published(name: str, step: Object) -> None:
    body, one = with_values(step["request"].get("body")), operation_of(step)
    has_alias = isinstance(body, dict) and bool({"text", "agentKey"} & body.keys())
    is_of_sessions = one.path.startswith("/v1/")
    if body is None or step["status"] >= 400 or (is_of_sessions and has_alias):
        return
    assert kept(body, one.body) == body


MODULES = (
    routes_chat,
    routes_conversations,
    routes_groups,
    routes_history,
    routes_service,
    routes_sessions,
    routes_users,
)


def test_every_route_is_published() -> None:
    site = cast("Site", None)
    served = {
        (method.lower(), route.path.replace(":path}", "}"))
        for module in MODULES
        for route in module.routes(site)
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert {(one.method, one.path) for one in (*OPERATIONS, *NATIVE_OPERATIONS)} == served


@pytest.mark.parametrize(
    ("body", "kind", "read"),
    [
        (
            groups.CreateGroupBody(member_familiar_ids=["a"], title="T"),
            groups.CreateGroupBody,
            group_requests.read_create,
        ),
        (
            groups.AdoptGroupBody(
                session_ids={"a": "c-1"},
                member_familiar_ids=["a"],
                title="T",
                client_group_id="g",
            ),
            groups.AdoptGroupBody,
            group_requests.read_adopt,
        ),
        (
            groups.SendToGroupBody(
                text="x",
                client_message_id="i",
                run_id="i",
                target_familiar_ids=["a"],
                on_busy="reject",
            ),
            groups.SendToGroupBody,
            group_requests.read_send,
        ),
        (
            groups.StopGroupBody(familiar_id="a", reply_to=1, run_id="r"),
            groups.StopGroupBody,
            group_requests.read_stop,
        ),
        (
            groups.PatchGroupBody(
                title="T", add_member_familiar_ids=["a"], remove_member_familiar_ids=["b"]
            ),
            groups.PatchGroupBody,
            group_requests.read_patch,
        ),
        (
            sessions.CreateChatBody(agent_key="a", title="T", workspace_id="w"),
            sessions.CreateChatBody,
            session_requests.read_create,
        ),
        (
            sessions.ChatMessageBody(content="x", client_message_id="i"),
            sessions.ChatMessageBody,
            session_requests.read_message,
        ),
        (
            sessions.RenameChatBody(title="T"),
            sessions.RenameChatBody,
            session_requests.read_patch,
        ),
        (sessions.ReadChatBody(up_to_seq=1), sessions.ReadChatBody, session_requests.read_read),
        (
            sessions.ChatTypingBody(typing=True, device_id="d"),
            sessions.ChatTypingBody,
            session_requests.read_typing,
        ),
        (
            sessions.CancelChatBody(task_id="t"),
            sessions.CancelChatBody,
            session_requests.read_cancel,
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_body_with_every_published_field_is_read(
    body: msgspec.Struct, kind: type[msgspec.Struct], read: Any
) -> None:
    shown = msgspec.to_builtins(body)
    assert kept(shown, kind) == shown
    command = read(shown)
    given = [value for value in msgspec.to_builtins(command).values() if value not in (None, ())]
    assert given
