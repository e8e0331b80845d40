"""The command agent: what a program is told, what is made of its output, and how it ends."""

import json
import os
import sys
import textwrap
import tracemalloc
from pathlib import Path

import anyio
import msgspec
import pytest
import structlog

from dispatch.agents.command import CommandAgent
from dispatch.agents.ledger import ProcessLedger
from dispatch.agents.port import Agent, AgentFailure, Respond, Steer
from dispatch.core.content import StoredLine, Text, Thinking, ToolCallChunk, ToolResultChunk
from dispatch.core.events import (
    Done,
    ErrorEvent,
    Image,
    Request,
    Response,
    Steering,
    TextDelta,
    ToolCall,
)
from dispatch.errors import ConfigError
from tests.contract.agent import (
    GUARD_SECONDS,
    AgentContract,
    Behaviour,
    Build,
    Letterbox,
    Listener,
    is_text,
    nothing_left,
    run_turn,
    turn,
)

LINE_BYTES_MAX = 512 * 1024
MEBIBYTE = 1024 * 1024

HEAD = """
import json, os, signal, sys, time
def say(type, **fields): print(json.dumps({"type": type, **fields}), flush=True)
def text(delta): say("text-delta", delta=delta)
def hear(): return json.loads(sys.stdin.readline())
"""


def command_of(source: str) -> list[str]:
    """A program in Python; without `site`, so that it starts in a few milliseconds."""
    return [sys.executable, "-I", "-S", "-c", HEAD + textwrap.dedent(source)]


@pytest.fixture
def agent(tmp_path: Path):
    """Builds an agent of a program's source, or of a `command`."""

    def agent(source: str = "", **options: object) -> CommandAgent:
        return CommandAgent.from_options(
            "tested",
            {"command": command_of(source), "stop_grace_seconds": 10, **options},
            ledger=ProcessLedger(tmp_path / "processes"),
            line_bytes_max=LINE_BYTES_MAX,
        )

    return agent


async def failure_of(agent: Agent, listener: Listener | None = None) -> AgentFailure:
    with nothing_left(), pytest.raises(AgentFailure) as failure:
        await run_turn(agent, turn(), listener)
    return failure.value


async def opening(agent: Agent, request=None) -> dict[str, object]:
    """The first line, as a program that repeats it has read it."""
    return json.loads((await run_turn(agent, request or turn())).text)


class TestTheContract(AgentContract):
    @pytest.fixture
    def build(self, agent) -> Build:
        sources = {
            Behaviour.SAYS: "text(hear()['message'])",
            Behaviour.LISTENS: """
                text(hear()['message'])
                steer = hear()
                say("steering", text=steer["text"])
                text(steer["text"])
            """,
            Behaviour.WAITS: "text('word'); time.sleep(3600)",
            Behaviour.FLOODS: """
                line = json.dumps({"type": "text-delta", "delta": "word "}) + chr(10)
                while True: sys.stdout.write(line * 100)
            """,
            Behaviour.FAILS: "hear(); sys.exit('no good')",
        }
        return lambda behaviour: agent(sources[behaviour], steer=True)


# ---------------------------------------------------------------- what it is told

REPEAT = "text(sys.stdin.readline())"


async def test_the_first_line_without_anything_optional(agent) -> None:
    assert await opening(agent(REPEAT)) == {
        "conversationId": "conversation-1",
        "turnId": "turn-1",
        "message": "hello there",
        "history": [],
    }


async def test_a_program_is_told_which_turn_it_goes_on_with(agent) -> None:
    found = await opening(agent(REPEAT), turn("count", resumes="turn-0"))
    assert (found["message"], found["resumes"]) == ("count", "turn-0")


