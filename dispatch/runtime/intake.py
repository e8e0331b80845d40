"""Where a message goes: it starts a turn, queues, steers, interrupts, is held or refused.

Neighbours: `core.conversation.place` holds the rule, `live` the conversation, `broker` calls
`admit` and waits for the admission; `turns` is launched from here once a start is durable.
Invariant: after a seal the order is interrupting message, held sends, queue; an agent is handed a
prompt only after the turn's start is durable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from dispatch.agents.port import Steer
from dispatch.core import conversation as rules
from dispatch.core.commands import Accepted, TurnBody
from dispatch.core.conversation import (
    Happened,
    Queued,
    StatusChanged,
    Steered,
    Unqueued,
    Waiting,
    Withdrawn,
)
from dispatch.core.events import UserMessage, encode_event
from dispatch.core.identity import LOCAL, TurnId
from dispatch.errors import AgentFixed, Busy, DispatchError, Gone, TooMany, Unavailable
from dispatch.runtime.admission import (
    Admission,
    CurrentTurn,
    decode_body,
    encode_accepted,
    encode_body,
)
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft, PendingChange, PendingEvent
from dispatch.storage.port import TurnChange, TurnRecord, TurnState

_TITLE_CHARACTERS: Final = 80
_PREVIEW_CHARACTERS: Final = 200


def admit(live: Live, admission: Admission) -> None:
    """Place a message now, or hold it until the seal; its admission is settled when durable."""
    services = live.services
    try:
        if services.is_draining:
            raise Unavailable("the daemon is shutting down", retry_after_ms=1_000)
        agent = live.current.agent if live.current is not None else None
        steers = agent is not None and agent.info.steer
        if live.scribe is not None:
            live.scribe.check_open()
            check_agent(live, admission.body.model)
        placement = (
            "hold"
            if live.is_deleting
            else rules.place(live.state, admission.on_busy, agent_steers=steers)
        )
        waits = live.waits_for_slot and bool(live.state.queue)
        if admission.on_busy == "queue" and live.scribe is not None:
            waits = waits or not live.scribe.has_room()
        if placement == "start" and waits and admission.on_busy != "interrupt":
            if admission.on_busy == "reject":
                raise Busy()
            placement = "queue"
        if placement != "start":
            _check_queue(live)
            admission.waits()
    except DispatchError as error:
        admission.refuse(error)
        return
    match placement:
        case "start":
            _start(live, admission)
        case "queue":
            _queue(live, admission)
        case "steer":
            _steer(live, admission)
        case "hold":
            (live.interrupts if admission.on_busy == "interrupt" else live.held).append(admission)
        case "interrupt":
            live.interrupts.append(admission)
            live.end(None, "aborted")


def check_agent(live: Live, model: str | None) -> None:
    """Raise `AgentFixed` for another agent than that of a group's member or chat session."""
    if live.details.timeline is not None and model is not None:
        agent_of = live.services.agent_of
        if agent_of(model)[0] != agent_of(live.details.model)[0]:
            raise AgentFixed("the agent of this conversation is fixed")


def advance(live: Live) -> None:
    """The conversation is free: whoever is next goes, or it falls idle.

    While it is being deleted all wait: they go on if it stays, and are refused if it goes.
    """
    while live.state.running is None and not live.is_deleting:
        if live.interrupts:
            admit(live, live.interrupts.popleft())
        elif live.held:
            admit(live, live.held.popleft())
        elif live.state.queue and not live.services.is_draining:
            turn = live.state.queue[0].turn
            live.waits_for_slot = live.scribe is not None and not live.scribe.may_start(live, turn)
            if live.waits_for_slot:
                return
            _start_queued(live, turn)
        else:
            for fact in rules.settle(live.state):
                live.state = rules.evolve(live.state, fact)
                live.record.status = fact.status
                live.tell_status(fact.status)
            return


def refuse_held(live: Live) -> None:
    """The conversation is gone: so is what was held."""
    for admission in (*live.interrupts, *live.held):
        admission.refuse(Gone("the conversation was deleted"))
    live.interrupts.clear()
    live.held.clear()


def cancel(live: Live, turn: TurnId) -> bool:
    """Remove a queued message; False if it is no longer queued."""
    facts = rules.cancel(live.state, turn)
    _drop(live, facts)
    return bool(facts)


def take_out(live: Live, turn: TurnId) -> TurnChange:
    """Take a message out of the queue; the caller makes the change durable."""
    record = live.queued.pop(turn)
    live.state = rules.evolve(live.state, Unqueued(turn))
    live.tell_queue()
    return TurnChange(record.key, record.state, "cancelled")


