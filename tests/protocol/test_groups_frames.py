"""A group's frames: what they say, and that they say what the rows say."""

import json
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
    ReasoningDelta,
    Request,
    RequestClosed,
    Steering,
    TextDelta,
    ToolOutput,
    ToolResult,
    TurnSealed,
    TurnStart,
    UserMessage,
    encode_event,
)
from dispatch.core.group import FormerMember, Group, GroupRun, GroupView, Member
from dispatch.core.identity import AccountId, ConversationId, TurnId, UserId
from dispatch.core.notices import GroupChangedNotice
from dispatch.core.replay import Frame
from dispatch.core.timeline import (
    Changed,
    MessageAdded,
    RepliesEnded,
    ReplyEnded,
    Results,
    RowDetails,
    Told,
    Typing,
    encode_row_details,
    encode_told,
)
from dispatch.protocol.groups.frames import (
    Row,
    frames,
    group_event,
    group_object,
    resume_gap,
    sse,
    ws,
    ws_notice,
    ws_resume_gap,
)
from dispatch.storage.keys import RowKey, TimelineKey
from dispatch.storage.timeline import RowRecord
from tests.properties.strategies import events

BEGAN = 50
OUTCOMES = ["completed", "error", "cancelled", "interrupted", "removed"]


def row(role: Literal["message", "reply"] = "reply", **fields: Any) -> RowRecord:
    record = RowRecord(
        key=RowKey(1), timeline=TimelineKey(1), role=role, user=UserId("local"), created_at_ms=1_001
    )
    if role == "reply":
        record.seq, record.reply_to, record.began_position = 7, 3, BEGAN
        record.agent, record.turn_id = "nova", TurnId("t1")
        record.conversation, record.started_at_ms = ConversationId("c1"), 2_002
    else:
        record.seq = 3
    return msgspec.structs.replace(record, **fields)


def own(told: Told, about: Row | None, position: int = 60) -> list[Frame]:
    return frames("g1", position, encode_told(told), about, is_own=True)


def said(event: AnyEvent, about: Row | None = None, position: int = 60) -> list[Frame]:
    return frames("g1", position, encode_event(event), about or row(), is_own=False)


def shown(found: list[Frame]) -> list[dict[str, Any]]:
    return [json.loads(frame.payload) for frame in found]


def fold(found: list[Frame]) -> list[dict[str, Any]]:
    """A client: rows by seq, from frames alone."""
    rows: dict[int, dict[str, Any]] = {}
    for frame in shown(found):
        seq = frame.get("seq")
        kind = frame.pop("kind")
        del frame["groupId"]
        if kind == "assistant_chunk":
            before = rows[seq]["text"] if seq in rows else ""
            rows[seq] = {**frame, "text": before + frame["text"]}
        elif kind == "user" or (kind == "done" and "familiarId" in frame):
            rows[seq] = frame
    return [rows[seq] for seq in sorted(rows)]


def plain(event: dict[str, Any]) -> Any:
    return json.loads(msgspec.json.encode(event))


replies = st.builds(
    lambda outcome, text, details, ended: row(
        outcome=outcome, text=text, details=encode_row_details(details), ended_at_ms=ended
    ),
    st.sampled_from(OUTCOMES),
    st.text(),
    st.builds(
        RowDetails,
        error_code=st.none() | st.sampled_from(["timeout", "spawn_failed"]),
        error=st.none() | st.text(),
    ),
    st.none() | st.integers(0, 2**42),
)
messages = st.builds(
    lambda text, user, details: row(
        "message", text=text, user=user, details=encode_row_details(details)
    ),
    st.text(),
    st.sampled_from(["local", "ann"]),
    st.builds(
        RowDetails,
        targets=st.none() | st.just(("nova",)),
        client_message_id=st.none() | st.just("m1"),
    ),
)


@given(messages, replies, st.lists(st.text()))
def test_folded_frames_are_the_events_of_the_rows(
    message: RowRecord, reply: RowRecord, deltas: list[str]
) -> None:
    live = msgspec.structs.replace(reply, outcome=None, text="")
    found = own(MessageAdded(), message, 40) + said(TurnStart(), live, 41)
    for position, delta in enumerate(deltas, BEGAN):
        found += said(TextDelta(delta), live, position)
    so_far = "".join(deltas)
    open_row = [plain(group_event(live, text=so_far))] if so_far else []
    assert fold(found) == [plain(group_event(message)), *open_row]
    found += own(ReplyEnded(), reply, 10_000)
    assert fold(found) == [plain(group_event(message)), plain(group_event(reply))]
    assert [frame.offset for frame in found] == sorted({frame.offset for frame in found})


