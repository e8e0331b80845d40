"""The native dialect, both ways: every frame that is read, every text and frame that goes back."""

import json
import time
from contextlib import suppress
from itertools import pairwise
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.commands import Accepted, OnBusy, ReasoningEffort, Send, Subscribe, TurnBody
from dispatch.core.content import Text, encode_line, with_seq
from dispatch.core.conversation import Waiting
from dispatch.core.events import (
    AnyEvent,
    Image,
    ProviderRetry,
    ReasoningDelta,
    Request,
    RequestClosed,
    Response,
    Steering,
    TextDelta,
    encode_event,
)
from dispatch.core.identity import AccountId, ConversationId, Position, TurnId, UserId
from dispatch.core.notices import (
    AnyNotice,
    DeletedNotice,
    Opened,
    ReadNotice,
    StatusNotice,
    TitleNotice,
)
from dispatch.core.replay import Entry
from dispatch.errors import Busy, Conflict, PeerError, RateLimited
from dispatch.protocol.chat.commands import (
    ChatFork,
    ChatQueueCancel,
    ChatRead,
    ChatRespond,
    ChatSend,
    ChatStop,
    ChatSubscribe,
    ChatUnsubscribe,
    ConversationsWatch,
    Frame,
    Ping,
    SurfaceFrame,
)
from dispatch.protocol.chat.frames import (
    ChatDialect,
    chunks_frame,
    event_line,
    queue_messages,
    queue_surface,
)
from dispatch.protocol.chat.requests import (
    BadFrame,
    UnknownFrame,
    conversation_of,
    read_frame,
)
from dispatch.protocol.codec import ECHO_CHARACTERS_MAX, Object, read_object
from tests.properties.strategies import bodies, events

C, T, T2 = ConversationId("c1"), TurnId("t1"), TurnId("t2")
OLD = ChatDialect("g1", is_v1=False, delta_bytes_max=1000)
V1 = ChatDialect("g1", is_v1=True, delta_bytes_max=1000)


# -- what clients say --------------------------------------------------------------------------

FULL_SEND: Object = {
    "type": "chat.send",
    "message": "  hi\n",
    "conversationId": "c1",
    "model": "echo/large",
    "cwd": "/tmp/x",
    "reasoningEffort": "xhigh",
    "workspaceId": "w1",
    "computerId": "ignored",
    "images": [{"url": "data:image/png;base64,AA", "mimeType": "image/png"}, {"url": "http://e/x"}],
    "clientMessageId": "m1",
    "onBusy": "interrupt",
    "later": {"unknown": ["fields", "pass"]},
}

