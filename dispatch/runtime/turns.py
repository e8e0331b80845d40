"""Runs one agent for one turn, under a deadline, and ends the turn whatever happens.

Neighbours: `live` takes the events and holds the turn's end, `agents.port` is what is run. One of
the four places where any exception is caught: an agent may fail in any way.
Invariant: a turn whose agent was launched is ended exactly once, and `gone` is set when nothing of
the agent is left.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Final

import anyio
import anyio.lowlevel
import structlog

from dispatch.agents.port import Agent, AgentFailure, TurnRequest, nothing_said
from dispatch.core.events import (
    AgentEvent,
    Done,
    ErrorEvent,
    ProviderRetry,
    ReasoningDelta,
    Request,
    Steering,
    StepComplete,
    TextDelta,
    ToolCall,
    ToolOutput,
    ToolResult,
    Usage,
)
from dispatch.runtime.admission import CurrentTurn
from dispatch.runtime.history import History
from dispatch.runtime.live import Live

log = structlog.get_logger()

_AGENT_EVENTS: Final = (
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
    Done,
)
# A tight in-process agent never waits by itself: it is made to, so that others run.
_EVENTS_BETWEEN_YIELDS: Final = 256


async def run_turn(live: Live, current: CurrentTurn, history: History) -> None:
    """Run the agent to its end, then end the turn, unless somebody else did."""
    try:
        with anyio.CancelScope() as current.scope:
            if not _is_over(live, current):
                await _previous_agent_gone(live)
            if not _is_over(live, current):
                await _run(live, current, history)
    finally:
        current.scope = None
        current.gone.set()
        log.debug("turn.agent_gone", conversation=live.record.id, turn=current.id)


def _is_over(live: Live, current: CurrentTurn) -> bool:
    return current.sealed.is_set() or live.state.ending


async def _previous_agent_gone(live: Live) -> None:
    previous = live.previous_gone
    if previous is not None and not previous.is_set():
        with anyio.move_on_after(live.services.limits.agent_gone_seconds_max) as patience:
            await previous.wait()
        if patience.cancelled_caught:
            log.warning("turn.agent_lingers", conversation=live.record.id)


async def _run(live: Live, current: CurrentTurn, history: History) -> None:
    services = live.services
    name, agent, model = services.agent_of(current.body.model)
    if agent is None:
        _fail(live, current, f'unknown agent "{name}"', "unknown_agent")
        return
    emitter = _Emitter(live, current)
    seconds = services.limits.turn_seconds_max
    try:
        with anyio.fail_after(seconds) as deadline:
            async with services.roster.place(name):
                current.is_asked = True
                await agent.run(_request(live, current, model, history), emitter.emit)
    except AgentFailure as failure:
        _fail(live, current, failure.message, failure.code)
    except TimeoutError:
        if deadline.cancelled_caught:
            _fail(live, current, f"the turn took longer than {seconds:g} seconds", "timeout")
        else:
            _failed(live, current, agent)
    except asyncio.CancelledError:
        if anyio.current_effective_deadline() == -math.inf:
            raise
        # Nobody cancelled this turn: the agent met a cancellation of its own making.
        _failed(live, current, agent)
    except Exception:
        _failed(live, current, agent)
    else:
        if emitter.failure is not None:
            # The agent took no notice of it.
            _fail(live, current, emitter.failure.message, emitter.failure.code)
            return
        running = live.state.running
        errored = running is not None and running.errored
        live.end(current.id, "error" if errored else "stop", done=emitter.done)


def _fail(live: Live, current: CurrentTurn, message: str, code: str) -> None:
    live.end(current.id, "error", error=ErrorEvent(message, code))


def _failed(live: Live, current: CurrentTurn, agent: Agent) -> None:
    """The agent's own words may hold secrets: watchers get a neutral text, the log the rest."""
    log.exception("turn.agent_failed", turn=current.id, agent=agent.info.name)
    _fail(live, current, f'agent "{agent.info.name}" failed', "agent_failed")


def _request(live: Live, current: CurrentTurn, model: str | None, history: History) -> TurnRequest:
    body, resumes = current.body, current.body.resumes
    return TurnRequest(
        conversation_id=current.conversation,
        turn_id=current.id,
        message=body.message,
        inbox=current.inbox,
        history=partial(history.context, live, resumes),
        account=live.record.account,
        previous_turn=partial(history.previous_turn, live, resumes),
        resumes=resumes,
        said=nothing_said if resumes is None else partial(history.said, live, resumes),
        images=body.images,
        model=model,
        cwd=body.cwd,
        reasoning_effort=body.reasoning_effort,
    )


class _Emitter:
    """Where an agent's events go in: checks their kind, keeps the last `done`, holds it back."""

    __slots__ = ("_count", "_current", "_live", "done", "failure")

    def __init__(self, live: Live, current: CurrentTurn) -> None:
        self._live = live
        self._current = current
        self._count = 0
        self.done: Done | None = None
        self.failure: AgentFailure | None = None

    async def emit(self, event: AgentEvent) -> None:
        """Take one event; waits when the agent is too far ahead of the disk."""
        live = self._live
        try:
            self._take(event)
        except AgentFailure as failure:
            self.failure = failure
            raise
        self._count += 1
        if live.outbox.bytes_pending > live.services.limits.pending_bytes_max:
            await live.outbox.drained()
        elif self._count % _EVENTS_BETWEEN_YIELDS == 0:
            await anyio.lowlevel.checkpoint()

    def _take(self, event: AgentEvent) -> None:
        if self.done is not None:
            raise AgentFailure("an event came after done", "bad_event")
        if isinstance(event, Done):
            self.done = event
        elif isinstance(event, _AGENT_EVENTS):
            self._live.agent_event(self._current, event)
        else:
            raise AgentFailure(f"{type(event).__name__} is not an agent's event", "bad_event")
