"""What happened to a session after a number, read back from what is stored: the same actions again.

Neighbours: `reading` builds the states that it begins with, `session_fold` makes the actions as it
did when they were live; `server.ahp.methods` answers `reconnect` with them.
Invariant: it is all that was shown after the number, or nothing: where a part is pruned, or it is
too much, whoever asks gets snapshots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from dispatch.core.events import Truncated, decode_event
from dispatch.core.identity import ConversationId, TurnId
from dispatch.core.truncation import Superseded
from dispatch.protocol.ahp.envelopes import ENVELOPES_PER_POSITION, Change
from dispatch.protocol.ahp.objects import changed
from dispatch.protocol.ahp.records import Acted, Record, decode_record
from dispatch.protocol.ahp.session_fold import ChatFold, SessionFold, TurnNames, UnknownTurn
from dispatch.protocol.ahp.status import IS_READ, with_flag
from dispatch.protocol.codec import Object
from dispatch.runtime.ahp.chronicle import FLAG_ACTIONS, flag_of, names_of
from dispatch.runtime.ahp.reading import (
    Cut,
    base_state,
    counting,
    event_pages,
    read_turns,
    reads_calm,
    session_state,
)
from dispatch.runtime.ahp.scope import Scope
from dispatch.runtime.ahp.scopes import stream_of
from dispatch.storage.keys import TimelineKey, TurnKey
from dispatch.storage.port import EventRecord, Store, TurnRecord

# What an older version's words may look back at.
_BASE_TURNS: Final = 2
_TURNS_PAGE: Final = 16
_LOG_PAGE: Final = 500
_TRUNCATED: Final = b'{"type":"truncated"'
_BEGINS: Final = (b'{"type":"user-message"', b'{"type":"turn-start"')


class Pruned(Exception):
    """What is asked for is not there any more, or is too much."""


class _Since(NamedTuple):
    """A chat as it was before the first turn that goes on after the number, and what came then."""

    chat: ChatFold
    events: list[EventRecord]
    names: dict[TurnKey, TurnNames]
    ids: dict[TurnKey, TurnId]


class _Told(NamedTuple):
    """A record of the session (None) or of a chat."""

    position: int
    owner: ConversationId | None
    record: Record


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
        self._bytes_left = scope.services.limits.ahp_replay_bytes_max
        self._store: Store = scope.services.store
        self._details = scope.ledger.details
        self._cuts = {name: scope.cut(name) for name in scope.chronicles}

    async def changes(self) -> list[Change]:
        """The changes, ascending; raises `Pruned`."""
        chats: dict[ConversationId, ChatFold] = {}
        due: list[tuple[int, Callable[[SessionFold], list[Change]]]] = []
        found = {
            name: await self._chat(self._cuts[name])
            for name in self._details.chats
            if name in self._cuts
        }
        events = [event for since in found.values() for event in since.events]
        start = min((event.position for event in events), default=self._from)
        told = await self._records(min(start, self._from))
        for name, since in found.items():
            chats[name] = since.chat
            since.chat.state = self._before(since, [one for one in told if one.owner == name])
            due += [(event.position, _event(name, since, event)) for event in since.events]
        due += [(one.position, _record(one)) for one in told]
        listed = {name: self._cuts[name].details.listed_title for name in chats}
        fold = SessionFold(self._scope.uri, session_state(self._details, chats, listed), chats)
        changes: list[Change] = []
        for position, act in sorted(due, key=lambda one: one[0]):
            if position > self._upto:
                break
            try:
                said = act(fold)
            except UnknownTurn as error:
                raise Pruned from error
            changes += [change for change in said if change.server_seq > self._after]
        return changes

    def _before(self, since: _Since, told: list[_Told]) -> Object:
        """A chat as what came found it. Of its flags only the present is kept: before the first
        change of one it was the other way, or the change changed nothing. Nor is its time, which
        every end of a turn sets: from none, so that this is told.
        """
        switched = [
            (event.position, IS_READ, False)
            for event in since.events
            if event.payload.startswith(_BEGINS)
        ]
        for position, _, record in told:
            action = record.action if isinstance(record, Acted) else {"type": ""}
            if action["type"] in FLAG_ACTIONS and position <= self._upto:
                switched.append((position, *flag_of(action["type"], action)))
        status = since.chat.state["status"]
        for _, flag, on in sorted(switched, reverse=True):
            status = with_flag(status, flag, on=not on)
        return changed(since.chat.state, status=status, modifiedAt="")

    async def _chat(self, cut: Cut) -> _Since:
        last = await self._last_before(cut)
        end = 0 if last is None or last.last_offset is None else last.last_offset
        self._left -= cut.head - end
        if self._left < 0:
            raise Pruned
        events: list[EventRecord] = []
        async with aclosing(event_pages(self._store, cut.key, end, cut.head)) as pages:
            async for page in pages:
                events += page
                self._bytes_left -= sum(len(event.payload) for event in page)
                if self._bytes_left < 0:
                    raise Pruned
        if len(events) != cut.head - end:
            raise Pruned
        ids = await self._store.turn_ids(sorted({event.turn for event in events}))
        before = 1 if last is None or last.first_seq is None else last.first_seq + last.chunk_count
        cuts = [one for one in map(_truncation, events) if one is not None]
        then = cut._replace(superseded=_without(cut.superseded, cuts))
        older = await counting(self._store, then, before, _BASE_TURNS)
        base, names = await read_turns(self._store, cut.key, older, events_max=0)
        named: dict[TurnKey, TurnNames] = {}
        for key, turn in ids.items():
            record = await self._store.turn(cut.key, turn)
            if record is None:
                raise Pruned
            if record.state != "marker":
                named[key] = names_of(record)
        await self._name_kept(cut, cuts, names)
        is_calm = await reads_calm(self._store, then, older[-1] if older else None)
        state = base_state(cut.details, base, is_calm=is_calm)
        return _Since(ChatFold(state, names), events, named, ids)

    async def _last_before(self, cut: Cut) -> TurnRecord | None:
        """The newest finished turn of which nothing comes after the number."""
        before = cut.last_seq + 1
        while page := await self._store.sealed_turns(
            cut.key, before_seq=before, newest_first=True, limit=_TURNS_PAGE
        ):
            for sealed in sorted(page, key=lambda turn: turn.first_seq, reverse=True):
                record = await self._store.turn(cut.key, sealed.id)
                if record is None:
                    raise Pruned
                if record.last_offset is None or await self._is_before(cut, record.last_offset):
                    return record
                before = sealed.first_seq
        return None

    async def _is_before(self, cut: Cut, offset: int) -> bool:
        if cut.details.sealed_position < self._from:
            return True
        found = await self._store.events(cut.key, offset - 1, 1)
        if not found or found[0].offset != offset:
            raise Pruned
        return found[0].position < self._from

    async def _name_kept(
        self, cut: Cut, cuts: Sequence[Truncated], names: dict[str, TurnId]
    ) -> None:
        """What the turns are called behind which the chat was truncated."""
        for one in cuts:
            if one.after_turn is not None and one.after_turn not in names.values():
                record = await self._store.turn(cut.key, TurnId(one.after_turn))
                if record is not None:
                    names[names_of(record).turn_id] = record.id

    async def _records(self, start: int) -> list[_Told]:
        """The session's own log; of before the number only what is said in turns that go on."""
        scope = self._scope
        owners: dict[TimelineKey, ConversationId | None] = {scope.ledger.record.key: None}
        owners |= {ledger.record.key: name for name, ledger in scope.chats.items()}
        stream = stream_of(scope.account, scope.id)
        due: list[_Told] = []
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
                    due.append(_Told(found.position, owner, decode_record(found.payload)))
            self._left -= len(page.records)
            if self._left < 0:
                raise Pruned
            if len(page.records) < _LOG_PAGE or after > self._upto:
                return due


def _truncation(stored: EventRecord) -> Truncated | None:
    if not stored.payload.startswith(_TRUNCATED):
        return None
    event = decode_event(stored.payload)
    return event if isinstance(event, Truncated) else None


def _without(superseded: Superseded, cuts: Sequence[Truncated]) -> Superseded:
    """What had been left behind before these truncations, as far as they do not hide it."""
    stretches = list(superseded)
    for cut in cuts:
        stretches = [
            part
            for first, last in stretches
            for part in ((first, min(last, cut.after_seq)), (max(first, cut.last_seq + 1), last))
            if part[0] <= part[1]
        ]
    return tuple(stretches)


def _event(
    name: ConversationId, since: _Since, stored: EventRecord
) -> Callable[[SessionFold], list[Change]]:
    event, names = decode_event(stored.payload), since.names.get(stored.turn)
    turn, at_ms = since.ids[stored.turn], 0 if names is None else names.ended_at_ms
    return lambda fold: fold.event(stored.position, name, turn, event, names, at_ms)


def _record(told: _Told) -> Callable[[SessionFold], list[Change]]:
    return lambda fold: fold.record(told.position, told.owner, told.record)
