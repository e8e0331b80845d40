"""Chat sessions as they are shown: sessions, messages, and every frame of their user's stream."""

import json
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.identity import ConversationId, TurnId, UserId
from dispatch.core.replay import Frame
from dispatch.core.session import Session, SessionView
from dispatch.core.timeline import (
    AnyTold,
    AskClosed,
    Asked,
    Changed,
    MessageAdded,
    ReadTo,
    RepliesEnded,
    ReplyEnded,
    Results,
    RowDetails,
    RunOutcome,
    TaskEnded,
    Typing,
    encode_row_details,
    encode_told,
)
from dispatch.protocol.sessions.frames import (
    connected,
    delta_frame,
    failure_reason,
    frames,
    iso_time,
    list_item,
    message_object,
    resync_required,
    session_object,
    shutdown,
    sse,
    user_typing,
    utf16_length,
    ws,
)
from dispatch.storage.keys import RowKey, TimelineKey
from dispatch.storage.timeline import RowRecord

S = "c1"
AT_MS = 1_700_000_000_123
AT = "2023-11-14T22:13:20.123Z"
SEPARATORS = "\u0085\u2028\u2029"

USER_ROW = RowRecord(
    key=RowKey(7),
    timeline=TimelineKey(3),
    role="message",
    seq=1,
    turn_id=TurnId("t1"),
    conversation=ConversationId(S),
    user=UserId("ann"),
    created_at_ms=AT_MS,
    details=encode_row_details(RowDetails(client_message_id="m1")),
    text="hi",
)
REPLY = RowRecord(
    key=RowKey(8),
    timeline=TimelineKey(3),
    role="reply",
    seq=2,
    reply_to=1,
    turn_id=TurnId("t1"),
    conversation=ConversationId(S),
    agent="echo",
    user=UserId("ann"),
    outcome="completed",
    created_at_ms=AT_MS,
    started_at_ms=AT_MS + 1000,
    ended_at_ms=AT_MS + 3500,
    text="hello",
)
VIEW = SessionView(
    id=S,
    session=Session(agent="echo", workspace="w"),
    user=UserId("ann"),
    title="Tea",
    status="active",
    created_at_ms=AT_MS,
    updated_at_ms=AT_MS + 1,
    next_seq=3,
    last_read_seq=1,
)


def reply(**changes: Any) -> RowRecord:
    return msgspec.structs.replace(REPLY, **changes)


def shown(told: AnyTold, row: RowRecord | None = None) -> dict[str, Any]:
    [frame] = frames(S, 5, AT_MS, encode_told(told), row)
    envelope: dict[str, Any] = json.loads(frame.payload)
    return envelope


# -- sessions and messages ---------------------------------------------------------------------


def test_a_session_has_the_columns_of_the_contract() -> None:
    assert session_object(VIEW) == {
        "id": S,
        "workspace_id": "w",
        "agent_key": "echo",
        "creator_id": "ann",
        "title": "Tea",
        "status": "active",
        "created_at": AT,
        "updated_at": "2023-11-14T22:13:20.124Z",
        "next_seq": 3,
        "last_read_seq": 1,
        "archived_at": None,
    }


def test_an_archived_session_says_since_when() -> None:
    session = Session(agent="echo", archived_at_ms=AT_MS)
    view = msgspec.structs.replace(VIEW, session=session, status="archived")
    assert session_object(view)["archived_at"] == AT
    assert session_object(view)["status"] == "archived"


def test_a_message_of_a_person_is_complete() -> None:
    assert message_object(USER_ROW) == {
        "id": "m-7",
        "chat_session_id": S,
        "role": "user",
        "content": "hi",
        "task_id": "t1",
        "created_at": AT,
        "seq": 1,
        "status": "complete",
        "failure_reason": None,
        "elapsed_ms": None,
        "client_message_id": "m1",
    }


def test_a_reply_says_how_long_it_took_from_when_it_began() -> None:
    assert message_object(REPLY) == {
        "id": "m-8",
        "chat_session_id": S,
        "role": "assistant",
        "content": "hello",
        "task_id": "t1",
        "created_at": "2023-11-14T22:13:21.123Z",
        "seq": 2,
        "status": "complete",
        "failure_reason": None,
        "elapsed_ms": 2500,
        "client_message_id": None,
    }


