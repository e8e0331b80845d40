"""The HTTP routes of groups and of chat sessions: which takes and gives which type.

Neighbours: `routes_native` has the other routes, `openapi` writes all of them down, `schemas` shows
the types. Here is what types cannot say.
Invariant: `tests/protocol/test_schemas.py` holds these tables to the routes that are served.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from dispatch.protocol.groups import schema as groups
from dispatch.protocol.sessions import schema as sessions

JSON = "application/json"
STREAM = "text/event-stream"

Object = dict[str, Any]


class Parameter(NamedTuple):
    """A field of the query, or a header."""

    name: str
    schema: Object
    description: str
    place: str = "query"


class Operation(NamedTuple):
    """One method of one path; `stream` names the schema of what a body of `media` has many of."""

    method: str
    path: str
    summary: str
    replies: dict[int, type[msgspec.Struct] | tuple[type[msgspec.Struct], ...]]
    body: type[msgspec.Struct] | None = None
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[int, ...] = ()
    stream: str | None = None
    body_is_required: bool = True
    media: str = STREAM


def integer(name: str, description: str, **bounds: int) -> Parameter:
    return Parameter(name, {"type": "integer", **bounds}, description)


def choice(name: str, description: str, *values: str) -> Parameter:
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
            integer("afterSeq", "Only rows behind it.", minimum=0),
            integer("limit", "How many rows; else all.", minimum=1, maximum=1000),
            choice("resync", "Refuse while anything runs.", "1", "true"),
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
        parameters=(choice("sessions", "What becomes of all conversations.", "delete", "keep"),),
        errors=(400, 404),
    ),
    Operation(
        "post",
        f"{ONE_G}/send",
        "A message to all members, or to some; the frames of their answers.",
        {},
        groups.SendToGroupBody,
        errors=(400, 404, 409, 410),
        stream="GroupStreamFrame",
    ),
    Operation(
        "get",
        f"{ONE_G}/stream",
        "Every frame of the group as it comes.",
        {},
        parameters=(integer("cursor", "Go on behind this frame.", minimum=0), LAST_EVENT_ID),
        errors=(400, 404, 410),
        stream="GroupStreamFrame",
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
PAGE = integer("limit", "How many; 50 unless given.", minimum=1)
EVENTS = (
    Parameter("last_event_id", {"type": "string"}, "Go on behind this id."),
    LAST_EVENT_ID,
    choice("deltas", "Answers as they are said, too.", "1", "true", "0", "false"),
)
SESSION_OPERATIONS = (
    Operation(
        "get",
        S,
        "The user's sessions with their unread counts, newest activity first.",
        {200: sessions.ChatList},
        parameters=(
            choice("status", "Which ones; active unless given.", "active", "archived", "all"),
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
        stream="ChatStreamEvent",
    ),
    Operation(
        "get",
        ONE_S,
        "A session with its newest messages.",
        {200: sessions.ChatDetail},
        parameters=(PAGE, integer("before_seq", "Only messages before it.", minimum=1)),
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
        parameters=(choice("purge", "For ever.", "true", "1", "false", "0"),),
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
        stream="ChatStreamEvent",
    ),
)