def end_when_begun(live: Live, turn: TurnId | None) -> None:
    """Stop a turn that runs, or as soon as its start is durable."""
    current = live.current
    if current is not None and current.id == turn:
        current.is_unwanted = True
        live.end(turn, "aborted")


def close(live: Live) -> None:
    """Drop the queue and close; the caller ends the running turn first."""
    facts = rules.close(live.state)
    _drop(live, tuple(fact for fact in facts if isinstance(fact, Unqueued)))
    for fact in facts:
        if isinstance(fact, StatusChanged):
            live.record.status = "closed"
            live.apply((fact,))


def reopen(live: Live) -> None:
    """A closed conversation is idle again; the caller keeps its row."""
    if live.state.status == "closed":
        live.record.status = "idle"
        live.apply((StatusChanged("idle"),))


def restore(live: Live, record: TurnRecord) -> None:
    """Put a durable, unsealed message back into the queue, as at a start-up."""
    live.queued[record.id] = record
    live.state = rules.evolve(live.state, Queued(_waiting(record)))


def _drop(live: Live, facts: tuple[Unqueued, ...]) -> None:
    if not facts:
        return
    records = [live.queued.pop(fact.turn) for fact in facts]
    for fact in facts:
        live.state = rules.evolve(live.state, fact)
    changes = [TurnChange(record.key, record.state, "cancelled") for record in records]

    def write(draft: Draft, _offset: int) -> None:
        draft.changes.extend(changes)
        if live.scribe is not None:
            live.scribe.dropped(draft, [record.id for record in records])

    live.outbox.change(PendingChange(write, lambda _: live.tell_queue()))


def _check_queue(live: Live) -> None:
    limit = live.services.limits.queue_turns_max
    waiting = (live.state.queue, live.state.steers, live.held, live.interrupts)
    if sum(map(len, waiting)) + live.arriving >= limit:
        raise TooMany(f"{limit} messages are queued already", retry_after_ms=1_000)


def _record(live: Live, admission: Admission, state: TurnState, now_ms: int) -> TurnRecord:
    return TurnRecord(
        key=admission.key,
        conversation=live.record.key,
        id=admission.turn_id,
        state=state,
        ordinal=admission.key,
        user=admission.user,
        body=encode_body(admission.body),
        created_at_ms=now_ms,
        client_key=admission.client_key,
        digest=admission.digest,
    )


def _start(live: Live, admission: Admission) -> None:
    services = live.services
    status = live.state.status
    before = live.shape()
    now_ms = services.clock.now_ms()
    record = _record(live, admission, "running", now_ms)
    record.started_at_ms = now_ms
    if admission.workspace is not None and not live.is_stored:
        live.record.workspace = admission.workspace
    current, events = _begin(live, record, admission.body, now_ms)
    if live.scribe is not None:
        live.scribe.starting(record.id)
    after = live.shape()

    def write(draft: Draft, offset: int) -> None:
        record.first_offset = offset + 1
        record.acceptance = encode_accepted(_accepted(live, admission, "started", offset))
        draft.turns.append(record)
        live.write_row(draft, offset)
        if live.scribe is not None:
            live.scribe.accepted(draft, record)
            live.scribe.began(draft, record.id, now_ms)

    def durable(offset: int) -> None:
        live.is_stored = True
        admission.accept(_accepted(live, admission, "started", offset))
        _begun(live, current, offset, status)

    def refused(error: DispatchError) -> None:
        # What came in since stays; the turn itself never was.
        if live.scribe is not None:
            live.scribe.refused(record.id)
        live.state = rules.evolve(live.state, Withdrawn())
        if live.state.status == "active":
            live.state = rules.evolve(live.state, StatusChanged(status))
        live.reshape(before, after)
        live.current = None
        for event in (current.begun, current.gone, current.sealed):
            event.set()
        admission.refuse(error)
        services.ended(live)

    live.outbox.change(PendingChange(write, durable, refused, events))


def _start_queued(live: Live, turn: TurnId) -> None:
    record = live.queued.pop(turn)
    status = live.state.status
    now_ms = live.services.clock.now_ms()
    current, events = _begin(live, record, decode_body(record.body), now_ms)

    def write(draft: Draft, offset: int) -> None:
        draft.changes.append(TurnChange(record.key, record.state, "running", now_ms, offset + 1))
        live.write_row(draft, offset)
        if live.scribe is not None:
            live.scribe.began(draft, record.id, now_ms)

    def durable(offset: int) -> None:
        live.tell_queue()
        _begun(live, current, offset, status)

    live.outbox.change(PendingChange(write, durable, None, events))


