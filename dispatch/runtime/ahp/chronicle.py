"""What is written down for AHP of one conversation: what waits, what goes, what it is called.

Neighbours: `scribes` has it beside a timeline's scribe, `ledger` keeps it, `scope` is the session
it is a chat of. What turns say is in the conversation's own log and is only passed on.
Invariant: whatever changes a chat in AHP has a place in the account's log, whoever did it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from dispatch.core.commands import Dispatched
from dispatch.core.events import AnyEvent, Request, TurnSealed
from dispatch.core.identity import TurnId
from dispatch.protocol.ahp.envelopes import Origin
from dispatch.protocol.ahp.objects import iso_time, later
from dispatch.protocol.ahp.records import Acted, ChatDetails, Claimed, Record, Waits
from dispatch.protocol.ahp.session_fold import TurnNames
from dispatch.protocol.ahp.status import IS_ARCHIVED, IS_READ, with_flag
from dispatch.protocol.ahp.words import message_object
from dispatch.protocol.codec import Object
from dispatch.runtime.admission import decode_accepted, decode_body
from dispatch.runtime.ahp.ledger import Ledger
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft
from dispatch.runtime.scribes import Chronicle
from dispatch.storage.port import TurnRecord

if TYPE_CHECKING:
    from dispatch.runtime.ahp.reading import Copied
    from dispatch.runtime.ahp.scope import Scope


class ChatChronicle(Chronicle):
    """See the module. `names` are those of turns on their way or running, by turn; `copied` is what
    a fork begins with, until it is shown.
    """

    def __init__(self, scope: Scope, live: Live, ledger: Ledger[ChatDetails]) -> None:
        """To be attached to the conversation."""
        self.scope = scope
        self.live = live
        self.ledger = ledger
        self.names: dict[TurnId, TurnNames] = {}
        self.copied: Copied | None = None
        ledger.told = self._told

    async def keep(self, record: Acted) -> None:
        """Something of this chat alone, durable when it returns; raises what refused it."""
        await self.live.commit(lambda draft, _: self._tell(draft, record))

    # -- pending.Mirror ------------------------------------------------------------------------

    def happened(self, position: int, turn: TurnId, payload: bytes, delta: str) -> None:
        """See `pending.Mirror`."""
        self.scope.heard(position, self.live, turn, payload, self.names.get(turn))
        if not delta and payload == _SEALED:
            self.names.pop(turn, None)

    def _told(self, position: int, record: Record) -> None:
        self.scope.told(position, self.live.record.id, record)

    # -- scribe.Scribe -------------------------------------------------------------------------

    def accepted(self, draft: Draft, record: TurnRecord) -> None:
        """See `scribe.Scribe`: what waits is shown, and so is what was sent to wait and begins."""
        given = decode_body(record.body).dispatched
        self.names[record.id] = names_of(record, is_announced=record.state != "running")
        if record.state == "running":
            if given is not None and given.kind is not None:
                self._announce(draft, given.kind, waits_of(record), origin_of(given))
            return
        kind = "steering" if record.state == "steering" else "queued"
        entry = waits_of(record)
        if kind == "steering":
            self._change(draft, steers=(*self._details(draft).steers, entry))
        else:
            self._change(draft, queue=(*self._details(draft).queue, entry))
        self._announce(draft, kind, entry, origin_of(given))

    def refused(self, turn: TurnId) -> None:
        """See `scribe.Scribe`."""
        self.names.pop(turn, None)

    def began(self, draft: Draft, turn: TurnId, now_ms: int) -> None:
        """See `scribe.Scribe`: it waits no more, and the chat has something unread."""
        details = self._details(draft)
        names = self.names.get(turn)
        waited = next((w for w in (*details.queue, *details.steers) if w.turn == turn), None)
        if waited is not None:
            self._change(
                draft, queue=_without(details.queue, turn), steers=_without(details.steers, turn)
            )
        if names is None:
            # It waited since before a restart.
            names = TurnNames(
                turn_id=turn,
                started_at_ms=now_ms,
                ended_at_ms=now_ms,
                queued_id=None if waited is None else waited.id,
                message=None if waited is None else waited.message,
            )
        self.names[turn] = msgspec.structs.replace(names, started_at_ms=now_ms, ended_at_ms=now_ms)
        if details.flags & IS_READ:
            self._change(draft, flags=with_flag(details.flags, IS_READ, on=False))

    def heard(self, turn: TurnId, event: AnyEvent) -> Callable[[Draft], None] | None:
        """See `scribe.Scribe`."""
        return self.scope.asked if isinstance(event, Request) else None

    def absorbed(self, draft: Draft, record: TurnRecord) -> None:
        """See `scribe.Scribe`: there is one place for steering, and the newest has it."""
        steers = self._details(draft).steers
        gone = next((w for w in steers if w.turn == record.id), None)
        if gone is None:
            return
        left = _without(steers, record.id)
        self._change(draft, steers=left)
        self._remove(draft, "steering", gone, None)
        if left and gone is steers[-1]:
            self._announce(draft, "steering", left[-1], None)

    def ended(self, draft: Draft, turn: TurnId, outcome: str) -> None:
        """See `scribe.Scribe`: steering that was not taken waits in the queue now."""
        details = self._details(draft)
        self._change(draft, sealed_position=draft.position - 1, modified_at=self._ended_at(turn))
        if not details.steers:
            return
        self._remove(draft, "steering", details.steers[-1], None)
        self._change(draft, queue=(*details.queue, *details.steers), steers=())
        for entry in details.steers:
            self._announce(draft, "queued", entry, None)

    def _ended_at(self, turn: TurnId) -> str | None:
        """What the reducers make of a chat's time when its turn ends."""
        names, running = self.names.get(turn), self.live.state.running
        done, current = None if running is None else running.done, self.live.current
        if names is None or done is None or done.duration_ms is None:
            return None
        # One that goes on with another is one with it, and began when that did.
        first = None if current is None else current.body.first_started_at_ms
        return later(iso_time(first or names.started_at_ms), max(0, round(done.duration_ms)))

    def claimed(self, draft: Draft, subject: str, by: Dispatched) -> None:
        """See `scribe.Scribe`."""
        self._tell(draft, Claimed(subject, Origin(by.client, by.client_seq)))

    def dropped(self, draft: Draft, turns: Sequence[TurnId], by: Dispatched | None = None) -> None:
        """See `scribe.Scribe`."""
        for turn in turns:
            details = self._details(draft)
            for kind, entries in (("queue", details.queue), ("steers", details.steers)):
                for entry in entries:
                    if entry.turn == turn:
                        self._change(draft, **{kind: _without(entries, turn)})
                        word = "queued" if kind == "queue" else "steering"
                        self._remove(draft, word, entry, origin_of(by))
            self.names.pop(turn, None)

    def reordered(
        self, draft: Draft, turns: Sequence[TurnId], by: Dispatched | None = None
    ) -> None:
        """See `scribe.Scribe`."""
        places = {turn: place for place, turn in enumerate(turns)}
        queue = self._details(draft).queue
        order = tuple(sorted(queue, key=lambda entry: places.get(entry.turn, len(places))))
        self._change(draft, queue=order)
        names = [entry.id for entry in order]
        action = {"type": "chat/queuedMessagesReordered", "order": names}
        self._tell(draft, Acted(action, origin_of(by)))

    def renamed(self, draft: Draft, title: str) -> None:
        """See `scribe.Scribe`: asked with each write of the conversation's row, the first too."""
        if self.ledger.is_gone:
            return
        if self.ledger.is_new_in(draft):
            self.ledger.stage(draft)
            self.scope.chat_added(draft, self)
        elif self._details(draft).listed_title != title:
            self._change(draft, listed_title=title)
            self.scope.chat_renamed(draft, self, title)

    def buried(self, draft: Draft) -> None:
        """See `scribe.Scribe`."""
        if not self.ledger.is_gone:
            self.scope.chat_removed(draft, self)
            self.ledger.bury(draft)

    def deleted(self, live: Live) -> None:
        """See `scribe.Scribe`: it went in the same commit."""

    # -- what is written -----------------------------------------------------------------------

    def _details(self, draft: Draft) -> ChatDetails:
        return self.ledger.in_draft(draft)

    def _change(self, draft: Draft, /, **changes: object) -> None:
        self.ledger.change(draft, **changes)

    def _tell(self, draft: Draft, record: Record) -> None:
        if not self.ledger.is_gone:
            if isinstance(record, Acted):
                self._keep(draft, record.action)
            self.ledger.tell(draft, record)

    def _keep(self, draft: Draft, action: Object) -> None:
        """What a client's own action leaves behind in the details."""
        match action["type"]:
            case "chat/draftChanged":
                self._change(draft, draft=action.get("draft"))
            case kind if kind in FLAG_ACTIONS:
                flag, on = flag_of(kind, action)
                flags = with_flag(self._details(draft).flags, flag, on)
                self._change(draft, flags=flags)
            case _:
                pass

    def _announce(self, draft: Draft, kind: str, entry: Waits, origin: Origin | None) -> None:
        action = {
            "type": "chat/pendingMessageSet",
            "kind": kind,
            "id": entry.id,
            "message": entry.message,
        }
        self._tell(draft, Acted(action, origin))

    def _remove(self, draft: Draft, kind: str, entry: Waits, origin: Origin | None) -> None:
        action = {"type": "chat/pendingMessageRemoved", "kind": kind, "id": entry.id}
        self._tell(draft, Acted(action, origin))


