"""What happened to a session after a number, read back from what is stored: the same actions again.

Neighbours: `reading` builds the states that it begins with, `session_fold` makes the actions as it
did when they were live; `server.ahp.methods` answers `reconnect` with them.
Invariant: it is all that was shown after the number, or nothing: where a part is pruned, or it is
too much, whoever asks gets snapshots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from dispatch.core.events import decode_event
from dispatch.core.identity import ConversationId, TurnId
from dispatch.protocol.ahp.envelopes import ENVELOPES_PER_POSITION, Change
from dispatch.protocol.ahp.records import decode_record
from dispatch.protocol.ahp.session_fold import ChatFold, SessionFold, TurnNames
from dispatch.runtime.ahp.chronicle import names_of
from dispatch.runtime.ahp.reading import Cut, base_state, events_between, read_turns
from dispatch.runtime.ahp.scope import Scope, session_state
from dispatch.runtime.ahp.scopes import stream_of
from dispatch.storage.keys import TimelineKey
from dispatch.storage.port import EventRecord, SealedTurn, Store

# What an older version's words may look back at.
_BASE_TURNS: Final = 2
_TURNS_PAGE: Final = 16
_LOG_PAGE: Final = 500


class Pruned(Exception):
    """What is asked for is not there any more, or is too much."""


class _Since(NamedTuple):
    """A chat as it was before the first turn that goes on after the number, and those turns."""

    chat: ChatFold
    turns: list[tuple[TurnId, TurnNames, list[EventRecord]]]


class Replay:
    """See the module. Made in one step with the number that the asker is at then."""

    def __init__(self, scope: Scope, *, after: int, upto: int) -> None:
        """Everything with a number above `after`, up to `upto`; the session is followed."""
        self._scope = scope
        self._after = after
        self._upto = upto // ENVELOPES_PER_POSITION
        # An action at this very position may be missing.
        self._from = (after + 1) // ENVELOPES_PER_POSITION
        self._left = scope.services.limits.ahp_replay_events_max
        self._store: Store = scope.services.store
        self._details = scope.ledger.details
        self._cuts = {name: scope.cut(name) for name in scope.chronicles}

    async def changes(self) -> list[Change]:
        """The changes, ascending; raises `Pruned`."""
        chats: dict[ConversationId, ChatFold] = {}
        due: list[tuple[int, Callable[[SessionFold], list[Change]]]] = []
        start = self._from
        for name in self._details.chats:
            if name not in self._cuts:
                continue
            since = await self._chat(self._cuts[name])
            chats[name] = since.chat
            for turn, names, events in since.turns:
                start = min(start, events[0].position)
                due += [(one.position, _event(name, turn, names, one)) for one in events]
        due += await self._records(start)
        listed = {name: self._cuts[name].details.listed_title for name in chats}
        fold = SessionFold(self._scope.uri, session_state(self._details, chats, listed), chats)
        found: list[Change] = []
        for position, act in sorted(due, key=lambda one: one[0]):
            if position > self._upto:
                break
            found += [change for change in act(fold) if change.server_seq > self._after]
        return found

    async def _chat(self, cut: Cut) -> _Since:
        turns: list[tuple[TurnId, TurnNames, list[EventRecord]]] = []
        if cut.running is not None:
            first = cut.running.first_offset
            events = await self._events(cut, first, cut.head)
            record = await self._store.turn(cut.key, cut.running.turn)
            if record is None:
                raise Pruned
            turns.append((cut.running.turn, cut.running.names or names_of(record), events))
        before = cut.last_seq + 1
        if cut.details.sealed_position >= self._from:
            before = await self._sealed(cut, turns, before)
        turns.reverse()
        older = await self._page(cut, before, _BASE_TURNS)
        base, names = await read_turns(self._store, cut.key, older, events_max=0)
        return _Since(ChatFold(base_state(cut.details, base), names), turns)

    async def _sealed(
        self, cut: Cut, turns: list[tuple[TurnId, TurnNames, list[EventRecord]]], before: int
    ) -> int:
        """Add the finished turns that ended after the number, newest first; where they begin."""
        while page := await self._page(cut, before, _TURNS_PAGE):
            for sealed in reversed(page):
                record = await self._store.turn(cut.key, sealed.id)
                if record is None:
                    raise Pruned
                if record.first_offset is None or record.last_offset is None:
                    # A copy, which came with its fork.
                    return before
                events = await self._events(cut, record.first_offset, record.last_offset)
                if events[-1].position < self._from:
                    return before
                turns.append((sealed.id, names_of(record), events))
                before = sealed.first_seq
        return before

    async def _page(self, cut: Cut, before: int, limit: int) -> list[SealedTurn]:
        found = await self._store.sealed_turns(
            cut.key, before_seq=before, newest_first=True, limit=limit
        )
        return sorted(found, key=lambda turn: turn.first_seq)

    async def _events(self, cut: Cut, first: int, last: int) -> list[EventRecord]:
        count = last - first + 1
        self._left -= count
        if self._left < 0:
            raise Pruned
        events = await events_between(self._store, cut.key, first - 1, last)
        if len(events) != count:
            raise Pruned
        return events

    async def _records(self, start: int) -> list[tuple[int, Callable[[SessionFold], list[Change]]]]:
        """The session's own log; of before the number only what is said in turns that go on."""
        scope = self._scope
        owners: dict[TimelineKey, ConversationId | None] = {scope.ledger.record.key: None}
        owners |= {ledger.record.key: name for name, ledger in scope.chats.items()}
        stream = stream_of(scope.account, scope.id)
        due: list[tuple[int, Callable[[SessionFold], list[Change]]]] = []
        after = start - 1
        while True:
            page = await self._store.log(stream, after, _LOG_PAGE)
            if page.floor >= self._from:
                raise Pruned
            for found in page.records:
                after = found.position
                owner = owners.get(found.timeline)
                is_early = found.position < self._from
                if found.timeline in owners and not (is_early and owner is None):
                    due.append((found.position, _record(owner, found.position, found.payload)))
            self._left -= len(page.records)
            if self._left < 0:
                raise Pruned
            if len(page.records) < _LOG_PAGE or after > self._upto:
                return due


def _event(
    name: ConversationId, turn: TurnId, names: TurnNames, stored: EventRecord
) -> Callable[[SessionFold], list[Change]]:
    event = decode_event(stored.payload)
    at_ms = names.ended_at_ms
    return lambda fold: fold.event(stored.position, name, turn, event, names, at_ms)


def _record(
    owner: ConversationId | None, position: int, payload: bytes
) -> Callable[[SessionFold], list[Change]]:
    record = decode_record(payload)
    return lambda fold: fold.record(position, owner, record)
