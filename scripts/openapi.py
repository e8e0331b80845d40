"""Generates protocol/openapi.json: the HTTP routes of groups and of chat sessions.

`protocol.py` writes it. Bodies and replies are the types of `dispatch/protocol/*/schema.py`; here
is what types cannot say: which route takes and gives which, and what it may refuse.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import msgspec

from dispatch.protocol.groups import schema as groups
from dispatch.protocol.sessions import schema as sessions
from dispatch.version import VERSION

STREAM = "text/event-stream"
JSON = "application/json"

Object = dict[str, Any]


class Parameter(NamedTuple):
    """A field of the query, or a header."""

    name: str
    schema: Object
    description: str
    place: str = "query"


class Operation(NamedTuple):
    """One method of one path; `stream` is the type of an event's data."""

    method: str
    path: str
    summary: str
    replies: dict[int, type[msgspec.Struct] | tuple[type[msgspec.Struct], ...]]
    body: type[msgspec.Struct] | None = None
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[int, ...] = ()
    stream: type[msgspec.Struct] | None = None
    body_is_required: bool = True


def _integer(name: str, description: str, **bounds: int) -> Parameter:
    return Parameter(name, {"type": "integer", **bounds}, description)


def _choice(name: str, description: str, *values: str) -> Parameter:
    return Parameter(name, {"type": "string", "enum": list(values)}, description)


LAST_EVENT_ID = Parameter(
    "Last-Event-ID", {"type": "string"}, "As the query's cursor, which it beats.", "header"
)
G, ONE_G = "/api/groups", "/api/groups/{id}"
GROUP_OPERATIONS = (
    Operation("get", G, "The account's groups, newest activity first.", {200: groups.GroupList}),
    Operation(
        "post",
        G,
        "A new group, with a conversation for each member.",
        {201: groups.GroupConversation},
        groups.CreateGroupBody,
        errors=(400, 404, 502),
    ),
    Operation(
        "post",
        f"{G}/adopt",
        "A group of conversations that exist; 200 for the same ones again.",
        {200: groups.GroupConversation, 201: groups.GroupConversation},
        groups.AdoptGroupBody,
        errors=(400, 404, 409),
    ),
    Operation(
        "get",
        ONE_G,
        "The group and its rows, with the cursor of the same instant.",
        {200: groups.GroupSnapshot},
        parameters=(
            _integer("afterSeq", "Only rows behind it.", minimum=0),
            _integer("limit", "How many rows; else all.", minimum=1, maximum=1000),
            _choice("resync", "Refuse while anything runs.", "1", "true"),
        ),
        errors=(400, 404, 409, 410),
    ),
    Operation(
        "patch",
        ONE_G,
        "Rename it, or change its members.",
        {200: groups.GroupConversation},
        groups.PatchGroupBody,
        errors=(400, 404, 410),
    ),
    Operation(
        "delete",
        ONE_G,
        "End its runs and remove it.",
        {200: groups.GroupDeleted},
        parameters=(_choice("sessions", "What becomes of all conversations.", "delete", "keep"),),
        errors=(400, 404),
    ),
    Operation(
        "post",
        f"{ONE_G}/send",
        "A message to all members, or to some; the frames of their answers.",
        {},
        groups.SendToGroupBody,
        errors=(400, 404, 409, 410),
        stream=groups.GroupFrame,
    ),
    Operation(
        "get",
        f"{ONE_G}/stream",
        "Every frame of the group as it comes.",
        {},
        parameters=(_integer("cursor", "Go on behind this frame.", minimum=0), LAST_EVENT_ID),
        errors=(400, 404, 410),
        stream=groups.GroupFrame,
    ),
    Operation(
        "post",
        f"{ONE_G}/stop",
        "End what runs or waits.",
        {200: groups.GroupStopped},
        groups.StopGroupBody,
        errors=(400, 404, 410),
        body_is_required=False,
    ),
    Operation(
        "post",
        f"{ONE_G}/read",
        "Move the user's read cursor.",
        {200: groups.GroupRead},
        groups.ReadGroupBody,
        errors=(400, 404, 410),
    ),
    Operation(
        "get",
        "/api/chat/conversation/{id}",
        "The texts of a member's conversation.",
        {200: groups.ConversationShown},
        errors=(400, 404, 410),
    ),
)

