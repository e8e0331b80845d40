"""ACP agents held to the agent's contract, and what a turn with one is made of."""

import base64
import json
import sys
import textwrap
from pathlib import Path

import anyio
import pytest
import structlog
from anyio.lowlevel import checkpoint

from dispatch.agents.port import GO_ON, Agent, AgentFailure, Respond, Steer
from dispatch.core.content import StoredLine, Text
from dispatch.core.events import Done, Image, Request, RequestOption, Response, TextDelta
from dispatch.core.identity import TurnId
from tests.agents.acp_hosting import (
    Alone,
    Conversation,
    build,
    hosted,
    is_alive,
    until_gone,
)
from tests.contract.agent import (
    GUARD_SECONDS,
    AgentContract,
    Behaviour,
    Letterbox,
    Listener,
    is_text,
    nothing_left,
    run_turn,
    turn,
)
from tests.contract.agent import Build as Built

ANY_MODEL = """
    BEGINNING = {"configOptions": [{
        "id": "model", "name": "Model", "category": "model", "type": "select",
        "currentValue": "any", "options": [{"value": v, "name": v} for v in ("any", "nonsense")],
    }]}
"""


class TestTheContract(AgentContract):
    @pytest.fixture
    def build(self, tmp_path: Path) -> Built:
        sources = {
            Behaviour.SAYS: "def prompt(text, blocks): say(text)",
            Behaviour.WAITS: "def prompt(text, blocks): say('word'); return wait_for_cancel()",
            Behaviour.FLOODS: """
                def prompt(text, blocks):
                    while True: say('word ')
            """,
            Behaviour.FAILS: "def prompt(text, blocks): raise LookupError('no good')",
        }

        def make(behaviour: Behaviour) -> Agent:
            # One that floods does not read, so it is ended after this; the others stop when asked.
            grace = 0.2 if behaviour is Behaviour.FLOODS else 10
            source = textwrap.dedent(ANY_MODEL) + textwrap.dedent(sources[behaviour])
            return Alone(build(tmp_path, source, stop_grace_seconds=grace))

        return make

    async def test_everything_a_turn_may_carry_is_tolerated(self, build: Built) -> None:
        request = turn(
            images=(Image("https://x.example"),),
            reasoning_effort="max",
            system_prompt="be kind",
            model="any",
        )
        heard = await run_turn(build(Behaviour.SAYS), request)
        assert heard.text == "hello there"

    async def test_steering_is_acknowledged_and_said(self, build: Built) -> None:
        """The protocol has no place for it: it is not acknowledged, and becomes the next turn."""
        agent, request = build(Behaviour.SAYS), turn()
        assert agent.info.steer is False
        request.inbox.put(Steer("four five"))
        heard = await run_turn(agent, request)
        assert [type(event) for event in heard.events] == [TextDelta, Done]


# ---------------------------------------------------------------- what it is told


@pytest.fixture
async def agent(tmp_path: Path):
    """Builds agents of a source and hosts them."""
    async with anyio.create_task_group() as tasks:

        async def agent(source: str = "", **options: object) -> Conversation:
            made = build(tmp_path, source, **options)
            await tasks.start(made.reside)
            return Conversation(made)

        yield agent
        tasks.cancel_scope.cancel()


async def failure_of(conversation: Conversation, message: str = "x", **fields) -> AgentFailure:
    with pytest.raises(AgentFailure) as failure:
        await conversation.run(message, **fields)
    return failure.value


async def test_it_offers_neither_files_nor_terminals(agent) -> None:
    source = """
        def prompt(text, blocks):
            say(json.dumps([m["params"] for m in heard if m["method"] == "initialize"]))
    """
    (told,) = json.loads(await (await agent(source)).say("x"))
    assert told["protocolVersion"] == 1
    assert told["clientInfo"]["name"] == "dispatch"
    offered = told["clientCapabilities"]
    assert not any(offered["fs"].values())
    assert offered["terminal"] is False