READ: list[tuple[Object, Frame]] = [
    ({"type": "chat.send", "message": " "}, ChatSend(send=Send(body=TurnBody(message=" ")))),
    (
        FULL_SEND,
        ChatSend(
            send=Send(
                body=TurnBody(
                    message="  hi\n",
                    images=(
                        Image("data:image/png;base64,AA", "image/png"),
                        Image("http://e/x"),
                    ),
                    model="echo/large",
                    cwd="/tmp/x",
                    reasoning_effort="xhigh",
                ),
                conversation=C,
                workspace="w1",
                client_message_id="m1",
                on_busy="interrupt",
            )
        ),
    ),
    (
        {"type": "chat.subscribe", "conversationId": "c1"},
        ChatSubscribe(subscribe=Subscribe(conversation=C)),
    ),
    (
        {"type": "chat.subscribe", "conversationId": "c1", "after": "g1:7"},
        ChatSubscribe(subscribe=Subscribe(conversation=C, after=Position("g1", 7))),
    ),
    (
        {"type": "chat.subscribe", "conversationId": "c1", "sinceSeq": 0},
        ChatSubscribe(subscribe=Subscribe(conversation=C, since_seq=0)),
    ),
    ({"type": "chat.unsubscribe", "conversationId": "c1"}, ChatUnsubscribe(conversation=C)),
    (
        {"type": "chat.queue", "conversationId": "c1", "text": " x ", "workspaceId": "w1"},
        ChatSend(
            send=Send(
                body=TurnBody(message=" x "), conversation=C, workspace="w1", on_busy="queue"
            ),
            is_queue=True,
        ),
    ),
    (
        {"type": "chat.queue.cancel", "conversationId": "c1", "messageId": "t1"},
        ChatQueueCancel(conversation=C, message=T),
    ),
    ({"type": "chat.stop", "conversationId": "c1"}, ChatStop(conversation=C)),
    (
        {"type": "chat.stop", "conversationId": "c1", "turnId": "t1"},
        ChatStop(conversation=C, turn=T),
    ),
    (
        {"type": "chat.fork", "conversationId": "c1", "turnId": "t1"},
        ChatFork(conversation=C, turn=T),
    ),
    (
        {"type": "chat.respond", "conversationId": "c1", "requestId": "r1", "approved": False},
        ChatRespond(conversation=C, response=Response("r1", approved=False)),
    ),
    (
        {"type": "chat.respond", "conversationId": "c1", "requestId": "r1", "action": "decline"},
        ChatRespond(conversation=C, response=Response("r1", action="decline")),
    ),
    (
        {"type": "chat.read", "conversationId": "c1", "upToSeq": 0},
        ChatRead(conversation=C, up_to_seq=0),
    ),
    ({"type": "conversations.watch"}, ConversationsWatch()),
    ({"type": "ping"}, Ping()),
    (
        {"type": "subscribe", "surfaceId": "message-queue", "conversationId": "c1"},
        SurfaceFrame(verb="subscribe", surface="message-queue", conversation=C),
    ),
    (
        {"type": "unsubscribe", "surfaceId": "message-queue"},
        SurfaceFrame(verb="unsubscribe", surface="message-queue"),
    ),
    (
        {"type": "invoke", "surfaceId": "x", "actionId": "y", "payload": 1},
        SurfaceFrame(verb="invoke", surface="x"),
    ),
]


def frame_id(value: object) -> str:
    return str(value.get("type")) if isinstance(value, dict) else ""


@pytest.mark.parametrize(("frame", "command"), READ, ids=frame_id)
def test_a_frame_becomes_its_command(frame: Object, command: Frame) -> None:
    assert read_frame(read_object(json.dumps(frame).encode(), depth_max=64)) == command


@pytest.mark.parametrize("frame", [frame for frame, _ in READ], ids=frame_id)
@pytest.mark.parametrize("ref", ["r-1", 7, ""])
def test_every_frame_may_carry_a_ref(frame: Object, ref: str | int) -> None:
    assert read_frame({**frame, "ref": ref}).ref == ref


@pytest.mark.parametrize("ref", [True, 1.5, None, ["x"], {"x": 1}])
def test_a_ref_that_is_no_name_is_left_out(ref: object) -> None:
    assert read_frame({"type": "ping", "ref": ref}).ref is None


@pytest.mark.parametrize("effort", get_args(ReasoningEffort))
def test_every_effort_is_read(effort: str) -> None:
    command = read_frame({"type": "chat.send", "message": "x", "reasoningEffort": effort})
    assert isinstance(command, ChatSend)
    assert command.send.body.reasoning_effort == effort


@pytest.mark.parametrize("on_busy", get_args(OnBusy))
def test_every_choice_for_a_busy_conversation_is_read(on_busy: str) -> None:
    command = read_frame({"type": "chat.send", "message": "x", "onBusy": on_busy})
    assert isinstance(command, ChatSend)
    assert command.send.on_busy == on_busy


@pytest.mark.parametrize(
    ("frame", "conversation"),
    [(frame, frame.get("conversationId")) for frame, _ in READ],
    ids=frame_id,
)
def test_an_answer_can_name_the_conversation_of_its_frame(
    frame: Object, conversation: str | None
) -> None:
    assert conversation_of(read_frame(frame)) == conversation


def send(**fields: object) -> Object:
    return {"type": "chat.send", "message": "x", **fields}


def about(kind: str, **fields: object) -> Object:
    return {"type": kind, "conversationId": "c1", **fields}