S, ONE_S = "/v1/chat", "/v1/chat/{id}"
PAGE = _integer("limit", "How many; 50 unless given.", minimum=1)
EVENTS = (
    Parameter("last_event_id", {"type": "string"}, "Go on behind this id."),
    LAST_EVENT_ID,
    _choice("deltas", "Answers as they are said, too.", "1", "true", "0", "false"),
)
SESSION_OPERATIONS = (
    Operation(
        "get",
        S,
        "The user's sessions with their unread counts, newest activity first.",
        {200: sessions.ChatList},
        parameters=(
            _choice("status", "Which ones; active unless given.", "active", "archived", "all"),
            PAGE,
            Parameter("cursor", {"type": "string"}, "A list's next_cursor."),
        ),
        errors=(400,),
    ),
    Operation(
        "post",
        S,
        "A new session.",
        {201: sessions.ChatSession},
        sessions.CreateChatBody,
        errors=(400, 404),
    ),
    Operation(
        "get",
        f"{S}/events",
        "What happens in all of the user's sessions.",
        {},
        parameters=EVENTS,
        stream=sessions.ChatFrame,
    ),
    Operation(
        "get",
        ONE_S,
        "A session with its newest messages.",
        {200: sessions.ChatDetail},
        parameters=(PAGE, _integer("before_seq", "Only messages before it.", minimum=1)),
        errors=(400, 404),
    ),
    Operation(
        "patch",
        ONE_S,
        "Name it.",
        {200: sessions.ChatSession},
        sessions.RenameChatBody,
        errors=(400, 404),
    ),
    Operation(
        "delete",
        ONE_S,
        "Archive it; with purge, remove it for ever.",
        {200: (sessions.ChatSession, sessions.ChatPurged)},
        parameters=(_choice("purge", "For ever.", "true", "1", "false", "0"),),
        errors=(400, 404),
    ),
    Operation(
        "post",
        f"{ONE_S}/messages",
        "Say something; 200 for the same message again.",
        {200: sessions.ChatSent, 201: sessions.ChatSent},
        sessions.ChatMessageBody,
        parameters=(
            Parameter(
                "wait",
                {"type": "number", "minimum": 0, "maximum": 60},
                "Stay so many seconds for the answer.",
            ),
        ),
        errors=(400, 404, 409),
    ),
    Operation(
        "post", f"{ONE_S}/restore", "Take it back.", {200: sessions.ChatSession}, errors=(404,)
    ),
    Operation(
        "post",
        f"{ONE_S}/read",
        "Move the user's read cursor.",
        {200: sessions.ChatRead},
        sessions.ReadChatBody,
        errors=(400, 404),
        body_is_required=False,
    ),
    Operation(
        "post",
        f"{ONE_S}/typing",
        "Show that the user types, or does not any more.",
        {200: sessions.ChatTyping},
        sessions.ChatTypingBody,
        errors=(400, 404),
    ),
    Operation(
        "get",
        f"{ONE_S}/pending-task",
        "What is not over, or nothing.",
        {200: (sessions.PendingTask, sessions.NoTask)},
        errors=(404,),
    ),
    Operation(
        "post",
        f"{ONE_S}/cancel",
        "End a task.",
        {200: sessions.ChatCancelled},
        sessions.CancelChatBody,
        errors=(400, 404),
        body_is_required=False,
    ),
    Operation(
        "get",
        f"{ONE_S}/events",
        "What happens in one session.",
        {},
        parameters=EVENTS,
        errors=(404,),
        stream=sessions.ChatFrame,
    ),
)
# Any route may be refused for these.
ALWAYS = (401, 403, 429, 503)
MEANINGS = {
    400: "What was sent is not what the contract says.",
    401: "No credential, or one that is not accepted.",
    403: "The right is missing.",
    404: "There is no such thing for this user.",
    409: "Not in the present state.",
    410: "It was deleted.",
    429: "Too much at once; Retry-After says when to come back.",
    502: "A conversation could not be made.",
    503: "Not now; Retry-After says when to come back.",
}


