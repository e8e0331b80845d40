"""The echo agent: what it says, when, and how it counts."""

from pathlib import Path

import anyio
import pytest

from dispatch.agents.echo import EchoAgent
from dispatch.agents.port import Agent, AgentFailure, Steer
from dispatch.core.content import StoredLine, Text
from dispatch.core.events import Steering, StepComplete, TextDelta, TokenUsage, Usage
from dispatch.core.identity import TurnId
from dispatch.errors import ConfigError
from tests.contract.agent import AgentContract, Behaviour, Build, Listener, run_turn, turn


def echo(**options: object) -> EchoAgent:
    return EchoAgent.from_options("tested", {"delay_ms": 0, **options})


class Endless(EchoAgent):
    """An echo that is given more to say than anyone could take."""

    async def run(self, request, emit) -> None:
        await super().run(turn("word " * 200_000, inbox=request.inbox), emit)


class TestTheContract(AgentContract):
    @pytest.fixture
    def build(self, tmp_path: Path) -> Build:
        def build(behaviour: Behaviour) -> Agent:
            match behaviour:
                case Behaviour.SAYS | Behaviour.LISTENS:
                    return echo()
                case Behaviour.WAITS:
                    return echo(delay_ms=3_600_000)
                case Behaviour.FLOODS:
                    return Endless.from_options("tested", {"delay_ms": 0})
                case Behaviour.FAILS:
                    return echo(models=["parrot"])

        return build


async def test_without_steering_what_is_steered_is_left_alone() -> None:
    request = turn("one two three")
    request.inbox.put(Steer("four"))
    heard = await run_turn(echo(steer=False), request)
    assert heard.text == "one two three"
    assert not any(isinstance(event, Steering) for event in heard.events)


async def test_each_delta_is_one_word_with_the_space_before_it() -> None:
    heard = await run_turn(echo(), turn(" one  two\nthree "))
    deltas = [event.delta for event in heard.events if isinstance(event, TextDelta)]
    assert deltas == [" one", "  two", "\nthree", " "]


@pytest.mark.parametrize("message", ["", " ", "x", "\n" * 5000, "y" * 5000, " " * 5000 + "z"])
async def test_any_text_comes_back_exactly(message: str) -> None:
    heard = await run_turn(echo(), turn(message))
    assert heard.text == message
    assert all(len(e.delta) <= 4096 for e in heard.events if isinstance(e, TextDelta))


async def test_words_are_counted_as_tokens_and_times_are_told() -> None:
    heard = await run_turn(echo(), turn("one two three"))
    *_, usage, complete = heard.events
    assert usage == Usage(TokenUsage(input_tokens=3, output_tokens=3))
    assert isinstance(complete, StepComplete)
    assert complete.gen_total_ms >= complete.ttft_ms >= 0


async def test_a_steer_waits_for_the_word_and_is_said_as_a_step_of_its_own() -> None:
    request = turn("one two")

    async def steer(_: object) -> None:
        if len(listener.events) == 1:
            request.inbox.put(Steer("three"))

    listener = Listener(steer)
    await run_turn(echo(), request, listener)
    said = [type(event) for event in listener.events]
    step = [Usage, StepComplete]
    assert said == [TextDelta, Steering, TextDelta, *step, TextDelta, *step]


async def test_a_steer_after_the_last_word_is_not_acknowledged() -> None:
    request = turn("one")

    async def steer(event: object) -> None:
        if isinstance(event, Usage):
            request.inbox.put(Steer("late"))

    heard = await run_turn(echo(), request, Listener(steer))
    assert not any(isinstance(event, Steering) for event in heard.events)


async def test_each_word_but_the_first_is_delayed() -> None:
    # That the first is not, the suite shows with a delay of an hour.
    began = anyio.current_time()
    await run_turn(echo(delay_ms=100), turn("one two three"))
    assert anyio.current_time() - began >= 0.2


async def test_the_delay_is_40_ms_unless_said_otherwise() -> None:
    began = anyio.current_time()
    await run_turn(EchoAgent.from_options("tested", {}), turn("one two three"))
    assert anyio.current_time() - began >= 0.08


async def test_a_model_it_does_not_list_is_the_turns_own_error() -> None:
    with pytest.raises(AgentFailure, match='no model "owl"') as failure:
        await run_turn(echo(models=["parrot"]), turn(model="owl"))
    assert failure.value.code == "unknown_model"
    assert (await run_turn(echo(models=["parrot"]), turn(model="parrot"))).text


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"delay": 1}, r"^agents\.tested\.delay: no such setting$"),
        ({"delay_ms": -1}, r"^agents\.tested\.delay_ms: .*>= 0"),
        ({"delay_ms": "soon"}, r"^agents\.tested\.delay_ms: Expected"),
        ({"models": [1]}, r"^agents\.tested\.models\[0\]: Expected"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        EchoAgent.from_options("tested", options)


def test_settings_may_be_text_as_in_the_environment() -> None:
    assert (
        EchoAgent.from_options("tested", {"delay_ms": "1.5", "steer": "false"}).info.steer is False
    )


@pytest.mark.parametrize(
    ("before", "rest"),
    [
        ([], "one two three"),
        (["one"], " two three"),
        (["one", " two"], " three"),
        (["no"], "one two three"),
    ],
)
async def test_a_turn_that_is_resumed_says_what_was_not_said_yet(
    before: list[str], rest: str
) -> None:
    async def said() -> list[StoredLine]:
        return [StoredLine("assistant", Text(text)) for text in before]

    heard = await run_turn(echo(), turn("one two three", resumes=TurnId("t0"), said=said))
    assert heard.text == rest