NEEDS_ID = "{} requires a non-empty string `conversationId`"
BAD_ID = "{}: malformed `conversationId`: expected 1 to 128 of A-Z a-z 0-9 . _ : -"
EFFORT = 'chat.send: invalid reasoningEffort "{}" — must be one of: low, medium, high, xhigh, max'
IMAGE_URL = "chat.send: each image must have a non-empty string 'url'"
QUEUE_TEXT = "chat.queue requires a non-empty string `text`"

CONTRACT: list[tuple[Object, str]] = [
    ({"type": "chat.send"}, "chat.send requires a non-empty string `message`"),
    (send(message=""), "chat.send requires a non-empty string `message`"),
    (send(message=None), "chat.send requires a non-empty string `message`"),
    (send(message=["x"]), "chat.send requires a non-empty string `message`"),
    (send(reasoningEffort="huge"), EFFORT.format("huge")),
    (send(reasoningEffort=""), EFFORT.format("")),
    (send(reasoningEffort=3), EFFORT.format("3")),
    (send(reasoningEffort=["low"]), EFFORT.format('["low"]')),
    (send(images="x"), "chat.send: 'images' must be an array"),
    (send(images={}), "chat.send: 'images' must be an array"),
    (send(images=["x"]), IMAGE_URL),
    (send(images=[{}]), IMAGE_URL),
    (send(images=[{"url": ""}]), IMAGE_URL),
    (send(images=[{"url": "http://e"}, {"url": 7}]), IMAGE_URL),
    (about("chat.queue"), QUEUE_TEXT),
    (about("chat.queue", text=""), QUEUE_TEXT),
    (about("chat.queue", text=" \n\t"), QUEUE_TEXT),
    (about("chat.queue", text=1), QUEUE_TEXT),
    ({"type": "chat.queue.cancel", "messageId": "m"}, NEEDS_ID.format("chat.queue.cancel")),
    (about("chat.queue.cancel"), "chat.queue.cancel requires a non-empty string `messageId`"),
    (
        about("chat.queue.cancel", messageId=""),
        "chat.queue.cancel requires a non-empty string `messageId`",
    ),
    ({"type": "chat.subscribe"}, NEEDS_ID.format("chat.subscribe")),
    ({"type": "chat.subscribe", "conversationId": ""}, NEEDS_ID.format("chat.subscribe")),
    ({"type": "chat.subscribe", "conversationId": 7}, NEEDS_ID.format("chat.subscribe")),
    ({"type": "chat.unsubscribe"}, NEEDS_ID.format("chat.unsubscribe")),
]
"""The texts that `protocol/native.md`, 1.3, spells out."""

OTHERS: list[tuple[Object, str]] = [
    (send(conversationId=""), NEEDS_ID.format("chat.send")),
    (send(conversationId="a b"), BAD_ID.format("chat.send")),
    (send(conversationId="x" * 129), BAD_ID.format("chat.send")),
    (send(model=""), "chat.send: `model` must be a non-empty string"),
    (send(cwd=7), "chat.send: `cwd` must be a non-empty string"),
    (send(workspaceId="w" * 201), "chat.send: `workspaceId` must be at most 200 characters"),
    (
        send(clientMessageId="m" * 129),
        "chat.send: `clientMessageId` must be at most 128 characters",
    ),
    (
        send(onBusy="wait"),
        'chat.send: invalid onBusy "wait" — must be one of: reject, queue, steer, interrupt',
    ),
    (
        send(images=[{"url": "file:///etc/passwd"}]),
        "chat.send: an image's 'url' must be a data, http or https URL",
    ),
    (
        send(images=[{"url": "data:,", "mimeType": 1}]),
        "chat.send: an image's 'mimeType' must be a string",
    ),
    ({"type": "chat.queue", "text": "x"}, NEEDS_ID.format("chat.queue")),
    ({"type": "chat.subscribe", "conversationId": "../x"}, BAD_ID.format("chat.subscribe")),
    (about("chat.subscribe", after="x"), "malformed position: expected <generation>:<offset>"),
    (about("chat.subscribe", after=3), "malformed position: expected <generation>:<offset>"),
    (
        about("chat.subscribe", sinceSeq=-1),
        "chat.subscribe: `sinceSeq` must be a non-negative integer",
    ),
    (
        about("chat.subscribe", sinceSeq=True),
        "chat.subscribe: `sinceSeq` must be a non-negative integer",
    ),
    (
        about("chat.subscribe", sinceSeq=1, after="g:1"),
        "chat.subscribe takes `after` or `sinceSeq`, not both",
    ),
    ({"type": "chat.stop"}, NEEDS_ID.format("chat.stop")),
    (about("chat.stop", turnId=""), "chat.stop requires a non-empty string `turnId`"),
    (about("chat.fork"), "chat.fork requires a non-empty string `turnId`"),
    (about("chat.respond"), "chat.respond requires a non-empty string `requestId`"),
    (
        about("chat.respond", requestId="r", approved="yes"),
        "chat.respond: Expected `bool | null`, got `str` - at `$.approved`",
    ),
    (about("chat.read"), "chat.read: `upToSeq` must be a non-negative integer"),
    (about("chat.read", upToSeq=1.5), "chat.read: `upToSeq` must be a non-negative integer"),
    (about("chat.read", upToSeq=2**53), "chat.read: `upToSeq` must be a non-negative integer"),
    ({"type": "subscribe"}, "subscribe requires a non-empty string `surfaceId`"),
    ({"type": "invoke", "surfaceId": ""}, "invoke requires a non-empty string `surfaceId`"),
]