async def test_the_first_line_with_everything(agent, tmp_path: Path) -> None:
    lines = [
        StoredLine("user", Text("q")),
        StoredLine("assistant", Thinking("hm")),
        StoredLine("assistant", ToolCallChunk("1", "find", msgspec.Raw(b'{"x": [1.50]}'), "s")),
        StoredLine("tool", ToolResultChunk("1", "find", "out", is_error=False)),
        StoredLine("assistant", Text("a")),
    ]
    request = turn(
        lines=lines,
        model="large",
        cwd=str(tmp_path),
        reasoning_effort="high",
        system_prompt="be kind",
        images=(Image("data:x"),),
    )
    found = await opening(agent(REPEAT, cwd_roots=[str(tmp_path)]), request)
    call = {"type": "tool-call", "toolCallId": "1", "toolName": "find", "input": {"x": [1.5]}}
    result = {"type": "tool-result", "toolCallId": "1", "toolName": "find", "content": "out"}
    thinking = {"type": "thinking", "text": "hm"}
    assert found["history"] == [
        {"role": "user", "chunks": [{"type": "text", "text": "q"}]},
        {"role": "assistant", "chunks": [thinking, call | {"stepId": "s"}]},
        {"role": "tool", "chunks": [result | {"isError": False}]},
        {"role": "assistant", "chunks": [{"type": "text", "text": "a"}]},
    ]
    del found["history"], found["message"], found["conversationId"], found["turnId"]
    assert found == {
        "model": "large",
        "cwd": str(tmp_path),
        "reasoningEffort": "high",
        "systemPrompt": "be kind",
        "images": [{"url": "data:x"}],
    }


async def test_the_first_line_is_one_line_to_every_reader_of_lines(agent) -> None:
    source = """
        line = sys.stdin.buffer.readline().decode()
        text(json.dumps([len(line.splitlines()), json.loads(line)["message"]]))
    """
    message = "a\nb\u2028c\u2029d\u0085e\r\nf\x0bg\x0c"
    assert await opening(agent(source), turn(message)) == [1, message]


async def test_answers_come_as_lines(agent) -> None:
    source = """
        hear()
        say("request", requestId="r1", kind="approval", title="May I?")
        text(json.dumps(hear()))
        text(json.dumps(hear()))
    """
    inbox = Letterbox()

    async def answer(event: object) -> None:
        if isinstance(event, Request):
            inbox.put(Respond(Response("r1", approved=True, edited_input=msgspec.Raw(b"[1]"))))
            answers = {"q": msgspec.Raw(b'"x"')}
            inbox.put(Respond(Response("r2", action="accept", answers=answers)))

    heard = await run_turn(agent(source), turn(inbox=inbox), Listener(answer))
    request, *answers = heard.events
    assert request == Request("r1", "approval", "May I?")
    assert [json.loads(event.delta) for event in answers] == [
        {"type": "respond", "requestId": "r1", "approved": True, "editedInput": [1]},
        {"type": "respond", "requestId": "r2", "action": "accept", "answers": {"q": "x"}},
    ]


async def test_a_program_that_takes_no_steering_is_not_told_of_it(agent) -> None:
    inbox = Letterbox()
    inbox.put(Steer("left"))
    inbox.put(Respond(Response("r1")))
    program = agent("hear(); text(hear()['type'])")
    heard = await run_turn(program, turn(inbox=inbox))
    assert heard.text == "respond"
    assert program.info.steer is False


async def test_a_program_that_never_reads_is_heard_all_the_same(agent) -> None:
    lines = [StoredLine("user", Text("x" * MEBIBYTE))]
    with nothing_left():
        heard = await run_turn(agent("text('done reading nothing')"), turn(lines=lines))
    assert heard.text == "done reading nothing"


async def test_a_program_that_writes_before_it_reads_does_not_deadlock(agent) -> None:
    lines = [StoredLine("user", Text("x" * MEBIBYTE))]
    source = "text('y' * 400_000); text(str(len(hear()['history'][0]['chunks'][0]['text'])))"
    heard = await run_turn(agent(source), turn(lines=lines))
    assert heard.text == "y" * 400_000 + str(MEBIBYTE)


async def test_a_program_that_closes_its_stdin_can_go_on(agent) -> None:
    inbox = Letterbox()
    source = "hear(); os.close(0); text('closed'); text('and on')"

    async def steer(_: object) -> None:
        for _ in range(100):
            inbox.put(Steer("x" * 10_000))

    heard = await run_turn(agent(source, steer=True), turn(inbox=inbox), Listener(steer))
    assert heard.text == "closedand on"


async def test_the_agents_system_prompt_stands_in_for_a_missing_one(agent) -> None:
    program = agent(REPEAT, system_prompt="ours")
    assert (await opening(program))["systemPrompt"] == "ours"
    assert (await opening(program, turn(system_prompt="theirs")))["systemPrompt"] == "theirs"


# ---------------------------------------------------------------- where and with what it runs

ENVIRONMENT = "text(json.dumps(dict(os.environ)))"