@pytest.mark.parametrize(
    "method", ["fs/read_text_file", "fs/write_text_file", "terminal/create", "x/unknown", "_ext"]
)
async def test_what_is_not_offered_is_answered_with_method_not_found(agent, method: str) -> None:
    source = f"""
        def prompt(text, blocks):
            found = request({method!r}, sessionId=session, path="/etc/passwd", command="id")
            say(str(found["error"]["code"]))
    """
    assert await (await agent(source)).say("x") == "-32601"


async def test_a_session_works_in_the_agents_directory_without_its_secrets(
    agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    source = """
        def prompt(text, blocks):
            (told,) = [m["params"] for m in heard if m["method"] == "session/new"]
            say(json.dumps([os.getcwd(), told, dict(os.environ)]))
    """
    talk = await agent(source, cwd=str(tmp_path), env={"MINE": "x"})
    cwd, told, environment = json.loads(await talk.say("x"))
    assert cwd == told["cwd"] == str(tmp_path)
    assert told["mcpServers"] == []
    assert environment["MINE"] == "x"
    assert "secret" not in environment.values()


PNG = Image("data:image/png;base64,AAEC", None)


async def test_pictures_are_blocks_where_the_agent_takes_them(agent) -> None:
    talk = await agent("CAPABILITIES = {'promptCapabilities': {'image': True}}")
    images = (PNG, Image("data:image/gif,%00%01"), Image("https://x.example/a.png", "image/png"))
    message, *pictures = await talk.told(images=images)
    assert message == {"type": "text", "text": "blocks"}
    gif = base64.b64encode(b"\0\1").decode()
    assert pictures == [
        {"type": "image", "data": "AAEC", "mimeType": "image/png"},
        {"type": "image", "data": gif, "mimeType": "image/gif"},
        {
            "type": "resource_link",
            "uri": "https://x.example/a.png",
            "name": "image",
            "mimeType": "image/png",
        },
    ]


async def test_a_picture_that_the_agent_cannot_take_is_named_to_it(agent) -> None:
    talk = await agent("def prompt(text, blocks): say(json.dumps(blocks))")
    message, picture = await talk.told(images=(PNG,))
    assert message["text"] == "blocks"
    assert "image/png" in picture["text"]


async def test_instructions_are_told_once_and_again_when_they_change(agent) -> None:
    talk = await agent()
    first = await talk.told(system_prompt="be kind")
    same = await talk.told(system_prompt="be kind")
    other = await talk.told(system_prompt="be brief")
    assert [len(blocks) for blocks in (first, same, other)] == [2, 1, 2]
    assert "be kind" in first[0]["text"]
    assert "be brief" in other[0]["text"]


# ---------------------------------------------------------------- models and modes

CHOICES = """
    BEGINNING = {
        "configOptions": [
            {"id": "m", "name": "Model", "category": "model", "type": "select",
             "currentValue": "small", "options": [
                {"group": "g", "name": "G", "options": [{"value": "small", "name": "S"}]},
                {"group": "h", "name": "H", "options": [{"value": "large", "name": "L"}]}]},
            {"id": "t", "name": "Thinking", "category": "thought_level", "type": "select",
             "currentValue": "low", "options": [
                {"value": v, "name": v} for v in ("low", "high")]},
        ],
        "modes": {"currentModeId": "code", "availableModes": [
            {"id": "code", "name": "Code"}, {"id": "plan", "name": "Plan"}]},
    }
    set_to = []
    def other(method, params):
        del params["sessionId"]
        set_to.append([method, params])
        return {"configOptions": []} if "config" in method else {}
    def prompt(text, blocks):
        say(json.dumps(set_to)); set_to.clear()
"""


async def test_a_model_a_mode_and_an_effort_are_set_and_set_back(agent) -> None:
    talk = await agent(CHOICES)
    option = "session/set_config_option"
    assert await talk.told(model="large", reasoning_effort="high") == [
        [option, {"configId": "m", "value": "large"}],
        [option, {"configId": "t", "value": "high"}],
    ]
    assert await talk.told(model="large", reasoning_effort="high") == []
    assert await talk.told(model="plan") == [
        [option, {"configId": "m", "value": "small"}],
        ["session/set_mode", {"modeId": "plan"}],
        [option, {"configId": "t", "value": "low"}],
    ]
    assert await talk.told() == [["session/set_mode", {"modeId": "code"}]]
    assert await talk.told(reasoning_effort="max") == []


async def test_a_choice_that_the_agent_refuses_fails_the_turn_and_is_set_back(agent) -> None:
    source = textwrap.dedent(CHOICES) + textwrap.dedent("""
        def other(method, params):
            set_to.append(params["value"])
            if params["value"] == "large": raise LookupError("not for you")
            return {"configOptions": []}
    """)
    talk = await agent(source)
    await talk.say("x")
    last = talk.last
    assert (await failure_of(talk, model="large")).message == "tested: not for you"
    talk.last = last
    assert await talk.told() == ["large", "small"]


async def test_models_of_the_older_kind_are_set_too(agent) -> None:
    source = """
        BEGINNING = {"models": {"currentModelId": "a", "availableModels": [
            {"modelId": "a", "name": "A"}, {"modelId": "b", "name": "B", "description": None}]}}
        set_to = []
        def other(method, params):
            set_to.append([method, params["modelId"]])
            return {}
        def prompt(text, blocks): say(json.dumps(set_to))
    """
    assert await (await agent(source)).told(model="b") == [["session/set_model", "b"]]


async def test_an_unknown_model_is_refused_by_name(agent) -> None:
    failure = await failure_of(await agent(CHOICES), model="huge")
    assert failure.code == "unknown_model"
    assert failure.message == 'tested has no model "huge", only small, large, code, plan'
    bare = await failure_of(await agent(), model="huge")
    assert bare.message == 'tested has no model "huge"; it has none to choose from'


async def test_the_models_it_told_are_shown_to_clients(tmp_path: Path) -> None:
    async with hosted(build(tmp_path, CHOICES)) as made:
        assert made.info.models == ()
        await Conversation(made).run("x")
        assert made.info.models == ("small", "large")


async def test_models_that_are_configured_bound_the_choice(agent) -> None:
    failure = await failure_of(await agent(CHOICES, models=["small"]), model="large")
    assert failure.message == 'tested has no model "large", only small'


# ---------------------------------------------------------------- permissions

ASKS = """
    def prompt(text, blocks):
        say(json.dumps(permission("call-1", title="Remove", kind="delete", rawInput={"path": "x"})))
"""


async def answered(talk: Conversation, **answer: object) -> tuple[Listener, dict[str, object]]:
    inbox = Letterbox()

    async def answer_it(event: object) -> None:
        if isinstance(event, Request):
            inbox.put(Respond(Response("another one", option_id="always")))
            inbox.put(Respond(Response(event.request_id, **answer)))

    heard = await talk.run("ask", Listener(answer_it), inbox=inbox)
    return heard, json.loads(heard.text)


async def test_a_permission_is_asked_with_the_agents_own_options(agent) -> None:
    heard, outcome = await answered(await agent(ASKS), option_id="always")
    call, request, *_ = heard.events
    assert (call.tool_call_id, call.tool_name) == ("call-1", "Remove")
    assert bytes(call.input) == b'{"path":"x"}'
    assert request == Request(
        request.request_id,
        "approval",
        "Remove",
        tool_call_id="call-1",
        options=(
            RequestOption("once", "Yes", "allow"),
            RequestOption("always", "Always", "allow"),
            RequestOption("never", "No", "deny"),
        ),
    )
    assert outcome == {"outcome": "selected", "optionId": "always"}


@pytest.mark.parametrize(("approved", "option"), [(True, "once"), (False, "never")])
async def test_a_plain_yes_or_no_is_for_this_once(agent, approved: bool, option: str) -> None:
    _, outcome = await answered(await agent(ASKS), approved=approved)
    assert outcome == {"outcome": "selected", "optionId": option}


async def test_a_no_without_an_option_for_it_is_a_cancellation(agent) -> None:
    source = "def prompt(text, blocks): say(json.dumps(permission(options=OPTIONS[:1])))"
    _, outcome = await answered(await agent(source), approved=False)
    assert outcome == {"outcome": "cancelled"}


async def test_two_permissions_are_told_apart_also_from_those_of_the_turn_before(agent) -> None:
    source = """
        def prompt(text, blocks):
            say(json.dumps([permission("a")["optionId"], permission("b")["optionId"]]))
    """
    talk = await agent(source)
    first, _ = await answered(talk, option_id="once")
    second, found = await answered(talk, option_id="never")
    requests = [e.request_id for h in (first, second) for e in h.events if isinstance(e, Request)]
    assert len(set(requests)) == 4
    assert found == ["never", "never"]


async def test_what_nobody_answered_is_cancelled_with_the_turn(agent, tmp_path: Path) -> None:
    source = f"""
        def prompt(text, blocks):
            if text == "go on":
                return say(open({str(tmp_path / "outcome")!r}).read())
            found = permission()
            with open({str(tmp_path / "outcome")!r}, "w") as file:
                json.dump([found, is_cancelled], file)
            return "cancelled"
    """
    talk = await agent(source)
    await stopped(talk, lambda event: isinstance(event, Request))
    assert json.loads(await talk.say("go on")) == [{"outcome": "cancelled"}, True]


async def test_a_permission_asked_while_no_turn_runs_is_cancelled(agent) -> None:
    source = """
        outcomes = []
        def new_session(params):
            global session
            session = "s"
            outcomes.append(request("session/request_permission", sessionId="s",
                                    toolCall={"toolCallId": "1"}, options=OPTIONS))
            return {"sessionId": "s"}
        def prompt(text, blocks): say(json.dumps(outcomes))
    """
    (outcome,) = json.loads(await (await agent(source)).say("x"))
    assert "result" not in outcome or outcome["result"]["outcome"] == {"outcome": "cancelled"}


# ---------------------------------------------------------------- how it is stopped


async def stopped(talk: Conversation, when=is_text, message: str = "wait") -> Listener:
    """Stop a turn at an event."""
    listener, request = Listener(), talk.turn(message)
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(talk.agent.run, request, listener)
            await listener.until(when)
            tasks.cancel_scope.cancel()
    listener.over = True
    return listener


async def test_an_agent_that_stops_when_asked_is_kept(agent) -> None:
    talk = await agent()
    pid = (await stopped(talk)).text.split()[1]
    assert await talk.say("pid") == pid


async def test_what_it_says_after_a_stop_is_shown_to_nobody(agent) -> None:
    source = """
        def prompt(text, blocks):
            say(text)
            if text == "wait":
                wait_for_cancel(); say("too late"); tool("1", title="late")
                return "cancelled"
    """
    talk = await agent(source)
    assert (await stopped(talk)).text == "wait"
    heard = await talk.run("next")
    assert heard.events == [TextDelta("next"), Done("stop")]


async def test_what_it_asks_after_a_stop_is_cancelled_at_once(agent) -> None:
    source = """
        outcomes = []
        def prompt(text, blocks):
            say(json.dumps([os.getpid(), outcomes]))
            if text == "wait":
                wait_for_cancel()
                outcomes.append(permission())
                return "cancelled"
    """
    talk = await agent(source)
    pid, _ = json.loads((await stopped(talk)).text)
    assert await talk.told() == [pid, [{"outcome": "cancelled"}]]


async def test_an_agent_that_does_not_stop_is_ended(agent) -> None:
    source = """
        import time
        def prompt(text, blocks):
            say(str(os.getpid()))
            if text == "wait": time.sleep(3600)
    """
    talk = await agent(source, stop_grace_seconds=0.2)
    pid = int((await stopped(talk)).text)
    assert not is_alive(pid)
    assert int(await talk.say("next")) != pid


async def test_an_agent_deaf_to_everything_is_killed(agent) -> None:
    source = """
        import signal, time
        def prompt(text, blocks):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            say(str(os.getpid()))
            time.sleep(3600)
    """
    pid = int((await stopped(await agent(source, stop_grace_seconds=0.2))).text)
    assert not is_alive(pid)


async def test_a_turn_that_is_not_wanted_by_its_taker_is_cancelled_at_the_agent(agent) -> None:
    class TakesNoMore(Exception):
        pass

    async def refuse(_: object) -> None:
        raise TakesNoMore

    talk = await agent()
    with pytest.raises(TakesNoMore):
        await talk.run("wait", Listener(refuse))
    assert (await talk.run("x")).events == [TextDelta("x"), Done("stop")]


# ---------------------------------------------------------------- how it fails


async def test_a_crash_is_told_with_its_status_and_last_words(agent) -> None:
    talk, listener = await agent(), Listener()
    with structlog.testing.capture_logs() as logs, pytest.raises(AgentFailure) as failure:
        await talk.run("crash", listener)
    assert [entry for entry in logs if entry["log_level"] == "warning"] == [
        {"event": "agent.failed", "log_level": "warning", "agent": "tested", "status": 7}
    ]
    assert failure.value.message == "tested exited with status 7: came apart"
    assert failure.value.code == "agent_failed"
    assert listener.events == [TextDelta("so far")]
    assert await talk.say("on") == "on"


async def test_a_signal_is_told_as_one(agent) -> None:
    source = "def prompt(text, blocks): os.kill(os.getpid(), 11)"
    assert (await failure_of(await agent(source))).message == "tested was ended by signal 11"


async def test_a_program_that_is_no_agent_is_told_as_such(agent) -> None:
    failure = await failure_of(await agent(command=["sh", "-c", "echo usage: x >&2; exit 2"]))
    assert failure.message == "tested exited with status 2: usage: x"


async def test_a_program_that_never_answers_is_not_waited_for(agent) -> None:
    silent = await agent(command=["sleep", "3600"], start_seconds=0.2, stop_grace_seconds=1)
    failure = await failure_of(silent)
    assert (failure.code, failure.message) == (
        "start_timeout",
        "tested was not ready within 0.2 seconds",
    )


async def test_a_missing_program_is_told_before_and_in_the_turn(tmp_path: Path) -> None:
    path = tmp_path / "later"
    async with hosted(build(tmp_path, command=[str(path)])) as made:
        assert made.info.problem == f"program not found: {path}"
        failure = await failure_of(Conversation(made))
        assert (failure.code, failure.message) == ("spawn_failed", f"program not found: {path}")
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        await made.probe()
        assert made.info.problem is None


async def test_an_agent_that_wants_a_sign_in_is_told_with_its_ways(agent) -> None:
    source = """
        AUTH_METHODS = [{"id": "1", "name": "Log in", "description": "Run `x login`\\x1b[31m"}]
        def new_session(params): raise PermissionError("Authentication required")
    """
    failure = await failure_of(await agent(source))
    assert failure.code == "auth_required"
    assert failure.message == (
        "tested asks to be signed in to first (Authentication required); "
        "it offers: Log in (Run `x login`)"
    )


async def test_a_sign_in_that_is_wanted_at_the_prompt_is_told_too(agent) -> None:
    source = "def prompt(text, blocks): raise PermissionError('expired')"
    assert (await failure_of(await agent(source))).code == "auth_required"


async def test_a_refusal_is_told_in_the_agents_words(agent) -> None:
    source = "def prompt(text, blocks): raise LookupError('quota is used up')"
    talk = await agent(source)
    assert (await failure_of(talk)).message == "tested: quota is used up"


async def test_another_version_of_the_protocol_is_refused(agent) -> None:
    source = "def initialize(params): return {'protocolVersion': 2}"
    failure = await failure_of(await agent(source))
    assert failure.code == "protocol_version"
    assert failure.message == "tested speaks version 2 of the protocol, and this is 1"


@pytest.mark.parametrize("answer", ["{}", "[]", "None", "{'stopReason': 'tired'}", "{'x': 1}"])
async def test_an_answer_that_is_none_ends_the_turn_alone(agent, answer: str) -> None:
    source = f"""
        def take_prompt(params):
            if params["prompt"][-1]["text"] == "good":
                say("good"); return {{"stopReason": "end_turn"}}
            return {answer}
    """
    talk = await agent(source)
    assert (await failure_of(talk)).code == "bad_answer"
    assert await talk.say("good") == "good"


async def test_a_session_without_an_id_is_refused(agent) -> None:
    assert (
        await failure_of(await agent("def new_session(params): return {}"))
    ).code == "bad_answer"


BAD_LINES = [
    b"hello",
    b"",
    b"{}",
    b"[]",
    b"[1]",
    b"null",
    b'{"jsonrpc":"2.0","id":[1],"result":{}}',
    b'{"jsonrpc":"2.0","id":99,"result":{}}',
    b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}',
    b'{"jsonrpc":"2.0","id":2,"error":"text"}',
    b'{"jsonrpc":"2.0","method":7}',
    b'{"jsonrpc":"2.0","method":"session/update"}',
    b'{"jsonrpc":"2.0","method":"session/update","params":[]}',
    b'{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"x","update":{}}}',
    b'{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"SESSION","update":'
    b'{"sessionUpdate":"newer_than_us","x":1}}}',
    b'{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"another","update":'
    b'{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"no"}}}}',
    b'{"jsonrpc":"2.0","method":"x/unknown","params":{}}',
    b'{"jsonrpc":"2.0","method":"_ext/unknown","params":{}}',
    b'{"jsonrpc":"2.0","method":"session/request_permission","params":{}}',
    b'{"jsonrpc":"2.0","method":"session/update","params":' + b'{"a":' * 50_000,
    b'{"jsonrpc":"2.0","method":"\\ud800"}',
    b"\xff\xfe",
    b"\x00",
]


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: repr(line[:60]))
async def test_a_line_that_says_nothing_is_passed_over(
    agent, tmp_path: Path, caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    (tmp_path / "line").write_bytes(line)
    source = f"""
        def prompt(text, blocks):
            say("before ")
            line = open({str(tmp_path / "line")!r}, "rb").read()
            sys.stdout.buffer.write(line.replace(b"SESSION", session.encode()) + b"\\n")
            say("after")
    """
    assert await (await agent(source)).say("x") == "before after"
    assert caplog.records == []


async def test_a_request_that_is_none_is_answered_as_one(agent) -> None:
    source = """
        def prompt(text, blocks):
            found = request("session/request_permission", sessionId=session, toolCall=[])
            other = request("session/request_permission", sessionId="another",
                            toolCall={"toolCallId": "1"}, options=OPTIONS)
            say(json.dumps([found["error"]["code"], other["error"]["code"]]))
    """
    assert json.loads(await (await agent(source)).say("x")) == [-32602, -32602]


async def test_a_line_over_the_bound_ends_the_turn(agent) -> None:
    talk, listener = (
        await agent("def prompt(text, blocks): say('a'); say('x' * 600_000)"),
        Listener(),
    )
    with pytest.raises(AgentFailure) as failure:
        await talk.run("x", listener)
    assert failure.value.code == "too_large"
    assert listener.text == "a"


@pytest.mark.parametrize("noise", ["'x' * 60_000 + chr(10)", "'x' * 60_000", "chr(10) * 60_000"])
async def test_output_without_end_that_says_nothing_ends_the_turn(agent, noise: str) -> None:
    source = f"""
        def prompt(text, blocks):
            say("a")
            while True: sys.stdout.write({noise})
    """
    failure = await failure_of(await agent(source, stop_grace_seconds=0.2))
    assert failure.code == "too_large"


async def test_much_output_that_is_shown_is_no_noise(agent) -> None:
    source = """
        def prompt(text, blocks):
            for _ in range(120): say("x" * 100_000)
    """
    assert len(await (await agent(source)).say("x")) == 12_000_000


async def test_an_agent_that_writes_without_end_between_turns_is_ended(agent) -> None:
    source = """
        import threading
        def prompt(text, blocks):
            def spam():
                while True: sys.stdout.write("x" * 60_000 + chr(10))
            say(str(os.getpid()))
            if text == "spam": threading.Thread(target=spam, daemon=True).start()
    """
    talk = await agent(source, stop_grace_seconds=0.2)
    pid = int(await talk.say("spam"))
    await until_gone(pid)
    assert int(await talk.say("x")) != pid


async def test_an_agent_that_asks_without_end_and_reads_nothing_holds_no_memory(agent) -> None:
    source = """
        def prompt(text, blocks):
            say("asking")
            while True: write(id="x" * 1000, method="x/unknown")
    """
    talk = await agent(source, stop_grace_seconds=0.2)
    listener, request = Listener(), talk.turn("x")
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(talk.agent.run, request, listener)
            await listener.until(is_text)
            session = next(iter(talk.agent._keeper._sessions.values()))
            while session._wire._waiting_bytes < 1024 * 1024:
                await checkpoint()
            for _ in range(1000):
                await checkpoint()
            assert session._wire._waiting_bytes < 1024 * 1024 + 10_000
            tasks.cancel_scope.cancel()


async def test_an_agent_that_closes_its_input_is_told_as_such(agent) -> None:
    source = """
        import time
        def prompt(text, blocks):
            os.close(0)
            for _ in range(3): write(id="x", method="x/unknown")
            time.sleep(3600)
    """
    failure = await failure_of(await agent(source, stop_grace_seconds=0.2))
    assert failure.message == "the agent closed its input"


async def test_nothing_is_left_when_its_place_is_gone(tmp_path: Path) -> None:
    with nothing_left():
        async with hosted(build(tmp_path)) as made:
            pids = [int(await Conversation(made, name).say("pid")) for name in ("a", "b")]
            assert all(is_alive(pid) for pid in pids)
        assert not any(is_alive(pid) for pid in pids)
    assert list((tmp_path / "processes").iterdir()) == []


async def test_nothing_is_left_when_it_was_closed(tmp_path: Path) -> None:
    with nothing_left():
        async with hosted(build(tmp_path)) as made:
            talk = Conversation(made)
            pid = int(await talk.say("pid"))
            await made.aclose()
            assert not is_alive(pid)
            assert (await failure_of(talk)).code == "unavailable"
            await made.aclose()


@pytest.mark.skipif(sys.platform != "linux", reason="sessions are found by /proc")
async def test_a_helper_of_the_agent_does_not_outlive_it(tmp_path: Path) -> None:
    source = """
        def prompt(text, blocks):
            pid = os.fork()
            if pid == 0:
                os.setsid(); sys.stdin.close(); __import__("time").sleep(3600)
            say(str(pid))
    """
    async with hosted(build(tmp_path, source, stop_grace_seconds=0.2)) as made:
        pid = int(await Conversation(made).say("x"))
        assert is_alive(pid)
    assert not is_alive(pid)


# ---------------------------------------------------------------- a turn that is resumed


async def so_far() -> list[StoredLine]:
    return [StoredLine("assistant", Text("one "))]


async def test_a_session_that_was_cut_off_is_told_to_go_on(agent) -> None:
    conversation = await agent("def prompt(text, blocks): say(text)")
    await conversation.say("count")
    told = await conversation.say("count", resumes=TurnId("t0"), said=so_far)
    assert told == GO_ON


async def test_where_it_had_said_nothing_it_is_given_the_message_again(agent) -> None:
    conversation = await agent("def prompt(text, blocks): say(text)")
    await conversation.say("before")
    assert await conversation.say("count", resumes=TurnId("t0")) == "count"


async def test_a_new_session_is_told_what_was_said_before_it_goes_on(agent) -> None:
    source = "def prompt(text, blocks): say('|'.join(b['text'] for b in blocks))"
    conversation = await agent(source)
    conversation.lines = [StoredLine("user", Text("count")), *await so_far()]
    told = await conversation.say("count", resumes=TurnId("t0"), said=so_far)
    assert "User: count" in told
    assert "Assistant: one " in told
    assert told.endswith(f"|{GO_ON}")