@pytest.mark.parametrize(("frame", "text"), CONTRACT + OTHERS)
def test_a_bad_frame_is_refused_with_exactly_this_text(frame: Object, text: str) -> None:
    with pytest.raises(BadFrame) as refused:
        read_frame({**frame, "ref": "r9"})
    assert refused.value.message == text
    assert refused.value.ref == "r9"
    conversation = frame.get("conversationId")
    # What is longer than an id may be is not sent back.
    is_short = isinstance(conversation, str) and len(conversation) <= ECHO_CHARACTERS_MAX
    known = conversation if is_short else None
    assert refused.value.conversation == known


def test_the_text_for_a_busy_conversation_is_the_contracts() -> None:
    assert Busy().message == "a turn is already generating for this conversation"


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        ({}, "Unknown message type: expected a string `type`"),
        ({"type": None}, "Unknown message type: expected a string `type`"),
        ({"type": 5}, "Unknown message type: expected a string `type`"),
        ({"type": "chat.hello"}, "Unknown message type: chat.hello"),
        ({"type": "CHAT.SEND", "message": "x"}, "Unknown message type: CHAT.SEND"),
        ({"type": "__class__"}, "Unknown message type: __class__"),
        ({"type": "x" * 500}, "Unknown message type: " + "x" * 80),
    ],
)
def test_an_unknown_type_is_refused_by_its_name(frame: Object, text: str) -> None:
    with pytest.raises(UnknownFrame) as refused:
        read_frame(frame)
    assert refused.value.message == text


HOSTILE_VALUES = [
    b"123456789012345678901234567890",
    b"-0.0",
    b"1e300",
    b"true",
    b"null",
    b'""',
    b'"\\u0000"',
    b'"' + b"x" * 100_000 + b'"',
    b"[" * 30 + b"]" * 30,
    b'{"__proto__":{"type":"chat.send"}}',
    b'[{"url":{"url":"x"}},null,1]',
    b'{"a":123456789012345678901234567890}',
]
FIELDS = [
    "type", "ref", "message", "conversationId", "model", "cwd", "reasoningEffort", "workspaceId",
    "images", "clientMessageId", "onBusy", "text", "messageId", "after", "sinceSeq", "turnId",
    "requestId", "approved", "optionId", "editedInput", "reason", "action", "answers", "upToSeq",
    "surfaceId", "extra",
]  # fmt: skip


def said_to(data: bytes) -> str:
    """The error's text, or nothing where the frame is a command."""
    try:
        command = read_frame(read_object(data, depth_max=64))
    except PeerError as error:
        return error.message
    return "" if isinstance(command, Frame) else "no command"


