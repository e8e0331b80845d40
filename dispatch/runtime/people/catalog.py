"""What may be done about a person by who administers the account: hand everything out, forget them.

Neighbours: `belongings` finds what is theirs, `runtime.catalog` and `chats.catalog` delete it in
the ordinary way; `server.routes_users` calls this. Source: `protocol/native.md`, 2.5.
Invariant: each deletion is a commit of its own, so that whatever ends this in the middle, the same
again goes on where it ended; nothing is rewritten in a log that is somebody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

import anyio.lowlevel
import structlog

from dispatch.core.identity import ADMIN, RIGHTS_ALL, AccountId, Principal, UserId, require
from dispatch.errors import Gone, NotFound
from dispatch.runtime import intake
from dispatch.runtime.accounts import Accounts
from dispatch.runtime.admission import Admission, CurrentTurn
from dispatch.runtime.broker import Broker
from dispatch.runtime.catalog import Catalog
from dispatch.runtime.chats.catalog import Chats
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.errand import carry_out
from dispatch.runtime.journal import Outbox
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft, PendingChange
from dispatch.runtime.people.belongings import Begun, Belongings
from dispatch.runtime.services import Services
from dispatch.storage.keys import ConversationKey, TimelineKey, TurnKey
from dispatch.storage.people import CursorKey
from dispatch.storage.port import TurnRecord

log = structlog.get_logger()

# What is removed is no conversation's: it has no events.
_NO_CONVERSATION: Final = ConversationKey(0)
# Of one commit: others wait for it no longer than for a large turn.
_CLIENTS_AT_ONCE: Final = 1_000


class Removed(NamedTuple):
    """What went: counts."""

    conversations: int
    chat_sessions: int
    read_cursors: int
    waiting_messages: int


class Stayed(NamedTuple):
    """What stays, for it is not the person's alone: counts."""

    conversations: int
    groups: int
    messages: int


class Forgotten(NamedTuple):
    """What became of a person; `turns_ended` ran or waited in conversations of others."""

    turns_ended: int
    removed: Removed
    stayed: Stayed


