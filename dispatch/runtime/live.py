"""One live conversation: decisions become facts, facts go to the journal, and come back durable.

Neighbours: `core.conversation` decides and evolves, `journal.Outbox` carries, `intake` places new
messages, `turns` runs the agent. Everything here is synchronous: between two awaits elsewhere a
conversation is always in a state that `core.conversation` knows.
Invariant: what others can see (an acknowledgement, a notice, a wake-up) happens in a `durable`
callback; what is decided before that may still be refused and then never was.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from dispatch.agents.port import AgentFailure, Respond
from dispatch.core import conversation as rules
from dispatch.core.commands import Dispatched
from dispatch.core.content import delta_text
from dispatch.core.conversation import Absorbed, Ended, Fact, Happened, Sealed, State, StatusChanged
from dispatch.core.events import (
    AgentEvent,
    AnyEvent,
    Done,
    ErrorEvent,
    ReasoningDelta,
    Response,
    TextDelta,
    encode_event,
)
from dispatch.core.identity import TurnId, UserId
from dispatch.core.notices import StatusNotice
from dispatch.core.turn import metrics_of
from dispatch.runtime.admission import Admission, CurrentTurn, check_parts
from dispatch.runtime.journal import Outbox
from dispatch.runtime.past import Past
from dispatch.runtime.pending import Draft, PendingChange
from dispatch.runtime.scribe import Scribe
from dispatch.runtime.scribes import chronicle_of, together
from dispatch.runtime.seal import PendingSeal
from dispatch.runtime.services import Services
from dispatch.runtime.shape import Shape, decode_details, encode_details, take_back
from dispatch.runtime.watchers import SealWatcher, Subscriber
from dispatch.storage.port import (
    ConversationRecord,
    ConversationStatus,
    Piece,
    TurnChange,
    TurnRecord,
)

# A JSON escape is at most six bytes a character.
_ESCAPE_BYTES_MAX: Final = 6


class Live:
    """A conversation that somebody watches or that has a turn.

    `arriving`: messages on their way into the queue. `waits_for_slot`: too many other turns run.
    """

    __slots__ = (
        "arriving",
        "current",
        "deletion",
        "details",
        "feed",
        "held",
        "interrupts",
        "is_stored",
        "outbox",
        "past",
        "previous_gone",
        "queue_watchers",
        "queued",
        "record",
        "scribe",
        "seal_watchers",
        "sealing",
        "services",
        "state",
        "subscribers",
        "users",
        "waits_for_slot",
    )

    def __init__(self, services: Services, record: ConversationRecord, *, is_stored: bool) -> None:
        """Continue a conversation after what is stored of it."""
        self.services = services
        self.record = record
        self.details = decode_details(record.details)
        self.is_stored = is_stored
        self.feed = services.feeds.new_feed(record.id, record.last_offset)
        self.outbox = Outbox(services.journal, record.key, self.feed)
        self.state = State(status="closed" if record.status == "closed" else "idle")
        self.current: CurrentTurn | None = None
        self.sealing: PendingSeal | None = None
        self.queued: dict[TurnId, TurnRecord] = {}
        self.held, self.interrupts = deque[Admission](), deque[Admission]()
        self.previous_gone: asyncio.Event | None = None
        self.queue_watchers: dict[Callable[[Live], None], None] = {}
        # Set once it is decided that it is gone; None where nobody deletes it (any more).
        self.deletion: asyncio.Event | None = None
        self.past = Past(record.superseded)
        self.subscribers: dict[Subscriber, None] = {}
        self.seal_watchers: dict[SealWatcher, None] = {}
        self.users = self.arriving = 0
        self.scribe: Scribe | None = None
        self.waits_for_slot = False

    def attach(self, scribe: Scribe | None) -> None:
        """From here on a timeline is kept of its turns, or is not any more."""
        self.scribe = self.outbox.mirror = together(scribe, chronicle_of(self.scribe))

    @property
    def is_deleting(self) -> bool:
        """Somebody deletes it, or has."""
        return self.deletion is not None

    @property
    def is_at_rest(self) -> bool:
        """Nobody uses it and nothing of it is on its way: it may leave memory."""
        return (
            self.users == 0
            and self.current is None
            and not (self.state.queue or self.held or self.interrupts or self.past.waiting)
            and not self.queue_watchers
            and self.outbox.is_empty
            and not self.feed.is_followed
        )

    @property
    def in_flight_offset(self) -> int:
        """Where a newcomer begins: before the running turn's first shown event, or the head."""
        current = self.current
        if current is None or current.first_offset is None:
            return self.feed.head
        return current.first_offset - 1

    def apply(self, facts: tuple[Fact, ...]) -> None:
        """Evolve, and put what must be kept on its way to disk."""
        for fact in facts:
            self.state = rules.evolve(self.state, fact)
            match fact:
                case Happened(event):
                    self._append(event)
                case Ended(outcome):
                    self._seal(outcome)
                case StatusChanged():
                    self.outbox.change(PendingChange(self.write_row, self._tell_status))
                case Absorbed(turn):
                    self._absorb(turn)
                case _:
                    pass

    def _append(self, event: AnyEvent) -> None:
        current = self.current
        assert current is not None, "an event belongs to the running turn"
        payload = encode_event(event)
        current.fold.add(event, payload)
        current.bytes_total += len(payload)
        self.outbox.event(current.key, current.id, payload)
        if self.scribe is not None:
            self._write_down(self.scribe.heard(current.id, event))

    def _write_down(self, write: Callable[[Draft], None] | None) -> None:
        if write is not None:
            self.outbox.change(PendingChange(lambda draft, _: write(draft)))

    def _absorb(self, turn: TurnId) -> None:
        record = self.queued.pop(turn)

        def write(draft: Draft, _: int) -> None:
            draft.changes.append(TurnChange(record.key, record.state, "absorbed"))
            if self.scribe is not None:
                self.scribe.absorbed(draft, record)

        self.outbox.change(PendingChange(write))

    def write_row(self, draft: Draft, offset: int) -> None:
        """Add the conversation's row as it is now; `offset` as in `PendingChange.write`."""
        row = msgspec.structs.replace(
            self.record,
            last_offset=offset,
            details=encode_details(self.details),
            epoch=self.services.opened.incarnation,
        )
        if self.sealing is not None:
            self.sealing.update(row, draft)
        draft.conversations.append(row)
        if self.scribe is not None:
            self.scribe.renamed(draft, row.title)

    def _tell_status(self, _offset: int) -> None:
        self.is_stored = True
        self.tell_status(self.state.status)

    def tell_status(self, status: ConversationStatus) -> None:
        """Tell the account, unless the conversation is already gone."""
        if status == "deleted" or self.is_deleting:
            return
        self.services.feeds.notify(
            StatusNotice(
                account=self.record.account,
                conversation=self.record.id,
                user=self.only_user,
                workspace=self.record.workspace,
                status=status,
            )
        )

    def shape(self) -> Shape:
        """What is remembered of it, to be compared with later."""
        return Shape(msgspec.structs.replace(self.record), self.details)

    def reshape(self, before: Shape, after: Shape) -> None:
        """Take back what was changed between the two, except what somebody has changed since."""
        self.details = take_back(self.record, self.details, before, after)

    async def commit(
        self,
        write: Callable[[Draft, int], None],
        *,
        then: Callable[[], None] | None = None,
        instead: Callable[[], None] | None = None,
    ) -> None:
        """See `Outbox.commit_at`; the conversation's own row is among what is written."""

        def durable() -> None:
            self.is_stored = True
            if then is not None:
                then()

        await self.outbox.commit_at(write, then=durable, instead=instead)

    async def written(self) -> None:
        """Return once everything decided so far is durable."""
        await self.outbox.drained()

    @property
    def only_user(self) -> UserId | None:
        """The one person who may see it, or None for the whole account."""
        return self.record.user if self.record.visibility == "user" else None

    def tell_queue(self) -> None:
        """Tell those who watch the queue."""
        for watcher in list(self.queue_watchers):
            watcher(self)

    def agent_event(self, current: CurrentTurn, event: AgentEvent) -> None:
        """Take an agent's event; dropped when its turn is over. Raises `AgentFailure` over bounds.

        Deltas take the short way: they change no state, are merged while they wait, and text that
        is longer than an event may be is cut in several.
        """
        if self.current is not current or self.state.ending:
            return
        limits = self.services.limits
        # Before and after: an agent may swallow what is raised, and go on.
        current.check_bytes(limits.turn_bytes_max)
        if isinstance(event, TextDelta | ReasoningDelta):
            kind = type(event)
            payload = encode_event(event)
            if len(payload) > limits.delta_bytes_max:
                self._check_event_size(payload)
                step = limits.delta_bytes_max // _ESCAPE_BYTES_MAX
                text = event.delta
                for start in range(0, len(text), step):
                    part = encode_event(kind(text[start : start + step]))
                    self._append_delta(current, kind, part)
            else:
                self._append_delta(current, kind, payload)
        else:
            self._check_event_size(encode_event(event))
            self.apply(rules.agent_event(self.state, current.id, event))
            check_parts(self.state.running, limits)
        current.check_bytes(limits.turn_bytes_max)
        if current.fold.bytes_waiting > limits.staged_bytes_max:
            self._stage(current)

    def _append_delta(self, current: CurrentTurn, kind: type[AgentEvent], payload: bytes) -> None:
        if not current.has_text and kind is TextDelta:
            current.has_text = True
            observe = partial(self.services.observe_first_delta, current.started_s)
            self.outbox.change(PendingChange(_nothing, observe))
        escaped = delta_text(payload)
        if self.scribe is not None and kind is TextDelta:
            self._write_down(self.scribe.said(current.id, escaped))
        current.fold.add_delta(kind, escaped)
        name = "text-delta" if kind is TextDelta else "reasoning-delta"
        current.bytes_total += self.outbox.delta(current.key, current.id, name, escaped)

    def _check_event_size(self, payload: bytes) -> None:
        limit = self.services.limits.event_bytes_max
        if len(payload) > limit:
            raise AgentFailure(f"an event is over {limit} bytes", "event_too_large")

    def _stage(self, current: CurrentTurn) -> None:
        ordinal = current.fold.bytes_taken
        first_index, data = current.fold.take()
        piece = Piece(current.key, ordinal, first_index, data)
        self.outbox.change(PendingChange(lambda batch, _: batch.pieces.append(piece)))

    def end(
        self,
        turn: TurnId | None,
        reason: str,
        *,
        error: ErrorEvent | None = None,
        done: Done | None = None,
        by: Dispatched | None = None,
    ) -> bool:
        """End the running turn (only that one, if named); False if there is nothing to end.

        `done` is the agent's own last word, whose sums are kept; `by` is whose wish it is.
        """
        current = self.current
        if current is None or not current.begun.is_set():
            return False
        elapsed_ms = (self.services.clock.monotonic() - current.started_s) * 1000.0
        done = done or Done(reason)
        if done.duration_ms is None:
            done = msgspec.structs.replace(done, duration_ms=round(max(elapsed_ms, 0.0), 1))
        facts = rules.end(self.state, turn, done, error=error)
        if facts:
            self._claim(current.id, by)
        self.apply(facts)
        return bool(facts)

    def _claim(self, subject: str, by: Dispatched | None) -> None:
        scribe = self.scribe
        if by is not None and scribe is not None:
            self._write_down(lambda draft: scribe.claimed(draft, subject, by))

    def respond(self, response: Response, user: UserId, by: Dispatched | None = None) -> None:
        """Answer an open request; raises `RequestClosed` when somebody was first.

        The agent is told once the answer is durable, so that it never acts on one that a crash
        takes back.
        """
        current = self.current
        facts = rules.respond(self.state, response, user)
        assert current is not None, "an open request belongs to the running turn"
        told, inbox = Respond(rules.completed(self.state, response)), current.inbox
        self._claim(response.request_id, by)
        self.apply(facts)
        self.outbox.change(PendingChange(_nothing, lambda _: inbox.put(told)))

    def _seal(self, outcome: str) -> None:
        current, running = self.current, self.state.running
        assert current is not None, "only a running turn is sealed"
        assert running is not None
        agent, _, _ = self.services.agent_of(current.body.model)
        metrics = msgspec.structs.replace(metrics_of(running), agent=agent)
        now_ms = self.services.clock.now_ms()
        self.sealing = seal = PendingSeal(current, outcome, metrics, now_ms)

        def write(draft: Draft, offset: int) -> None:
            seal.write(draft, offset, self.record.last_seq, self.state)
            self.write_row(draft, offset)
            if self.scribe is not None:
                self.scribe.ended(draft, current.id, outcome)

        def durable(offset: int) -> None:
            self.sealing = None
            seal.update(self.record)
            self.record.last_offset = offset
            self._sealed(current)
            if self.state.status == "idle" and seal.is_awaited:
                # What waited was cancelled while this was written.
                self.outbox.change(PendingChange(self.write_row))

        self.outbox.change(PendingChange(write, durable))

    def _sealed(self, current: CurrentTurn) -> None:
        self.state = rules.evolve(self.state, Sealed())
        self.current = None
        if current.is_asked or self.previous_gone is None or self.previous_gone.is_set():
            # One whose agent was never asked leaves the next to wait for the one before it.
            self.previous_gone = current.gone
        self.feed.forget_blocks()
        if current.scope is not None:
            current.scope.cancel()
        current.sealed.set()
        for watcher in self.seal_watchers:
            watcher.sealed(self, current.id)
        self.services.ended(self)


def _nothing(_: Draft, _offset: int) -> None:
    """A change that is only waited for."""
