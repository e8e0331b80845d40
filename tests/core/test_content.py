"""The fold: what is kept of a turn depends on its events alone, however they came to it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.content import (
    Chunk,
    ErrorChunk,
    Fold,
    ImageChunk,
    StoredChunk,
    StoredLine,
    System,
    Text,
    Thinking,
    ToolCallChunk,
    ToolResultChunk,
    decode_line,
    delta_text,
    encode_line,
    with_seq,
)
from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
    Image,
    ProviderRetry,
    ReasoningDelta,
    Request,
    RequestClosed,
    Steering,
    StepComplete,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolOutput,
    ToolResult,
    TurnSealed,
    TurnStart,
    Usage,
    UserMessage,
    encode_event,
)
from tests.properties.strategies import bodies, events

NOTHING = msgspec.Raw(b"{}")
A, B = TextDelta("a"), TextDelta("b")


def fold(events: list[AnyEvent]) -> bytes:
    folded = Fold()
    for event in events:
        folded.add(event, encode_event(event))
    folded.finish()
    return folded.take()[1]


def lines(data: bytes) -> list[StoredLine]:
    assert data == b"" or data.endswith(b"\n")
    return [decode_line(line) for line in data.split(b"\n")[:-1]]


def plain(data: bytes) -> list[tuple[str, Any]]:
    return [
        (line.role, msgspec.json.decode(msgspec.json.encode(line.chunk))) for line in lines(data)
    ]


def merged(events: list[AnyEvent]) -> list[AnyEvent]:
    """Adjacent deltas of a kind as one, the way the journal stores them."""
    result: list[AnyEvent] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, TextDelta | ReasoningDelta) and type(event) is type(last):
            result[-1] = type(event)(last.delta + event.delta)
        else:
            result.append(event)
    return result


def text(said: str, role: str = "assistant") -> tuple[str, dict[str, str]]:
    return role, {"type": "text", "text": said}


CALL = ToolCall("c1", "read", msgspec.Raw(b'{"path": "x"}'), "s1")
RESULT = ToolResult("c1", "read", "content", False, "s1", 12.5)

ENDING = [
    (CALL, ("assistant", {"type": "tool-call", "toolCallId": "c1", "toolName": "read",
                          "input": {"path": "x"}, "stepId": "s1"})),
    (RESULT, ("tool", {"type": "tool-result", "toolCallId": "c1", "toolName": "read",
                       "content": "content", "isError": False, "stepId": "s1"})),
    (ErrorEvent("bad", "code"), ("assistant", {"type": "error", "message": "bad", "code": "code"})),
    (Steering("left"), text("left", "user")),
    (StepComplete("s1"), None),
]  # fmt: skip

NOT_ENDING = [
    Usage(TokenUsage(1, 2)),
    ToolOutput("c1", "x", "stdout"),
    ProviderRetry(0, 1.0, "again"),
    Request("r1", "approval", "May I?"),
    RequestClosed("r1", "answered"),
    TextDelta(""),
]


def kind(value: object) -> str:
    return type(value).__name__ if isinstance(value, msgspec.Struct) else ""


@pytest.mark.parametrize(("event", "kept"), ENDING, ids=kind)
def test_a_run_ends_at(event: AnyEvent, kept: tuple[str, Any] | None) -> None:
    between = [] if kept is None else [kept]
    assert plain(fold([A, B, event, A])) == [text("ab"), *between, text("a")]


@pytest.mark.parametrize("event", NOT_ENDING, ids=kind)
def test_a_run_goes_on_over(event: AnyEvent) -> None:
    assert plain(fold([A, event, B])) == [text("ab")]


def test_a_delta_of_the_other_kind_begins_another_chunk() -> None:
    thought = ("assistant", {"type": "thinking", "text": "hm"})
    assert plain(fold([A, ReasoningDelta("hm"), B])) == [text("a"), thought, text("b")]


def test_a_message_is_kept_as_the_users_text_and_a_chunk_for_each_image() -> None:
    message = UserMessage("look", (Image("data:,x", "image/png"), Image("https://e/x")), "ann")
    assert plain(fold([message, TurnStart(), A, Done("stop"), TurnSealed()])) == [
        text("look", "user"),
        ("user", {"type": "image", "url": "data:,x", "mimeType": "image/png"}),
        ("user", {"type": "image", "url": "https://e/x"}),
        text("a"),
    ]


def test_an_empty_delta_begins_no_chunk() -> None:
    folded = Fold()
    for event in (TextDelta(""), ReasoningDelta("")):
        folded.add(event, encode_event(event))
    folded.finish()
    assert (folded.chunk_count, folded.take()) == (0, (0, b""))


def test_a_step_that_nobody_named_is_left_out() -> None:
    ((_, call),) = plain(fold([ToolCall("c1", "read", NOTHING)]))
    assert "stepId" not in call
    ((_, result),) = plain(fold([ToolResult("c1", "read", "", True)]))
    assert "stepId" not in result


def test_a_tool_input_over_many_lines_is_kept_on_one() -> None:
    ((_, call),) = plain(fold([ToolCall("c1", "read", msgspec.Raw(b'{\n"a": [\r\n1]}'))]))
    assert call["input"] == {"a": [1]}


def reference(events: list[AnyEvent]) -> list[tuple[str, Any]]:
    """The fold again, told as simply as it can be: on strings, all at once."""
    kept: list[tuple[str, Any]] = []
    run: str | None = None
    for event in events:
        match event:
            case TextDelta(delta=delta) | ReasoningDelta(delta=delta):
                type_ = "text" if isinstance(event, TextDelta) else "thinking"
                if not delta:
                    continue
                if run != type_:
                    run = type_
                    kept.append(("assistant", {"type": type_, "text": ""}))
                kept[-1][1]["text"] += delta
                continue
            case UserMessage():
                kept.append(text(event.text, "user"))
                for image in event.images:
                    mime = {} if image.mime_type is None else {"mimeType": image.mime_type}
                    kept.append(("user", {"type": "image", "url": image.url, **mime}))
            case Steering():
                kept.append(text(event.text, "user"))
            case ErrorEvent():
                code = {} if event.code is None else {"code": event.code}
                kept.append(("assistant", {"type": "error", "message": event.message, **code}))
            case ToolCall() | ToolResult():
                fields: dict[str, Any] = {
                    "type": "tool-call" if isinstance(event, ToolCall) else "tool-result",
                    "toolCallId": event.tool_call_id,
                    "toolName": event.tool_name,
                }
                if isinstance(event, ToolCall):
                    fields["input"] = msgspec.json.decode(event.input)
                else:
                    fields |= {"content": event.content, "isError": event.is_error}
                if event.step_id:
                    fields["stepId"] = event.step_id
                kept.append(("assistant" if isinstance(event, ToolCall) else "tool", fields))
            case StepComplete():
                pass
            case _:
                continue
        run = None
    return kept


@given(st.lists(events, max_size=25))
def test_the_fold_is_what_a_plain_reading_of_the_contract_says(events: list[AnyEvent]) -> None:
    assert plain(fold(events)) == reference(events)


@given(bodies)
def test_merged_or_not_the_kept_bytes_are_the_same(body: list[AnyEvent]) -> None:
    assert fold(body) == fold(merged(body))


@given(bodies, st.sets(st.integers(0, 20)))
def test_taken_in_any_pieces_the_kept_bytes_are_the_same(
    body: list[AnyEvent], cuts: set[int]
) -> None:
    folded, pieces, taken = Fold(), [], 0
    for index, event in enumerate(body):
        folded.add(event, encode_event(event))
        if index in cuts:
            assert folded.bytes_taken == taken
            waiting = folded.bytes_waiting
            begun_before = b"".join(pieces).count(b'"role":')
            first_index, data = folded.take()
            assert (first_index, len(data)) == (begun_before, waiting)
            pieces.append(data)
            taken += len(data)
    folded.finish()
    pieces.append(folded.take()[1])
    assert folded.bytes_waiting == 0
    assert b"".join(pieces) == fold(body)
    assert folded.chunk_count == len(lines(fold(body)))


@given(bodies, bodies)
def test_what_was_staged_before_a_crash_is_not_written_again(
    before: list[AnyEvent], after: list[AnyEvent]
) -> None:
    staged = Fold()
    for event in before:
        staged.add(event, encode_event(event))
    _, piece = staged.take()
    rebuilt = Fold()
    for event in before + after:
        rebuilt.add(event, encode_event(event))
    rebuilt.forget(len(piece))
    rebuilt.finish()
    assert rebuilt.bytes_taken == len(piece)
    assert piece + rebuilt.take()[1] == fold(before + after)


@given(st.text(max_size=40))
def test_escaped_text_is_appended_as_it_is(said: str) -> None:
    folded = Fold()
    folded.add_delta(TextDelta, delta_text(encode_event(TextDelta(said))))
    folded.finish()
    assert [line.chunk for line in lines(folded.take()[1])] == ([Text(said)] if said else [])


@pytest.mark.parametrize(
    "chunk",
    [
        Text('a\nb\u2028"\\\x00'),
        Thinking(""),
        ErrorChunk("m"),
        ErrorChunk("m", "c"),
        System("s"),
        ImageChunk("data:,", "image/png"),
        ToolResultChunk("c", "n", "x", True, "s"),
    ],
    ids=kind,
)
def test_a_chunk_is_one_line_and_the_same_when_it_is_read_back(chunk: Chunk) -> None:
    line = encode_line("system", chunk)
    assert line.count(b"\n") == 1
    assert decode_line(line[:-1]) == StoredLine("system", chunk)
    wire = msgspec.json.decode(with_seq(line[:-1], 7), type=StoredChunk)
    assert wire == StoredChunk(7, "system", chunk)
    assert with_seq(line[:-1], 7).startswith(b'{"seq":7,"role":"system","chunk":{"type":"')


def test_a_tool_call_is_kept_with_its_input_untouched() -> None:
    raw = msgspec.Raw(b'{"n": 1e5, "u": "\\u00e9", "n": 2}')
    line = encode_line("assistant", ToolCallChunk("c", "n", raw, "s"))
    assert bytes(raw) in line