class People:
    """See the module."""

    def __init__(
        self,
        services: Services,
        conversations: Conversations,
        broker: Broker,
        catalog: Catalog,
        chats: Chats,
        accounts: Accounts,
    ) -> None:
        """See the module."""
        self._services = services
        self._conversations = conversations
        self._broker = broker
        self._catalog = catalog
        self._chats = chats
        self._accounts = accounts
        self._outbox = Outbox(services.journal, _NO_CONVERSATION, None)

    def belongings(self, principal: Principal, user: UserId) -> Belongings:
        """What is a person's, in the account of who asks, up to now."""
        require(principal, ADMIN)
        before = next(self._services.keys)
        return Belongings(self._services.store, principal.account, user, before)

    async def forget(self, principal: Principal, user: UserId) -> Forgotten:
        """Remove what is a person's and count what stays; goes on when who asked leaves.

        Raises the storage errors: what was removed until then is, and the same again goes on.
        """
        require(principal, ADMIN)
        trouble = self._services.journal.trouble
        if trouble is not None:
            # Or what runs and waits would be ended for nothing.
            raise type(trouble)(trouble.message, retry_after_ms=1_000)
        account, before = principal.account, TurnKey(next(self._services.keys))
        work = partial(self._forget, account, user, before)
        forgotten = await carry_out(self._services, work)
        log.info(
            "people.forgot",
            account=account,
            by=principal.user,
            conversations=forgotten.removed.conversations,
            chat_sessions=forgotten.removed.chat_sessions,
        )
        return forgotten

    async def _forget(self, account: AccountId, user: UserId, before: TurnKey) -> Forgotten:
        person = Belongings(self._services.store, account, user, before)
        for live in self._conversations:
            if (live.record.account, live.record.user) == (account, user):
                # What is on its way to the disk is found there.
                await live.written()
        conversations = sessions = shared = 0
        async for begun in person.begun():
            if begun.kind == "group":
                shared += 1
            elif await self._delete(begun):
                sessions += begun.kind == "chat"
                conversations += begun.kind == "conversation"
        ended = await self._end_turns(account, user, before)
        cursors = await self._forget_reading(person)
        waiting, messages = await self._forget_waiting(person)
        await self._forget_clients(person)
        groups = [group.id async for group in person.made("group")]
        return Forgotten(
            ended,
            Removed(conversations, sessions, cursors, waiting),
            Stayed(shared, len(groups), messages),
        )

    async def _delete(self, begun: Begun) -> bool:
        record = begun.record
        owner = Principal(record.account, record.user, RIGHTS_ALL)
        delete = self._chats.purge if begun.kind == "chat" else self._catalog.delete
        try:
            await delete(owner, record.id)
        except (Gone, NotFound):
            # Somebody else was faster, perhaps another one who forgets the same person.
            return False
        return True

    # -- in what belongs to others -------------------------------------------------------------

    async def _end_turns(self, account: AccountId, user: UserId, before: TurnKey) -> int:
        """End what the person has running and waiting; how many turns that were."""
        ended = 0
        is_mine = partial(_is_of, user, before)
        while lives := [
            live
            for live in self._conversations
            if live.record.account == account and _has_turn_of(live, user, before)
        ]:
            for live in lives:
                waiting = [turn for turn in live.queued.values() if is_mine(turn)]
                if live.deletion is not None:
                    await live.deletion.wait()
                elif waiting:
                    await self._drop(live, waiting)
                    ended += len(waiting)
                elif live.current is not None:
                    ended += await self._end_current(live, user, before)
                # Others go on meanwhile; what is on its way is looked at again.
                await anyio.lowlevel.checkpoint()
        return ended

    async def _drop(self, live: Live, waiting: Sequence[TurnRecord]) -> None:
        """Take messages out of the queue, and texts that a running turn has not taken."""
        changes = [intake.take_out(live, turn.id) for turn in waiting]

        def write(draft: Draft, _offset: int) -> None:
            draft.changes.extend(changes)
            if live.scribe is not None:
                live.scribe.dropped(draft, [turn.id for turn in waiting])

        # No admission: a disk that is full gets it later.
        live.outbox.change(PendingChange(write))
        self._accounts.backlog.recount(live)
        await live.written()

    async def _end_current(self, live: Live, user: UserId, before: TurnKey) -> int:
        """End the running turn, if it is the person's; else wait for the seal they wait for."""
        current = live.current
        assert current is not None, "asked of a conversation in which a turn runs"
        if current.user != user or current.key >= before:
            await current.sealed.wait()
            return 0
        owner = Principal(live.record.account, live.record.user, RIGHTS_ALL)
        return int(await self._broker.stop(owner, live.record.id, current.id) is not None)

    async def _forget_reading(self, person: Belongings) -> int:
        """Remove the read cursors; how many."""
        count = 0
        async for marks in person.read_marks():
            removals = [CursorKey(mark.subject, person.user) for mark in marks]
            await self._outbox.commit(partial(_remove_cursors, removals))
            count += len(removals)
        return count

    async def _forget_clients(self, person: Belongings) -> None:
        """Remove the names of their AHP clients; nobody else gets one of them."""
        names = [client.key async for client in person.made("ahp-client")]
        for start in range(0, len(names), _CLIENTS_AT_ONCE):
            some = names[start : start + _CLIENTS_AT_ONCE]
            await self._outbox.commit(partial(_bury, some))

    async def _forget_waiting(self, person: Belongings) -> tuple[int, int]:
        """Remove messages that were taken back before their turn; how many, and how many stay."""
        removed = stayed = 0
        async for page in person.spoken():
            cancelled = [turn.key for turn in page.turns if turn.state == "cancelled"]
            if cancelled:
                await self._outbox.commit(partial(_remove_turns, cancelled))
            removed += len(cancelled)
            stayed += len(page.turns) - len(cancelled) + len(page.rows)
        return removed, stayed


def _is_of(user: UserId, before: TurnKey, turn: TurnRecord) -> bool:
    return turn.user == user and turn.key < before


def _has_turn_of(live: Live, user: UserId, before: TurnKey) -> bool:
    """Whether a turn of theirs runs or waits, or a message of theirs waits for a seal."""
    if any(_is_of(user, before, turn) for turn in live.queued.values()):
        return True
    others: list[Admission | CurrentTurn] = [*live.held, *live.interrupts, *live.past.behind]
    if live.current is not None:
        others.append(live.current)
    return any(one.user == user and one.key < before for one in others)


def _bury(timelines: Sequence[TimelineKey], draft: Draft) -> None:
    draft.burials.extend(timelines)


def _remove_cursors(removals: list[CursorKey], draft: Draft) -> None:
    draft.cursor_removals.extend(removals)


def _remove_turns(turns: list[TurnKey], draft: Draft) -> None:
    draft.turn_removals.extend(turns)