async def test_the_daemons_secrets_are_not_passed_on(agent, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("DISPATCH_AUTH__JWT", "secret")
    monkeypatch.setenv("CHOSEN", "chosen")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    program = agent(ENVIRONMENT, env={"MINE": "a b"}, env_pass=["CHOSEN", "ABSENT"])
    found = await opening(program)
    assert "secret" not in found.values()
    assert "ABSENT" not in found
    assert (found["CHOSEN"], found["MINE"], found["TZ"]) == ("chosen", "a b", "Europe/Berlin")
    assert found["PATH"] == os.environ["PATH"]


async def test_no_shell_reads_the_arguments(agent) -> None:
    words = ["$HOME", "`id`", "; exit 1", "*", "a  b", "", "-c", "ü"]
    source = "text(json.dumps(sys.argv[1:]))"
    program = agent(command=[*command_of(source), *words])
    assert await opening(program) == words


async def test_a_command_may_be_one_line(agent) -> None:
    program = agent(command='sh -c \'echo "$0"\' \'{"type":"text-delta","delta":"a b"}\'')
    assert (await run_turn(program, turn())).text == "a b"


async def test_it_runs_in_its_own_directory(agent, tmp_path: Path) -> None:
    assert (await run_turn(agent("text(os.getcwd())"), turn())).text == os.getcwd()
    inside = agent("text(os.getcwd())", cwd=str(tmp_path))
    assert (await run_turn(inside, turn())).text == str(tmp_path)


async def test_a_client_may_choose_a_directory_inside_the_roots(agent, tmp_path: Path) -> None:
    work = tmp_path / "roots" / "work"
    work.mkdir(parents=True)
    (tmp_path / "link").symlink_to(work)
    program = agent("text(os.getcwd())", cwd_roots=[str(tmp_path / "roots")])
    assert program.cwd_roots == (tmp_path / "roots",)
    for cwd in (work, tmp_path / "roots", tmp_path / "link", work / ".." / "work"):
        heard = await run_turn(program, turn(cwd=str(cwd)))
        assert heard.text == str(cwd.resolve())


@pytest.mark.parametrize(
    "cwd",
    ["", ".", "work", "{}/out", "{}/roots/..", "{}/roots/link", "{}/roots/none", "{}/\0", "/"],
)
async def test_any_other_directory_is_refused(agent, tmp_path: Path, cwd: str) -> None:
    (tmp_path / "roots").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "roots" / "link").symlink_to(tmp_path / "out")
    program = agent("text('ran')", cwd_roots=[str(tmp_path / "roots")])
    with pytest.raises(AgentFailure) as failure:
        await run_turn(program, turn(cwd=cwd.format(tmp_path)))
    assert failure.value.code == "cwd_refused"


async def test_a_client_may_choose_no_directory_by_default(agent, tmp_path: Path) -> None:
    with pytest.raises(AgentFailure, match="cwd"):
        await run_turn(agent("text('ran')"), turn(cwd=str(tmp_path)))


async def test_a_clients_directory_does_not_choose_the_program(agent, tmp_path: Path) -> None:
    line = '{"type":"text-delta","delta":"%s"}'
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "run.sh"
        path.write_text(f"#!/bin/sh\necho '{line % name}'\n")
        path.chmod(0o755)
    program = agent(
        command=["./run.sh"], cwd=str(tmp_path / "ours"), cwd_roots=[str(tmp_path / "theirs")]
    )
    assert (await run_turn(program, turn(cwd=str(tmp_path / "theirs")))).text == "ours"


async def test_only_listed_models_are_run(agent) -> None:
    program = agent("text(hear()['model'])", models=["small"])
    assert (await run_turn(program, turn(model="small"))).text == "small"
    with pytest.raises(AgentFailure, match='no model "large"'):
        await run_turn(program, turn(model="large"))


async def test_a_missing_program_is_told_before_and_in_the_turn(agent, tmp_path: Path) -> None:
    path = tmp_path / "later"
    program = agent(command=[str(path)])
    assert program.info.problem == f"program not found: {path}"
    failure = await failure_of(program)
    assert (failure.code, failure.message) == ("spawn_failed", f"program not found: {path}")
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    await run_turn(program, turn())
    assert program.info.problem is None