@given(events, st.integers(0, 100))
def test_a_frame_of_a_turn_is_one_line_without_an_absolute_text(
    event: AnyEvent, position: int
) -> None:
    for frame in said(event, position=position):
        text = frame.payload.decode()
        assert len(text.splitlines()) == 1
        payload = json.loads(text)
        assert ("text" in payload) is (payload["kind"] == "assistant_chunk")
        assert payload["seq"] == (7 if position >= BEGAN else None)
        assert "isError" not in payload
        assert "outcome" not in payload
        assert frame.topic == "3"
        assert frame.offset == position * 16


@given(events)
def test_a_reply_that_ends_changes_no_frame_of_its_turn(event: AnyEvent) -> None:
    ended = row(outcome="error", text="x", ended_at_ms=9, details=b'{"error":"no"}')
    assert said(event, ended) == said(event, row())


@pytest.mark.parametrize(
    "event",
    [
        UserMessage("hi"),
        Done("stop"),
        TurnSealed(),
        ErrorEvent("no"),
        TextDelta(""),
        ReasoningDelta(""),
    ],
)
def test_what_the_rows_say_anyway_makes_no_frame(event: AnyEvent) -> None:
    assert said(event) == []


def test_a_turn_that_is_nobodys_reply_makes_no_frame() -> None:
    assert frames("g1", 1, encode_event(TextDelta("x")), None, is_own=False) == []


def test_a_chunk_says_whose_it_is() -> None:
    assert shown(said(TextDelta("a\u2028b"))) == [
        {
            "kind": "assistant_chunk",
            "groupId": "g1",
            "seq": 7,
            "role": "familiar",
            "familiarId": "nova",
            "text": "a\u2028b",
            "streaming": True,
            "ts": "1970-01-01T00:00:02.002Z",
            "replyTo": 3,
            "sessionId": "c1",
            "runId": "t1",
        }
    ]


def test_a_tools_failure_is_not_its_members() -> None:
    (result,) = shown(said(ToolResult("k", "ls", "no", True)))
    assert (result["kind"], result["phase"], result["toolIsError"]) == ("tool_use", "result", True)
    (output,) = shown(said(ToolOutput("k", "line", "stderr")))
    assert (output["phase"], output["output"], output["stream"]) == ("output", "line", "stderr")


def test_a_request_and_its_end_travel_as_they_are() -> None:
    (asked,) = shown(said(Request("r1", "approval", "May I?")))
    assert (asked["kind"], asked["requestId"]) == ("request", "r1")
    assert asked["request"] == {"requestId": "r1", "kind": "approval", "title": "May I?"}
    (closed,) = shown(said(RequestClosed("r1", "answered", "ann", reason="I own it")))
    assert closed["kind"] == "request_closed"
    assert closed["request"] == {"requestId": "r1", "outcome": "answered", "by": "ann"}


def test_progress_names_what_it_is() -> None:
    (thought,) = shown(said(ReasoningDelta("hm")))
    assert (thought["kind"], thought["progress"], thought["reasoning"]) == (
        "progress",
        "reasoning",
        "hm",
    )
    (steered,) = shown(said(Steering("left")))
    assert (steered["progress"], steered["steering"]) == ("steering", "left")


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_error_frame_precedes_done_only_for_an_error(outcome: str) -> None:
    found = own(ReplyEnded(), row(outcome=outcome))
    kinds = [frame["kind"] for frame in shown(found)]
    assert kinds == (["error", "done"] if outcome == "error" else ["done"])
    assert shown(found)[-1]["isError"] is (outcome in ("error", "interrupted"))
    assert [frame.offset for frame in found] == [60 * 16 + index for index in range(len(found))]


def test_an_error_says_why() -> None:
    details = encode_row_details(RowDetails(error_code="timeout", error="too slow"))
    error, done = shown(own(ReplyEnded(), row(outcome="error", details=details)))
    assert (error["code"], error["message"]) == ("timeout", "too slow")
    assert done["error"] == {"code": "timeout", "message": "too slow"}


