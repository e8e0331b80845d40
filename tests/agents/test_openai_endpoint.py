"""The openai agent and an endpoint that fails: what is asked again, what is shown, what is kept.

Real sockets: the endpoint is a program on the loopback (`endpoint`), its answers are written here.
"""

import json
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import anyio
import pytest
import structlog

from dispatch.agents.openai.agent import OpenAIAgent
from dispatch.agents.port import AgentFailure
from dispatch.core.events import Done, ProviderRetry, ReasoningDelta, TextDelta, ToolCall
from tests.agents.answers import (
    DONE,
    LoopbackEndpoint,
    answer,
    data,
    piece,
    refusal,
    script,
    serving,
    text,
    whole,
)
from tests.contract.agent import GUARD_SECONDS, Listener, is_text, nothing_left, run_turn, turn

LINE_BYTES_MAX = 64 * 1024
GOOD = answer(whole("good"))
KEY = "sk-very-secret"
LIMITED = refusal(429, {"message": "slow down", "type": "rate_limit_error"})
# Short, so that tests are; nothing is synchronised by it.
WAIT_SECONDS = 0.01
# For tests of silence: longer than a busy machine takes between two pieces that are sent at once.
STALL_SECONDS = 2.0


@pytest.fixture(scope="module")
def endpoint() -> Iterator[LoopbackEndpoint]:
    with serving() as endpoint:
        yield endpoint


@pytest.fixture
def url(endpoint: LoopbackEndpoint) -> str:
    return endpoint.url("scripted")


