"""The payload of every stored event: JSON with its `type` first, and the same when read back."""

import json

import msgspec
import pytest
from hypothesis import given

from dispatch.core.content import (
    DELTA_SUFFIX,
    REASONING_DELTA_PREFIX,
    TEXT_DELTA_PREFIX,
    delta_text,
)
from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
    ReasoningDelta,
    RequestClosed,
    Response,
    StepComplete,
    TextDelta,
    ToolCall,
    TurnSealed,
    TurnStart,
    Usage,
    UserMessage,
    answer_of,
    closed_by,
    decode_agent_event,
    decode_event,
    encode_event,
)
from tests.properties.strategies import events, texts

NEVER_FROM_AN_AGENT = (UserMessage, TurnStart, RequestClosed, TurnSealed)


def without_nulls(value: object) -> bool:
    match value:
        case dict():
            return all(without_nulls(inner) for inner in value.values())
        case list():
            return all(without_nulls(inner) for inner in value)
    return value is not None


@given(events)
def test_an_event_is_one_json_object_whose_first_member_is_its_type(event: AnyEvent) -> None:
    payload = encode_event(event)
    tag = type(event).__struct_config__.tag
    assert payload.startswith(b'{"type":"%b"' % str(tag).encode())
    assert payload.endswith(b"}")
    assert next(iter(json.loads(payload))) == "type"


@given(events)
def test_an_event_is_the_same_when_it_is_read_back(event: AnyEvent) -> None:
    payload = encode_event(event)
    back = decode_event(payload)
    assert encode_event(back) == payload
    if isinstance(event, ToolCall):
        assert json.loads(bytes(back.input)) == json.loads(bytes(event.input))
    else:
        assert back == event


@given(events)
def test_an_event_is_one_line(event: AnyEvent) -> None:
    assert not {b"\n"[0], b"\r"[0]} & set(encode_event(event))


def test_a_tool_input_that_came_pretty_printed_is_still_one_line() -> None:
    raw = msgspec.Raw(b'{\n  "path": "a\\nb",\r\n\t"deep": [\n1,\n2]\n}')
    payload = encode_event(ToolCall("c1", "read", raw, "s1"))
    assert b"\n" not in payload
    assert b"\r" not in payload
    assert json.loads(payload)["input"] == {"path": "a\nb", "deep": [1, 2]}


@given(texts)
def test_a_delta_is_its_prefix_its_escaped_text_and_its_suffix(text: str) -> None:
    for kind, prefix in ((TextDelta, TEXT_DELTA_PREFIX), (ReasoningDelta, REASONING_DELTA_PREFIX)):
        payload = encode_event(kind(text))
        escaped = delta_text(payload)
        assert payload == prefix + escaped + DELTA_SUFFIX
        assert json.loads(b'"%b"' % escaped) == text


@pytest.mark.parametrize(
    "event",
    [Done("stop"), StepComplete(), ErrorEvent("x"), UserMessage("x"), TextDelta("")],
    ids=lambda event: type(event).__name__,
)
def test_what_is_absent_is_left_out_and_never_null(event: AnyEvent) -> None:
    assert without_nulls(json.loads(encode_event(event)))


@given(events)
def test_an_agent_can_say_everything_but_what_is_the_brokers_to_say(event: AnyEvent) -> None:
    payload = encode_event(event)
    if isinstance(event, NEVER_FROM_AN_AGENT):
        with pytest.raises(msgspec.ValidationError, match="Invalid value"):
            decode_agent_event(payload)
    else:
        assert encode_event(decode_agent_event(payload)) == payload


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not json",
        b"[]",
        b'{"delta":"no type"}',
        b'{"type":"text-delta"}',
        b'{"type":"text-delta","delta":1}',
        b'{"type":"text-delta","delta":null}',
        b'{"type":"usage","usage":{"inputTokens":"many","outputTokens":1}}',
        b'{"type":"tool-output","toolCallId":"c","data":"x","stream":"stdlog"}',
        b'{"type":"hello"}',
    ],
)
def test_a_line_that_is_no_event_is_refused_with_one_kind_of_error(line: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_agent_event(line)


def test_fields_that_nobody_knows_are_passed_over() -> None:
    line = b'{"delta":"hi","type":"text-delta","later":{"x":1}}'
    assert decode_agent_event(line) == TextDelta("hi")


def test_a_usage_counts_what_it_names() -> None:
    line = b'{"type":"usage","usage":{"inputTokens":1,"outputTokens":2},"stepId":"s"}'
    event = decode_agent_event(line)
    assert isinstance(event, Usage)
    assert (event.usage.input_tokens, event.usage.output_tokens, event.step_id) == (1, 2, "s")


def test_an_answer_with_an_edited_input_is_read_back_as_it_was_given() -> None:
    edited, answers = msgspec.Raw(b'{"command":"ls"}'), {"place": msgspec.Raw(b'"Rome"')}
    answer = Response("r", approved=True, edited_input=edited, answers=answers)
    closed = decode_event(encode_event(closed_by(answer, "ann")))
    assert isinstance(closed, RequestClosed)
    read = answer_of(closed)
    assert read is not None
    assert msgspec.json.encode(read) == msgspec.json.encode(answer)
