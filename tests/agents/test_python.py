"""The python agent: what it accepts as a target, and what people's generators may do."""

import itertools
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import anyio
import msgspec
import pytest

from dispatch.agents.port import AgentFailure, Respond, Steer
from dispatch.agents.python import PythonAgent
from dispatch.core.content import StoredLine, Text
from dispatch.core.events import (
    Done,
    Request,
    Response,
    Steering,
    TextDelta,
    ToolCall,
    encode_event,
)
from dispatch.errors import ConfigError
from tests.contract.agent import (
    GUARD_SECONDS,
    AgentContract,
    Build,
    Letterbox,
    Listener,
    is_text,
    nothing_left,
    run_turn,
    turn,
)

numbers = itertools.count()

HEAD = """
import anyio, msgspec
from dispatch.agents.port import AgentFailure, Respond, Steer
from dispatch.core.events import *
from dispatch.core.events import UserMessage, TurnSealed
"""

BEHAVIOURS = """
async def says(request):
    yield request.message

async def listens(request):
    yield request.message
    steer = await request.inbox.receive()
    yield Steering(steer.text)
    yield TextDelta(steer.text)

async def waits(request):
    yield "word"
    await anyio.sleep_forever()

async def floods(request):
    while True:
        yield TextDelta("word ")

async def fails(request):
    yield "word"
    raise AgentFailure("no good", "broken")
"""


@pytest.fixture(autouse=True)
def _imports_are_undone() -> Iterator[None]:
    path, modules = sys.path.copy(), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path):
    """Writes a module and builds an agent of its function `agent`, or of another name."""

    def write(source: str, function: str = "agent", **options: object) -> PythonAgent:
        module = f"agents_of_test_{next(numbers)}"
        (tmp_path / f"{module}.py").write_text(HEAD + textwrap.dedent(source))
        target = f"{module}:{function}"
        table = {"target": target, "path": str(tmp_path), **options}
        return PythonAgent.from_options("tested", table)

    return write


class TestTheContract(AgentContract):
    @pytest.fixture
    def build(self, write) -> Build:
        return lambda behaviour: write(BEHAVIOURS, behaviour.name.lower(), steer=True)


async def generator_yielding(write, expression: str) -> list[object]:
    agent = write(f"async def agent(request):\n    yield {expression}")
    return (await run_turn(agent, turn())).events


# ---------------------------------------------------------------- the documented example


def example(tmp_path: Path) -> PythonAgent:
    """The module and the table of the class's docstring, as they stand there."""
    text = textwrap.dedent("    " + PythonAgent.__doc__)
    _, _, rest = text.partition("`myagents.py`:\n")
    module, _, rest = rest.partition("`dispatch.toml`:\n")
    table, _, _ = rest.partition("Returning completes")
    (tmp_path / "myagents.py").write_text(textwrap.dedent(module))
    options = tomllib.loads(textwrap.dedent(table))["agents"]["careful"]
    assert options.pop("kind") == "python"
    return PythonAgent.from_options("careful", options | {"path": str(tmp_path)})


@pytest.mark.parametrize(
    ("approved", "said"), [(True, "HELLOMORE"), (False, "hellomore"), (None, "hellomore")]
)
async def test_the_documented_example_works_as_it_stands(
    tmp_path: Path, approved: bool | None, said: str
) -> None:
    agent = example(tmp_path)
    inbox = Letterbox()

    async def answer(event: object) -> None:
        match event:
            case Request(request_id=request_id):
                inbox.put(Steer("More"))
                inbox.put(Respond(Response("another", approved=not approved)))
                inbox.put(Respond(Response(request_id, approved=approved)))

    lines = [StoredLine("user", Text("before")), StoredLine("assistant", Text("yes"))]
    request = turn("Hello", inbox=inbox, lines=lines)
    heard = await run_turn(agent, request, Listener(answer))
    assert heard.text == f"Earlier you said: before\n{said}"
    assert Steering("More") in heard.events
    assert agent.info.steer is True


# ---------------------------------------------------------------- what may be yielded


async def test_a_str_is_a_text_delta(write) -> None:
    assert await generator_yielding(write, '"hello"') == [TextDelta("hello")]


@pytest.mark.parametrize("text", ["hello", "h\u00e9llo \U0001f600", ""])
@pytest.mark.parametrize("expression", ["{!r}", "TextDelta({!r})"])
async def test_text_comes_out_as_it_was_yielded(write, expression: str, text: str) -> None:
    (event,) = await generator_yielding(write, expression.format(text))
    assert event == TextDelta(text)
    assert (type(event), type(event.delta)) == (TextDelta, str)


async def test_an_event_after_done_is_not_passed_on(write) -> None:
    agent = write("""
        closed = []
        async def agent(request):
            try:
                yield Done("max-steps")
                yield "more"
            finally:
                closed.append(True)
    """)
    heard = await run_turn(agent, turn())
    assert heard.events == [Done("max-steps")]
    assert sys.modules[agent._target.__module__].closed == [True]


