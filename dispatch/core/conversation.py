"""One conversation's rules: `decide` says what follows from a wish, `evolve` applies what happened.

Neighbours: `turn` has the table of the running turn; `runtime.conversations` carries facts to the
journal and evolves. `decide` holds every rule and changes nothing; `evolve` holds none and never
fails on a fact that was decided on the state it is applied to.
Invariant: at most one turn runs; a fact that ends a turn is decided once, whoever asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from dispatch.core.commands import OnBusy
from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
    Request,
    Response,
    Steering,
    TurnStart,
    UserMessage,
    closed_by,
)
from dispatch.core.identity import TurnId, UserId
from dispatch.core.turn import (
    Outcome,
    Phase,
    Turn,
    closing_events,
    complete,
    is_legal,
    outcome_of,
)
from dispatch.core.turn import evolve as evolve_turn
from dispatch.errors import Busy, PeerError
from dispatch.errors import RequestClosed as AlreadyClosed

Status = Literal["active", "idle", "closed"]


class Waiting(msgspec.Struct, frozen=True):
    """A message that is durable and not yet a running turn; `queued_at_ms` in epoch ms.

    `client_message_id` is its sender's own id of it, if there was one.
    """

    turn: TurnId
    ordinal: int
    text: str
    queued_at_ms: int
    client_message_id: str | None = None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules need to know of a conversation.

    `ending`: the running turn's end is decided and on its way to disk. `queue` and `steers` are
    ordered by ordinal.
    """

    status: Status = "idle"
    running: Turn | None = None
    ending: bool = False
    queue: tuple[Waiting, ...] = ()
    steers: tuple[Waiting, ...] = ()

    @property
    def is_busy(self) -> bool:
        """A turn runs, or one that is durable waits to."""
        return self.running is not None or bool(self.queue)


class Began(msgspec.Struct, frozen=True):
    """A turn becomes the running one; its first events follow as `Happened`."""

    turn: TurnId


class Happened(msgspec.Struct, frozen=True):
    """An event of the running turn."""

    event: AnyEvent


class Ended(msgspec.Struct, frozen=True):
    """The running turn's end is decided: nothing of it comes after its `turn-sealed`."""

    outcome: Outcome


class Sealed(msgspec.Struct, frozen=True):
    """The end is durable: the conversation is free, unacknowledged steers are queued."""


class Withdrawn(msgspec.Struct, frozen=True):
    """The start was refused by the disk: the turn never was."""


class Queued(msgspec.Struct, frozen=True):
    """A message waits for the running turn's end."""

    waiting: Waiting


class Steered(msgspec.Struct, frozen=True):
    """A message waits to be taken by the running turn."""

    waiting: Waiting


class Absorbed(msgspec.Struct, frozen=True):
    """The running turn took a steering message."""

    turn: TurnId


class Unqueued(msgspec.Struct, frozen=True):
    """A queued message was cancelled."""

    turn: TurnId


class Reordered(msgspec.Struct, frozen=True):
    """Queued messages have other ordinals."""

    ordinals: tuple[tuple[TurnId, int], ...]


class StatusChanged(msgspec.Struct, frozen=True):
    """The status that everybody in the account is told."""

    status: Status


Fact = (
    Began
    | Happened
    | Ended
    | Sealed
    | Withdrawn
    | Queued
    | Steered
    | Absorbed
    | Unqueued
    | Reordered
    | StatusChanged
)

Placement = Literal["start", "queue", "steer", "interrupt", "hold"]


def place(state: State, on_busy: OnBusy, *, agent_steers: bool) -> Placement:
    """Where a message goes now; raises `Busy`. `hold` means: ask again after the seal.

    A message that arrives between `done` and `turn-sealed` is held, not refused, unless it may
    queue anyway. While nothing runs a message starts, also ahead of a queue: whoever advances a
    conversation asks in the right order.
    """
    if state.running is None:
        return "start"
    match on_busy:
        case "queue":
            return "queue"
        case "interrupt":
            return "hold" if state.ending else "interrupt"
        case "steer":
            return "queue" if state.ending or not agent_steers else "steer"
        case "reject":
            if state.ending:
                return "hold"
            raise Busy()


