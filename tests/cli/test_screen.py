"""What a person sees of lists and history, and that nothing they see can harm the terminal."""

import json
import re
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.cli import screen
from dispatch.cli.usage import visible
from tests.client.answering import HttpServer
from tests.client.command import conversation, dispatch, lines
from tests.client.scripted import (
    Frame,
)

pytest_plugins = ("tests.client.fixtures",)
pytestmark = pytest.mark.timeout(60)


def test_list_prints_a_conversation_a_line(http: HttpServer) -> None:
    http.answers = [(200, {"conversations": [conversation(), conversation(id="c-2")]})]
    result = dispatch("list", "--search", "x", "--limit", "2", url=http.url)
    assert [line["id"] for line in lines(result)] == ["c-1", "c-2"]
    assert http.seen[0][1] == "/conversations?search=x&limit=2"


@pytest.mark.usefixtures("terminal")
def test_list_keeps_ids_whole_on_a_narrow_terminal(
    http: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    name = "0191f2a0-7c1e-7000-8000-0123456789ab"
    http.answers = [(200, {"conversations": [conversation(id=name, title="word " * 40)]})]
    result = dispatch("list", url=http.url)
    heading, row = result.stdout.splitlines()
    assert heading.split() == ["conversation", "status", "active", "title"]
    assert row.startswith(name)
    assert len(row) == 70
    assert row.endswith("...")


@pytest.mark.usefixtures("terminal")
def test_an_empty_list_says_how_to_begin(http: HttpServer) -> None:
    http.answers = [(200, {"conversations": []})]
    result = dispatch("list", url=http.url)
    assert result.stdout == ""
    assert "dispatch send" in result.stderr


def test_history_prints_a_chunk_a_line(http: HttpServer) -> None:
    chunks = [
        {"seq": 1, "role": "user", "chunk": {"type": "text", "text": "hi"}},
        {"seq": 2, "role": "assistant", "chunk": {"type": "thinking", "text": "hm"}},
    ]
    http.answers = [(200, {"chunks": chunks, "latestSeq": 2})]
    result = dispatch("history", "c", "--limit", "5", url=http.url)
    assert lines(result) == chunks
    assert http.seen[0][1] == "/conversations/c?limit=5"


@pytest.mark.usefixtures("terminal")
def test_history_shows_every_kind_of_chunk(http: HttpServer) -> None:
    said: list[tuple[str, Frame]] = [
        ("user", {"type": "text", "text": "look"}),
        ("user", {"type": "image", "url": "data:image/png;base64," + "A" * 100}),
        ("system", {"type": "system", "text": "be brief"}),
        ("assistant", {"type": "thinking", "text": "hm"}),
        ("assistant", {"type": "tool-call", "toolCallId": "k", "toolName": "ls", "input": {}}),
        (
            "tool",
            {
                "type": "tool-result",
                "toolCallId": "k",
                "toolName": "ls",
                "content": "no such file\n" * 20,
                "isError": True,
            },
        ),
        ("assistant", {"type": "text", "text": "it is not there"}),
        ("assistant", {"type": "error", "message": "too long"}),
    ]
    chunks = [{"seq": n, "role": role, "chunk": c} for n, (role, c) in enumerate(said, 1)]
    http.answers = [(200, {"chunks": chunks, "latestSeq": 8}), (200, b"")]
    shown = dispatch("history", "c", url=http.url).stdout.splitlines()
    assert shown == [
        "> look",
        "[image data:image/png;base64,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA...]",
        "be brief",
        "hm",
        "* ls {}",
        *["  no such file"] * 12,
        "  (8 more lines)",
        "it is not there",
        "error: too long",
    ]


@pytest.mark.usefixtures("terminal")
def test_history_marks_turns_that_did_not_finish(http: HttpServer) -> None:
    ends = ["completed", "aborted", "interrupted", "error"]
    chunks: list[Frame] = []
    export = b'{"type":"conversation"}\n'
    for number, end in enumerate(ends):
        for role, said in (("user", "go"), ("assistant", end)):
            chunk = {"type": "text", "text": said}
            chunks.append({"seq": len(chunks) + 1, "role": role, "chunk": chunk})
        turn = {"turnId": f"t{number}", "outcome": end, "firstSeq": 2 * number + 1}
        line = json.dumps({"type": "turn", **turn, "chunkCount": 2}, separators=(",", ":"))
        export += line.encode() + b'\n{"type":"chunk","seq":1}\n'
    # Its last word says how it ended.
    chunks[-1]["chunk"] = {"type": "error", "message": "failed"}
    http.answers = [(200, {"chunks": chunks, "latestSeq": 8}), (200, export)]
    shown = dispatch("history", "c", url=http.url).stdout
    assert " ".join(shown.split()) == (
        "> go completed > go aborted (aborted) > go interrupted (interrupted) > go error: failed"
    )


@pytest.mark.parametrize(("aborted", "shown"), [(True, "stopped"), (False, "nothing was running")])
def test_stop_says_what_it_did(
    http: HttpServer, monkeypatch: pytest.MonkeyPatch, aborted: bool, shown: str
) -> None:
    reply = {"conversationId": "c", "abortedTurn": aborted}
    http.answers = [(200, reply), (200, reply)]
    assert lines(dispatch("stop", "c", url=http.url)) == [reply]
    monkeypatch.setattr(screen, "is_text", lambda as_json: not as_json)
    assert dispatch("stop", "c", url=http.url).stdout == f"{shown}\n"


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (["--approve"], {"approved": True}),
        (["--deny", "--reason", "no"], {"approved": False, "reason": "no"}),
        (["--option", "always"], {"optionId": "always"}),
        (["--approve", "--option", "always"], {"approved": True, "optionId": "always"}),
        (["--decline"], {"action": "decline"}),
        (["--cancel"], {"action": "cancel"}),
        (
            ["--answer", "who=me=you", "--answer", "sure=true", "--accept"],
            {"action": "accept", "answers": {"who": "me=you", "sure": True}},
        ),
        (["--answer", "who="], {"action": "accept", "answers": {"who": ""}}),
    ],
)
def test_respond_answers_a_question_of_the_agent(
    http: HttpServer, monkeypatch: pytest.MonkeyPatch, words: list[str], body: dict[str, object]
) -> None:
    http.answers = [(200, {}), (200, {})]
    command = ["respond", "c", "r/1", *words]
    assert lines(dispatch(*command, url=http.url)) == [
        {"conversationId": "c", "requestId": "r/1", "outcome": "answered"}
    ]
    assert http.seen == [
        ("POST", "/conversations/c/requests/r%2F1", {"requestId": "r/1", **body}, None)
    ]
    monkeypatch.setattr(screen, "is_text", lambda as_json: not as_json)
    assert dispatch(*command, url=http.url).stdout == "answered\n"