@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [
        (None, "streaming", None),
        ("completed", "complete", None),
        ("no_response", "no_response", None),
        ("cancelled", "cancelled", None),
        ("removed", "cancelled", None),
        ("error", "failed", "it broke"),
        ("interrupted", "failed", "interrupted"),
    ],
)
def test_every_outcome_has_its_status_and_only_a_failed_one_a_reason(
    outcome: str | None, status: str, reason: str | None
) -> None:
    details = encode_row_details(RowDetails(error_code="oops", error="it broke"))
    row = reply(outcome=outcome, details=details)
    assert message_object(row)["status"] == status
    assert message_object(row)["failure_reason"] == failure_reason(row) == reason


@pytest.mark.parametrize("outcome", get_args(RunOutcome))
def test_no_outcome_of_the_core_is_without_a_status(outcome: str) -> None:
    assert message_object(reply(outcome=outcome))["status"] != "streaming"


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        (RowDetails(error_code="oops", error="it broke"), "it broke"),
        (RowDetails(error_code="oops"), "oops"),
        (RowDetails(), "error"),
    ],
)
def test_a_failed_reply_has_a_reason_whatever_its_agent_told(
    details: RowDetails, reason: str
) -> None:
    assert failure_reason(reply(outcome="error", details=encode_row_details(details))) == reason


def test_a_streaming_reply_is_shown_with_the_text_so_far() -> None:
    row = reply(outcome=None, ended_at_ms=None, text="")
    message = message_object(row, content="hel")
    assert message["content"] == "hel"
    assert message["elapsed_ms"] is None


def test_a_reply_that_never_began_is_of_the_time_it_ended() -> None:
    row = reply(outcome="cancelled", started_at_ms=None, ended_at_ms=AT_MS + 1, text="")
    message = message_object(row)
    assert message["created_at"] == "2023-11-14T22:13:20.124Z"
    assert message["elapsed_ms"] is None


def test_a_reply_that_waits_is_of_the_time_it_was_written_down() -> None:
    row = reply(outcome=None, seq=None, started_at_ms=None, ended_at_ms=None, text="")
    assert message_object(row)["created_at"] == AT


def test_a_clock_that_went_back_takes_no_time_away() -> None:
    assert message_object(reply(ended_at_ms=AT_MS))["elapsed_ms"] == 0


def test_a_row_without_its_conversation_is_in_the_session_that_is_named() -> None:
    row = msgspec.structs.replace(USER_ROW, conversation=None)
    assert message_object(row, session_id=S)["chat_session_id"] == S


def test_a_session_in_a_list_has_its_last_message_and_what_is_unread() -> None:
    assert list_item(VIEW, unread_count=2, last_row=REPLY, is_typing=True) == {
        **session_object(VIEW),
        "unread_count": 2,
        "has_unread": True,
        "last_message": {
            "content": "hello",
            "role": "assistant",
            "created_at": "2023-11-14T22:13:21.123Z",
            "failure_reason": None,
        },
        "agent_typing": True,
    }


def test_a_session_without_messages_has_no_last_one() -> None:
    item = list_item(VIEW, unread_count=0, last_row=None, is_typing=False)
    assert item["last_message"] is None
    assert item["has_unread"] is item["agent_typing"] is False


def test_the_last_message_may_be_longer_than_its_row_says() -> None:
    row = reply(outcome=None, text="")
    item = list_item(VIEW, unread_count=0, last_row=row, is_typing=True, last_content="hel")
    assert item["last_message"]["content"] == "hel"


@given(st.integers(0, 4_102_444_800_000))
def test_a_time_is_exact_to_the_millisecond(at_ms: int) -> None:
    text = iso_time(at_ms)
    parsed = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert round(parsed.timestamp() * 1000) == at_ms
    assert len(text) == len(AT)


# -- frames ------------------------------------------------------------------------------------

