"""Where a message goes: it starts a turn, queues, steers, interrupts, is held or refused.

Neighbours: `core.conversation.place` holds the rule, `live` the conversation, `broker` calls
`admit` and waits for the admission; `starting` makes a message the running turn.
Invariant: after a seal the order is truncations, interrupting message, held sends, queue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from dispatch.agents.port import Steer
from dispatch.core import conversation as rules
from dispatch.core.commands import Dispatched
from dispatch.core.conversation import (
    Queued,
    Reordered,
    StatusChanged,
    Steered,
    Unqueued,
    Waiting,
)
from dispatch.core.identity import TurnId
from dispatch.errors import AgentFixed, Busy, DispatchError, Gone, TooMany, Unavailable
from dispatch.runtime import starting
from dispatch.runtime import truncation as truncations
from dispatch.runtime.admission import (
    Admission,
    client_message_id_of,
    decode_body,
    encode_accepted,
)
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft, PendingChange
from dispatch.runtime.truncation import Truncation
from dispatch.storage.port import TurnChange, TurnRecord


def admit(live: Live, admission: Admission) -> None:
    """Place a message now, or hold it until the seal; its admission is settled when durable."""
    services = live.services
    try:
        if services.is_draining:
            raise Unavailable("the daemon is shutting down", retry_after_ms=1_000)
        admission.check()
        agent = live.current.agent if live.current is not None else None
        steers = agent is not None and agent.info.steer
        if live.scribe is not None:
            live.scribe.check_open()
            check_agent(live, admission.body.model)
        is_held = live.is_deleting or live.past.on_its_way is not None
        placement = (
            "hold" if is_held else rules.place(live.state, admission.on_busy, agent_steers=steers)
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
            starting.start(live, admission)
        case "queue":
            _queue(live, admission)
        case "steer":
            _steer(live, admission)
        case "hold":
            _hold(live, admission)
        case "interrupt":
            live.interrupts.append(admission)
            live.end(None, "aborted")


def _hold(live: Live, admission: Admission) -> None:
    if live.past.on_its_way is not None:
        live.past.behind.append(admission)
    else:
        (live.interrupts if admission.on_busy == "interrupt" else live.held).append(admission)


def check_agent(live: Live, model: str | None) -> None:
    """Raise `AgentFixed` for another agent than that of a group's member or chat session."""
    if live.details.timeline is not None and model is not None:
        agent_of = live.services.agent_of
        if agent_of(model)[0] != agent_of(live.details.model)[0]:
            raise AgentFixed("the agent of this conversation is fixed")


def advance(live: Live) -> None:
    """The conversation is free: whoever is next goes, or it falls idle.

    While it is being deleted all wait: they go on if it stays, and are refused if it goes.
    Truncations go first, and whoever comes behind one waits until it is durable.
    """
    while live.state.running is None and not live.is_deleting and live.past.on_its_way is None:
        if live.past.waiting:
            _settle(live)
            truncations.begin(live, live.past.waiting.popleft(), partial(_go_on, live))
        elif live.interrupts:
            admit(live, live.interrupts.popleft())
        elif live.held:
            admit(live, live.held.popleft())
        elif live.past.behind:
            admit(live, live.past.behind.popleft())
        elif live.state.queue and not live.services.is_draining:
            turn = live.state.queue[0].turn
            live.waits_for_slot = live.scribe is not None and not live.scribe.may_start(live, turn)
            if live.waits_for_slot:
                return
            starting.start_queued(live, turn)
        else:
            _settle(live)
            return


def _go_on(live: Live) -> None:
    """A truncation is settled. Who came behind it is placed as who comes now: where the first of
    them runs, the others find it so.
    """
    advance(live)
    while live.past.behind and live.past.on_its_way is None:
        admit(live, live.past.behind.popleft())


def truncate(live: Live, truncation: Truncation) -> None:
    """Begin a truncation now, or behind the running turn, which is ended for it.

    Raises what can be seen to refuse it, before anything is ended.
    """
    truncations.check(live, truncation)
    live.past.waiting.append(truncation)
    if live.state.running is None:
        advance(live)
    else:
        live.end(None, "aborted")


def _settle(live: Live) -> None:
    """Nothing runs; where nothing waits either, it falls idle."""
    for fact in rules.settle(live.state):
        live.state = rules.evolve(live.state, fact)
        live.record.status = fact.status
        live.tell_status(fact.status)