@pytest.mark.parametrize("value", HOSTILE_VALUES, ids=lambda value: value[:24].decode())
@pytest.mark.parametrize("frame", [frame for frame, _ in READ], ids=frame_id)
def test_a_hostile_value_in_any_field_is_a_command_or_a_typed_error(
    frame: Object, value: bytes
) -> None:
    for field in FIELDS:
        fields = {**frame, field: msgspec.Raw(value)}
        began = time.process_time()
        text = said_to(msgspec.json.encode(fields))
        assert time.process_time() - began < 0.05
        length = len(text)
        assert length < 400


@given(st.dictionaries(st.sampled_from(FIELDS), st.none() | st.text(max_size=4) | st.integers()))
def test_any_object_is_a_command_or_a_typed_error(fields: dict[str, Any]) -> None:
    for kind in ("chat.send", "chat.subscribe", "chat.respond", fields.get("type")):
        with suppress(PeerError):
            assert isinstance(read_frame({**fields, "type": kind}), Frame)


# -- what clients are told ---------------------------------------------------------------------


def entry(event: AnyEvent, offset: int, turn: TurnId = T) -> Entry:
    kinds = {TextDelta: "text-delta", ReasoningDelta: "reasoning-delta"}
    return Entry(offset, turn, encode_event(event), kinds.get(type(event), ""))


def entries(body: list[AnyEvent]) -> list[Entry]:
    return [entry(event, offset) for offset, event in enumerate(body, 1)]


def told(dialect: ChatDialect, *shown: Entry) -> list[Any]:
    return [json.loads(frame) for frame in dialect.entries(C, shown)]


def test_an_old_connection_gets_the_event_with_its_ids_and_nothing_else() -> None:
    assert told(OLD, entry(TextDelta('a"\u2028'), 5)) == [
        {
            "type": "chat.delta",
            "event": {
                "type": "text-delta",
                "delta": 'a"\u2028',
                "conversationId": "c1",
                "turnId": "t1",
            },
        }
    ]


def test_a_v1_connection_gets_the_position_beside_the_event() -> None:
    (frame,) = told(V1, entry(TextDelta("a"), 5))
    assert frame["position"] == "g1:5"
    assert told(OLD, entry(TextDelta("a"), 5)) == [
        {key: value for key, value in frame.items() if key != "position"}
    ]


def test_old_connections_get_steering_as_a_user_message() -> None:
    (old,), (new,) = told(OLD, entry(Steering("left"), 1)), told(V1, entry(Steering("left"), 1))
    ids = {"text": "left", "conversationId": "c1", "turnId": "t1"}
    assert old["event"] == {"type": "user-message", **ids}
    assert new["event"] == {"type": "steering", **ids}


