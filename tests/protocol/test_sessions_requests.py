"""What clients of chat sessions say, field by field, and what they are told where it is wrong."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.errors import (
    Conflict,
    DispatchError,
    Fault,
    Forbidden,
    Gone,
    NotFound,
    PeerError,
    RateLimited,
    Refused,
    TooLarge,
    Unavailable,
    UnknownType,
)
from dispatch.protocol.codec import Object
from dispatch.protocol.sessions import (
    AgentNotFound,
    AgentUnavailable,
    ContentRequired,
    InvalidQuery,
    InvalidRequest,
    MessageConflict,
    SessionArchived,
    SessionNotFound,
    TaskNotFound,
    refusal,
)
from dispatch.protocol.sessions.requests import (
    LIMIT_DEFAULT,
    LIMIT_MAX,
    UNKNOWN_EVENT_ID,
    Cancel,
    Create,
    DetailQuery,
    EventsQuery,
    ListQuery,
    Message,
    Patch,
    Read,
    SubscribeChats,
    TypingNote,
    UnsubscribeChats,
    event_id,
    list_cursor,
    read_cancel,
    read_create,
    read_detail_query,
    read_events_query,
    read_frame,
    read_list_query,
    read_message,
    read_nothing,
    read_patch,
    read_purge,
    read_read,
    read_typing,
    read_wait,
)
from tests.properties.strategies import json_values

Reader = Callable[[Object], Any]
READERS: list[Reader] = [
    read_create,
    read_message,
    read_patch,
    read_read,
    read_typing,
    read_cancel,
    read_nothing,
]

# -- bodies ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reader", "fields", "read"),
    [
        (read_create, {"agent_key": "echo"}, Create(agent_key="echo")),
        (
            read_create,
            {"agentKey": "echo", "title": " Tea ", "workspaceId": "w"},
            Create(agent_key="echo", title="Tea", workspace_id="w"),
        ),
        (
            read_create,
            {"agent_key": "echo", "title": None, "workspace_id": None},
            Create(agent_key="echo"),
        ),
        (read_create, {"agent_key": "echo", "title": "  "}, Create(agent_key="echo")),
        (read_message, {"content": " hi\n"}, Message(content=" hi\n")),
        (
            read_message,
            {"text": "hi", "clientMessageId": "m1"},
            Message(content="hi", client_message_id="m1"),
        ),
        (
            read_message,
            {"content": "hi", "client_message_id": "m1"},
            Message(content="hi", client_message_id="m1"),
        ),
        (read_patch, {"title": "x" * 200}, Patch(title="x" * 200)),
        (read_patch, {"title": " Tea "}, Patch(title="Tea")),
        (read_read, {}, Read()),
        (read_read, {"up_to_seq": None}, Read()),
        (read_read, {"upToSeq": 0}, Read(up_to_seq=0)),
        (read_read, {"up_to_seq": 7}, Read(up_to_seq=7)),
        (read_typing, {"typing": True}, TypingNote(typing=True)),
        (
            read_typing,
            {"typing": False, "deviceId": "phone"},
            TypingNote(typing=False, device_id="phone"),
        ),
        (read_cancel, {}, Cancel()),
        (read_cancel, {"taskId": "t1"}, Cancel(task_id="t1")),
        (read_cancel, {"task_id": "t1"}, Cancel(task_id="t1")),
        (read_nothing, {}, None),
    ],
)
def test_a_body_is_read_under_either_spelling(reader: Reader, fields: Object, read: object) -> None:
    assert reader(fields) == read


@pytest.mark.parametrize(
    ("reader", "fields", "details"),
    [
        (read_create, {}, ["agent_key: is required"]),
        (read_create, {"agent_key": None}, ["agent_key: is required"]),
        (read_create, {"agent_key": " "}, ["agent_key: must not be blank"]),
        (read_create, {"agent_key": 1}, ["agent_key: must be a string"]),
        (read_create, {"agent_key": "x" * 129}, ["agent_key: must be at most 128 characters"]),
        (
            read_create,
            {"agent_key": "echo", "title": "x" * 201},
            ["title: must be at most 200 characters"],
        ),
        (
            read_create,
            {"agent_key": "echo", "workspace_id": ""},
            ["workspace_id: must not be blank"],
        ),
        (read_message, {"content": 1}, ["content: must be a string"]),
        (read_message, {"content": "a", "text": "a"}, ["content: given twice"]),
        (
            read_message,
            {"content": "a", "client_message_id": ""},
            ["client_message_id: must not be blank"],
        ),
        (read_patch, {}, ["title: is required"]),
        (read_patch, {"title": " \n"}, ["title: must not be blank"]),
        (read_patch, {"title": "x" * 201}, ["title: must be at most 200 characters"]),
        (read_patch, {"title": "a", "status": "archived"}, ["status: unknown key"]),
        (read_read, {"up_to_seq": -1}, ["up_to_seq: must be a non-negative integer"]),
        (read_read, {"up_to_seq": True}, ["up_to_seq: must be a non-negative integer"]),
        (read_read, {"up_to_seq": 1.0}, ["up_to_seq: must be a non-negative integer"]),
        (read_read, {"up_to_seq": 2**53}, ["up_to_seq: must be a non-negative integer"]),
        (read_typing, {}, ["typing: must be true or false"]),
        (read_typing, {"typing": 1}, ["typing: must be true or false"]),
        (read_cancel, {"task_id": ""}, ["task_id: must not be blank"]),
        (
            read_create,
            {"agent": "echo", "title": 1},
            ["agent: unknown key", "agent_key: is required", "title: must be a string"],
        ),
    ],
)
def test_a_body_is_refused_with_everything_that_is_wrong(
    reader: Reader, fields: Object, details: list[str]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        reader(fields)
    assert refusal(caught.value) == (
        400,
        {"error": "Invalid request body", "code": "INVALID_REQUEST", "details": details},
        None,
    )


@pytest.mark.parametrize("reader", READERS)
def test_no_body_may_have_a_key_that_nobody_knows(reader: Reader) -> None:
    with pytest.raises(InvalidRequest) as caught:
        reader({"content": "hi", "agent_key": "echo", "title": "a", "typing": True, "zzz": 1})
    assert "zzz: unknown key" in caught.value.details


def test_an_alias_of_another_route_is_an_unknown_key() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_read({"text": "hi"})
    assert caught.value.details == ("text: unknown key",)


@pytest.mark.parametrize("fields", [{}, {"content": None}, {"content": ""}, {"text": " \n\t"}])
def test_a_message_without_text_has_a_code_of_its_own(fields: Object) -> None:
    with pytest.raises(ContentRequired) as caught:
        read_message(fields)
    assert refusal(caught.value).status == 400
    assert refusal(caught.value).body["code"] == "CONTENT_REQUIRED"


def test_what_is_wrong_is_not_told_at_the_length_of_what_was_sent() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_nothing({f"{number}-{'x' * 1000}": 1 for number in range(1000)})
    assert len(caught.value.details) == 16
    assert max(len(detail) for detail in caught.value.details) < 120


@given(
    st.sampled_from(READERS),
    st.dictionaries(
        st.sampled_from(["agent_key", "text", "title", "typing", "taskId", "upToSeq"]) | st.text(),
        json_values,
        max_size=4,
    ),
)
def test_whatever_a_body_holds_it_is_read_or_refused(reader: Reader, fields: Object) -> None:
    with suppress(PeerError):
        reader(fields)


# -- queries -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "read"),
    [
        ({}, ListQuery()),
        ({"status": "all", "limit": "7"}, ListQuery(status="all", limit=7)),
        ({"status": "archived", "limit": "999"}, ListQuery(status="archived", limit=LIMIT_MAX)),
        ({"cursor": ""}, ListQuery()),
        ({"ticket": "x"}, ListQuery()),
        ({"cursor": list_cursor(1700, 42)}, ListQuery(before=(1700, 42))),
    ],
)
def test_a_list_is_asked_for_by_status_limit_and_cursor(
    query: dict[str, str], read: ListQuery
) -> None:
    assert read_list_query(query) == read


def test_a_page_has_fifty_where_nobody_says_otherwise() -> None:
    assert read_list_query({}).limit == read_detail_query({}).limit == LIMIT_DEFAULT == 50
    assert LIMIT_MAX == 200


@pytest.mark.parametrize(
    "query",
    [
        {"status": "deleted"},
        {"status": ""},
        {"limit": "0"},
        {"limit": "-1"},
        {"limit": "many"},
        {"limit": "\u0663"},
        {"cursor": "x"},
        {"cursor": "1.-2"},
        {"cursor": "1.2.3"},
    ],
)
def test_a_list_is_refused_for_a_field_that_cannot_be(query: dict[str, str]) -> None:
    with pytest.raises(InvalidQuery) as caught:
        read_list_query(query)
    [(name, _)] = query.items()
    body = refusal(caught.value).body
    assert body["error"] == "Invalid query"
    assert body["details"][0].startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("query", "read"),
    [
        ({}, DetailQuery()),
        ({"limit": "3", "before_seq": "9"}, DetailQuery(limit=3, before_seq=9)),
        ({"beforeSeq": "9"}, DetailQuery(before_seq=9)),
    ],
)
def test_messages_are_asked_for_backwards_from_a_seq(
    query: dict[str, str], read: DetailQuery
) -> None:
    assert read_detail_query(query) == read


@pytest.mark.parametrize("seq", ["0", "x", ""])
def test_there_is_nothing_before_what_is_no_seq(seq: str) -> None:
    with pytest.raises(InvalidQuery):
        read_detail_query({"before_seq": seq})


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ({}, None),
        ({"wait": "0"}, 0.0),
        ({"wait": "2.5"}, 2.5),
        ({"wait": "60"}, 60.0),
        ({"wait": "3600"}, 60.0),
    ],
)
def test_a_send_waits_for_a_minute_at_most(query: dict[str, str], seconds: float | None) -> None:
    assert read_wait(query) == seconds


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e3", "soon", "1."])
def test_a_wait_is_a_plain_number_of_seconds(text: str) -> None:
    with pytest.raises(InvalidQuery):
        read_wait({"wait": text})


def test_a_delete_is_for_ever_only_where_that_is_said() -> None:
    assert read_purge({}) is read_purge({"purge": "false"}) is False
    assert read_purge({"purge": "true"}) is read_purge({"purge": "1"}) is True
    with pytest.raises(InvalidQuery):
        read_purge({"purge": "yes"})


@pytest.mark.parametrize(
    ("query", "header", "read"),
    [
        ({}, None, EventsQuery()),
        ({}, "", EventsQuery()),
        ({"last_event_id": ""}, None, EventsQuery()),
        ({"last_event_id": "0"}, None, EventsQuery(last_event_id=0)),
        ({"last_event_id": "16", "deltas": "1"}, None, EventsQuery(last_event_id=16, deltas=True)),
        ({"lastEventId": "16"}, None, EventsQuery(last_event_id=16)),
        ({"last_event_id": "16"}, "32", EventsQuery(last_event_id=32)),
        ({"last_event_id": "x"}, None, EventsQuery(last_event_id=UNKNOWN_EVENT_ID)),
        ({"deltas": "0"}, "x", EventsQuery(last_event_id=UNKNOWN_EVENT_ID)),
    ],
)
def test_a_stream_goes_on_behind_the_header_or_else_the_query(
    query: dict[str, str], header: str | None, read: EventsQuery
) -> None:
    assert read_events_query(query, header) == read


def test_deltas_are_wanted_or_not() -> None:
    with pytest.raises(InvalidQuery):
        read_events_query({"deltas": "some"})


@pytest.mark.parametrize(
    "value", ["-1", "1.5", "9" * 19, "\u0663", -1, 10**18, True, 1.0, None, [], {}]
)
def test_what_is_no_id_is_before_every_log(value: object) -> None:
    assert event_id(value) == UNKNOWN_EVENT_ID < 0


# -- frames of a WebSocket ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "read"),
    [
        ({"type": "chats.subscribe"}, SubscribeChats()),
        ({"type": "chats.subscribe", "lastEventId": None}, SubscribeChats()),
        ({"type": "chats.subscribe", "lastEventId": ""}, SubscribeChats()),
        (
            {"type": "chats.subscribe", "lastEventId": 16, "deltas": True},
            SubscribeChats(last_event_id=16, deltas=True),
        ),
        (
            {"type": "chats.subscribe", "last_event_id": "16", "deltas": False, "ref": 1},
            SubscribeChats(last_event_id=16),
        ),
        (
            {"type": "chats.subscribe", "lastEventId": "x"},
            SubscribeChats(last_event_id=UNKNOWN_EVENT_ID),
        ),
        ({"type": "chats.unsubscribe"}, UnsubscribeChats()),
    ],
)
def test_a_websocket_subscribes_to_all_sessions_of_its_user(frame: Object, read: object) -> None:
    assert read_frame(frame) == read


def test_a_frame_is_refused_for_deltas_that_are_neither() -> None:
    with pytest.raises(PeerError, match="deltas"):
        read_frame({"type": "chats.subscribe", "deltas": "1"})


@pytest.mark.parametrize("frame", [{}, {"type": 1}, {"type": "chats.dance"}])
def test_a_frame_of_no_type_of_ours_is_refused(frame: Object) -> None:
    with pytest.raises(UnknownType):
        read_frame(frame)


# -- errors ------------------------------------------------------------------------------------


class Archived(Refused):
    """As another dialect names it."""

    code = "archived"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (AgentNotFound("no agent"), 404, "AGENT_NOT_FOUND"),
        (SessionNotFound(), 404, "SESSION_NOT_FOUND"),
        (TaskNotFound("no task"), 404, "TASK_NOT_FOUND"),
        (SessionArchived("archived"), 409, "SESSION_ARCHIVED"),
        (MessageConflict("other content"), 409, "CONFLICT"),
        (AgentUnavailable("not now"), 503, "AGENT_UNAVAILABLE"),
        (ContentRequired(), 400, "CONTENT_REQUIRED"),
        (InvalidRequest(), 400, "INVALID_REQUEST"),
        (InvalidQuery(), 400, "INVALID_REQUEST"),
        (PeerError("Invalid JSON"), 400, "INVALID_REQUEST"),
        (NotFound("Conversation not found"), 404, "SESSION_NOT_FOUND"),
        (Gone("deleted"), 404, "SESSION_NOT_FOUND"),
        (Archived("archived"), 409, "SESSION_ARCHIVED"),
        (Conflict("other body"), 409, "CONFLICT"),
        (Forbidden("not yours"), 403, "FORBIDDEN"),
        (RateLimited("slowly"), 429, "RATE_LIMITED"),
        (Unavailable("draining"), 503, "UNAVAILABLE"),
        (TooLarge("too large"), 413, "TOO_LARGE"),
        (Fault("broken"), 500, "INTERNAL"),
    ],
)
def test_every_error_has_a_status_and_a_code_in_capitals(
    error: DispatchError, status: int, code: str
) -> None:
    refused = refusal(error)
    assert (refused.status, refused.body["code"]) == (status, code)
    assert refused.body["error"]


def test_a_purged_session_is_not_told_from_one_that_never_was() -> None:
    assert refusal(Gone("deleted")) == refusal(NotFound("nothing")) == refusal(SessionNotFound())


def test_an_error_says_when_to_come_back() -> None:
    assert refusal(AgentUnavailable("not now", retry_after_ms=500)).retry_after_ms == 500


@pytest.mark.parametrize("error", [SessionArchived("x"), AgentNotFound("x"), Conflict("x")])
def test_only_what_is_invalid_has_details(error: DispatchError) -> None:
    assert set(refusal(error).body) == {"error", "code"}