@pytest.fixture
def openai(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_KEY", KEY)

    def openai(**options: object) -> OpenAIAgent:
        given = {
            "base_url": url,
            "model": "small",
            "api_key_env": "SOME_KEY",
            "retry_seconds": [WAIT_SECONDS],
            "retries_max": 2,
            **options,
        }
        return OpenAIAgent.from_options("tested", given, line_bytes_max=LINE_BYTES_MAX)

    return openai


@pytest.fixture
def fails(openai):
    """The failure of a turn for which the endpoint gives these answers, and what was heard."""

    async def fails(*answers: dict, **options: object) -> tuple[AgentFailure, Listener]:
        listener = Listener()
        with nothing_left(), pytest.raises(AgentFailure) as failure:
            await run_turn(openai(**options), turn(script(answers)), listener)
        assert KEY not in repr(listener.events) + failure.value.message
        return failure.value, listener

    return fails


def retries(listener: Listener) -> list[ProviderRetry]:
    return [event for event in listener.events if isinstance(event, ProviderRetry)]


# ---------------------------------------------------------------- asked again


@pytest.mark.parametrize(
    ("bad", "code", "message"),
    [
        (LIMITED, "rate_limited", "the endpoint takes no more requests now (429): slow down"),
        (refusal(408), "stalled", "the endpoint said nothing for too long (408): no"),
        (refusal(409), "provider_failed", "the endpoint failed (409): no"),
        (refusal(500), "provider_failed", "the endpoint failed (500): no"),
        (refusal(503, "loading"), "provider_failed", "the endpoint failed (503): loading"),
        (answer(end="cut"), "cut_off", None),
        (answer(), "cut_off", "the endpoint broke off"),
        (answer(b": PROCESSING\n\n", piece(role="assistant", content="")), "cut_off", None),
        (answer(data({"error": {"message": "busy", "code": 502}})), "provider_failed", None),
        (answer(b'error: {"code":500,"message":"slot"}\n\n'), "provider_failed", None),
        (answer(data({"error": {"type": "overloaded_error"}})), "provider_failed", None),
        (answer(piece("error"), DONE), "provider_failed", None),
    ],
)
async def test_before_the_first_content_a_passing_failure_is_asked_again(
    openai, bad: dict, code: str, message: str | None
) -> None:
    with nothing_left():
        heard = await run_turn(openai(), turn(script([bad, bad, GOOD])))
    first, second, said, _step, done = heard.events
    assert (first.attempt, second.attempt) == (0, 1)
    assert first.delay_ms == second.delay_ms == WAIT_SECONDS * 1000
    assert first.code == second.code == code
    assert message is None or first.message == message
    assert (said, done) == (TextDelta("good"), Done("stop"))


async def test_a_silent_endpoint_is_asked_again(openai) -> None:
    agent = openai(stall_seconds=STALL_SECONDS)
    heard = await run_turn(agent, turn(script([answer(end="silence"), GOOD])))
    (retry,) = retries(heard)
    assert (retry.code, retry.message) == (
        "stalled",
        "the endpoint said nothing for too long: 2 seconds",
    )
    assert heard.text == "good"


async def test_a_failure_that_does_not_pass_ends_the_turn(fails, endpoint, url: str) -> None:
    failure, listener = await fails(LIMITED)
    assert failure.code == "rate_limited"
    assert [retry.attempt for retry in retries(listener)] == [0, 1]
    assert listener.events == retries(listener)
    assert await endpoint.count(url) == 3


async def test_the_waits_go_on_with_the_last_one(fails) -> None:
    _, listener = await fails(LIMITED, retry_seconds=[0, 0.001, 0.002], retries_max=5)
    assert [retry.delay_ms for retry in retries(listener)] == [0, 1, 2, 2, 2]


async def test_without_retries_the_first_failure_is_the_last(fails, endpoint, url: str) -> None:
    failure, listener = await fails(LIMITED, retries_max=0)
    assert failure.code == "rate_limited"
    assert listener.events == []
    assert await endpoint.count(url) == 1


async def test_a_port_where_nobody_listens_is_asked_again_and_is_then_a_problem(openai) -> None:
    agent, listener = openai(base_url="http://127.0.0.1:9/v1"), Listener()
    with nothing_left(), pytest.raises(AgentFailure) as failure:
        await run_turn(agent, turn(), listener)
    assert failure.value.code == "unreachable"
    assert failure.value.message.startswith("the endpoint cannot be reached: ")
    assert len(retries(listener)) == 2
    assert agent.info.problem == failure.value.message


async def test_a_problem_is_over_when_a_turn_went_well(openai, url: str) -> None:
    agent = openai()
    with pytest.raises(AgentFailure):
        await run_turn(agent, turn(script([refusal(401)])))
    assert "does not accept the key" in agent.info.problem
    await run_turn(agent, turn(script([GOOD])))
    assert agent.info.problem is None


@pytest.mark.parametrize(
    ("header", "milliseconds"),
    [
        ({"retry_after": "0.002"}, 2),
        ({"retry_after": "0"}, 0),
        ({"retry_after_ms": "3", "retry_after": "60"}, 3),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry_after": "nan"}, WAIT_SECONDS * 1000),
        ({"retry_after": "-5"}, WAIT_SECONDS * 1000),
        ({"retry_after": "soon"}, WAIT_SECONDS * 1000),
    ],
)
async def test_the_endpoint_may_say_when(openai, header: dict, milliseconds: float) -> None:
    heard = await run_turn(openai(), turn(script([refusal(429, **header), GOOD])))
    assert [retry.delay_ms for retry in retries(heard)] == [milliseconds]


@pytest.mark.parametrize(
    "after",
    ["3600", format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)],
    ids=["seconds", "date"],
)
async def test_nobody_is_kept_waiting_for_an_hour(fails, after: str) -> None:
    failure, listener = await fails(refusal(429, retry_after=after))
    assert failure.code == "rate_limited"
    assert listener.events == []


async def test_a_stop_ends_the_wait_for_the_next_attempt(openai) -> None:
    agent, listener = openai(retry_seconds=[3600]), Listener()
    with nothing_left(), anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.run, turn(script([LIMITED])), listener)
            await listener.until(lambda event: isinstance(event, ProviderRetry))
            tasks.cancel_scope.cancel()


# ---------------------------------------------------------------- not asked again