FLAG_ACTIONS: Final = frozenset({"chat/isReadChanged", "chat/isArchivedChanged"})
"""Actions that set or clear a bit of a chat's status."""

_SEALED = msgspec.json.encode(TurnSealed())


def flag_of(kind: str, action: Object) -> tuple[int, bool]:
    """The bit of a status that an action of this type is about, and how it sets it."""
    if kind.endswith("isReadChanged"):
        return IS_READ, action["isRead"]
    return IS_ARCHIVED, action["isArchived"]


def origin_of(by: Dispatched | None) -> Origin | None:
    """Whose wish something was, if it was a client's."""
    return None if by is None else Origin(by.client, by.client_seq)


def names_of(record: TurnRecord, *, is_announced: bool | None = None) -> TurnNames:
    """What a stored turn is called; `is_announced`: it was shown as waiting before it began."""
    given = decode_body(record.body).dispatched
    if is_announced is None:
        is_announced = _was_announced(record)
    started_at_ms = record.started_at_ms or record.created_at_ms
    ended_at_ms = record.sealed_at_ms or started_at_ms
    if given is None:
        return TurnNames(
            turn_id=record.id,
            started_at_ms=started_at_ms,
            ended_at_ms=ended_at_ms,
            queued_id=record.id if is_announced else None,
        )
    waited = is_announced or given.pending is not None
    return TurnNames(
        turn_id=given.turn or record.id,
        started_at_ms=started_at_ms,
        ended_at_ms=ended_at_ms,
        queued_id=(given.pending or record.id) if waited else None,
        message=_message(given),
        # What was announced was echoed then.
        origin=None if given.kind is not None or is_announced else origin_of(given),
    )


def _was_announced(record: TurnRecord) -> bool:
    """Whether it waited. A group's message to a member has no acceptance and always did; neither
    has a fork's copy of a turn, which has no events either.
    """
    if record.acceptance:
        return decode_accepted(record.acceptance).place != "started"
    return record.first_offset is not None


def _message(given: Dispatched) -> Object | None:
    if given.message is None:
        return None
    message: Object = msgspec.json.decode(given.message)
    return message


def waits_of(record: TurnRecord) -> Waits:
    """A stored message that waits."""
    body = decode_body(record.body)
    given = body.dispatched
    name = None if given is None else given.pending
    message = None if given is None else _message(given)
    return Waits(name or record.id, record.id, message or message_object(body.message, body.images))


def _without(entries: tuple[Waits, ...], turn: TurnId) -> tuple[Waits, ...]:
    return tuple(entry for entry in entries if entry.turn != turn)