async def test_a_program_that_cannot_be_started_is_told_as_such(agent, tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    assert (await failure_of(agent(command=[str(path)]))).code == "spawn_failed"
    path.chmod(0o644)
    assert (await failure_of(agent(command=[str(path)]))).code == "spawn_failed"


async def test_a_directory_that_vanished_is_told_as_such(agent, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    program = agent("", cwd=str(tmp_path / "gone"))
    (tmp_path / "gone").rmdir()
    failure = await failure_of(program)
    assert failure.code == "spawn_failed"
    assert str(tmp_path / "gone") in failure.message


# ---------------------------------------------------------------- what is made of its lines


async def test_lines_are_events(agent) -> None:
    source = """
        print()
        sys.stdout.write('{"type":"text-delta","delta":"a","unknown":{"x":1}}\\r\\n  \\n')
        sys.stdout.write(' {"type":"tool-call","toolCallId":"1","toolName":"t",')
        sys.stdout.write('"input":{"k": 1e2}} ')
    """
    text, call = (await run_turn(agent(source), turn())).events
    assert text == TextDelta("a")
    assert isinstance(call, ToolCall)
    assert bytes(call.input) == b'{"k": 1e2}'


BAD_LINES = [
    b"hello",
    b"{}",
    b"[]",
    b"null",
    b'{"type":"text-delta"}',
    b'{"type":"text-delta","delta":1}',
    b'{"type":"text-delta","delta":"a"} {"type":"text-delta","delta":"b"}',
    b'{"type":"text-delta","delta":"\\ud800"}',
    b'{"type":"text-delta","delta":"\xff"}',
    b'{"type":"tool-call","toolCallId":"1","toolName":"t","input":"\xff"}',
    b'{"type":"tool-call","toolCallId":"1","toolName":"t","input":NaN}',
    b'{"type":"tool-call","toolCallId":"1","toolName":"t","input":' + b"[" * 100_000,
    b'{"type":"tool-output","toolCallId":"1","data":"x","stream":"stdin"}',
    b'{"type":"no-such-event"}',
    b'{"type":"' + b"long" * 1000 + b'"}',
    b'{"type":"turn-start"}',
    b'{"type":"turn-sealed"}',
    b'{"type":"user-message","text":"x"}',
    b'{"type":"request-closed","requestId":"1","outcome":"answered"}',
    b"\x00",
    b"\xff\xfe",
]


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: repr(line[:40]))
async def test_a_bad_line_ends_the_turn_and_keeps_what_came_before(
    agent, tmp_path: Path, line: bytes
) -> None:
    (tmp_path / "line").write_bytes(line)
    source = f"""
        text("before")
        sys.stdout.buffer.write(open({str(tmp_path / "line")!r}, "rb").read() + b"\\n")
        text("after")
        time.sleep(3600)
    """
    listener = Listener()
    failure = await failure_of(agent(source), listener)
    assert failure.code == "bad_event"
    assert failure.message.startswith("a line is not an event: ")
    assert len(failure.message) < 300
    assert failure.message.isprintable()
    assert listener.events == [TextDelta("before")]


async def test_a_line_over_the_bound_ends_the_turn(agent) -> None:
    listener = Listener()
    over = agent(f"text('before'); text('x' * {LINE_BYTES_MAX}); time.sleep(3600)")
    failure = await failure_of(over, listener)
    assert failure.code == "too_large"
    assert listener.events == [TextDelta("before")]


async def test_a_line_just_under_the_bound_is_an_event(agent) -> None:
    size = LINE_BYTES_MAX - len('{"type": "text-delta", "delta": ""}')
    heard = await run_turn(agent(f"text('x' * {size})"), turn())
    assert len(heard.text) == size


async def test_an_endless_line_costs_no_more_than_the_bound(agent) -> None:
    endless = agent("while True: sys.stdout.write('x' * 65536)", stop_grace_seconds=0.1)
    await failure_of(endless)
    tracemalloc.start()
    try:
        failure = await failure_of(endless)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert failure.code == "too_large"
    assert peak < 4 * LINE_BYTES_MAX


# ---------------------------------------------------------------- how it ends


async def test_exit_0_without_a_word_is_a_completed_turn(agent) -> None:
    with nothing_left():
        heard = await run_turn(agent("pass"), turn())
    assert heard.events == []


async def test_done_is_passed_on_with_what_it_says(agent) -> None:
    source = "text('x'); say('done', reason='max-steps', contextSize=5)"
    heard = await run_turn(agent(source), turn())
    assert heard.events == [TextDelta("x"), Done("max-steps", context_size=5)]


async def test_output_after_done_is_read_and_dropped(agent) -> None:
    source = """
        say("done", reason="stop")
        for _ in range(100): text("x" * 10_000)
        print("not even JSON")
    """
    heard = await run_turn(agent(source), turn())
    assert heard.events == [Done("stop")]


async def test_stdin_is_closed_after_done(agent) -> None:
    source = "say('done', reason='stop'); sys.stdin.read()"
    with nothing_left():
        assert (await run_turn(agent(source), turn())).events == [Done("stop")]


async def test_a_program_that_stays_after_done_is_ended_and_its_done_stands(agent) -> None:
    source = "say('done', reason='stop'); time.sleep(3600)"
    with nothing_left():
        heard = await run_turn(agent(source, stop_grace_seconds=0.2), turn())
    assert heard.events == [Done("stop")]


async def test_a_failing_exit_after_done_is_a_failure(agent) -> None:
    listener = Listener()
    source = "say('done', reason='stop'); sys.exit('came apart')"
    failure = await failure_of(agent(source), listener)
    assert failure.message == "tested exited with status 1: came apart"
    assert listener.events == []


async def test_an_error_event_and_a_failing_exit_are_one_error(agent) -> None:
    source = "say('error', message='no', code='c'); sys.exit('no')"
    heard = await run_turn(agent(source), turn())
    assert heard.events == [ErrorEvent("no", "c"), Done("error")]


async def test_an_error_event_decides_over_a_done_that_a_failing_exit_denies(agent) -> None:
    source = "say('error', message='no'); say('done', reason='stop', contextSize=5); sys.exit(1)"
    heard = await run_turn(agent(source), turn())
    assert heard.events == [ErrorEvent("no"), Done("error", context_size=5)]


async def test_a_failing_exit_is_told_with_the_tail_of_stderr(agent) -> None:
    source = """
        sys.stderr.write("early " * 10_000)
        sys.stderr.write("\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07 \\x1b(B")
        sys.stderr.write("\\a\\b\\r line\\n\\u202eend\\n")
        sys.exit(3)
    """
    with structlog.testing.capture_logs() as logs:
        failure = await failure_of(agent(source))
    failed = [entry for entry in logs if entry["event"] == "agent.failed"]
    # To the operator its words are nobody's business.
    assert failed == [
        {"event": "agent.failed", "log_level": "warning", "agent": "tested", "status": 3}
    ]
    assert failure.code == "agent_failed"
    assert failure.message.startswith("tested exited with status 3: ")
    assert failure.message.endswith("early red   line\nend")
    assert len(failure.message) < 2100


async def test_a_failing_exit_without_words_is_told_shortly(agent) -> None:
    assert (await failure_of(agent("os._exit(7)"))).message == "tested exited with status 7"


async def test_a_program_that_was_killed_is_told_as_such(agent) -> None:
    failure = await failure_of(agent("os.kill(os.getpid(), signal.SIGSEGV)"))
    assert failure.message == "tested was ended by signal 11"


async def test_a_program_that_closes_its_output_and_stays_is_ended(agent) -> None:
    source = "text('x'); os.close(1); time.sleep(3600)"
    failure = await failure_of(agent(source, stop_grace_seconds=0.2))
    assert failure.message == "tested closed its output and did not exit"


async def test_stderr_without_end_does_not_keep_a_turn_from_its_output(agent) -> None:
    source = "sys.stderr.write('x' * 3_000_000); text('heard')"
    assert (await run_turn(agent(source), turn())).text == "heard"


async def test_a_helper_that_holds_the_output_open_ends_with_the_program(agent) -> None:
    source = """
        if os.fork() == 0:
            time.sleep(3600)
        text("gone")
    """
    with nothing_left():
        assert (await run_turn(agent(source), turn())).text == "gone"


# ---------------------------------------------------------------- how it is stopped


async def stop_at_first_text(agent: CommandAgent) -> Listener:
    """Stop the turn at its first text; how long the program takes to end counts."""
    listener = Listener()
    with nothing_left(), anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.run, turn(), listener)
            await listener.until(is_text)
            tasks.cancel_scope.cancel()
    return listener


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def test_a_stopped_program_gets_sigterm_and_time_to_end_well(agent, tmp_path: Path) -> None:
    source = f"""
        def end(*_):
            os.write(1, b"x" * 1_000_000)
            open({str(tmp_path / "ended")!r}, "w").close()
            os._exit(0)
        signal.signal(signal.SIGTERM, end)
        text("ready")
        time.sleep(3600)
    """
    began = anyio.current_time()
    listener = await stop_at_first_text(agent(source))
    assert (tmp_path / "ended").exists()
    assert listener.text == "ready"
    assert anyio.current_time() - began < 5