@pytest.mark.parametrize(
    ("bad", "code", "message"),
    [
        (refusal(401), "unauthorized", "the endpoint does not accept the key (401): no"),
        (refusal(403), "forbidden", "the endpoint does not allow this (403): no"),
        (refusal(400), "bad_request", "the endpoint refused the request (400): no"),
        (refusal(422, {"detail": [{"msg": "extra"}]}), "bad_request", None),
        (
            refusal(404, {"message": 'model "m" not found, try pulling it first'}),
            "unknown_model",
            "the endpoint does not have this model (404): "
            'model "m" not found, try pulling it first',
        ),
        (
            answer(b"404 page not found", status=404, headers={"content_type": "text/plain"}),
            "not_found",
            "the endpoint has nothing there; does base_url end in /v1? (404): 404 page not found",
        ),
        (
            refusal(400, {"message": "too long", "code": "context_length_exceeded"}),
            "context_too_long",
            "the conversation is longer than the model's context (400): too long",
        ),
        (
            refusal(429, {"message": "pay", "code": "insufficient_quota"}),
            "quota_exceeded",
            "the quota at the endpoint is used up (429): pay",
        ),
        (refusal(307, location="http://127.0.0.1:9/"), "redirected", None),
        (answer(piece("content_filter"), DONE), "content_filter", None),
        (answer(data({"error": {"message": "bad", "code": 400}})), "bad_request", None),
        (
            answer(b"<html>Sign in", headers={"content_type": "text/html; charset=utf-8"}),
            "bad_answer",
            "the endpoint's answer cannot be read: "
            "it is text/html; charset=utf-8 and not a stream of events",
        ),
        (
            answer(b'{"error":"bad thing"}', headers={"content_type": "application/json"}),
            "provider_failed",
            None,
        ),
        (answer(b"data: {garbage\n\n"), "bad_answer", None),
        (answer(b'data: {"choices": 7}\n\n'), "bad_answer", None),
        (answer(b"data: \xff\xfe\n\n"), "bad_answer", None),
        (answer(b'data: {"choices":' + b"[" * 60_000 + b"\n\n"), "bad_answer", None),
    ],
)
async def test_what_asking_again_would_not_mend_ends_the_turn_at_once(
    fails, endpoint, url: str, bad: dict, code: str, message: str | None
) -> None:
    passing = code == "provider_failed"
    failure, listener = await fails(bad, retries_max=0 if passing else 2)
    assert failure.code == code
    assert message is None or failure.message == message
    assert listener.events == []
    assert await endpoint.count(url) == 1


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (answer(text("so far"), end="cut"), "cut_off"),
        (answer(text("so far")), "cut_off"),
        (answer(text("so far"), b"data: {garb", end="cut"), "cut_off"),
        (answer(text("so far"), b"data: {garbage\n\n"), "bad_answer"),
        (answer(text("so far"), data({"error": {"message": "x", "code": 500}})), "provider_failed"),
        (answer(text("so far"), piece("content_filter"), DONE), "content_filter"),
        (answer(text("so far"), piece("abort"), DONE), "provider_failed"),
        (answer(text("so far"), b"data: " + b"x" * 2 * LINE_BYTES_MAX), "too_large"),
    ],
)
async def test_after_content_what_was_said_stands_and_the_turn_fails(
    fails, endpoint, url: str, bad: dict, code: str
) -> None:
    failure, listener = await fails(bad, GOOD)
    assert failure.code == code
    assert listener.text == "so far"
    assert retries(listener) == []
    assert await endpoint.count(url) == 1


async def test_thinking_that_was_shown_is_content_too(fails) -> None:
    failure, listener = await fails(answer(piece(reasoning="hm"), end="cut"), GOOD)
    assert failure.code == "cut_off"
    assert listener.events == [ReasoningDelta("hm")]


async def test_a_tool_call_that_was_cut_off_is_not_lost(fails) -> None:
    function = {"name": "find", "arguments": '{"x": [1,'}
    call = piece(tool_calls=[{"index": 0, "id": "c1", "function": function}])
    failure, listener = await fails(answer(call, end="cut"), GOOD)
    assert failure.code == "cut_off"
    (shown,) = (event for event in listener.events if isinstance(event, ToolCall))
    assert json.loads(bytes(shown.input)) == '{"x": [1,'


