"""What an ACP agent says, as the events that watchers are shown."""

import difflib
import json
from pathlib import Path

import pytest

from dispatch.core.events import (
    AgentEvent,
    Done,
    ReasoningDelta,
    Request,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolOutput,
    ToolResult,
)
from tests.agents.acp_hosting import Conversation, build, hosted


@pytest.fixture
async def said(tmp_path: Path):
    """The events of a turn with an agent that does as a source says."""

    async def said(body: str) -> list[AgentEvent]:
        lines = "".join(f"    {line.strip()}\n" for line in body.strip().splitlines())
        async with hosted(build(tmp_path, f"def prompt(text, blocks):\n{lines}")) as agent:
            return (await Conversation(agent).run("x")).events

    return said


def call_of(event: AgentEvent) -> tuple[str, str, object]:
    assert isinstance(event, ToolCall)
    return event.tool_call_id, event.tool_name, json.loads(bytes(event.input))


async def test_text_and_thoughts_are_deltas_in_order(said) -> None:
    assert await said("think('hm'); say('a'); say('b'); think('so')") == [
        ReasoningDelta("hm"),
        TextDelta("a"),
        TextDelta("b"),
        ReasoningDelta("so"),
        Done("stop"),
    ]


async def test_what_is_not_text_is_named(said) -> None:
    body = """
        def show(kind, **fields): update("agent_message_chunk", content={"type": kind, **fields})
        show("image", data="AA==", mimeType="image/png")
        show("resource_link", name="n", uri="file:///x")
        show("resource", resource={"uri": "u:1", "text": "t"})
        show("resource", resource={"uri": "u:1", "blob": "AA=="})
    """
    *texts, _ = await said(body)
    assert [text.delta for text in texts] == ["[image/png]", "[n](file:///x)", "t", "[u:1]"]


async def test_a_tool_has_a_call_output_and_a_result(said) -> None:
    body = """
        tool("1", title="Run tests", kind="execute", status="in_progress", rawInput={"cmd": "make"})
        progress("1", content=content("one "))
        progress("1", content=content("one two"))
        progress("1", status="in_progress")
        progress("1", content=content("else"))
        progress("1", status="completed", content=content("all"))
        progress("1", content=content("too late"))
    """
    call, *outputs, result, done = await said(body)
    assert call_of(call) == ("1", "Run tests", {"cmd": "make"})
    assert outputs == [ToolOutput("1", text, "stdout") for text in ("one ", "two", "else")]
    assert result == ToolResult("1", "Run tests", "all", is_error=False)
    assert done == Done("stop")


async def test_an_input_that_is_told_later_is_waited_for(said) -> None:
    body = """
        tool("1", title="Read", kind="read", status="pending", rawInput={})
        tool("2", title="Read too", status="pending")
        progress("1", title="Read a.txt", rawInput={"path": "a.txt"})
        progress("2", rawInput={"path": "b.txt"})
        progress("1", status="completed"); progress("2", status="failed", rawOutput="gone")
    """
    first, second, *results, _ = await said(body)
    assert call_of(first) == ("1", "Read a.txt", {"path": "a.txt"})
    assert call_of(second) == ("2", "Read too", {"path": "b.txt"})
    assert results == [
        ToolResult("1", "Read a.txt", "", is_error=False),
        ToolResult("2", "Read too", "gone", is_error=True),
    ]


async def test_a_call_without_an_input_is_shown_before_what_follows_it(said) -> None:
    body = """
        tool("1", title="Think", locations=[{"path": "/a", "line": 3}])
        say("and")
        tool("2", title="", kind="search")
    """
    first, text, second, _ = await said(body)
    assert call_of(first) == ("1", "Think", {"locations": ["/a"]})
    assert text == TextDelta("and")
    assert call_of(second) == ("2", "search", {})


async def test_an_update_of_an_unknown_call_is_a_call(said) -> None:
    call, result, _ = await said("progress('9', status='completed', rawOutput={'n': 1})")
    assert call_of(call) == ("9", "tool", {})
    assert result == ToolResult("9", "tool", '{"n":1}', is_error=False)


async def test_an_input_may_be_anything(said) -> None:
    call, *_ = await said("tool('1', title='t', rawInput=[1e300, 10**40, None, {'a': 'ü'}])")
    assert call_of(call)[2] == [1e300, 10**40, None, {"a": "ü"}]


async def test_a_title_is_one_line_and_not_endless(said) -> None:
    call, *_ = await said("tool('1', title='a\\n  b' + 'c' * 1000, rawInput=1)")
    assert call_of(call)[1].startswith("a bccc")
    assert len(call_of(call)[1]) == 200