def test_agents_are_listed_with_how_they_are(
    http: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = {"name": "echo", "kind": "echo", "running": 2, "waiting": 0, "isDefault": True}
    claude = {"name": "claude", "kind": "acp", "running": 1, "waiting": 3, "turnsMax": 1}
    told = {"models": ["opus", "haiku"], "problem": "program not found: claude"}
    reply = {"agents": [echo, claude | told]}
    http.answers = [(200, reply), (200, reply)]
    assert lines(dispatch("agents", url=http.url))[1]["problem"] == told["problem"]
    monkeypatch.setattr(screen, "is_text", lambda as_json: not as_json)
    rows = [re.split(r" {2,}", row) for row in dispatch("agents", url=http.url).stdout.splitlines()]
    assert rows == [
        ["agent", "kind", "turns", "models", "state"],
        ["echo (default)", "echo", "2", "-", "ready"],
        ["claude", "acp", "1/1, 3 waiting", "opus, haiku", told["problem"]],
    ]


@given(st.text())
def test_visible_text_holds_no_control_character_but_newline_and_tab(words: str) -> None:
    shown = visible(words)
    assert not [c for c in shown if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) <= 159]
    assert visible(shown) == shown


@given(st.text())
def test_a_json_line_is_one_line_for_every_reader_and_loses_nothing(words: str) -> None:
    line = screen.json_line({"text": words}).decode()
    assert len(line.splitlines()) == 1
    assert msgspec.json.decode(line) == {"text": words}


@pytest.mark.parametrize(
    ("passed", "shown"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=3), "3 min ago"),
        (timedelta(hours=5, minutes=59), "5 h ago"),
        (timedelta(days=40), "40 d ago"),
    ],
)
def test_a_moment_of_the_past_is_one_short_word(passed: timedelta, shown: str) -> None:
    now = datetime(2026, 1, 31, tzinfo=UTC)
    assert screen.ago((now - passed).timestamp() * 1000, now) == shown


def test_history_leaves_out_what_was_truncated_and_says_so(
    http: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "is_text", lambda as_json: not as_json)
    chunks = [
        {"seq": seq, "role": "user", "chunk": {"type": "text", "text": text}}
        for seq, text in enumerate(("kept", "left behind"), 1)
    ]
    chunks[1]["superseded"] = True
    http.answers = [(200, {"chunks": chunks, "latestSeq": 2}), (200, {"type": "end"})]
    result = dispatch("history", "c", url=http.url)
    assert result.stdout == "> kept\n"
    assert result.stderr == "what was truncated is left out (--json has it)\n"
