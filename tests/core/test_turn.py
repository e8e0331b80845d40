"""The table of one turn: every phase and every kind of event, and what a turn adds up to."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
    Event,
    ProviderRetry,
    ReasoningDelta,
    Request,
    RequestClosed,
    Steering,
    StepComplete,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolOutput,
    ToolResult,
    Truncated,
    TurnSealed,
    TurnStart,
    Usage,
    UserMessage,
)
from dispatch.core.identity import TurnId
from dispatch.core.turn import (
    TABLE,
    IllegalEvent,
    Metrics,
    Phase,
    StepMetrics,
    Turn,
    closing_events,
    complete,
    evolve,
    is_legal,
    metrics_of,
    outcome_of,
)
from tests.properties.strategies import bodies, dones, running_events, user_messages

T = TurnId("t1")
NOTHING = msgspec.Raw(b"{}")
CALL = ToolCall("c1", "read", NOTHING, "s1")

SAMPLES: tuple[AnyEvent, ...] = (
    UserMessage("hi"),
    TurnStart(),
    TextDelta("x"),
    ReasoningDelta("x"),
    CALL,
    ToolOutput("c1", "x", "stdout"),
    ToolResult("c1", "read", "x", False),
    Usage(TokenUsage(1, 2)),
    StepComplete(),
    ErrorEvent("x"),
    Steering("x"),
    ProviderRetry(0, 1.0, "x"),
    Request("r1", "approval", "x"),
    RequestClosed("r1", "answered"),
    Done("stop"),
    TurnSealed(),
    Truncated(1, 2, "t0"),
)

# The drawing in the docstring of `core.turn`, once more and by hand.
DRAWN = {
    ("new", "user-message"): "opened",
    ("new", "turn-start"): "running",
    ("opened", "turn-start"): "running",
    ("running", "done"): "done",
    ("done", "turn-sealed"): "sealed",
} | {
    ("running", kind): "running"
    for kind in (
        "text-delta",
        "reasoning-delta",
        "tool-call",
        "tool-output",
        "tool-result",
        "usage",
        "step-complete",
        "error",
        "steering",
        "provider-retry",
        "request",
        "request-closed",
    )
}


def tag(event: Event) -> str:
    return str(type(event).__struct_config__.tag)


def evolved(turn: Turn, *events: AnyEvent) -> Turn:
    for event in events:
        turn = evolve(turn, event)
    return turn


def running(*events: AnyEvent) -> Turn:
    """A turn that runs; ids that nobody gave are filled in, as `conversation` does."""
    turn = evolved(Turn(id=T), UserMessage("hi"), TurnStart())
    for event in events:
        turn = evolve(turn, complete(turn, event))
    return turn


def test_there_is_a_sample_of_every_kind_of_event() -> None:
    kinds = {tag(event) for event in SAMPLES}
    assert len(kinds) == len(SAMPLES)
    assert set(Event.__subclasses__()) == {type(event) for event in SAMPLES}


@pytest.mark.parametrize(
    ("phase", "event"),
    list(itertools.product(Phase, SAMPLES)),
    ids=lambda value: value.value if isinstance(value, Phase) else tag(value),
)
def test_an_event_is_legal_exactly_where_it_is_drawn(phase: Phase, event: AnyEvent) -> None:
    turn = Turn(id=T, phase=phase)
    drawn = DRAWN.get((phase.value, tag(event)))
    assert is_legal(turn, event) == (drawn is not None)
    if drawn is None:
        with pytest.raises(IllegalEvent, match=f"{type(event).__name__} in phase {phase.value}"):
            evolve(turn, event)
    else:
        assert evolve(turn, event).phase is Phase(drawn)


def test_the_table_has_no_row_that_is_not_drawn() -> None:
    assert len(TABLE) == len(DRAWN)


@given(st.lists(running_events | user_messages | dones | st.just(TurnSealed()), max_size=30))
def test_done_and_turn_sealed_come_once_and_in_this_order(events: list[AnyEvent]) -> None:
    turn, taken = Turn(id=T), []
    for event in [UserMessage("hi"), TurnStart(), *events]:
        if is_legal(turn, event):
            turn = evolve(turn, event)
            taken.append(tag(event))
    assert taken.count("done") <= 1
    assert taken.count("turn-sealed") <= 1
    if "turn-sealed" in taken:
        assert taken[-2:] == ["done", "turn-sealed"]
    assert (turn.phase is Phase.SEALED) == ("turn-sealed" in taken)


# -- ids that nobody gave --------------------------------------------------------------------


def test_a_missing_step_id_is_the_turns_id_and_the_number_of_the_step() -> None:
    turn = running()
    assert complete(turn, StepComplete()) == StepComplete("t1#0")
    call = complete(turn, msgspec.structs.replace(CALL, step_id=""))
    assert isinstance(call, ToolCall)
    assert call.step_id == "t1#0"
    turn = running(StepComplete(), StepComplete())
    assert complete(turn, StepComplete()) == StepComplete("t1#2")


def test_a_tool_result_takes_the_step_of_its_call() -> None:
    turn = running(msgspec.structs.replace(CALL, step_id=""), StepComplete())
    result = complete(turn, ToolResult("c1", "read", "x", False))
    assert isinstance(result, ToolResult)
    assert result.step_id == "t1#0"
    unknown = complete(turn, ToolResult("c9", "read", "x", False))
    assert isinstance(unknown, ToolResult)
    assert unknown.step_id == "t1#1"


@given(running_events)
def test_what_an_agent_gave_is_never_replaced(event: AnyEvent) -> None:
    given_step = getattr(event, "step_id", None)
    completed = complete(running(), event)
    assert type(completed) is type(event)
    if given_step:
        assert completed == event
    if not hasattr(event, "step_id"):
        assert completed is event


def test_done_sums_the_usage_of_the_steps_unless_it_brings_its_own() -> None:
    turn = running(Usage(TokenUsage(1, 2)), Usage(TokenUsage(10, 20, 5)))
    assert complete(turn, Done("stop")) == Done("stop", usage=TokenUsage(11, 22, 5))
    own = Done("stop", usage=TokenUsage(7, 7))
    assert complete(turn, own) == own
    assert complete(running(), Done("stop")) == Done("stop")


# -- how a turn ends -------------------------------------------------------------------------


@given(bodies, dones, st.none() | st.builds(ErrorEvent, st.text(max_size=5)))
def test_whatever_is_open_the_closing_events_end_the_turn(
    body: list[AnyEvent], done: Done, error: ErrorEvent | None
) -> None:
    turn = running(*body)
    closing = closing_events(turn, done, error=error)
    assert [tag(event) for event in closing].count("done") == 1
    assert tag(closing[-1]) == "turn-sealed"
    ended = evolved(turn, *closing)
    assert ended.phase is Phase.SEALED
    assert ended.open_tools == ()
    assert ended.open_requests == ()
    assert ended.errored == (turn.errored or error is not None)
    results = [event for event in closing if isinstance(event, ToolResult)]
    assert [(r.tool_call_id, r.step_id) for r in results] == [
        (call.tool_call_id, call.step_id) for call in turn.open_tools
    ]
    assert all(result.is_error for result in results)


def test_the_closing_events_come_in_the_order_of_the_contract() -> None:
    turn = running(CALL, Request("r1", "approval", "May I?"))
    closing = closing_events(turn, Done("aborted"), error=ErrorEvent("x", "y"))
    assert [tag(event) for event in closing] == [
        "tool-result",
        "request-closed",
        "error",
        "done",
        "turn-sealed",
    ]
    result, closed = closing[:2]
    assert isinstance(result, ToolResult)
    assert "aborted" in result.content
    assert closed == RequestClosed("r1", "cancelled")


def test_what_was_answered_and_what_ended_is_not_closed_again() -> None:
    turn = running(
        CALL,
        ToolResult("c1", "read", "x", False),
        Request("r1", "approval", "May I?"),
        RequestClosed("r1", "answered", "local"),
    )
    assert [tag(e) for e in closing_events(turn, Done("stop"))] == ["done", "turn-sealed"]


@pytest.mark.parametrize(
    ("reason", "errored", "outcome"),
    [
        ("stop", False, "completed"),
        ("max-steps", False, "completed"),
        ("a provider's own word", False, "completed"),
        ("stop", True, "error"),
        ("error", False, "error"),
        ("error", True, "error"),
        ("aborted", False, "aborted"),
        ("aborted", True, "aborted"),
        ("interrupted", True, "interrupted"),
    ],
)
def test_the_outcome_follows_from_the_reason(reason: str, errored: bool, outcome: str) -> None:
    assert outcome_of(reason, errored=errored) == outcome


# -- what a turn cost ------------------------------------------------------------------------


def test_metrics_are_by_step_in_the_order_they_came() -> None:
    turn = running(
        Usage(TokenUsage(1, 2)),
        Usage(TokenUsage(3, 4)),
        StepComplete("", 10.0, 20.0, 30.0),
        StepComplete("named", 1.0),
        Usage(TokenUsage(5, 6), "named"),
        Usage(TokenUsage(7, 8)),
    )
    turn = evolved(turn, *closing_events(turn, Done("stop", 99.0, context_size=1234)))
    assert metrics_of(turn) == Metrics(
        usage=TokenUsage(16, 20),
        duration_ms=99.0,
        context_size=1234,
        steps=(
            StepMetrics("t1#0", TokenUsage(4, 6), 10.0, 20.0, 30.0),
            StepMetrics("named", TokenUsage(5, 6), 1.0),
            StepMetrics("t1#2", TokenUsage(7, 8)),
        ),
    )


def test_what_the_agent_says_last_of_its_usage_counts() -> None:
    turn = running(Usage(TokenUsage(1, 2)))
    turn = evolved(turn, *closing_events(turn, Done("stop", usage=TokenUsage(9, 9))))
    assert metrics_of(turn).usage == TokenUsage(9, 9)


def test_a_turn_that_said_nothing_of_its_usage_cost_nothing() -> None:
    turn = running()
    assert metrics_of(evolved(turn, Done("stop"))) == Metrics()
    assert metrics_of(turn) == Metrics()


@given(bodies)
def test_the_usage_of_a_turn_is_the_sum_of_what_was_counted(body: list[AnyEvent]) -> None:
    turn = running(*body)
    counted = [event.usage for event in body if isinstance(event, Usage)]
    metrics = metrics_of(turn)
    assert metrics.usage.input_tokens == sum(usage.input_tokens for usage in counted)
    assert metrics.usage.output_tokens == sum(usage.output_tokens for usage in counted)
    assert sum(step.usage.input_tokens for step in metrics.steps) == metrics.usage.input_tokens
    assert len({step.step_id for step in metrics.steps}) == len(metrics.steps)
