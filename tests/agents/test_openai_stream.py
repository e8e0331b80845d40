"""What endpoints stream, as events: the shapes that servers give it, and those they should not."""

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.agents.lines import Lines
from dispatch.agents.openai.failures import EndpointFailure
from dispatch.agents.openai.stream import Answer
from dispatch.core.events import (
    AgentEvent,
    Done,
    ReasoningDelta,
    TextDelta,
    TokenUsage,
    ToolCall,
    encode_event,
)
from tests.agents.answers import DONE, data, piece, text


def taken(stream: bytes, step: int = 1 << 20) -> tuple[Answer, list[AgentEvent]]:
    """The answer of a whole stream, read in steps of so many bytes."""
    answer, lines, events = Answer(""), Lines(1 << 20), []
    for start in range(0, len(stream), step):
        for line in lines.feed(stream[start : start + step]):
            events += answer.take(line)
    for line in lines.rest():
        events += answer.take(line)
    return answer, events


def calls(*pieces: dict) -> list[tuple[str, str, object]]:
    """Id, name and input of each call that was made of the pieces of `tool_calls`."""
    answer, events = taken(b"".join(piece(tool_calls=[one]) for one in pieces))
    assert events == []
    return [
        (event.tool_call_id, event.tool_name, json.loads(bytes(event.input)))
        for event in answer.calls()
        if isinstance(event, ToolCall)
    ]


def call(name: str = "", arguments: object = "", **fields: object) -> dict:
    return {"function": {"name": name, "arguments": arguments}, **fields}


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 40))
def test_a_stream_read_in_any_steps_says_the_same(words: str, step: int) -> None:
    stream = b": ping\r\n\r\n" + text("a", words, "b") + piece("stop") + DONE
    answer, events = taken(stream, step)
    assert "".join(event.delta for event in events) == f"a{words}b"
    assert answer.done() == Done("stop")


def test_servers_that_know_both_names_for_thinking_are_heard_once() -> None:
    _, events = taken(piece(reasoning="hm", reasoning_content="hm"))
    assert events == [ReasoningDelta("hm")]


def test_thinking_and_text_of_one_piece_come_in_this_order() -> None:
    _, events = taken(piece(content="so", reasoning="hm"))
    assert events == [ReasoningDelta("hm"), TextDelta("so")]


def test_content_may_be_a_list_of_parts() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    _, events = taken(piece(content=[thought, {"type": "text", "text": "so"}, {"type": "x"}, 7]))
    assert events == [ReasoningDelta("hm"), TextDelta("so")]


@pytest.mark.parametrize("content", [7, {"text": "x"}, True, [], ""])
def test_content_that_is_none_says_nothing(content: object) -> None:
    assert taken(piece(content=content, reasoning=content, refusal=content))[1] == []


def test_another_choice_is_not_mixed_into_the_first() -> None:
    other = data({"choices": [{"index": 1, "delta": {"content": "no"}}]})
    assert taken(text("yes") + other)[1] == [TextDelta("yes")]


@pytest.mark.parametrize("line", [b"data:", b"data: ", b"event: ping", b"id: 7", b"nonsense", b":"])
def test_lines_without_a_payload_say_nothing(line: bytes) -> None:
    answer = Answer("")
    assert answer.take(line) == []
    assert not answer.is_complete


def test_calls_are_told_apart_by_their_index() -> None:
    assert calls(
        call("find", '{"x":', index=0, id="a"),
        call("keep", '{"y":', index=1, id="b"),
        call(arguments="1}", index=0),
        call(arguments="2}", index=1),
    ) == [("a", "find", {"x": 1}), ("b", "keep", {"y": 2})]


def test_calls_with_one_index_are_told_apart_by_their_ids() -> None:
    found = calls(call("f", '{"x":1}', index=0, id="a"), call("f", '{"x":2}', index=0, id="b"))
    assert found == [("a", "f", {"x": 1}), ("b", "f", {"x": 2})]


def test_calls_without_an_index_are_told_apart_by_ids_or_names() -> None:
    assert [c[0] for c in calls(call("f", "{}", id="a"), call("f", "{}", id="b"))] == ["a", "b"]
    assert [c[1] for c in calls(call("f", "{}"), call("g", "{}"))] == ["f", "g"]


def test_calls_without_ids_or_with_one_get_ids_of_their_own() -> None:
    assert [c[0] for c in calls(call("f", index=0), call("g", index=1))] == ["call-0", "call-1"]
    same = [call("f", index=0, id="a"), call("g", index=1, id="a")]
    assert len({c[0] for c in calls(*same)}) == 2


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("", {}),
        ("  \n", {}),
        ('{"x": 1}', {"x": 1}),
        ('{"x": ', '{"x": '),
        ("NaN", "NaN"),
        ("[" * 100_000, "[" * 100_000),
        ({"x": 1}, {"x": 1}),
        (None, {}),
    ],
)
def test_a_calls_input_is_json_whatever_the_model_wrote(arguments: object, found: object) -> None:
    assert calls(call("f", arguments, index=0, id="a")) == [("a", "f", found)]


def test_calls_without_end_are_ended() -> None:
    made = [call("f", "{}", id=f"call-{number}") for number in range(128)]
    assert len(calls(*made)) == 128
    with pytest.raises(EndpointFailure, match="more than 128 tool calls"):
        calls(*made, call("f", "{}", id="one-more"))


def test_an_input_of_several_lines_is_stored_as_one() -> None:
    answer, _ = taken(piece(tool_calls=[call("f", '{\n"x": 1\n}', index=0)]))
    shown = next(answer.calls())
    assert b"\n" not in encode_event(shown)


def test_the_last_counts_are_those_that_count() -> None:
    def counts(**usage: object) -> bytes:
        return data({"choices": [], "usage": usage})

    first = counts(prompt_tokens=1, completion_tokens=1)
    last = counts(
        prompt_tokens=9.0, completion_tokens=5, prompt_tokens_details={"cached_tokens": 4}
    )
    answer, _ = taken(first + last + counts(prompt_tokens=-1, completion_tokens="x") + DONE)
    assert answer.usage == TokenUsage(9, 5, cache_read_tokens=4)
    assert answer.done() == Done("stop", context_size=14)


@pytest.mark.parametrize("reason", ["aborted", "interrupted", "error", "cancelled"])
def test_an_endpoint_cannot_say_that_somebody_stopped_the_turn(reason: str) -> None:
    answer, _ = taken(text("x") + piece(reason) + DONE)
    with pytest.raises(EndpointFailure) as failure:
        answer.done()
    assert failure.value.code == "provider_failed"


def test_an_error_as_some_servers_put_it_is_one() -> None:
    with pytest.raises(EndpointFailure) as failure:
        taken(data({"object": "error", "message": "out of memory", "code": 500}))
    assert failure.value.message == "the endpoint failed (500): out of memory"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "content", "tool_calls", "function", "usage", "error", "index"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_no_payload_does_more_than_fail(value: object) -> None:
    answer, events = Answer(""), []
    with suppress(EndpointFailure):
        answer.take(b"data: " + json.dumps(value).encode())
        events = [*answer.calls(), answer.done()]
    assert all(msgspec.json.decode(encode_event(event)) for event in events)