@pytest.mark.parametrize(
    ("results", "is_error"),
    [(Results(error=1, interrupted=1), True), (Results(error=1, completed=1), False)],
)
def test_a_group_failed_if_every_target_did(results: Results, is_error: bool) -> None:
    found = own(RepliesEnded(3, results, 9), row("message"))
    (done,) = shown(found)
    assert found[0].topic == "3"
    assert "familiarId" not in done
    assert (done["scope"], done["isError"], done["lastSeq"]) == ("group", is_error, 9)
    assert done["results"] == {
        "completed": results.completed,
        "error": 1,
        "cancelled": 0,
        "interrupted": results.interrupted,
        "removed": 0,
    }


def test_a_change_of_the_group_has_no_seq_and_no_topic() -> None:
    raw = msgspec.Raw(b'{"id":"g1","updatedAt":"T"}')
    (updated,) = own(Changed("updated", raw), None)
    assert updated.topic == ""
    assert json.loads(updated.payload) == {
        "kind": "group_updated",
        "groupId": "g1",
        "seq": None,
        "streaming": False,
        "ts": "T",
        "group": {"id": "g1", "updatedAt": "T"},
    }
    (deleted,) = shown(own(Changed("deleted", msgspec.Raw(b"{}")), None))
    assert deleted["kind"] == "group_deleted"
    assert own(Changed("created", raw), None) == []
    assert own(Typing(True, "queued"), None) == []


def test_a_group_is_shown_with_its_runs_and_former_members() -> None:
    group = Group(
        members=(Member("b", ConversationId("c2")), Member("a", ConversationId("c1"))),
        former=(FormerMember("z", ConversationId("c9"), 5),),
    )
    view = GroupView(
        id="g1",
        group=group,
        created_at_ms=0,
        updated_at_ms=1_700_000_000_123,
        last_seq=4,
        runs=(GroupRun(user_seq=4, pending=("b",), started_at_ms=9),),
    )
    run = {"userSeq": 4, "pending": ["b"], "startedAt": "1970-01-01T00:00:00.009Z"}
    assert group_object(view) == {
        "id": "g1",
        "title": "b & a",
        "memberFamiliarIds": ["b", "a"],
        "memberSessionIds": {"b": "c2", "a": "c1"},
        "createdAt": "1970-01-01T00:00:00.000Z",
        "updatedAt": "2023-11-14T22:13:20.123Z",
        "lastSeq": 4,
        "activeRuns": [run],
        "activeRun": run,
        "archivedMembers": [
            {"familiarId": "z", "sessionId": "c9", "archivedAt": "1970-01-01T00:00:00.005Z"}
        ],
    }


def test_lists_are_told_what_no_message_changes() -> None:
    group = Group(members=(Member("a", ConversationId("c-a")),), title="T")
    runs = (GroupRun(user_seq=3, pending=("a",), started_at_ms=5_000),)
    view = GroupView(id="g-1", group=group, created_at_ms=0, updated_at_ms=1, last_seq=4, runs=runs)
    frame = ws_notice(GroupChangedNotice(account=AccountId("a"), view=view))
    assert frame is not None
    told = json.loads(frame)
    assert (told.pop("type"), told.pop("groupId")) == ("group.changed", "g-1")
    whole = group_object(view)
    assert set(whole) - set(told) == {
        "id",
        "lastSeq",
        "activeRuns",
        "activeRun",
        "archivedMembers",
    }
    assert told == {name: whole[name] for name in told}


def test_a_frame_travels_with_its_id_and_a_gap_without_one() -> None:
    frame = Frame(33, "3", b'{"kind":"done"}')
    assert sse(frame) == b'id: 33\ndata: {"kind":"done"}\n\n'
    assert json.loads(ws("g1", frame)) == {
        "type": "group.event",
        "groupId": "g1",
        "frameId": 33,
        "event": {"kind": "done"},
    }
    gap = resume_gap("g1", 99)
    assert gap.startswith(b"data: {")
    assert json.loads(gap[6:]) == json.loads(ws_resume_gap("g1", 99))["event"]
    assert json.loads(gap[6:])["cursor"] == 99
