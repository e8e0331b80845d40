"""One turn while it lives: which event may come when, what is open, how it ends.

Neighbours: `conversation` holds at most one running turn; `events` are what comes; `metrics` sums
them. The table, drawn (anything not drawn is illegal, and absence in `TABLE` says so):

    NEW ──user-message──▶ OPENED ──turn-start──▶ RUNNING ──done──▶ DONE ──turn-sealed──▶ SEALED
     └───────────turn-start (a resumed turn)───────▲ │
                                                   └─┘ deltas, tools, usage, steps, errors,
                                                       steering, retries, requests

Invariant: a turn that began passes `done` and `turn-sealed` exactly once, in this order.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal

import msgspec

from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
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
    TurnSealed,
    TurnStart,
    Usage,
    UserMessage,
)
from dispatch.core.identity import TurnId

Outcome = Literal["completed", "aborted", "error", "interrupted"]


class Phase(Enum):
    """Where a turn is on its way."""

    NEW = "new"
    OPENED = "opened"
    RUNNING = "running"
    DONE = "done"
    SEALED = "sealed"


_WHILE_RUNNING: Final = (
    TextDelta,
    ReasoningDelta,
    ToolCall,
    ToolOutput,
    ToolResult,
    Usage,
    StepComplete,
    ErrorEvent,
    Steering,
    ProviderRetry,
    Request,
    RequestClosed,
)

TABLE: Final[dict[tuple[Phase, type[AnyEvent]], Phase]] = {
    (Phase.NEW, UserMessage): Phase.OPENED,
    (Phase.NEW, TurnStart): Phase.RUNNING,
    (Phase.OPENED, TurnStart): Phase.RUNNING,
    **{(Phase.RUNNING, kind): Phase.RUNNING for kind in _WHILE_RUNNING},
    (Phase.RUNNING, Done): Phase.DONE,
    (Phase.DONE, TurnSealed): Phase.SEALED,
}


class IllegalEvent(Exception):
    """An event that the table does not allow in this phase."""


class StepMetrics(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One step's tokens and times (milliseconds)."""

    step_id: str
    usage: TokenUsage = TokenUsage(0, 0)
    ttft_ms: float | None = None
    decode_ms: float | None = None
    gen_total_ms: float | None = None