def start(
    state: State, turn: TurnId, begins_with: UserMessage | TurnId
) -> tuple[Began | Happened | StatusChanged, ...]:
    """The facts of a turn's beginning, with a message or with the turn that it resumes; the
    conversation must be free.
    """
    assert state.running is None, "one turn at a time"
    facts: tuple[Began | Happened | StatusChanged, ...]
    if isinstance(begins_with, UserMessage):
        facts = (Began(turn), Happened(begins_with), Happened(TurnStart()))
    else:
        facts = (Began(turn), Happened(TurnStart(begins_with)))
    return facts if state.status == "active" else (*facts, StatusChanged("active"))


def agent_event(state: State, turn: TurnId, event: AnyEvent) -> tuple[Happened | Absorbed, ...]:
    """What follows from an agent's event; nothing if its turn is no longer the running one."""
    running = state.running
    if running is None or running.id != turn or state.ending or not is_legal(running, event):
        return ()
    if isinstance(event, Steering) and state.steers:
        taken = _taken(state.steers, event)
        told = msgspec.structs.replace(event, client_message_id=taken.client_message_id)
        return (Happened(told), Absorbed(taken.turn))
    return (Happened(complete(running, event)),)


def _taken(steers: tuple[Waiting, ...], event: Steering) -> Waiting:
    """Which text an agent acknowledges: by its id, its words, or else the one that came first."""
    given = event.client_message_id
    if given is not None:
        for steer in steers:
            if steer.client_message_id == given:
                return steer
    return next((steer for steer in steers if steer.text == event.text), steers[0])


def end(
    state: State, turn: TurnId | None, done: Done, *, error: ErrorEvent | None = None
) -> tuple[Happened | Ended, ...]:
    """End the running turn (only that one, if named); nothing if it is already ending."""
    running = state.running
    if running is None or state.ending or (turn is not None and running.id != turn):
        return ()
    assert running.phase is Phase.RUNNING, "a turn ends after it began"
    outcome = outcome_of(done.reason, errored=running.errored or error is not None)
    events = closing_events(running, done, error=error)
    return (*(Happened(event) for event in events), Ended(outcome))


def respond(state: State, response: Response, by: UserId) -> tuple[Happened, ...]:
    """Answer an open request; raises `RequestClosed` when somebody was first, and `PeerError` for
    an answer that is none to this question. What is kept says, as its agent is told, whether the
    chosen option approves.
    """
    asked = _asked(state, response)
    if asked is None:
        raise AlreadyClosed(f"request {response.request_id} is closed")
    _check_response(asked, response)
    return (Happened(closed_by(completed(state, response), by)),)


def completed(state: State, response: Response) -> Response:
    """A response as its agent is told: the chosen option's effect is `approved`, so that an agent
    may act on either of them.
    """
    asked = _asked(state, response)
    if asked is None or response.approved is not None or response.option_id is None:
        return response
    effects = _effects(asked, response)
    # An agent that gave one id to both has to tell them apart by itself.
    approved = effects == {"allow"} if len(effects) == 1 else None
    return msgspec.structs.replace(response, approved=approved)


def _asked(state: State, response: Response) -> Request | None:
    """The open request that it answers."""
    if state.running is None or state.ending:
        return None
    requests = state.running.open_requests
    return next((one for one in requests if one.request_id == response.request_id), None)


def _effects(asked: Request, response: Response) -> set[str]:
    """A set: an agent may have given the same id to two options."""
    return {option.effect for option in asked.options if option.id == response.option_id}