def refuse_held(live: Live) -> None:
    """The conversation is gone: so is what was held."""
    for truncation in live.past.waiting:
        truncation.refuse(Gone("the conversation was deleted"))
    for admission in (*live.interrupts, *live.held, *live.past.behind):
        admission.refuse(Gone("the conversation was deleted"))
    live.past.waiting.clear()
    live.interrupts.clear()
    live.held.clear()
    live.past.behind.clear()


def cancel(live: Live, turn: TurnId, by: Dispatched | None = None) -> bool:
    """Remove a queued message; False if it is no longer queued."""
    facts = rules.cancel(live.state, turn)
    _drop(live, facts, by)
    return bool(facts)


async def reorder(live: Live, wanted: Sequence[TurnId], by: Dispatched | None = None) -> None:
    """Let queued messages run in another order, durable when it returns.

    Of a numbered wish is told also where it is so already, for somebody waits for its number.
    """
    facts = rules.reorder(live.state, wanted)
    if not facts and by is None:
        return
    before = tuple((waiting.turn, waiting.ordinal) for waiting in live.state.queue)
    for fact in facts:
        _give_ordinals(live, fact)
    records = [live.queued[turn] for fact in facts for turn, _ in fact.ordinals]
    order = [waiting.turn for waiting in live.state.queue]

    def write(draft: Draft, _offset: int) -> None:
        draft.changes.extend(
            TurnChange(one.key, one.state, one.state, ordinal=one.ordinal) for one in records
        )
        if live.scribe is not None:
            live.scribe.reordered(draft, order, by)

    def instead() -> None:
        still = tuple(one for one in before if one[0] in live.queued)
        _give_ordinals(live, Reordered(still))

    await live.commit(write, then=live.tell_queue, instead=instead)


def _give_ordinals(live: Live, fact: Reordered) -> None:
    live.state = rules.evolve(live.state, fact)
    for turn, ordinal in fact.ordinals:
        live.queued[turn].ordinal = ordinal


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


def _drop(live: Live, facts: tuple[Unqueued, ...], by: Dispatched | None = None) -> None:
    if not facts:
        return
    records = [live.queued.pop(fact.turn) for fact in facts]
    for fact in facts:
        live.state = rules.evolve(live.state, fact)
    changes = [TurnChange(record.key, record.state, "cancelled") for record in records]

    def write(draft: Draft, _offset: int) -> None:
        draft.changes.extend(changes)
        if live.scribe is not None:
            live.scribe.dropped(draft, [record.id for record in records], by)

    live.outbox.change(PendingChange(write, lambda _: live.tell_queue()))


def _check_queue(live: Live) -> None:
    limit = live.services.limits.queue_turns_max
    waiting = (live.state.queue, live.state.steers, live.held, live.interrupts, live.past.behind)
    if sum(map(len, waiting)) + live.arriving >= limit:
        raise TooMany(f"{limit} messages are queued already", retry_after_ms=1_000)


def _queue(live: Live, admission: Admission) -> None:
    record = starting.record_of(live, admission, "queued", live.services.clock.now_ms())
    _keep(live, admission, record, "queued", lambda: _enqueued(live, record))


def _steer(live: Live, admission: Admission) -> None:
    record = starting.record_of(live, admission, "steering", live.services.clock.now_ms())
    current = live.current
    assert current is not None, "only a running turn is steered"

    def durable() -> None:
        if live.current is not current or live.state.ending:
            # The turn ended while the text was on its way: it becomes a turn of its own.
            _enqueued(live, record)
            return
        live.queued[record.id] = record
        live.state = rules.evolve(live.state, Steered(_waiting(record)))
        current.inbox.put(Steer(admission.body.message, client_message_id_of(record)))

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
        record.acceptance = encode_accepted(starting.accepted_of(live, admission, place, offset))
        draft.turns.append(record)
        if not live.is_stored:
            # The start that this one waits behind may have been refused meanwhile.
            live.write_row(draft, offset)
        if live.scribe is not None:
            live.scribe.accepted(draft, record)

    def durable(offset: int) -> None:
        live.is_stored = True
        live.arriving -= 1
        admission.accept(starting.accepted_of(live, admission, place, offset))
        then()

    def refused(error: DispatchError) -> None:
        if live.scribe is not None:
            live.scribe.refused(record.id)
        live.arriving -= 1
        admission.refuse(error)

    live.arriving += 1
    live.outbox.change(PendingChange(write, durable, refused))


def _waiting(record: TurnRecord) -> Waiting:
    text = decode_body(record.body).message
    given = client_message_id_of(record)
    return Waiting(record.id, record.ordinal, text, record.created_at_ms, given)