def _begin(
    live: Live, record: TurnRecord, body: TurnBody, now_ms: int
) -> tuple[CurrentTurn, tuple[PendingEvent, ...]]:
    """Make it the running turn; what it names becomes the conversation's for its next turn."""
    services, replace = live.services, msgspec.structs.replace
    given = {
        name: value
        for name in ("model", "reasoning_effort", "cwd")
        if (value := getattr(body, name)) is not None
    }
    live.details = details = replace(live.details, **given)
    body = replace(
        body, model=details.model, reasoning_effort=details.reasoning_effort, cwd=details.cwd
    )
    agent = services.agent_of(body.model)[1]
    now_s = services.clock.monotonic()
    current = CurrentTurn(record, live.record.id, body, agent, now_ms=now_ms, now_s=now_s)
    live.current = current
    author = None if record.user == LOCAL.user else record.user
    message = UserMessage(body.message, body.images, author)
    pending = []
    for fact in rules.start(live.state, record.id, message):
        live.state = rules.evolve(live.state, fact)
        if isinstance(fact, Happened):
            payload = encode_event(fact.event)
            current.fold.add(fact.event, payload)
            pending.append(PendingEvent(record.key, record.id, payload))
    live.record.status = "active"
    live.record.active_at_ms = now_ms
    live.record.last_message = body.message[:_PREVIEW_CHARACTERS]
    if not live.record.title and not details.title_is_given:
        live.record.title = body.message[:_TITLE_CHARACTERS]
    services.began(live)
    return current, tuple(pending)


def _begun(live: Live, current: CurrentTurn, offset: int, status: str) -> None:
    """The start is durable: show it, and hand the agent its prompt."""
    current.first_offset = offset + 1
    current.begun.set()
    if status != "active":
        live.tell_status("active")
    live.services.launch(live, current)
    if live.interrupts or current.is_unwanted:
        # Somebody came to interrupt or stop it while its start was on its way.
        live.end(None, "aborted")


def _queue(live: Live, admission: Admission) -> None:
    record = _record(live, admission, "queued", live.services.clock.now_ms())
    _keep(live, admission, record, "queued", lambda: _enqueued(live, record))


def _steer(live: Live, admission: Admission) -> None:
    record = _record(live, admission, "steering", live.services.clock.now_ms())
    current = live.current
    assert current is not None, "only a running turn is steered"

    def durable() -> None:
        if live.current is not current or live.state.ending:
            # The turn ended while the text was on its way: it becomes a turn of its own.
            _enqueued(live, record)
            return
        live.queued[record.id] = record
        live.state = rules.evolve(live.state, Steered(_waiting(record)))
        current.inbox.put(Steer(admission.body.message))

    _keep(live, admission, record, "steered", durable)


def _enqueued(live: Live, record: TurnRecord) -> None:
    restore(live, record)
    live.tell_queue()
    if live.state.running is None:
        advance(live)


def _keep(
    live: Live,
    admission: Admission,
    record: TurnRecord,
    place: Literal["queued", "steered"],
    then: Callable[[], None],
) -> None:
    """Make a waiting message durable, acknowledge it, and go on."""

    def write(draft: Draft, offset: int) -> None:
        record.acceptance = encode_accepted(_accepted(live, admission, place, offset))
        draft.turns.append(record)
        if not live.is_stored:
            # The start that this one waits behind may have been refused meanwhile.
            live.write_row(draft, offset)
        if live.scribe is not None:
            live.scribe.accepted(draft, record)

    def durable(offset: int) -> None:
        live.is_stored = True
        live.arriving -= 1
        admission.accept(_accepted(live, admission, place, offset))
        then()

    def refused(error: DispatchError) -> None:
        if live.scribe is not None:
            live.scribe.refused(record.id)
        live.arriving -= 1
        admission.refuse(error)

    live.arriving += 1
    live.outbox.change(PendingChange(write, durable, refused))


def _accepted(
    live: Live,
    admission: Admission,
    place: Literal["started", "queued", "steered"],
    offset: int,
) -> Accepted:
    return Accepted(conversation=live.record.id, turn=admission.turn_id, place=place, offset=offset)


def _waiting(record: TurnRecord) -> Waiting:
    text = decode_body(record.body).message
    return Waiting(record.id, record.ordinal, text, record.created_at_ms)
