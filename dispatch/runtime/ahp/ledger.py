"""One timeline that AHP keeps: details that are written with every change, and a log of records.

Neighbours: `scope` and `chronicle` have one each, `protocol.ahp.records` says what is in them,
`storage.timeline` keeps them. As in `runtime.timeline`, everything here is synchronous.
Invariant: details and records are staged in a draft and taken over when it is durable; a draft that
was refused leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import msgspec

from dispatch.core.identity import Principal
from dispatch.protocol.ahp.records import Record, encode_details, encode_record
from dispatch.runtime.pending import Draft
from dispatch.runtime.services import Services
from dispatch.storage.keys import TimelineKey
from dispatch.storage.timeline import TimelineEvent, TimelineKind, TimelineRecord

Details = TypeVar("Details", bound=msgspec.Struct)
Told = Callable[[int, Record], None]


class Ledger(Generic[Details]):
    """See the module; `record` and `details` are durable. `told(position, record)` is called when
    a record of the log is, in order with all that happens to conversations.
    """

    __slots__ = (
        "_draft",
        "_services",
        "_staged",
        "_staged_details",
        "_stream",
        "details",
        "is_gone",
        "is_stored",
        "record",
        "told",
    )

    def __init__(
        self,
        services: Services,
        record: TimelineRecord,
        details: Details,
        stream: str,
        *,
        is_stored: bool,
    ) -> None:
        """Continue after what is stored; `stream` names the log that the records are of."""
        self._services = services
        self._stream = stream
        self.record = record
        self.details = details
        self.is_stored = is_stored
        self.is_gone = False
        self.told: Told = _nobody
        self._draft: Draft | None = None
        self._staged = record
        self._staged_details = details

    def stage(self, draft: Draft) -> TimelineRecord:
        """The row in a draft, to be changed in place."""
        if self._draft is not draft:
            self._draft = draft
            self._staged = msgspec.structs.replace(
                self.record, epoch=self._services.opened.incarnation
            )
            self._staged_details = self.details
            draft.timelines.append(self._staged)
            draft.then.append(partial(self._kept, draft))
        return self._staged

    def in_draft(self, draft: Draft) -> Details:
        """The details after what is in a draft already."""
        return self._staged_details if self._draft is draft else self.details

    def is_new_in(self, draft: Draft) -> bool:
        """Whether neither the disk nor the draft has it."""
        return not self.is_stored and self._draft is not draft

    def change(self, draft: Draft, /, **changes: object) -> None:
        """Set members of the details; nothing where it is gone."""
        if self.is_gone:
            return
        record = self.stage(draft)
        self._staged_details = msgspec.structs.replace(self._staged_details, **changes)
        record.details = encode_details(self._staged_details)

    def tell(self, draft: Draft, record: Record) -> None:
        """Add a record to the log, in the place that it has in the draft; nothing where it is
        gone.
        """
        if self.is_gone:
            return
        row = self.stage(draft)
        now_ms = self._services.clock.now_ms()
        position = row.last_position = draft.take_position()
        row.active_at_ms = row.updated_at_ms = max(row.active_at_ms, now_ms)
        payload = encode_record(record)
        event = TimelineEvent(position, row.key, self._stream, None, now_ms, payload)
        draft.timeline_events.append(event)
        draft.then.append(lambda: self.told(position, record))

    def bury(self, draft: Draft) -> None:
        """It is gone with the draft, and its log."""
        row = self.stage(draft)
        draft.burials.append(row.key)
        draft.then.append(self._buried)

    def _kept(self, draft: Draft) -> None:
        self.record, self.details = self._staged, self._staged_details
        self.is_stored = True
        if self._draft is draft:
            # A batch is not kept in memory longer than it takes.
            self._draft = None

    def _buried(self) -> None:
        self.is_gone = True


def new_record(
    services: Services,
    principal: Principal,
    kind: TimelineKind,
    name: str,
    details: msgspec.Struct,
    *,
    alias: str | None = None,
) -> TimelineRecord:
    """A timeline of AHP's that is about to be written for the first time."""
    now_ms = services.clock.now_ms()
    return TimelineRecord(
        key=TimelineKey(next(services.keys)),
        account=principal.account,
        kind=kind,
        id=name,
        user=principal.user,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        active_at_ms=now_ms,
        epoch=services.opened.incarnation,
        alias=alias,
        details=encode_details(details),
    )


def _nobody(_position: int, _record: Record) -> None:
    """Nobody follows it."""