@pytest.mark.parametrize(
    "event",
    [
        ProviderRetry(0, 100.0, "busy"),
        Request("r1", "approval", "May I?"),
        RequestClosed("r1", "cancelled"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_old_connections_do_not_get_what_they_cannot_know(event: AnyEvent) -> None:
    assert told(OLD, entry(event, 1)) == []
    assert event_line(C, entry(event, 1)) is None
    assert told(OLD, entry(TextDelta("a"), 1), entry(event, 2), entry(TextDelta("b"), 3)) == [
        *told(OLD, entry(TextDelta("a"), 1)),
        *told(OLD, entry(TextDelta("b"), 3)),
    ]
    assert len(told(V1, entry(event, 1))) == 1


def test_a_request_is_a_frame_of_its_own_with_a_position() -> None:
    request = Request("r1", "approval", "May I?", tool_call_id="c9")
    assert told(V1, entry(request, 8)) == [
        {
            "type": "chat.request",
            "conversationId": "c1",
            "turnId": "t1",
            "position": "g1:8",
            "requestId": "r1",
            "kind": "approval",
            "title": "May I?",
            "toolCallId": "c9",
        }
    ]
    assert told(V1, entry(RequestClosed("r1", "answered", "ann"), 9)) == [
        {
            "type": "chat.request.closed",
            "conversationId": "c1",
            "turnId": "t1",
            "position": "g1:9",
            "requestId": "r1",
            "outcome": "answered",
            "by": "ann",
        }
    ]


def test_merged_deltas_carry_the_position_of_the_last() -> None:
    shown = entries([TextDelta("a"), TextDelta("é\n"), TextDelta('"')])
    (frame,) = told(V1, *shown)
    assert frame["event"]["delta"] == 'aé\n"'
    assert frame["position"] == "g1:3"
    assert told(OLD, *shown)[0]["event"]["delta"] == 'aé\n"'


def test_deltas_of_another_kind_or_turn_are_not_merged() -> None:
    shown = [
        entry(TextDelta("a"), 1),
        entry(ReasoningDelta("b"), 2),
        entry(TextDelta("c"), 3),
        entry(TextDelta("d"), 4, T2),
    ]
    frames = told(V1, *shown)
    assert [(f["event"]["delta"], f["event"]["turnId"]) for f in frames] == [
        ("a", "t1"),
        ("b", "t1"),
        ("c", "t1"),
        ("d", "t2"),
    ]


def test_a_merged_frame_is_bounded() -> None:
    frames = told(V1, *entries([TextDelta("x" * 400)] * 10))
    assert "".join(f["event"]["delta"] for f in frames) == "x" * 4000
    assert len(frames) > 1
    assert all(len(f["event"]["delta"]) <= 1000 + 400 for f in frames)
    assert frames[-1]["position"] == "g1:10"


def collapsed(frames: list[Any]) -> list[Any]:
    """The frames with adjacent deltas of a kind joined, and the position of the last."""
    result: list[Any] = []
    for frame in frames:
        event = frame.get("event", {})
        before = result[-1].get("event", {}) if result else {}
        if "delta" in event and event["type"] == before.get("type"):
            joined = {**event, "delta": before["delta"] + event["delta"]}
            result[-1] = {**frame, "event": joined}
        else:
            result.append(frame)
    return result


@given(bodies, st.lists(st.integers(0, 20), max_size=4))
@pytest.mark.parametrize("dialect", [OLD, V1], ids=["old", "v1"])
def test_however_a_log_is_cut_into_writes_the_frames_say_the_same(
    dialect: ChatDialect, body: list[AnyEvent], cuts: list[int]
) -> None:
    shown = entries(body)
    edges = sorted({0, len(shown), *(cut for cut in cuts if cut < len(shown))})
    pieces = [frame for start, end in pairwise(edges) for frame in told(dialect, *shown[start:end])]
    assert collapsed(pieces) == collapsed(told(dialect, *shown))
    singly = [frame for one in shown for frame in told(dialect, one)]
    assert collapsed(singly) == collapsed(pieces)


@given(events)
def test_v1_shows_every_event_once_with_its_position(event: AnyEvent) -> None:
    (frame,) = told(V1, entry(event, 4))
    assert frame["position"] == "g1:4"
    fields = json.loads(encode_event(event))
    shown = frame["event"] if frame["type"] == "chat.delta" else frame
    kind = fields.pop("type")
    assert fields.items() <= {**shown, "type": kind}.items()
    if frame["type"] == "chat.delta":
        assert shown["type"] == kind
        assert (shown["conversationId"], shown["turnId"]) == ("c1", "t1")


@given(events)
def test_a_line_of_a_stream_is_what_an_old_frame_carries(event: AnyEvent) -> None:
    line = event_line(C, entry(event, 4))
    frames = told(OLD, entry(event, 4))
    assert [frame["event"] for frame in frames] == ([] if line is None else [json.loads(line)])


# -- replies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "fields"),
    [
        (
            Accepted(conversation=C, turn=T, place="started", offset=3),
            {"turnId": "t1", "position": "g1:3"},
        ),
        (
            Accepted(conversation=C, turn=T, place="queued", offset=0),
            {"queueId": "t1", "position": "g1:0"},
        ),
        (
            Accepted(conversation=C, turn=T, place="steered", offset=9, duplicate=True),
            {"steered": True, "position": "g1:9", "duplicate": True},
        ),
    ],
)
def test_an_acknowledgement_says_what_became_of_the_message(
    accepted: Accepted, fields: Object
) -> None:
    base = {"type": "chat.accepted", "conversationId": "c1"}
    assert json.loads(V1.accepted(accepted, None, None)) == base | fields
    assert json.loads(V1.accepted(accepted, "m1", 7)) == (
        base | fields | {"clientMessageId": "m1", "ref": 7}
    )


def test_an_error_carries_its_code_for_v1_and_its_text_for_everybody() -> None:
    busy = Busy()
    assert json.loads(OLD.error(busy, "c1", "r1")) == {
        "type": "chat.error",
        "message": "a turn is already generating for this conversation",
        "conversationId": "c1",
    }
    assert json.loads(V1.error(busy, "c1", "r1")) == {
        "type": "chat.error",
        "message": "a turn is already generating for this conversation",
        "conversationId": "c1",
        "code": "busy",
        "retryable": True,
        "ref": "r1",
    }
    limited = RateLimited("slower", retry_after_ms=50)
    assert json.loads(V1.error(limited))["retryAfterMs"] == 50
    conflict = json.loads(V1.error(Conflict("no"), "c1"))
    assert (conflict["code"], conflict["retryable"]) == ("conflict", False)
    assert json.loads(OLD.error(PeerError("Invalid JSON"), kind="error")) == {
        "type": "error",
        "message": "Invalid JSON",
    }


def test_a_history_frame_splices_chunks_as_they_are_kept() -> None:
    lines = [encode_line("user", Text("hi")), encode_line("assistant", Text('"\u2028'))]
    chunks = [with_seq(line[:-1], seq) for seq, line in enumerate(lines, 4)]
    assert json.loads(chunks_frame("chat.history", C, chunks, 5, more=True)) == {
        "type": "chat.history",
        "conversationId": "c1",
        "chunks": [
            {"seq": 4, "role": "user", "chunk": {"type": "text", "text": "hi"}},
            {"seq": 5, "role": "assistant", "chunk": {"type": "text", "text": '"\u2028'}},
        ],
        "latestSeq": 5,
        "more": True,
    }
    assert json.loads(chunks_frame("chat.history", C, [], 0, more=False))["chunks"] == []


def test_the_queue_is_a_surface_with_one_field() -> None:
    queue = [Waiting(T, 1, "first", 111), Waiting(T2, 2, "second", 222)]
    spec = {
        "id": "message-queue",
        "region": "side",
        "title": "Queue",
        "fields": [
            {
                "kind": "custom",
                "rendererId": "message-queue",
                "payload": {
                    "messages": [
                        {"id": "t1", "text": "first", "queuedAt": 111},
                        {"id": "t2", "text": "second", "queuedAt": 222},
                    ]
                },
            }
        ],
    }
    assert json.loads(queue_surface(C, queue, is_update=False)) == {
        "type": "surface",
        "spec": spec,
        "conversationId": "c1",
    }
    assert json.loads(queue_surface(C, queue, is_update=True)) == {
        "type": "update",
        "update": {"surfaceId": "message-queue", "spec": spec, "conversationId": "c1"},
    }
    assert queue_messages([]) == []


# -- notices -----------------------------------------------------------------------------------

WHERE = {"account": AccountId("a"), "conversation": C}

NOTICES: list[tuple[AnyNotice, Object, bool]] = [
    (Opened(**WHERE, workspace="w"), {"type": "conversation.open", "workspaceId": "w"}, True),
    (
        StatusNotice(**WHERE, workspace="w", status="active"),
        {"type": "conversation.statusChanged", "status": "active", "workspaceId": "w"},
        True,
    ),
    (TitleNotice(**WHERE, title="T"), {"type": "conversation.titleChanged", "title": "T"}, False),
    (DeletedNotice(**WHERE), {"type": "conversation.deleted"}, False),
    (
        ReadNotice(**WHERE, user=UserId("u"), last_read_seq=3, unread=2),
        {"type": "chat.read", "lastReadSeq": 3, "unread": 2},
        False,
    ),
]


@pytest.mark.parametrize(
    ("notice", "fields", "is_old"), NOTICES, ids=[type(n).__name__ for n, _, _ in NOTICES]
)
def test_a_notice_has_its_frame_and_old_connections_only_get_what_they_know(
    notice: AnyNotice, fields: Object, is_old: bool
) -> None:
    frame = V1.notice(notice)
    assert frame is not None
    assert json.loads(frame) == fields | {"conversationId": "c1"}
    assert OLD.notice(notice) == (frame if is_old else None)
