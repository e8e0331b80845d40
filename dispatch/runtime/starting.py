"""A message becomes the running turn: its row and its first events in one commit, then its agent.

Neighbours: `intake` says which message is next, `live` has the conversation, `turns` is launched
from here.
Invariant: an agent is handed a prompt only after the turn's start is durable; a start that the
disk refuses leaves the conversation as it was.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from dispatch.core import conversation as rules
from dispatch.core.commands import Accepted, TurnBody
from dispatch.core.conversation import Happened, StatusChanged, Withdrawn
from dispatch.core.events import UserMessage, encode_event
from dispatch.core.identity import LOCAL, TurnId
from dispatch.errors import DispatchError
from dispatch.runtime.admission import (
    Admission,
    CurrentTurn,
    decode_body,
    encode_accepted,
    encode_body,
)
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft, PendingChange, PendingEvent
from dispatch.runtime.shape import PREVIEW_CHARACTERS
from dispatch.storage.port import TurnChange, TurnRecord, TurnState

_TITLE_CHARACTERS: Final = 80


def start(live: Live, admission: Admission) -> None:
    """Make a message the running turn; its admission is settled when that is durable."""
    services = live.services
    status = live.state.status
    before = live.shape()
    now_ms = services.clock.now_ms()
    record = record_of(live, admission, "running", now_ms)
    record.started_at_ms = now_ms
    if admission.workspace is not None and not live.is_stored:
        live.record.workspace = admission.workspace
    current, events = _begin(live, record, admission.body, now_ms)
    if live.scribe is not None:
        live.scribe.starting(record.id)
    after = live.shape()

    def write(draft: Draft, offset: int) -> None:
        record.first_offset = offset + 1
        record.acceptance = encode_accepted(accepted_of(live, admission, "started", offset))
        draft.turns.append(record)
        live.write_row(draft, offset)
        if live.scribe is not None:
            live.scribe.accepted(draft, record)
            live.scribe.began(draft, record.id, now_ms)

    def durable(offset: int) -> None:
        live.is_stored = True
        admission.accept(accepted_of(live, admission, "started", offset))
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


def start_queued(live: Live, turn: TurnId) -> None:
    """Make a message that was kept long ago the running turn."""
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
    begins_with = body.resumes or UserMessage(body.message, body.images, author)
    pending = []
    for fact in rules.start(live.state, record.id, begins_with):
        live.state = rules.evolve(live.state, fact)
        if isinstance(fact, Happened):
            payload = encode_event(fact.event)
            current.fold.add(fact.event, payload)
            pending.append(PendingEvent(record.key, record.id, payload))
    live.record.status = "active"
    live.record.active_at_ms = now_ms
    live.record.last_message = body.message[:PREVIEW_CHARACTERS]
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
    if live.interrupts or live.past.waiting or current.is_unwanted:
        # Somebody came to interrupt or stop it while its start was on its way.
        live.end(None, "aborted")


def record_of(live: Live, admission: Admission, state: TurnState, now_ms: int) -> TurnRecord:
    """A message's row."""
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
        resumes=admission.body.resumes,
    )


def accepted_of(
    live: Live,
    admission: Admission,
    place: Literal["started", "queued", "steered"],
    offset: int,
) -> Accepted:
    """A message's acknowledgement; `offset` is the conversation's last one before it."""
    return Accepted(conversation=live.record.id, turn=admission.turn_id, place=place, offset=offset)
