"""`send` and `watch`: what is typed, what is shown, and the exit code. Each daemon is a script."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from dispatch.cli import commands as command_line
from tests.client.answering import HttpServer
from tests.client.command import HELLO, Start, answering, conversation, dispatch, lines, refusing
from tests.client.scripted import (
    Frame,
    Peer,
    Script,
    delta,
    subscribed,
    text,
    turn,
)

pytest_plugins = ("tests.client.fixtures",)
pytestmark = pytest.mark.timeout(60)


ESCAPE = "\x1b]0;owned\x07\x1b[2Jred\x9b31m\x7f\u202e\r"


def test_send_streams_frames_as_json_lines_and_tells_the_conversation_beside_them(
    start: Start,
) -> None:
    result = dispatch("send", "hi", url=start(answering(*HELLO)).url)
    assert result.exit_code == 0
    assert [line["type"] for line in lines(result)] == [
        "chat.accepted",
        "chat.subscribed",
        *["chat.delta"] * len(HELLO),
    ]
    assert lines(result)[2]["event"] == HELLO[0]["event"]
    assert lines(result)[2]["position"] == "g:1"
    assert result.stderr == "conversation c\n"


@pytest.mark.usefixtures("terminal")
def test_send_shows_the_answer_alone_on_a_terminal(start: Start) -> None:
    result = dispatch("send", "hi", url=start(answering(*HELLO)).url)
    assert result.stdout == "hello world\n"
    assert result.stderr == "conversation c\n"


@pytest.mark.usefixtures("terminal")
def test_json_is_forced_by_its_option_on_a_terminal_too(start: Start) -> None:
    result = dispatch("send", "hi", "--json", url=start(answering(*HELLO)).url)
    assert lines(result)[0]["type"] == "chat.accepted"


def test_send_passes_on_what_is_asked(start: Start) -> None:
    heard: list[Frame] = []
    url = start(answering(*HELLO, heard=heard)).url
    options = ["--conversation", "c", "--agent", "echo/x", "--on-busy", "interrupt"]
    assert dispatch("send", "-", *options, url=url, stdin="two\nlines\n").exit_code == 0
    asked = {name: heard[0][name] for name in ("message", "conversationId", "model", "onBusy")}
    assert asked == {
        "message": "two\nlines",
        "conversationId": "c",
        "model": "echo/x",
        "onBusy": "interrupt",
    }


@pytest.mark.usefixtures("terminal")
def test_a_turn_is_shown_with_its_thinking_its_tools_and_its_errors(start: Start) -> None:
    content = "\n".join(f"line {n}" for n in range(20))
    events: list[Frame] = [
        {"type": "user-message", "text": "hi"},
        {"type": "turn-start"},
        {"type": "reasoning-delta", "delta": "let me "},
        {"type": "reasoning-delta", "delta": "see"},
        {"type": "text-delta", "delta": "I look."},
        {
            "type": "tool-call",
            "stepId": "s",
            "toolCallId": "k",
            "toolName": "grep",
            "input": {"pattern": "x" * 300},
        },
        {"type": "tool-output", "toolCallId": "k", "data": "seen\n", "stream": "stdout"},
        {
            "type": "tool-result",
            "stepId": "s",
            "toolCallId": "k",
            "toolName": "grep",
            "content": content,
            "isError": False,
        },
        {"type": "provider-retry", "attempt": 0, "delayMs": 2000, "message": "overloaded"},
        {"type": "error", "message": "the provider is down"},
        {"type": "done", "reason": "error"},
        {"type": "turn-sealed"},
    ]
    frames = [delta(n, "t1", event) for n, event in enumerate(events, 1)]
    result = dispatch("send", "hi", url=start(answering(*frames)).url)
    assert result.exit_code == 1
    shown = result.stdout.splitlines()
    assert shown[:2] == ["let me see", "I look."]
    assert shown[2].startswith('* grep {"pattern": "xxx')
    assert shown[2].endswith("...")
    # What was shown as it came is not shown again.
    assert shown[3] == "seen"
    assert len(shown) == 6
    assert shown[-2:] == [
        "the provider failed; again in 2 s: overloaded",
        "error: the provider is down",
    ]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("delay_ms", "when"),
    [(0, "at once"), (400, "at once"), (600, "in 1 s"), (60_000, "in 60 s")],
)
def test_when_a_provider_is_tried_again_is_told_in_whole_seconds(
    start: Start, delay_ms: float, when: str
) -> None:
    retry = {"type": "provider-retry", "attempt": 0, "delayMs": delay_ms, "message": "no route"}
    frames = [*HELLO[:2], delta(3, "t1", retry), *turn(4, "t1", "x")[3:]]
    result = dispatch("send", "hi", url=start(answering(*frames)).url)
    assert result.stdout.splitlines() == [f"the provider failed; again {when}: no route"]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("events", "shown"),
    [
        ([{"type": "error", "message": "the daemon ended"}], ["error: the daemon ended"]),
        ([], ["(interrupted)"]),
    ],
)
def test_what_an_interruption_says_is_not_told_twice(
    start: Start, events: list[Frame], shown: list[str]
) -> None:
    events = [*events, {"type": "done", "reason": "interrupted"}, {"type": "turn-sealed"}]
    frames = [delta(n, "t1", event) for n, event in enumerate(events, 1)]
    result = dispatch("send", "hi", url=start(answering(*frames)).url)
    assert result.stdout.splitlines() == shown
    assert result.exit_code == 1


@pytest.mark.usefixtures("terminal")
def test_a_question_of_the_agent_is_shown_with_its_choices(start: Start) -> None:
    request = {
        "type": "chat.request",
        "conversationId": "c",
        "turnId": "t1",
        "position": "g:3",
        "requestId": "r1",
        "kind": "approval",
        "title": "Run rm?",
        "message": "it deletes",
        "options": [{"id": "y", "label": "Yes", "effect": "allow"}],
    }
    closed = {"type": "chat.request.closed", "conversationId": "c", "requestId": "r1"}
    closed |= {"outcome": "answered", "by": "ann"}
    frames = [*HELLO[:2], request, closed, *turn(3, "t1", "done")[2:]]
    result = dispatch("send", "hi", url=start(answering(*frames)).url)
    assert result.stdout.splitlines() == [
        "? Run rm?",
        "  it deletes",
        "  - Yes (y)",
        "  dispatch respond c r1 (--approve or --deny)",
        "  answered by ann",
        "done",
    ]


@pytest.mark.usefixtures("terminal")
def test_questions_are_shown_with_the_keys_of_their_answers(start: Start) -> None:
    questions = [
        {"id": "name", "label": "Which name?", "type": "text"},
        {"id": "size", "label": "How big?", "type": "choice", "options": ["S", "L"]},
    ]
    request = {"type": "chat.request", "conversationId": "c", "turnId": "t1", "position": "g:3"}
    request |= {
        "requestId": "r; rm",
        "kind": "input",
        "title": "One moment",
        "questions": questions,
    }
    frames = [*HELLO[:2], request, *turn(3, "t1", "done")[2:]]
    result = dispatch("send", "hi", url=start(answering(*frames)).url)
    assert result.stdout.splitlines()[:4] == [
        "? One moment",
        "  - Which name? (name)",
        "  - How big? (size) [S / L]",
        "  dispatch respond c 'r; rm' (--answer KEY=VALUE)",
    ]


@pytest.mark.usefixtures("terminal")
def test_a_queued_message_says_that_it_waits(start: Start) -> None:
    script = answering(*turn(1, "t0", "other"), *turn(6, "t1", "mine"), turnId=None, queueId="t1")
    result = dispatch("send", "hi", "--on-busy", "queue", url=start(script).url)
    assert result.stdout == "mine\n"
    assert "queued behind the running turn" in result.stderr


@pytest.mark.usefixtures("terminal")
def test_a_lost_connection_is_told_and_nothing_is_shown_twice(start: Start) -> None:
    async def first(peer: Peer) -> None:
        await answering(*HELLO[:3])(peer)
        await peer.cut()

    async def second(peer: Peer) -> None:
        asked = await peer.heard("chat.subscribe")
        await peer.say(subscribed(asked, 6), *HELLO[3:])

    result = dispatch("send", "hi", url=start(first, second).url)
    assert "".join(result.stdout.split("\n")) == "hello world"
    assert "the connection was lost; connecting again\nconnected again\n" in result.stderr


@pytest.mark.parametrize(
    ("code", "hint"), [("busy", "--on-busy queue"), ("unauthorized", "DISPATCH_TOKEN")]
)
def test_a_refusal_is_one_line_with_what_to_do_about_it(start: Start, code: str, hint: str) -> None:
    result = dispatch("send", "hi", url=start(refusing(message="not now", code=code)).url)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("dispatch: not now; ")
    assert hint in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address that is taken, so that nobody else gets it, and does not answer."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_no_daemon_is_an_exit_code_of_its_own(nowhere: str) -> None:
    for words in (["send", "hi"], ["watch", "c"], ["history", "c"], ["list"], ["stop", "c"]):
        result = dispatch(*words, url=nowhere)
        assert result.exit_code == 3
        assert result.stderr.startswith(f"dispatch: cannot connect to {nowhere}: Connection ref")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["send", ""],
        ["send"],
        ["send", "hi", "--conversation", "a/b"],
        ["send", "hi", "--on-busy", "panic"],
        ["watch", "c", "--after", "12"],
        ["watch", "c", "--after", "g:1", "--history"],
        ["history", "c", "--limit", "0"],
        ["list", "--url", "foo"],
        ["send", "hi", "--url", "ftp://127.0.0.1"],
        ["serve", "--port", "65536"],
        ["respond", "c", "r"],
        ["respond", "c", "", "--approve"],
        ["respond", "c", "r", "--answer", "no equals"],
        ["respond", "c", "r", "--answer", "a=b", "--deny"],
        ["respond", "c", "r", "--cancel", "--option", "o"],
        ["dance"],
    ],
)
def test_wrong_usage_is_told_before_anything_is_opened(words: list[str]) -> None:
    result = dispatch(*words, url="http://127.0.0.1:1")
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert result.stdout == ""


@pytest.mark.usefixtures("terminal")
def test_no_escape_code_of_a_model_reaches_the_terminal(start: Start) -> None:
    frames = [*HELLO[:2], text(3, "t1", ESCAPE), *turn(3, "t1", "x")[3:]]
    result = dispatch("send", "hi", url=start(answering(*frames)).url)
    assert result.stdout == "␛]0;owned␇␛[2Jred<U+009B>31m<U+007F><U+202E>␍\n"


@pytest.mark.usefixtures("terminal")
def test_no_escape_code_of_a_title_or_a_refusal_reaches_the_terminal(
    start: Start, http: HttpServer
) -> None:
    http.answers = [(200, {"conversations": [conversation(title=ESCAPE)]})]
    refused = dispatch("send", "hi", url=start(refusing(message=ESCAPE, code="x")).url)
    for result in (dispatch("list", url=http.url), refused):
        assert "␛[2Jred<U+009B>31m" in result.output
        assert not {"\x1b", "\x07", "\x9b", "\x7f", "\u202e", "\r"} & set(result.output)


def test_a_json_line_holds_no_control_character_and_the_same_text(start: Start) -> None:
    frames = [*HELLO[:2], text(3, "t1", ESCAPE + "\u2028"), *turn(3, "t1", "x")[3:]]
    result = dispatch("send", "hi", url=start(answering(*frames)).url)
    assert lines(result)[4]["event"]["delta"] == ESCAPE + "\u2028"
    assert not {"\x1b", "\x9b", "\x7f", "\u202e", "\u2028"} & set(result.stdout)


def watching(*frames: Frame, heard: list[Frame] | None = None) -> Script:
    """Shows frames and ends with the conversation, so that the command ends."""

    async def script(peer: Peer) -> None:
        asked = await peer.heard("chat.subscribe")
        if heard is not None:
            heard.append(asked)
        deleted = {"type": "conversation.deleted", "conversationId": asked["conversationId"]}
        await peer.say(subscribed(asked, 6, turnId="t1", lastSeq=2), *frames, deleted)

    return script


@pytest.mark.usefixtures("terminal")
def test_watch_shows_who_says_what_from_history_on(start: Start) -> None:
    said = [("user", "earlier\nquestion"), ("assistant", "earlier answer")]
    chunks = [
        {"seq": n, "role": role, "chunk": {"type": "text", "text": words}}
        for n, (role, words) in enumerate(said, 1)
    ]
    page = {"type": "chat.history", "conversationId": "c", "chunks": chunks, "latestSeq": 2}
    heard: list[Frame] = []
    script = watching(page | {"more": False}, *HELLO, heard=heard)
    result = dispatch("watch", "c", "--history", url=start(script).url)
    assert heard[0]["sinceSeq"] == 0
    assert result.stdout.splitlines() == [
        "> earlier",
        "  question",
        "earlier answer",
        "",
        "> hi",
        "hello world",
    ]
    assert result.stderr.splitlines() == [
        "watching c (active); Ctrl-C ends",
        "dispatch: conversation c was deleted",
    ]
    assert result.exit_code == 1


def test_watch_goes_on_from_a_position(start: Start) -> None:
    heard: list[Frame] = []
    result = dispatch("watch", "c", "--after", "g:5", url=start(watching(heard=heard)).url)
    assert heard[0]["after"] == "g:5"
    assert lines(result)[0]["type"] == "chat.subscribed"


@pytest.mark.usefixtures("terminal")
def test_a_gap_is_told_and_filled(start: Start) -> None:
    async def script(peer: Peer) -> None:
        asked = await peer.heard("chat.subscribe")
        chunk = {"role": "assistant", "chunk": {"type": "text", "text": "so far"}}
        running = {"turnId": "t1", "startedAt": 1, "chunks": [chunk], "requests": []}
        snapshot = {"type": "chat.snapshot", "conversationId": "c", "position": "g:6"}
        await peer.say(
            subscribed(asked, 6, recovered=False, lastSeq=2),
            snapshot | {"lastSeq": 2, "turn": running},
            {"type": "conversation.deleted", "conversationId": "c"},
        )

    result = dispatch("watch", "c", "--after", "old:5", url=start(script).url)
    assert "this place in the log is gone" in result.stderr
    assert result.stdout == "so far\n"


def test_what_nobody_expected_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise ExceptionGroup("tasks", [ZeroDivisionError("a\nb\x1b[0m")])

    monkeypatch.setattr(command_line, "cli", fail)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert shown.startswith("dispatch: internal error: ZeroDivisionError: a b␛[0m (DISPATCH_")
    assert shown.count("\n") == 1


@pytest.mark.parametrize("group", [[], ["groups"], ["chats"], ["config"]])
def test_on_80_columns_no_command_of_a_list_is_cut_short(group: list[str]) -> None:
    runner = CliRunner(env={"COLUMNS": "80"})
    listed = runner.invoke(command_line.cli, [*group, "--help"]).stdout.partition("Commands:")[2]
    assert [line for line in listed.splitlines() if line.endswith("...")] == []
    assert listed


def test_help_imports_nothing_that_a_command_alone_needs() -> None:
    program = (
        "import sys; from dispatch.cli import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'rich', 'anyio', 'asyncio', 'websockets', 'msgspec', 'sqlite3', 'uvicorn'}\n"
        "sys.exit(sorted(heavy & set(sys.modules)).__repr__() if heavy & set(sys.modules) else 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "watch" in ended.stdout