async def test_a_tools_input_may_be_any_json_value(write) -> None:
    (event,) = await generator_yielding(write, 'ToolCall("1", "search", {"q": ["x", None]})')
    assert isinstance(event, ToolCall)
    assert isinstance(event.input, msgspec.Raw)
    assert b'"input":{"q":["x",null]}' in encode_event(event)


@pytest.mark.parametrize(
    "expression",
    [
        "None",
        "42",
        '{"type": "text-delta", "delta": "x"}',
        'UserMessage("x")',
        "TurnSealed()",
        "TextDelta(42)",
        "TextDelta(None)",
        'TextDelta("\\ud800")',
        '"\\udfff"',
        'type("Loud", (str,), {})("x")',
        'TextDelta(type("Loud", (str,), {})("x"))',
        "Usage(5)",
        'ToolCall("1", "search", object())',
        'ToolCall("1", "search", msgspec.Raw(b"{not json"))',
        'Request("1", "shrug", "title")',
    ],
)
async def test_what_is_not_an_event_ends_the_turn_with_a_clear_failure(
    write, expression: str
) -> None:
    with pytest.raises(AgentFailure, match="the agent yielded") as failure:
        await generator_yielding(write, expression)
    assert failure.value.code == "bad_event"


# ---------------------------------------------------------------- how it may end


async def test_its_own_exceptions_come_out_as_they_are(write) -> None:
    agent = write("async def agent(request):\n    yield 'x'\n    raise LookupError('secret')")
    with pytest.raises(LookupError, match="secret"):
        await run_turn(agent, turn())


async def test_a_stopped_generator_is_cancelled_where_it_waits_and_cleans_up(write) -> None:
    agent = write("""
        seen = []
        async def agent(request):
            try:
                yield "x"
                await anyio.sleep_forever()
            except BaseException as error:
                seen.append(type(error).__name__)
                raise
            finally:
                seen.append("cleaned")
    """)
    listener = Listener()
    with nothing_left(), anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.run, turn(), listener)
            await listener.until(is_text)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert sys.modules[agent._target.__module__].seen == ["CancelledError", "cleaned"]


async def test_a_generator_is_closed_at_its_yield_when_emit_fails(write) -> None:
    agent = write("""
        seen = []
        async def agent(request):
            try:
                yield "x"
            except BaseException as error:
                seen.append(type(error).__name__)
                raise
    """)

    async def refuse(_: object) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await run_turn(agent, turn(), Listener(refuse))
    assert sys.modules[agent._target.__module__].seen == ["GeneratorExit"]


# ---------------------------------------------------------------- configuration


async def test_the_agents_system_prompt_stands_in_for_a_missing_one(write) -> None:
    agent = write(
        "async def agent(request):\n    yield str(request.system_prompt)", system_prompt="ours"
    )
    assert (await run_turn(agent, turn())).text == "ours"
    assert (await run_turn(agent, turn(system_prompt="theirs"))).text == "theirs"
    assert (await run_turn(agent, turn(system_prompt=""))).text == ""


async def test_only_listed_models_are_run(write) -> None:
    agent = write("async def agent(request):\n    yield request.model", models=["small"])
    assert (await run_turn(agent, turn(model="small"))).text == "small"
    with pytest.raises(AgentFailure, match='no model "large"'):
        await run_turn(agent, turn(model="large"))


async def test_an_object_and_a_method_can_be_targets(write) -> None:
    source = """
        class Box:
            async def __call__(self, request):
                yield "called"
            async def method(self, request):
                yield "method"
        box = Box()
    """
    assert (await run_turn(write(source, "box"), turn())).text == "called"
    assert (await run_turn(write(source, "box.method"), turn())).text == "method"


@pytest.mark.parametrize(
    ("source", "function", "complaint"),
    [
        ("", "agent", 'has no "agent"'),
        ("", "box.method", 'has no "box.method"'),
        ("async def agent(request): return 1", "agent", "not an async generator function"),
        ("def agent(request): yield 1", "agent", "not an async generator function"),
        ("agent = 5", "agent", "not an async generator function"),
        (
            "class agent:\n    async def __call__(self, r): yield 1",
            "agent",
            "not an async generator",
        ),
        ("import no_such_module", "agent", "cannot import .* ModuleNotFoundError: .*no_such"),
        ("def agent(:", "agent", "cannot import .* SyntaxError"),
        ("1 / 0", "agent", "cannot import .* ZeroDivisionError"),
    ],
)
def test_a_target_that_cannot_work_is_told_at_the_start(
    write, source: str, function: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s)^agents\\.tested\\.target: .*{complaint}"):
        write(source, function)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "target: required"),
        ({"target": "module"}, 'target: "module" is not "module:function"'),
        ({"target": ":f"}, 'target: ":f" is not'),
        ({"target": "m:"}, 'target: "m:" is not'),
        ({"target": "m:f", "path": "/no/such/directory"}, "path: .* is not a directory"),
        ({"target": "m:f", "paths": []}, "paths: no such setting"),
        ({"target": 5}, "target: Expected `str`"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=f"^agents\\.tested\\.{complaint}"):
        PythonAgent.from_options("tested", options)