CASES: list[tuple[AnyTold, RowRecord | None, str, dict[str, Any]]] = [
    (MessageAdded(), USER_ROW, "chat_message", message_object(USER_ROW)),
    (ReplyEnded(), REPLY, "chat_message", message_object(REPLY)),
    (
        Typing(True, "queued"),
        None,
        "chat_typing",
        {"chat_session_id": S, "by": "agent", "typing": True, "phase": "queued"},
    ),
    (
        Typing(False, "running"),
        None,
        "chat_typing",
        {"chat_session_id": S, "by": "agent", "typing": False, "phase": "running"},
    ),
    (
        ReadTo(4, 2),
        None,
        "chat_session_read",
        {"chat_session_id": S, "last_read_seq": 4, "unread_count": 2},
    ),
    (
        TaskEnded("failed", "it broke"),
        REPLY,
        "chat_task_failed",
        {"chat_session_id": S, "task_id": "t1", "failure_reason": "it broke"},
    ),
    (
        TaskEnded("cancelled", ""),
        REPLY,
        "chat_task_cancelled",
        {"chat_session_id": S, "task_id": "t1", "failure_reason": None},
    ),
    (
        Asked("t1", msgspec.Raw(b'{"requestId":"r1","kind":"approval","title":"Run?"}')),
        None,
        "chat_request",
        {
            "chat_session_id": S,
            "task_id": "t1",
            "request": {"requestId": "r1", "kind": "approval", "title": "Run?"},
        },
    ),
    (
        AskClosed("t1", "r1", "answered", "ann"),
        None,
        "chat_request_closed",
        {
            "chat_session_id": S,
            "task_id": "t1",
            "request_id": "r1",
            "outcome": "answered",
            "by": "ann",
        },
    ),
    *(
        (
            Changed(what, msgspec.Raw(msgspec.json.encode(session_object(VIEW)))),
            None,
            f"chat_session_{what}",
            session_object(VIEW),
        )
        for what in ("created", "updated", "archived", "restored", "deleted")
    ),
]


@pytest.mark.parametrize(("told", "row", "event", "data"), CASES)
def test_every_event_is_one_frame_in_the_envelope(
    told: AnyTold, row: RowRecord | None, event: str, data: dict[str, Any]
) -> None:
    [frame] = frames(S, 5, AT_MS, encode_told(told), row)
    envelope = json.loads(frame.payload)
    assert envelope == {"event": event, "sessionId": S, "timestamp": AT, "id": 80, "data": data}
    assert list(envelope) == ["event", "sessionId", "timestamp", "id", "data"]
    assert (frame.offset, frame.topic, frame.is_kept) == (80, S, True)


def test_every_event_but_that_of_groups_is_among_the_cases() -> None:
    cases = {type(told) for told, *_ in CASES}
    assert cases | {RepliesEnded} == set(get_args(AnyTold))


def test_the_end_of_all_replies_is_a_matter_of_groups() -> None:
    told = RepliesEnded(reply_to=1, results=Results(completed=1), last_seq=2)
    assert frames(S, 5, AT_MS, encode_told(told), None) == []


@pytest.mark.parametrize("told", [MessageAdded(), ReplyEnded(), TaskEnded("failed", "x")])
def test_what_happened_to_a_row_that_is_gone_is_not_shown(told: AnyTold) -> None:
    assert frames(S, 5, AT_MS, encode_told(told), None) == []


@given(
    st.sampled_from([None, *get_args(RunOutcome)]),
    st.text(max_size=40),
    st.none() | st.integers(0, 2**40),
    st.builds(
        RowDetails,
        client_message_id=st.none() | st.text(max_size=8),
        error_code=st.none() | st.text(max_size=8),
        error=st.none() | st.text(max_size=8),
    ),
)
def test_a_frame_says_of_a_row_what_a_snapshot_says(
    outcome: str | None, text: str, started_at_ms: int | None, details: RowDetails
) -> None:
    row = reply(
        outcome=outcome,
        text=text + SEPARATORS,
        started_at_ms=started_at_ms,
        details=encode_row_details(details),
    )
    assert shown(ReplyEnded(), row)["data"] == json.loads(msgspec.json.encode(message_object(row)))
    message = msgspec.structs.replace(USER_ROW, text=text, details=encode_row_details(details))
    assert shown(MessageAdded(), message)["data"] == json.loads(
        msgspec.json.encode(message_object(message))
    )


@pytest.mark.parametrize(
    "told",
    [
        Asked("t1", msgspec.Raw(b'{\n "title":\r\n "' + SEPARATORS.encode() + b'"}')),
        Changed("updated", msgspec.Raw(b'{\n"title":"' + SEPARATORS.encode() + b'"}\n')),
        TaskEnded("failed", SEPARATORS + "\n"),
    ],
)
def test_a_frame_is_one_line_whatever_was_brought_along(told: AnyTold) -> None:
    [frame] = frames(S, 5, AT_MS, encode_told(told), REPLY)
    assert len(frame.payload.decode().splitlines()) == 1
    assert SEPARATORS in "".join(str(value) for value in values(json.loads(frame.payload)))


