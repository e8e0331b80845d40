"""The openai agent against a real endpoint on the loopback: what it sends, shows and finds out.

How it fails is in `test_openai_endpoint`.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import msgspec
import pytest

from dispatch.agents.openai.agent import OpenAIAgent
from dispatch.agents.port import Agent, AgentFailure, Steer
from dispatch.core.content import StoredLine, Text
from dispatch.core.events import (
    Done,
    Image,
    ReasoningDelta,
    Steering,
    StepComplete,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolResult,
    Usage,
)
from dispatch.errors import ConfigError
from tests.agents.answers import DONE, LoopbackEndpoint, answer, data, piece, script, serving, text
from tests.contract.agent import (
    GUARD_SECONDS,
    AgentContract,
    Behaviour,
    Build,
    Listener,
    is_text,
    nothing_left,
    run_turn,
    turn,
)

LINE_BYTES_MAX = 512 * 1024
OPENAI = "https://api.openai.com/v1"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[LoopbackEndpoint]:
    with serving() as endpoint:
        yield endpoint


def openai(url: str, **options: object) -> OpenAIAgent:
    return OpenAIAgent.from_options(
        "tested",
        {"base_url": url, "model": "small", "retry_seconds": [0.01], **options},
        line_bytes_max=LINE_BYTES_MAX,
    )


@pytest.fixture
def told(endpoint: LoopbackEndpoint):
    """What the endpoint was told in a turn: path, headers and body."""

    async def told(request=None, **options: object) -> dict:
        heard = await run_turn(openai(endpoint.url("repeats"), **options), request or turn())
        return json.loads(heard.text)

    return told


@pytest.fixture
def played(endpoint: LoopbackEndpoint):
    """The events of a turn for which the endpoint gives one answer."""

    async def played(*pieces: bytes, end: str = "whole", **options: object) -> list:
        agent = openai(endpoint.url("scripted"), **options)
        heard = await run_turn(agent, turn(script([answer(*pieces, end=end)])))
        return heard.events

    return played


class TestTheContract(AgentContract):
    @pytest.fixture
    def build(self, endpoint: LoopbackEndpoint) -> Build:
        names = {Behaviour.LISTENS: "says"}

        def build(behaviour: Behaviour) -> Agent:
            name = names.get(behaviour, behaviour.name.lower())
            return openai(endpoint.url(name), models=["any", "nonsense"])

        return build

    async def test_steering_is_acknowledged_and_said(self, build: Build) -> None:
        """It is not taken, so that the broker makes it the next turn."""
        agent, request = build(Behaviour.LISTENS), turn("one two three")
        request.inbox.put(Steer("four"))
        heard = await run_turn(agent, request)
        assert not agent.info.steer
        assert not any(isinstance(event, Steering) for event in heard.events)
        assert heard.text == "one two three"


# ---------------------------------------------------------------- what it sends


async def test_a_turn_with_nothing_optional(told) -> None:
    found = await told()
    assert found["path"].endswith("/v1/chat/completions")
    assert found["body"] == {
        "model": "small",
        "messages": [{"role": "user", "content": "hello there"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_turn_with_everything(told) -> None:
    request = turn(
        "look",
        model="large",
        reasoning_effort="high",
        images=(Image("data:image/png;base64,AA==", "image/png"), Image("https://x.example/y")),
        lines=[StoredLine("user", Text("q")), StoredLine("assistant", Text("a"))],
    )
    found = await told(request, system_prompt="be kind", temperature=0.5, max_tokens=99)
    assert found["body"] == {
        "model": "large",
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                    {"type": "image_url", "image_url": {"url": "https://x.example/y"}},
                ],
            },
        ],
        "temperature": 0.5,
        "max_tokens": 99,
        "reasoning_effort": "high",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_the_turns_system_prompt_goes_before_the_agents(told) -> None:
    found = await told(turn(system_prompt="be brief"), system_prompt="be kind")
    assert found["body"]["messages"][0] == {"role": "system", "content": "be brief"}


async def test_counts_are_not_asked_for_where_that_is_refused(told) -> None:
    assert "stream_options" not in (await told(usage=False))["body"]


async def test_the_key_goes_in_its_header(told, monkeypatch) -> None:
    monkeypatch.setenv("SOME_KEY", " sk-secret\n")
    found = await told(turn("show the key"), api_key_env="SOME_KEY")
    assert found["headers"]["authorization"] == "Bearer sk-secret"


async def test_no_key_is_sent_on_this_machine_unless_it_is_named(told, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-secret")
    assert "secret" not in json.dumps((await told())["headers"])


async def test_a_variable_that_is_not_set_matters_to_no_endpoint_on_this_machine(told) -> None:
    assert "authorization" not in (await told(api_key_env="NOT_SET"))["headers"]


async def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(told, monkeypatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await told())["body"]["model"] == "small"


# ---------------------------------------------------------------- what it shows


async def test_a_turn_is_a_step_with_its_counts_and_times(endpoint) -> None:
    heard = await run_turn(openai(endpoint.url("says")), turn())
    *said, usage, step, done = heard.events
    assert all(isinstance(event, TextDelta) for event in said)
    assert len(said) > 1
    assert usage == Usage(TokenUsage(7, 5))
    assert isinstance(step, StepComplete)
    assert 0 < step.ttft_ms <= step.gen_total_ms
    assert step.gen_total_ms == pytest.approx(step.ttft_ms + step.decode_ms, abs=0.01)
    assert done == Done("stop", context_size=12)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
async def test_a_stream_may_be_cut_into_pieces_anywhere(played, size: int) -> None:
    stream = b": hello\r\n\r\nevent: x\n" + text("grü", "ße", " 🦔", "\\", "\u2028") + piece("stop")
    stream += b"data:[DONE]\n\n"
    events = await played(*(stream[i : i + size] for i in range(0, len(stream), size)))
    assert [e.delta for e in events if is_text(e)] == ["grü", "ße", " 🦔", "\\", "\u2028"]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_thinking_is_shown_apart_from_the_answer(played, name: str) -> None:
    events = await played(piece(**{name: "hm "}), piece(**{name: "so"}), text("yes"), DONE)
    assert events[:3] == [ReasoningDelta("hm "), ReasoningDelta("so"), TextDelta("yes")]


async def test_thinking_is_not_shown_where_nobody_wants_it(played) -> None:
    events = await played(piece(reasoning="hm"), text("yes"), DONE, reasoning=False)
    assert events[0] == TextDelta("yes")


async def test_a_tool_call_in_pieces_is_shown_and_not_run(endpoint) -> None:
    function = {"name": "find", "arguments": ""}
    pieces = [
        text("let me see"),
        piece(tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": function}]),
        piece(tool_calls=[{"index": 0, "function": {"arguments": '{"x": '}}]),
        piece(tool_calls=[{"index": 0, "function": {"arguments": "1.50}"}}]),
        piece("tool_calls"),
        data({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}),
        DONE,
    ]
    agent, listener = openai(endpoint.url("scripted")), Listener()
    with nothing_left(), pytest.raises(AgentFailure) as failure:
        await run_turn(agent, turn(script([answer(*pieces)])), listener)
    assert failure.value.code == "no_tools"
    said, call, result, usage, step = listener.events
    assert said == TextDelta("let me see")
    assert call == ToolCall("c1", "find", msgspec.Raw(b'{"x": 1.50}'))
    assert isinstance(result, ToolResult)
    assert (result.tool_call_id, result.is_error) == ("c1", True)
    assert usage == Usage(TokenUsage(3, 4))
    assert isinstance(step, StepComplete)


async def test_an_answer_at_its_limit_ends_for_that_reason(played) -> None:
    assert (await played(text("so far"), piece("length"), DONE))[-1] == Done("length")


async def test_a_refusal_is_what_the_model_said(played) -> None:
    events = await played(piece(refusal="I will "), piece(refusal="not"), piece("stop"), DONE)
    assert [e.delta for e in events if is_text(e)] == ["I will ", "not"]
    assert events[-1] == Done("refusal")


async def test_an_answer_without_counts_has_none(played) -> None:
    events = await played(text("yes"), piece("stop"), DONE)
    assert not any(isinstance(event, Usage) for event in events)
    assert events[-1] == Done("stop")


async def test_pieces_without_choices_say_nothing(played) -> None:
    events = await played(
        data({"choices": []}), data({"choices": None}), data({}), text("yes"), piece("stop"), DONE
    )
    assert events[0] == TextDelta("yes")


@pytest.mark.parametrize("end", ["whole", "cut", "open"])
async def test_after_the_last_word_nothing_can_go_wrong(played, end: str) -> None:
    """`[DONE]` is missing, and the server ends, breaks off, or forgets to hang up."""
    events = await played(text("yes"), piece("stop"), end=end)
    assert (events[0], events[-1]) == (TextDelta("yes"), Done("stop"))


async def test_an_endpoint_that_goes_on_after_its_last_word_is_left_there(endpoint) -> None:
    bad = answer(text("yes"), piece("stop"), forever=b": still here\n\n")
    heard = await run_turn(openai(endpoint.url("scripted")), turn(script([bad])))
    assert (heard.text, heard.events[-1]) == ("yes", Done("stop"))


async def test_a_stream_under_a_wrong_name_is_a_stream(endpoint) -> None:
    bad = answer(text("yes"), piece("stop"), DONE, headers={"content_type": "application/json"})
    heard = await run_turn(openai(endpoint.url("scripted")), turn(script([bad])))
    assert heard.text == "yes"


async def test_a_last_line_without_its_end_is_a_line(played) -> None:
    assert (await played(text("yes"), piece("stop").rstrip()))[-1] == Done("stop")


async def test_a_server_that_gives_no_reason_and_says_done_is_believed(played) -> None:
    assert (await played(text("yes"), DONE))[-1] == Done("stop")


async def test_a_huge_piece_comes_whole(played) -> None:
    word = "ü" * (LINE_BYTES_MAX // 2 - 200)
    assert (await played(text(word), piece("stop"), DONE))[0] == TextDelta(word)


# ---------------------------------------------------------------- stopping


async def test_a_stop_hangs_up(endpoint) -> None:
    url, listener = endpoint.url("waits"), Listener()
    agent = openai(url)
    with anyio.fail_after(GUARD_SECONDS):
        with nothing_left():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(agent.run, turn(), listener)
                await listener.until(is_text)
                tasks.cancel_scope.cancel()
            listener.over = True
        await endpoint.gone(url)


async def test_a_stop_while_nothing_has_come_yet_hangs_up(endpoint) -> None:
    url = endpoint.url("scripted")
    agent, request = openai(url), turn(script([answer(end="silence")]))
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.run, request, Listener())
            while await endpoint.count(url) == 0:
                pass
            tasks.cancel_scope.cancel()
        await endpoint.gone(url)


async def test_a_closed_agent_has_let_go_of_its_client(endpoint) -> None:
    agent = openai(endpoint.url("says"))
    await agent.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await run_turn(agent, turn())


# ---------------------------------------------------------------- what it finds out


async def test_a_probe_finds_the_models(endpoint) -> None:
    agent = openai(endpoint.url("says"))
    assert agent.info.models == ()
    with nothing_left():
        await agent.probe()
    assert agent.info.models == ("small", "large")
    assert agent.info.problem is None


async def test_models_that_were_found_refuse_no_other(endpoint) -> None:
    agent = openai(endpoint.url("says"))
    await agent.probe()
    assert (await run_turn(agent, turn(model="brand-new"))).text == "hello there"


async def test_models_that_are_listed_are_all_there_are(endpoint) -> None:
    agent = openai(endpoint.url("says"), model=None, models=["tiny", "other"])
    await agent.probe()
    assert agent.info.models == ("tiny", "other")
    with pytest.raises(AgentFailure) as failure:
        await run_turn(agent, turn(model="large"))
    assert failure.value.code == "unknown_model"


async def test_a_probe_tells_what_is_wrong_and_then_that_it_is_right_again(endpoint) -> None:
    agent = openai(endpoint.url("recovers"))
    await agent.probe()
    assert agent.info.problem == "the endpoint failed (503): starting"
    await agent.probe()
    assert agent.info.problem is None


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        ("fails", "does not accept the key (401): bad key"),
        ("waits", "did not answer within 3 seconds"),
        ("floods", "its list of models has no end"),
        ("garbled", "that is no list of models"),
        ("listless", "does base_url end in /v1?"),
    ],
)
async def test_a_probe_is_bounded_and_never_raises(endpoint, behaviour: str, problem: str) -> None:
    agent = openai(endpoint.url(behaviour))
    with nothing_left(), anyio.fail_after(GUARD_SECONDS):
        await agent.probe()
    assert problem in agent.info.problem


async def test_nobody_at_the_port_is_a_problem_and_no_exception() -> None:
    agent = openai("http://127.0.0.1:9/v1")
    await agent.probe()
    assert "cannot be reached" in agent.info.problem


async def test_an_endpoint_that_answers_is_well_though_it_lists_no_models(endpoint) -> None:
    agent = openai(endpoint.url("listless"))
    await run_turn(agent, turn())
    await agent.probe()
    assert agent.info.problem is None


# ---------------------------------------------------------------- configuration


async def test_without_a_key_it_says_so_and_asks_nobody(monkeypatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    agent = openai(OPENAI)
    problem = "no key: the environment variable OPENAI_API_KEY is not set"
    assert agent.info.problem == problem
    await agent.probe()
    with nothing_left(), pytest.raises(AgentFailure, match=problem) as failure:
        await run_turn(agent, turn())
    assert failure.value.code == "key_missing"
    assert agent.info.problem == problem


@pytest.mark.parametrize("key", ["sk-\nsecret", "sk-sécret", "sk secret", "sk-\x00"])
async def test_a_key_that_no_header_takes_is_never_shown(endpoint, monkeypatch, key: str) -> None:
    monkeypatch.setattr("os.environ", {"SOME_KEY": key})
    agent = openai(endpoint.url("says"), api_key_env="SOME_KEY")
    with pytest.raises(AgentFailure) as failure:
        await run_turn(agent, turn())
    assert failure.value.message == "the environment variable SOME_KEY does not hold a key"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "agents.tested.model: required, unless `models` names some"),
        ({"model": "m", "base_url": "api.example/v1"}, "base_url: not an http or https URL"),
        ({"model": "m", "base_url": "http://"}, "base_url: not an http or https URL"),
        ({"model": "m", "base_url": "http://[::1/v1"}, "base_url: not an http or https URL"),
        ({"model": "m", "base_url": "http://x:99999/"}, "base_url: not an http or https URL"),
        ({"model": "m", "base_url": "http://u:secret@x/"}, "base_url: has more than"),
        ({"model": "m", "base_url": "http://x/?key=secret"}, "base_url: has more than"),
        ({"model": "m", "api_key_env": "sk-secret"}, "api_key_env: not the name of"),
        ({"model": "m", "api_key_env": "gsk_Secret"}, "api_key_env: not the name of"),
        ({"model": "m", "retry_seconds": []}, "retry_seconds: names no wait"),
        ({"model": "m", "retries_max": -1}, "agents.tested.retries_max"),
        ({"model": "m", "stall_seconds": 0}, "agents.tested.stall_seconds"),
        ({"model": "m", "max_tokens": 0}, "agents.tested.max_tokens"),
        ({"model": "m", "api_key": "sk-secret"}, "agents.tested.api_key: no such setting"),
    ],
)
def test_what_cannot_work_is_refused_by_name(options: dict, complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        OpenAIAgent.from_options("tested", options, line_bytes_max=LINE_BYTES_MAX)
    assert complaint in error.value.message
    assert "ecret" not in error.value.message


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HTTPS_PROXY", "nonsense://x:1"), ("SSL_CERT_FILE", "/nowhere/at-all.pem")],
)
def test_an_environment_that_allows_no_client_is_a_complaint(
    monkeypatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=r"agents\.tested: no client for base_url: "):
        openai(OPENAI)


def test_openais_own_endpoint_has_a_name_of_its_own_for_the_limit() -> None:
    from dispatch.agents.openai.options import name_of_limit

    assert name_of_limit(OPENAI) == "max_completion_tokens"
    assert name_of_limit("https://openai.com.example/v1") == "max_tokens"


def run_python(source: str, folder: Path) -> str:
    root = Path(__file__).parent.parent.parent
    return subprocess.run(
        [sys.executable, "-c", source],
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{root}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_library_is_imported_for_agents_that_need_it_alone(tmp_path: Path) -> None:
    source = "import sys, dispatch.compose; print('openai' in sys.modules, 'httpx2' in sys.modules)"
    assert run_python(source, tmp_path) == "False False\n"


def test_without_the_library_the_complaint_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "openai.py").write_text("raise ImportError('not here')")
    source = """if True:
        from dispatch.agents.openai.agent import OpenAIAgent
        from dispatch.errors import ConfigError
        try:
            OpenAIAgent.from_options("gpt", {"model": "m"}, line_bytes_max=1)
        except ConfigError as error:
            print(error.message)
    """
    assert run_python(source, tmp_path) == (
        "agents.gpt: kind openai needs a library that is not installed: "
        "pip install 'dispatch-broker[openai]' (not here)\n"
    )