class Metrics(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What a turn cost and whose it was: `agent` answered it, None where that was not kept."""

    usage: TokenUsage = TokenUsage(0, 0)
    duration_ms: float | None = None
    steps: tuple[StepMetrics, ...] = ()
    context_size: int | None = None
    agent: str | None = None


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn's state. `step` counts the steps that were completed, for ids nobody gave."""

    id: TurnId
    phase: Phase = Phase.NEW
    step: int = 0
    open_tools: tuple[ToolCall, ...] = ()
    tool_steps: tuple[tuple[str, str], ...] = ()
    open_requests: tuple[Request, ...] = ()
    usage: TokenUsage | None = None
    steps: tuple[StepMetrics, ...] = ()
    errored: bool = False
    done: Done | None = None

    @property
    def open_count(self) -> int:
        """How much has to be closed when it ends."""
        return len(self.open_tools) + len(self.open_requests)

    @property
    def part_count(self) -> int:
        """How much is remembered of it until it ends."""
        return len(self.tool_steps) + len(self.steps)


def is_legal(turn: Turn, event: AnyEvent) -> bool:
    """Whether the table has a row for it."""
    return (turn.phase, type(event)) in TABLE


def complete(turn: Turn, event: AnyEvent) -> AnyEvent:
    """Fill in what an agent may leave out: step ids, and the sums of `done`."""
    match event:
        case ToolCall(step_id="") | StepComplete(step_id=""):
            return msgspec.structs.replace(event, step_id=f"{turn.id}#{turn.step}")
        case ToolResult(step_id=""):
            steps = dict(turn.tool_steps)
            fallback = f"{turn.id}#{turn.step}"
            return msgspec.structs.replace(event, step_id=steps.get(event.tool_call_id, fallback))
        case Done(usage=None) if turn.usage is not None:
            return msgspec.structs.replace(event, usage=turn.usage)
        case _:
            return event


def evolve(turn: Turn, event: AnyEvent) -> Turn:
    """The turn after an event; raises `IllegalEvent` where the table has no row."""
    phase = TABLE.get((turn.phase, type(event)))
    if phase is None:
        raise IllegalEvent(f"{type(event).__name__} in phase {turn.phase.value}")
    changes: dict[str, object] = {}
    match event:
        case TextDelta() | ReasoningDelta() | ToolOutput():
            return turn
        case ToolCall():
            changes["open_tools"] = (*turn.open_tools, event)
            changes["tool_steps"] = (*turn.tool_steps, (event.tool_call_id, event.step_id))
        case ToolResult(tool_call_id=call):
            changes["open_tools"] = tuple(t for t in turn.open_tools if t.tool_call_id != call)
        case Request():
            changes["open_requests"] = (*turn.open_requests, event)
        case RequestClosed(request_id=request):
            changes["open_requests"] = tuple(
                r for r in turn.open_requests if r.request_id != request
            )
        case Usage():
            changes["usage"] = _sum(turn.usage, event.usage)
            changes["steps"] = _step_usage(turn, event)
        case StepComplete():
            changes["step"] = turn.step + 1
            changes["steps"] = _step_times(turn, event)
        case ErrorEvent():
            changes["errored"] = True
        case Done():
            changes["done"] = event
        case _:
            pass
    return msgspec.structs.replace(turn, phase=phase, **changes)


def closing_events(
    turn: Turn, done: Done, *, error: ErrorEvent | None = None
) -> tuple[AnyEvent, ...]:
    """Everything that must still be said so that the turn is over, whatever is open."""
    results = tuple(
        ToolResult(
            tool_call_id=call.tool_call_id,
            tool_name=call.tool_name,
            content=f"{call.tool_name} did not finish: the turn ended ({done.reason})",
            is_error=True,
            step_id=call.step_id,
        )
        for call in turn.open_tools
    )
    closed = tuple(RequestClosed(r.request_id, "cancelled") for r in turn.open_requests)
    errors = () if error is None else (error,)
    return (*results, *closed, *errors, complete(turn, done), TurnSealed())


def metrics_of(turn: Turn) -> Metrics:
    """What a finished turn cost."""
    done = turn.done
    return Metrics(
        usage=(done.usage if done else None) or turn.usage or TokenUsage(0, 0),
        duration_ms=done.duration_ms if done else None,
        steps=turn.steps,
        context_size=done.context_size if done else None,
    )


def outcome_of(reason: str, *, errored: bool) -> Outcome:
    """A turn's outcome from its done reason: unknown reasons are the provider's way to complete."""
    match reason:
        case "aborted" | "interrupted" | "error":
            return reason
        case _:
            return "error" if errored else "completed"


def _sum(left: TokenUsage | None, right: TokenUsage) -> TokenUsage:
    if left is None:
        return right
    return TokenUsage(
        left.input_tokens + right.input_tokens,
        left.output_tokens + right.output_tokens,
        _add(left.cache_read_tokens, right.cache_read_tokens),
        _add(left.cache_write_tokens, right.cache_write_tokens),
    )


def _add(left: int | None, right: int | None) -> int | None:
    return None if left is None and right is None else (left or 0) + (right or 0)


def _step_usage(turn: Turn, event: Usage) -> tuple[StepMetrics, ...]:
    step_id = event.step_id or f"{turn.id}#{turn.step}"
    for index, step in enumerate(turn.steps):
        if step.step_id == step_id:
            merged = msgspec.structs.replace(step, usage=_sum(step.usage, event.usage))
            return (*turn.steps[:index], merged, *turn.steps[index + 1 :])
    return (*turn.steps, StepMetrics(step_id, event.usage))


def _step_times(turn: Turn, event: StepComplete) -> tuple[StepMetrics, ...]:
    times: dict[str, float | None] = {
        "ttft_ms": event.ttft_ms,
        "decode_ms": event.decode_ms,
        "gen_total_ms": event.gen_total_ms,
    }
    for index, step in enumerate(turn.steps):
        if step.step_id == event.step_id:
            merged = msgspec.structs.replace(step, **times)
            return (*turn.steps[:index], merged, *turn.steps[index + 1 :])
    return (
        *turn.steps,
        StepMetrics(
            event.step_id,
            ttft_ms=event.ttft_ms,
            decode_ms=event.decode_ms,
            gen_total_ms=event.gen_total_ms,
        ),
    )