async def shown_change(said, old: str | None, new: str) -> str:
    _, result, _ = await said(f"""
        edit = {{"type": "diff", "path": "/a", "oldText": {old!r}, "newText": {new!r}}}
        tool("1", title="Edit", rawInput={{"x": 1}}, status="completed", content=[edit])
    """)
    head, changes = result.content.split("+++ /a\n")
    assert head == ("--- /dev/null\n" if old is None else "--- /a\n")
    return changes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("one\ntwo\n", "one\n2\n"),
        (None, "x\n"),
        ("x\n", ""),
        ("a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n", "a\nb\nc\nd\ne\nF\nf\ng\nh\ni\nj\n"),
        ("a\na\na\n", "a\na\n"),
        ("a\na\n", "a\na\na\na\n"),
        ("x\n" * 600, "y\n" * 700),
    ],
)
async def test_a_change_to_a_file_is_shown_as_a_diff(said, old: str | None, new: str) -> None:
    """The library's own, where one stretch of lines is all that changed."""
    lines = difflib.unified_diff((old or "").splitlines(), new.splitlines(), lineterm="")
    library = list(lines)[2:]
    ours = (await shown_change(said, old, new)).split("\n")
    assert ours[0] == library[0]
    assert sorted(ours[1:]) == sorted(library[1:])


async def test_two_changes_to_a_file_are_shown_as_one_stretch(said) -> None:
    assert await shown_change(said, "a\nb\nc\n", "A\nb\nC\n") == (
        "@@ -1,3 +1,3 @@\n-a\n-b\n-c\n+A\n+b\n+C"
    )


async def test_a_plan_is_shown_each_time_it_changes(said) -> None:
    body = """
        step = {"content": "look", "priority": "high", "status": "pending"}
        update("plan", entries=[step])
        update("plan", entries=[step])
        update("plan", entries=[{**step, "status": "completed"}])
    """
    *shown, _ = await said(body)
    calls, results = shown[::2], shown[1::2]
    plans = [call_of(call) for call in calls]
    assert [name for _, name, _ in plans] == ["plan", "plan"]
    assert len({call_id for call_id, _, _ in plans}) == 2
    assert [plan["entries"][0]["status"] for _, _, plan in plans] == ["pending", "completed"]
    assert [result.content for result in results] == ["0 of 1 completed", "1 of 1 completed"]


async def test_what_is_no_news_of_the_turn_is_not_shown(said) -> None:
    body = """
        update("available_commands_update", availableCommands=[{"name": "x", "description": "y"}])
        update("current_mode_update", currentModeId="plan")
        update("user_message_chunk", content=block("hello"))
        update("session_info_update", title="a title")
    """
    assert await said(body) == [Done("stop")]


async def test_a_permission_for_a_call_that_was_not_told_shows_the_call_first(said) -> None:
    body = """
        tool("1", title="Remove", status="pending")
        write(id="p1", method="session/request_permission", params={"sessionId": session,
              "toolCall": {"toolCallId": "1", "rawInput": {"path": "x"}}, "options": OPTIONS})
        write(id="p2", method="session/request_permission", params={"sessionId": session,
              "toolCall": {"toolCallId": "2", "title": "Add"}, "options": []})
    """.replace("\n              ", " ")
    first, asked, second, asked_too, _ = await said(body)
    assert call_of(first) == ("1", "Remove", {"path": "x"})
    assert isinstance(asked, Request)
    assert asked.title == "Remove"
    assert call_of(second) == ("2", "Add", {})
    assert isinstance(asked_too, Request)
    assert asked_too.options == ()


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("end_turn", "stop"),
        ("max_turn_requests", "max-steps"),
        ("max_tokens", "max_tokens"),
        ("refusal", "refusal"),
        ("cancelled", "aborted"),
    ],
)
async def test_a_stop_reason_has_its_name_of_ours(said, told: str, shown: str) -> None:
    assert await said(f"return {told!r}") == [Done(shown)]


USAGE = """
    counts = iter([(10, 4), (25, 5), (3, 1)])
    def prompt(text, blocks):
        update("usage_update", used=1234, size=200_000)
        given, made = next(counts)
        usage = {"totalTokens": given + made, "inputTokens": given, "outputTokens": made,
                 "cachedReadTokens": given}
        return {"stopReason": "end_turn", "usage": usage}
"""


async def test_tokens_of_a_session_are_told_turn_by_turn(tmp_path: Path) -> None:
    """The protocol counts them over the session; an agent that begins anew is believed."""
    async with hosted(build(tmp_path, USAGE)) as agent:
        talk = Conversation(agent)
        told = [(await talk.run("x")).events[-1] for _ in range(3)]
    assert told == [
        Done("stop", usage=TokenUsage(*counts), context_size=1234)
        for counts in [(10, 4, 10), (15, 1, 15), (3, 1, 3)]
    ]


async def test_tokens_of_a_loaded_session_are_not_guessed(tmp_path: Path) -> None:
    async with hosted(build(tmp_path, USAGE, store=tmp_path, idle_seconds=0)) as agent:
        talk = Conversation(agent)
        first, second = [(await talk.run("x")).events[-1] for _ in range(2)]
    assert first.usage == TokenUsage(10, 4, 10)
    assert second.usage is None
