"""Takes over what a dead incarnation left: running turns are sealed, queued ones run.

Neighbours: `compose` runs this before the port accepts; `live` ends the turns in the ordinary way.
It can itself be killed: everything it does is an ordinary commit, and a second run finds what the
first did not finish.
Invariant: when it returns, no turn of an older incarnation is `running`, and every one keeps all
that was shown of it.
"""

from __future__ import annotations

import msgspec
import structlog

from dispatch.core import conversation as rules
from dispatch.core.conversation import Began, Happened, StatusChanged
from dispatch.core.events import Done, decode_event
from dispatch.runtime import intake
from dispatch.runtime.admission import CurrentTurn, decode_body
from dispatch.runtime.broker import INTERRUPTED
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.history import delta_kind
from dispatch.runtime.live import Live
from dispatch.runtime.services import Services
from dispatch.storage.keys import TurnKey
from dispatch.storage.port import EventRecord, TurnRecord

log = structlog.get_logger()


async def recover(services: Services, conversations: Conversations) -> None:
    """Seal what ran, put back what waited, and let the queues go on."""
    left = await services.store.unsealed()
    running = [turn for _, turns in left for turn in turns if turn.state == "running"]
    events = await services.store.events_of([turn.key for turn in running])
    lives = []
    for record, turns in left:
        live = conversations.add(record, is_stored=True)
        await conversations.keeper.attach(live)
        _take_over(services, live, turns, events)
        lives.append(live)
    await services.journal.idle()
    for live in lives:
        if live.state.running is None:
            intake.advance(live)
    await services.journal.idle()
    if left:
        log.info("recovery.done", conversations=len(left), interrupted=len(running))


def _take_over(
    services: Services,
    live: Live,
    turns: list[TurnRecord],
    events: dict[TurnKey, tuple[int, list[EventRecord]]],
) -> None:
    ran = next((turn for turn in turns if turn.state == "running"), None)
    staged, happened = events[ran.key] if ran is not None else (0, [])
    for turn in turns:
        if turn is not ran:
            intake.restore(live, turn)
    if ran is not None:
        _rebuild(services, live, ran, staged, happened)
        live.apply(rules.end(live.state, None, Done("interrupted"), error=INTERRUPTED))


def _rebuild(
    services: Services, live: Live, ran: TurnRecord, staged: int, happened: list[EventRecord]
) -> None:
    """Bring the turn to where its journal ends."""
    body = decode_body(ran.body)
    current = CurrentTurn(
        ran,
        live.record.id,
        # Its row has what its sender named alone.
        msgspec.structs.replace(body, model=body.model or live.details.model),
        None,
        now_ms=ran.started_at_ms or ran.created_at_ms,
        now_s=services.clock.monotonic(),
    )
    live.current = current
    if live.state.status != "closed":
        live.state = rules.evolve(live.state, StatusChanged("active"))
    live.state = rules.evolve(live.state, Began(ran.id))
    for record in happened:
        event = decode_event(record.payload)
        live.state = rules.evolve(live.state, Happened(event))
        current.fold.add(event, record.payload)
        if live.scribe is not None:
            live.scribe.recovered(ran.id, record.payload, delta_kind(record))
    # What was staged before the crash is on disk already.
    current.fold.forget(staged)
    current.first_offset = ran.first_offset
    current.begun.set()
    current.gone.set()
    services.began(live)