def openapi_page() -> str:
    """The whole document."""
    dialects = (
        (GROUP_OPERATIONS, "groups", groups.GroupRefusal),
        (SESSION_OPERATIONS, "chat sessions", sessions.ChatRefusal),
    )
    types: list[type[msgspec.Struct]] = []
    paths: dict[str, Object] = {}
    for operations, tag, refusal in dialects:
        types.append(refusal)
        for one in operations:
            types += _types(one)
            paths.setdefault(one.path, _path(one.path))[one.method] = _operation(one, tag, refusal)
    _, components = msgspec.json.schema_components(
        list(dict.fromkeys(types)), ref_template="#/components/schemas/{name}"
    )
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "dispatch: groups and chat sessions",
            "version": VERSION,
            "description": "Generated by `scripts/protocol`; do not edit. The contract is in "
            "`groups.md` and `chat-sessions.md`.",
        },
        "servers": [{"url": "http://127.0.0.1:8765"}],
        "security": [{}, {"bearer": []}],
        "tags": [{"name": tag} for _, tag, _ in dialects],
        "paths": paths,
        "components": {
            "schemas": {name: components[name] for name in sorted(components)},
            "responses": {
                name: response
                for _, _, refusal in dialects
                for name, response in _refused(refusal).items()
            },
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _types(one: Operation) -> list[type[msgspec.Struct]]:
    found: list[type[msgspec.Struct]] = []
    for reply in one.replies.values():
        found += reply if isinstance(reply, tuple) else (reply,)
    return found + [kind for kind in (one.body, one.stream) if kind is not None]


def _path(path: str) -> Object:
    if "{id}" not in path:
        return {}
    schema = {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"}
    return {"parameters": [{"name": "id", "in": "path", "required": True, "schema": schema}]}


def _operation(one: Operation, tag: str, refusal: type[msgspec.Struct]) -> Object:
    words = re.sub(r"[^a-z]+", "_", f"{one.method}{one.path}".lower()).strip("_")
    shown: Object = {"operationId": words, "tags": [tag], "summary": one.summary}
    if one.parameters:
        shown["parameters"] = [
            {"name": p.name, "in": p.place, "description": p.description, "schema": p.schema}
            for p in one.parameters
        ]
    if one.body is not None:
        content = {JSON: {"schema": _ref(one.body)}}
        shown["requestBody"] = {"required": one.body_is_required, "content": content}
    shown["responses"] = _responses(one, refusal)
    return shown


def _responses(one: Operation, refusal: type[msgspec.Struct]) -> Object:
    responses: Object = {}
    for status, reply in one.replies.items():
        kinds = reply if isinstance(reply, tuple) else (reply,)
        schema = _ref(kinds[0]) if len(kinds) == 1 else {"anyOf": [_ref(kind) for kind in kinds]}
        told = "Done." if status == 200 else "Made."
        responses[str(status)] = {"description": told, "content": {JSON: {"schema": schema}}}
    if one.stream is not None:
        said = f"Server-sent events; each `data` is a {one.stream.__name__}."
        schema = {
            "type": "string",
            "contentMediaType": STREAM,
            "x-event-data": _ref(one.stream),
        }
        responses["200"] = {"description": said, "content": {STREAM: {"schema": schema}}}
    for status in sorted({*one.errors, *ALWAYS}):
        responses[str(status)] = {"$ref": f"#/components/responses/{_name(refusal, status)}"}
    return responses


def _refused(refusal: type[msgspec.Struct]) -> Object:
    """What each dialect answers where it refuses."""
    content = {JSON: {"schema": _ref(refusal)}}
    return {
        _name(refusal, status): {"description": meaning, "content": content}
        for status, meaning in MEANINGS.items()
        # Only making a group makes other things first.
        if status not in (410, 502) or refusal is groups.GroupRefusal
    }


def _name(refusal: type[msgspec.Struct], status: int) -> str:
    return f"{refusal.__name__}{status}"


def _ref(kind: type[msgspec.Struct]) -> Object:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
