"""The live conversations: found by id, loaded once, let go when nobody needs them.

Neighbours: `broker` uses and releases them, `recovery` puts back what a crash left, `live` is one.
Invariant: there is one `Live` per conversation, whoever asks and however many at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec

from dispatch.core.identity import AccountId, ConversationId, Principal, TurnId
from dispatch.errors import Forbidden, Gone
from dispatch.runtime.live import Live
from dispatch.runtime.services import Services
from dispatch.storage.keys import ConversationKey
from dispatch.storage.port import ConversationRecord, SealedTurn

_Name = tuple[AccountId, ConversationId]


class Keeper(Protocol):
    """Who keeps timelines of conversations' turns."""

    async def attach(self, live: Live) -> None:
        """A stored conversation comes into memory."""
        ...

    def detach(self, live: Live) -> None:
        """It leaves it."""
        ...

    def placed(self, live: Live) -> None:
        """A new conversation of a session that is there is about to be written."""
        ...

    async def copied(self, live: Live, source: Live, turns: Sequence[SealedTurn]) -> None:
        """It will begin with copies of these turns of another conversation."""
        ...


class NoKeeper:
    """Nobody does."""

    async def attach(self, live: Live) -> None:
        """See `Keeper`."""

    def detach(self, live: Live) -> None:
        """See `Keeper`."""

    def placed(self, live: Live) -> None:
        """See `Keeper`."""

    async def copied(self, live: Live, source: Live, turns: Sequence[SealedTurn]) -> None:
        """See `Keeper`."""


class Conversations:
    """Every conversation that is in memory, by account and id."""

    def __init__(self, services: Services) -> None:
        """Begin with none."""
        self.services = services
        self._live: dict[_Name, Live] = {}
        self._loading: dict[_Name, asyncio.Event] = {}
        self._resting: OrderedDict[_Name, None] = OrderedDict()
        self.keeper: Keeper = NoKeeper()

    def __iter__(self) -> Iterator[Live]:
        """All that are in memory."""
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        """How many are in memory."""
        return len(self._live)

    def peek(self, principal: Principal, conversation: ConversationId) -> Live | None:
        """The live one, if it is in memory and the principal may see it."""
        live = self._live.get((principal.account, conversation))
        if live is not None:
            _check_visible(live.record, principal)
        return live

    def find(self, account: AccountId, conversation: ConversationId) -> Live | None:
        """The live one, for whoever keeps something of it."""
        return self._live.get((account, conversation))

    def has_turn(self, account: AccountId, conversation: ConversationId, turn: TurnId) -> bool:
        """Whether a turn waits or runs."""
        live = self.find(account, conversation)
        if live is None:
            return False
        return turn in live.queued or (live.current is not None and live.current.id == turn)

    def make(self, principal: Principal, conversation: ConversationId) -> Live:
        """A new one under an id that nobody else has; it is held until `release`."""
        record = self._new_record((principal.account, conversation), principal)
        live = self.add(record, is_stored=False)
        self.hold(live)
        return live

    def add(self, record: ConversationRecord, *, is_stored: bool) -> Live:
        """Put one into memory that is not there yet."""
        live = Live(self.services, record, is_stored=is_stored)
        self._live[record.account, record.id] = live
        return live

    async def load(self, principal: Principal, conversation: ConversationId) -> Live:
        """The live one, read or made if need be. The caller holds it (`users`) until `release`.

        Raises `Gone` for a deleted one and `Forbidden` for another user's own.
        """
        name = (principal.account, conversation)
        while True:
            live = self._live.get(name) or await self._load_once(name, principal)
            _check_visible(live.record, principal)
            if live.deletion is None:
                self.hold(live)
                return live
            # Gone or not, it is the disk that says so.
            await live.deletion.wait()

    @asynccontextmanager
    async def using(
        self, principal: Principal, conversation: ConversationId
    ) -> AsyncIterator[Live]:
        """`load`, and `release` at the end."""
        live = await self.load(principal, conversation)
        try:
            yield live
        finally:
            self.release(live)

    def hold(self, live: Live) -> None:
        """One more user."""
        live.users += 1
        self._resting.pop((live.record.account, live.record.id), None)

    def release(self, live: Live) -> None:
        """One user less; the last one lets it rest."""
        live.users -= 1
        self.rest(live)

    def rest(self, live: Live) -> None:
        """Keep it warm for a while if nobody needs it; the one that rested longest goes."""
        name = (live.record.account, live.record.id)
        if not live.is_at_rest or self._live.get(name) is not live:
            return
        self._resting[name] = None
        self._resting.move_to_end(name)
        if not live.is_stored:
            self.forget(live)
        while len(self._resting) > self.services.limits.conversations_warm_max:
            oldest, _ = self._resting.popitem(last=False)
            if self._live[oldest].is_at_rest:
                self.forget(self._live[oldest])

    def forget(self, live: Live) -> None:
        """Drop it from memory."""
        name = (live.record.account, live.record.id)
        self._resting.pop(name, None)
        if self._live.get(name) is live:
            del self._live[name]
            self.services.feeds.drop(live.feed)
            self.keeper.detach(live)

    async def _load_once(self, name: _Name, principal: Principal) -> Live:
        while (loading := self._loading.get(name)) is not None:
            await loading.wait()
        live = self._live.get(name)
        if live is not None:
            return live
        loading = self._loading[name] = asyncio.Event()
        try:
            record = await self.services.store.conversation(*name)
            if record is None:
                return self.add(self._new_record(name, principal), is_stored=False)
            if record.status == "deleted":
                raise Gone("the conversation was deleted")
            live = Live(self.services, record, is_stored=True)
            await self.keeper.attach(live)
            self._live[name] = live
            return live
        finally:
            del self._loading[name]
            loading.set()

    def _new_record(self, name: _Name, principal: Principal) -> ConversationRecord:
        services = self.services
        now_ms = services.clock.now_ms()
        return ConversationRecord(
            key=ConversationKey(next(services.keys)),
            account=name[0],
            id=name[1],
            session=services.ids.new("s"),
            user=principal.user,
            created_at_ms=now_ms,
            active_at_ms=now_ms,
            epoch=services.opened.incarnation,
            details=msgspec.json.encode({}),
        )


def _check_visible(record: ConversationRecord, principal: Principal) -> None:
    if record.visibility == "user" and record.user != principal.user:
        raise Forbidden("this conversation belongs to another user")