async def test_a_stall_behind_what_was_said_ends_the_turn(fails) -> None:
    failure, listener = await fails(answer(text("so far"), end="open"), stall_seconds=STALL_SECONDS)
    assert failure.code == "stalled"
    assert listener.text == "so far"


# ---------------------------------------------------------------- without end, and full of malice


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (answer(forever=b"x" * 1024), "too_large"),
        (answer(forever=b": still here\n\n"), "bad_answer"),
        (answer(forever=data({"choices": []})), "bad_answer"),
        (answer(forever=piece(tool_calls=[{"function": {"arguments": "x" * 999}}])), "bad_answer"),
        (
            answer(forever=piece(tool_calls=[{"function": {"name": "f", "arguments": "{}"}}])),
            "bad_answer",
        ),
        (answer(status=500, forever=b"x" * 1024), "provider_failed"),
        (answer(b"{", forever=b"x" * 1024), "bad_answer"),
    ],
)
async def test_what_has_no_end_is_ended(fails, bad: dict, code: str) -> None:
    failure, listener = await fails(bad, retries_max=0)
    assert failure.code == code
    assert listener.text == ""


async def test_an_error_that_drips_for_ever_is_told_by_its_status(fails) -> None:
    bad = answer(b"dripping", status=401, headers={"content_type": "text/plain"}, end="open")
    with anyio.fail_after(GUARD_SECONDS):
        failure, _ = await fails(bad)
    assert (failure.code, failure.message) == (
        "unauthorized",
        "the endpoint does not accept the key (401): dripping",
    )


async def test_an_error_without_end_is_not_gathered(fails) -> None:
    tracemalloc.start()
    try:
        await fails(answer(status=401, forever=b"x" * 65536))
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "words",
    [
        f"wrong key {KEY}",
        f"wrong key \x1b[31m{KEY}\x1b[0m \x1b]0;owned\x07\u202e!",
        "wrong key " + KEY[:5] + "\x1b[1m" + KEY[5:],
        KEY * 100,
        # Where a bound cuts it in two.
        *(" " * (8192 - cut) + KEY for cut in range(1, len(KEY))),
    ],
)
@pytest.mark.parametrize("place", ["status", "stream", "reason"])
async def test_an_endpoints_words_are_bounded_printable_and_without_the_key(
    fails, words: str, place: str
) -> None:
    bad = {
        "status": refusal(401, {"message": words}),
        "stream": answer(data({"error": {"message": words, "code": 401}})),
        "reason": answer(piece(f"error {words}"), b"data: {garbage\n\n"),
    }[place]
    # That the key is nowhere is what `fails` looks for.
    failure, _ = await fails(bad)
    assert failure.message.isprintable()
    assert len(failure.message) < 400


async def test_a_reason_to_end_is_somebody_elses_word_too(openai) -> None:
    heard = await run_turn(
        openai(), turn(script([answer(text("x"), piece(f"\x1b[1m{KEY} " + "y" * 999), DONE)]))
    )
    reason = heard.events[-1].reason
    assert reason.startswith("[key] yyy")
    assert len(reason) <= 128


async def test_the_log_tells_of_a_failure_and_not_in_whose_words(fails) -> None:
    with structlog.testing.capture_logs() as logs:
        await fails(refusal(401, {"message": f"words {KEY}"}))
    (entry,) = logs
    assert entry == {
        "event": "agent.failed",
        "log_level": "warning",
        "agent": "tested",
        "code": "unauthorized",
        "attempt": 0,
    }


async def test_twenty_failing_turns_at_once_leave_nothing(openai) -> None:
    agent = openai(retries_max=1)
    heard: list[Listener] = []

    async def one(bad: dict) -> None:
        listener = Listener()
        heard.append(listener)
        with pytest.raises(AgentFailure):
            await run_turn(agent, turn(script([bad])), listener)

    with nothing_left(), anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                cut = answer(text(f"turn {number}"), end="cut")
                tasks.start_soon(one, cut if number % 2 else LIMITED)
    assert sorted(one.text for one in heard if any(map(is_text, one.events))) == sorted(
        f"turn {number}" for number in range(1, 20, 2)
    )