def values(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in values(inner)]
    return [value]


# -- deltas and what is not kept ---------------------------------------------------------------


@given(st.text(max_size=30) | st.text(alphabet=SEPARATORS + '\\"\n\u0001é😀'), st.integers(0, 9))
def test_a_delta_carries_its_text_and_where_it_belongs(text: str, offset: int) -> None:
    escaped = msgspec.json.encode(text)[1:-1]
    frame = delta_frame(S, 5, AT_MS, reply(outcome=None), escaped, offset)
    assert json.loads(frame.payload) == {
        "event": "chat_message_delta",
        "sessionId": S,
        "timestamp": AT,
        "data": {
            "chat_session_id": S,
            "task_id": "t1",
            "message_id": "m-8",
            "text": text,
            "offset": offset,
        },
    }
    assert len(frame.payload.decode().splitlines()) == 1
    assert (frame.offset, frame.topic, frame.is_kept) == (80, S, False)


hard_texts = st.text(max_size=30) | st.text(alphabet='\\"/\n\tu0089abc\u0001\u2028é€😀')


@given(hard_texts)
def test_a_length_is_counted_in_utf_16_as_browsers_do(text: str) -> None:
    length = len(text.encode("utf-16-le")) // 2
    assert utf16_length(msgspec.json.encode(text)[1:-1]) == length
    # Programs may escape more than has to be: everything beyond ASCII, in surrogate pairs.
    assert utf16_length(json.dumps(text)[1:-1].encode()) == length


@given(hard_texts, hard_texts)
def test_the_offset_of_a_delta_is_the_sum_of_those_before_it(first: str, second: str) -> None:
    whole = msgspec.json.encode(first + second)[1:-1]
    parts = [msgspec.json.encode(text)[1:-1] for text in (first, second)]
    assert utf16_length(whole) == sum(utf16_length(part) for part in parts)


def test_a_person_types_without_an_id() -> None:
    frame = user_typing(S, True, "phone" + SEPARATORS, AT_MS)
    assert json.loads(frame.payload) == {
        "event": "chat_typing",
        "sessionId": S,
        "timestamp": AT,
        "data": {
            "chat_session_id": S,
            "by": "user",
            "typing": True,
            "phase": None,
            "device_id": "phone" + SEPARATORS,
        },
    }
    assert len(sse(frame).decode().splitlines()) == 2
    assert not frame.is_kept


# -- the two line forms ------------------------------------------------------------------------


def test_a_kept_frame_moves_the_cursor_of_an_event_stream() -> None:
    [frame] = frames(S, 5, AT_MS, encode_told(ReadTo(4, 2)), None)
    assert sse(frame) == b"id: 80\ndata: %b\n\n" % frame.payload


@pytest.mark.parametrize(
    ("frame", "payload"),
    [
        (connected(80), {"event": "connected", "data": {"cursor": 80}}),
        (resync_required(96), {"event": "resync_required", "data": {"cursor": 96}}),
        (shutdown(), {"event": "shutdown"}),
    ],
)
def test_a_word_about_the_stream_has_no_id_in_either_form(
    frame: Frame, payload: dict[str, Any]
) -> None:
    line = sse(frame)
    assert line.startswith(b"data: ")
    assert line.endswith(b"\n\n")
    assert json.loads(line.removeprefix(b"data: ")) == payload
    assert json.loads(ws(frame)) == {"type": "chats.event", **payload}
    for ref in ('a "quoted" one', 7, 0):
        assert json.loads(ws(frame, ref)) == {"type": "chats.event", "ref": ref, **payload}


def test_a_websocket_gets_the_same_envelope_with_a_type() -> None:
    [frame] = frames(S, 5, AT_MS, encode_told(ReadTo(4, 2)), None)
    assert json.loads(ws(frame)) == {"type": "chats.event", **json.loads(frame.payload)}
    delta = delta_frame(S, 5, AT_MS, REPLY, b"x", 0)
    assert "id" not in json.loads(ws(delta))
    assert json.loads(ws(delta))["data"]["text"] == "x"