def _check_response(asked: Request, response: Response) -> None:
    if asked.kind == "approval":
        _check_approval(asked, response)
        return
    if response.action is None:
        raise PeerError("an input request is answered with `action`")
    if response.action == "accept":
        for question in asked.questions:
            if question.required and question.id not in (response.answers or {}):
                raise PeerError("a required answer is missing")


def _check_approval(asked: Request, response: Response) -> None:
    approved = response.approved
    if response.option_id is None:
        if approved is None:
            raise PeerError("an approval is answered with `approved` or `optionId`")
        return
    effects = _effects(asked, response)
    if not effects:
        raise PeerError("`optionId` is not one of the request's options")
    # An agent acts on either of them: a denial must not carry a consent.
    if approved is not None and effects != {"allow" if approved else "deny"}:
        raise PeerError("`approved` contradicts the effect of `optionId`")


def cancel(state: State, turn: TurnId) -> tuple[Unqueued, ...]:
    """Remove a queued message; nothing if it is no longer queued."""
    return (Unqueued(turn),) if any(w.turn == turn for w in state.queue) else ()


def reorder(state: State, wanted: Sequence[TurnId]) -> tuple[Reordered, ...]:
    """These messages first, the others behind them as they were; nothing where that is so already.
    Whoever is not queued (any more) is passed over.
    """
    places = {turn: place for place, turn in reversed(list(enumerate(wanted)))}
    order = sorted(state.queue, key=lambda waiting: places.get(waiting.turn, len(places)))
    moved = zip(order, state.queue, strict=True)
    ordinals = tuple((one.turn, old.ordinal) for one, old in moved if one.turn != old.turn)
    return (Reordered(ordinals),) if ordinals else ()


def close(state: State) -> tuple[Unqueued | StatusChanged, ...]:
    """Drop the queue and close; the running turn is ended by `end`."""
    dropped = tuple(Unqueued(waiting.turn) for waiting in (*state.queue, *state.steers))
    return dropped if state.status == "closed" else (*dropped, StatusChanged("closed"))


def settle(state: State) -> tuple[StatusChanged, ...]:
    """After a seal with nothing to follow: idle, unless it was closed meanwhile."""
    if state.status == "active" and not state.is_busy:
        return (StatusChanged("idle"),)
    return ()


def evolve(state: State, fact: Fact) -> State:
    """The state after a fact."""
    replace = msgspec.structs.replace
    match fact:
        case Began(turn):
            queue = tuple(w for w in state.queue if w.turn != turn)
            return replace(state, running=Turn(id=turn), ending=False, queue=queue)
        case Happened(event):
            assert state.running is not None, "an event belongs to the running turn"
            running = evolve_turn(state.running, event)
            return state if running is state.running else replace(state, running=running)
        case Ended():
            return replace(state, ending=True)
        case Sealed():
            return replace(
                state,
                running=None,
                ending=False,
                queue=_ordered((*state.queue, *state.steers)),
                steers=(),
            )
        case Withdrawn():
            return replace(state, running=None, ending=False)
        case Queued(waiting):
            return replace(state, queue=_ordered((*state.queue, waiting)))
        case Steered(waiting):
            return replace(state, steers=_ordered((*state.steers, waiting)))
        case Absorbed(turn):
            return replace(state, steers=tuple(w for w in state.steers if w.turn != turn))
        case Unqueued(turn):
            return replace(
                state,
                queue=tuple(w for w in state.queue if w.turn != turn),
                steers=tuple(w for w in state.steers if w.turn != turn),
            )
        case Reordered(ordinals):
            given = dict(ordinals)
            moved = (replace(w, ordinal=given.get(w.turn, w.ordinal)) for w in state.queue)
            return replace(state, queue=_ordered(tuple(moved)))
        case StatusChanged(status):
            return replace(state, status=status)


def _ordered(waiting: tuple[Waiting, ...]) -> tuple[Waiting, ...]:
    return tuple(sorted(waiting, key=lambda w: w.ordinal))