async def test_a_program_deaf_to_sigterm_is_killed_after_the_grace(agent) -> None:
    source = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); text(str(os.getpid())); time.sleep(3600)"
    )
    began = anyio.current_time()
    listener = await stop_at_first_text(agent(source, stop_grace_seconds=0.3))
    assert anyio.current_time() - began >= 0.3
    assert not is_alive(int(listener.text))


# A grandchild that tells its number through a pipe once it is as hard to find as it gets.
GRANDCHILD = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
read, write = os.pipe()
if os.fork() == 0:
    {escape}
    os.write(write, b"%d" % os.getpid())
    time.sleep(3600)
pid = os.read(read, 20).decode()
"""

TELL_AND_STAY = (
    "import os, sys, time; os.write(int(sys.argv[1]), b'%d' % os.getpid()); time.sleep(3600)"
)
ESCAPES = {
    "in the group": "pass",
    "in a group of its own": "os.setpgid(0, 0)",
    "in a session of its own": "os.setsid()",
    "an orphan in a session of its own": "os.setsid() and None or os.fork() and os._exit(0)",
    "without its environment": (
        "os.set_inheritable(write, True) or os.execve(sys.executable,"
        f" ['python', '-I', '-S', '-c', {TELL_AND_STAY!r}, str(write)], {{}})"
    ),
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES.keys())
async def test_a_grandchild_deaf_to_sigterm_does_not_outlive_a_stop(agent, escape: str) -> None:
    source = GRANDCHILD.format(escape=escape) + "text(pid)\ntime.sleep(3600)\n"
    listener = await stop_at_first_text(agent(source, stop_grace_seconds=0.2))
    assert not is_alive(int(listener.text))


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES.keys())
async def test_a_grandchild_does_not_outlive_a_turn_that_ended_well(agent, escape: str) -> None:
    source = GRANDCHILD.format(escape=escape) + "text(pid)\n"
    with nothing_left():
        heard = await run_turn(agent(source, stop_grace_seconds=0.2), turn())
    assert not is_alive(int(heard.text))


async def test_the_ledger_is_empty_after_every_kind_of_end(agent, tmp_path: Path) -> None:
    await run_turn(agent("text('x')"), turn())
    await failure_of(agent("sys.exit(1)"))
    await stop_at_first_text(agent("text('x'); time.sleep(3600)"))
    assert list((tmp_path / "processes").iterdir()) == []


async def test_steering_is_acknowledged_only_by_the_programs_own_line(agent) -> None:
    inbox = Letterbox()
    inbox.put(Steer("more"))
    silent = agent("hear(); text(hear()['text'])", steer=True)
    heard = await run_turn(silent, turn(inbox=inbox))
    assert heard.text == "more"
    assert not any(isinstance(event, Steering) for event in heard.events)


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"command": []}, "command: names no program"),
        ({"command": ""}, "command: names no program"),
        ({"command": [""]}, "command: names no program"),
        ({"command": ["a\0b"]}, "command: names no program"),
        ({"command": "sh 'x"}, "command: No closing quotation"),
        ({"command": [1]}, r"command\[0\]: Expected `str`"),
        ({"comand": "sh"}, "comand: no such setting"),
        ({"cwd": "/no/such/directory"}, "cwd: /no/such/directory is not a directory"),
        ({"env": {"A B": "x"}}, "env.A B: not a variable"),
        ({"env": {"A": "x\0"}}, "env.A: not a variable"),
        ({"env": {"DISPATCH_PROCESS": "x"}}, "env.DISPATCH_PROCESS: not a variable"),
        ({"stop_grace_seconds": -1}, "stop_grace_seconds: Expected"),
    ],
)
def test_a_wrong_setting_is_named(agent, options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=f"^agents\\.tested\\.{complaint}"):
        agent(**options)


def test_a_command_is_required(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^agents\.tested\.command: required"):
        CommandAgent.from_options(
            "tested", {}, ledger=ProcessLedger(tmp_path), line_bytes_max=LINE_BYTES_MAX
        )
