"""A conversation as messages: whose words go where, and in which order."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dispatch.agents.openai.messages import messages_of
from dispatch.agents.port import GO_ON
from dispatch.core.content import (
    ErrorChunk,
    ImageChunk,
    StoredLine,
    System,
    Text,
    Thinking,
    ToolCallChunk,
    ToolResultChunk,
)
from dispatch.core.events import Image
from tests.contract.agent import turn


def user(text: str) -> StoredLine:
    return StoredLine("user", Text(text))


def said(text: str) -> StoredLine:
    return StoredLine("assistant", Text(text))


def called(call_id: str, arguments: bytes = b"{}") -> StoredLine:
    return StoredLine("assistant", ToolCallChunk(call_id, "find", msgspec.Raw(arguments)))


def gave(call_id: str, content: str) -> StoredLine:
    return StoredLine("tool", ToolResultChunk(call_id, "find", content, is_error=False))


def messages(*lines: StoredLine, message: str = "now", system: str | None = None, **fields) -> list:
    return messages_of(list(lines), turn(message, **fields), system)


def call(call_id: str, arguments: str = "{}") -> dict:
    function = {"name": "find", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


NOW = {"role": "user", "content": "now"}


def test_a_conversation_is_what_was_said_by_turns() -> None:
    assert messages(user("q"), said("a"), user("r"), said("b"), system="be kind") == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "b"},
        NOW,
    ]


def test_thoughts_and_errors_are_nobodys_words() -> None:
    lines = [
        user("q"),
        StoredLine("assistant", Thinking("hm")),
        said("so far"),
        StoredLine("assistant", ErrorChunk("it broke", "cut_off")),
    ]
    assert messages(*lines) == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "so far"},
        NOW,
    ]


def test_what_was_said_in_pieces_is_one_message() -> None:
    lines = [user("q"), said("one"), StoredLine("assistant", Thinking("hm")), said("two")]
    assert messages(*lines)[1] == {"role": "assistant", "content": "one\n\ntwo"}


def test_messages_without_an_answer_between_them_are_one() -> None:
    """A turn that was stopped before it said anything, and one that was steered."""
    assert messages(user("first"), user("second")) == [
        {"role": "user", "content": "first\n\nsecond\n\nnow"}
    ]


def test_pictures_stay_beside_their_words() -> None:
    lines = [user("look"), StoredLine("user", ImageChunk("data:a")), said("nice")]
    found = messages(*lines, message="", images=(Image("https://x.example"),))
    assert found == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:a"}},
            ],
        },
        {"role": "assistant", "content": "nice"},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "https://x.example"}}],
        },
    ]


def test_calls_are_followed_by_their_results_in_order() -> None:
    lines = [
        user("q"),
        said("let me see"),
        called("1", b'{"x": 1.50}'),
        called("2"),
        gave("2", "two"),
        gave("1", "one"),
        said("found"),
    ]
    assert messages(*lines) == [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "let me see",
            "tool_calls": [call("1", '{"x": 1.50}'), call("2")],
        },
        {"role": "tool", "tool_call_id": "1", "content": "one"},
        {"role": "tool", "tool_call_id": "2", "content": "two"},
        {"role": "assistant", "content": "found"},
        NOW,
    ]


def test_a_result_that_came_late_stands_with_its_call() -> None:
    """What the broker adds for an open call comes at the end of its turn."""
    found = messages(user("q"), called("1"), said("meanwhile"), gave("1", "no result was kept"))
    assert found[1:4] == [
        {"role": "assistant", "content": None, "tool_calls": [call("1")]},
        {"role": "tool", "tool_call_id": "1", "content": "no result was kept"},
        {"role": "assistant", "content": "meanwhile"},
    ]


def test_an_id_that_was_used_again_has_its_own_results() -> None:
    lines = [user("q"), called("1"), gave("1", "old"), user("r"), called("1"), gave("1", "new")]
    results = [m["content"] for m in messages(*lines) if m["role"] == "tool"]
    assert results == ["old", "new"]


def test_words_of_the_system_stay_in_their_place() -> None:
    found = messages(user("q"), said("a"), StoredLine("system", System("moved")))
    assert found[2] == {"role": "system", "content": "moved"}


LINES = st.one_of(
    st.just(user("q")),
    st.just(said("a")),
    st.builds(called, st.sampled_from("12")),
    st.builds(gave, st.sampled_from("12"), st.just("out")),
    st.just(StoredLine("user", ImageChunk("data:a"))),
    st.just(StoredLine("assistant", ErrorChunk("no"))),
    st.just(StoredLine("system", System("s"))),
)


@given(st.lists(LINES, max_size=12))
def test_endpoints_get_an_order_they_take_whatever_happened(lines: list[StoredLine]) -> None:
    found = messages(*lines)
    waiting: list[str] = []
    before = ""
    for one in found:
        if one["role"] == "tool":
            assert one["tool_call_id"] == waiting.pop(0)
        else:
            assert waiting == []
            waiting = [made["id"] for made in one.get("tool_calls", ())]
            assert not (one["role"] == before == "user")
        before = one["role"]
    assert waiting == []
    assert found[-1]["role"] == "user"
    calls = sum(isinstance(line.chunk, ToolCallChunk) for line in lines)
    assert calls == sum(len(one.get("tool_calls", ())) for one in found)


def test_a_turn_that_goes_on_is_told_to_and_its_message_is_said_once() -> None:
    lines = [user("q"), said("so")]
    request = turn("q", images=(Image("data:image/png;base64,AA"),))
    assert messages_of(lines, request, None, goes_on=True) == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "so"},
        {"role": "user", "content": GO_ON},
    ]
