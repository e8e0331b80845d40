"""What may be done to conversations as a whole: open, name, set up, read, fork, delete.

Neighbours: `broker` has the verbs about turns, `history` reads content, `server` calls all three.
Invariant: as in `broker`: what a verb says is durable, and a verb that raises changed nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from dispatch.core.commands import TurnBody
from dispatch.core.identity import SEND, WATCH, ConversationId, Principal, TurnId, require
from dispatch.core.notices import DeletedNotice, Opened, ReadNotice, TitleNotice
from dispatch.core.truncation import count_after
from dispatch.errors import Gone, NotFound, PeerError
from dispatch.runtime import intake
from dispatch.runtime.accounts import Accounts
from dispatch.runtime.branching import Branching, still_there
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.directories import allowed_directory
from dispatch.runtime.feed import Follower
from dispatch.runtime.history import History
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft, PendingChange
from dispatch.runtime.services import Services
from dispatch.runtime.shape import Details, Shape, decode_details
from dispatch.storage.port import (
    ConversationQuery,
    ConversationRecord,
    CursorRecord,
)

_ENCODER: Final = msgspec.json.Encoder()


class Catalog:
    """The verbs of conversations."""

    def __init__(
        self,
        services: Services,
        conversations: Conversations,
        accounts: Accounts,
        history: History,
    ) -> None:
        """See the module."""
        self._services = services
        self._conversations = conversations
        self._accounts = accounts
        self._branching = Branching(services, conversations, history)

    async def record(
        self, principal: Principal, conversation: ConversationId
    ) -> ConversationRecord | None:
        """The row as it is now, or None where there is none; raises `Gone` and `Forbidden`."""
        require(principal, WATCH)
        async with self._conversations.using(principal, conversation):
            # Not the live one's, which may be ahead of the disk.
            return await self._services.store.conversation(principal.account, conversation)

    async def list(
        self, principal: Principal, query: ConversationQuery
    ) -> list[ConversationRecord]:
        """One page, newest activity first."""
        require(principal, WATCH)
        return await self._services.store.conversations(query)

    async def open(
        self, principal: Principal, conversation: ConversationId, workspace: str | None = None
    ) -> None:
        """Make sure it exists, reopen it if it was closed, and tell the account."""
        require(principal, SEND)
        async with self._conversations.using(principal, conversation) as live:
            before = live.shape()
            if workspace is not None and not live.is_stored:
                live.record.workspace = workspace
            intake.reopen(live)
            await self._keep(live, before)
            self._services.feeds.notify(
                Opened(
                    account=principal.account,
                    conversation=conversation,
                    user=live.only_user,
                    workspace=live.record.workspace,
                )
            )
            self._services.feeds.flush()

    async def details(self, principal: Principal, conversation: ConversationId) -> Details:
        """What it remembers for its next turn; of an unknown one: nothing."""
        record = await self.record(principal, conversation)
        return Details() if record is None else decode_details(record.details)

    async def set_title(
        self, principal: Principal, conversation: ConversationId, title: str
    ) -> None:
        """Name it; a person's title is never replaced by the automatic one."""
        require(principal, SEND)
        async with self._conversations.using(principal, conversation) as live:
            before = live.shape()
            live.record.title = title
            live.details = msgspec.structs.replace(live.details, title_is_given=True)
            await self._keep(live, before)
            self._services.feeds.notify(
                TitleNotice(
                    account=principal.account,
                    conversation=conversation,
                    user=live.only_user,
                    title=title,
                )
            )
            self._services.feeds.flush()

    async def set_details(
        self, principal: Principal, conversation: ConversationId, body: TurnBody
    ) -> None:
        """Set what is given of model, reasoning effort and cwd for the turns to come."""
        require(principal, SEND)
        async with self._conversations.using(principal, conversation) as live:
            given: dict[str, str] = {}
            intake.check_agent(live, body.model)
            if body.model is not None:
                given["model"] = body.model
            if body.reasoning_effort is not None:
                given["reasoning_effort"] = body.reasoning_effort
            if body.cwd is not None:
                given["cwd"] = await allowed_directory(self._services, live, body)
                await still_there(live)
            before = live.shape()
            live.details = msgspec.structs.replace(live.details, **given)
            await self._keep(live, before)

    async def clear_cwd(self, principal: Principal, conversation: ConversationId) -> None:
        """Forget the working directory."""
        require(principal, SEND)
        async with self._conversations.using(principal, conversation) as live:
            before = live.shape()
            live.details = msgspec.structs.replace(live.details, cwd=None)
            if live.is_stored:
                await self._keep(live, before)

    async def read(
        self,
        principal: Principal,
        conversation: ConversationId,
        up_to_seq: int,
        *,
        reader: Follower | None = None,
    ) -> tuple[int, int]:
        """Move the user's read cursor forward; where it is now, and how many chunks are after.

        The user's other connections are told, `reader` gets the reply.
        """
        require(principal, WATCH)
        async with self._conversations.using(principal, conversation) as live:
            if not live.is_stored:
                raise NotFound("Conversation not found")
            before = await self._services.store.read_cursor(live.record.key, principal.user)
            seq = max(before, min(up_to_seq, live.record.last_seq))
            unread = count_after(live.past.superseded, seq, live.record.last_seq)
            if seq > before:
                cursor = CursorRecord(live.record.key, principal.user, seq)
                notice = ReadNotice(
                    account=principal.account,
                    conversation=conversation,
                    user=principal.user,
                    last_read_seq=seq,
                    unread=unread,
                )
                live.outbox.change(
                    PendingChange(
                        lambda batch, _: batch.cursors.append(cursor),
                        lambda _: self._services.feeds.notify(notice, but=reader),
                    )
                )
                await live.written()
            return seq, unread

    async def fork(
        self,
        principal: Principal,
        conversation: ConversationId,
        turn: TurnId,
        prepare: Callable[[Live], None] | None = None,
    ) -> ConversationId:
        """A new conversation with everything up to and including a sealed turn; counts as a send,
        for it writes a row for each of its turns. `prepare(fork)` runs right before.
        """
        require(principal, SEND)
        self._accounts.check_rate(principal.account)
        return await self._branching.fork(principal, conversation, turn, prepare)

    async def side_chat(
        self,
        principal: Principal,
        conversation: ConversationId,
        turn: TurnId,
        prepare: Callable[[Live], None] | None = None,
    ) -> ConversationId:
        """A new, empty conversation whose agent knows what was said up to and including a turn,
        which may be the running one; counts as a send. `prepare` as in `fork`.
        """
        require(principal, SEND)
        self._accounts.check_rate(principal.account)
        return await self._branching.side_chat(principal, conversation, turn, prepare)

    async def archive(self, principal: Principal, conversation: ConversationId) -> None:
        """Close it without ending its turn; nothing where there is none any more."""
        require(principal, SEND)
        with suppress(Gone):
            async with self._conversations.using(principal, conversation) as live:
                intake.close(live)
                await live.written()

    async def leave_timeline(self, principal: Principal, conversation: ConversationId) -> bool:
        """From here on no timeline is kept of its turns; False where there is none any more."""
        require(principal, SEND)
        with suppress(Gone):
            async with self._conversations.using(principal, conversation) as live:
                before = live.shape()
                live.details = msgspec.structs.replace(live.details, timeline=None)
                if live.scribe is not None:
                    self._conversations.keeper.detach(live)
                await self._keep(live, before)
                return True
        return False

    async def delete(self, principal: Principal, conversation: ConversationId) -> None:
        """Stop its turn, remove its rows and leave a tombstone; watchers are told."""
        require(principal, SEND)
        async with self._conversations.using(principal, conversation) as live:
            if not live.is_stored:
                raise NotFound("Conversation not found")
            await self._delete(live)

    async def forget(
        self, principal: Principal, conversation: ConversationId, idle_before_ms: int
    ) -> bool:
        """Delete it, unless somebody has taken it up again since then."""
        require(principal, SEND)
        async with self._conversations.using(principal, conversation) as live:
            if live.state.is_busy or live.record.active_at_ms >= idle_before_ms:
                return False
            await self._delete(live)
            return True

    async def _delete(self, live: Live) -> None:
        live.deletion = asyncio.Event()
        is_on_its_way = False
        try:
            if live.scribe is not None:
                live.scribe.deleting(live)
            current = live.current
            if current is not None:
                await current.begun.wait()
                live.end(None, "aborted")
                await current.sealed.wait()
            is_on_its_way = True

            def write(draft: Draft, _offset: int) -> None:
                draft.deletions.append(live.record.key)
                if live.scribe is not None:
                    live.scribe.buried(draft)

            await live.commit(
                write,
                then=partial(self._deleted, live),
                instead=partial(_stay, live),
            )
        finally:
            if not is_on_its_way:
                _stay(live)

    def _deleted(self, live: Live) -> None:
        """Its tombstone is durable: tell everybody, and forget it."""
        record = live.record
        self._services.feeds.notify(
            DeletedNotice(account=record.account, conversation=record.id, user=live.only_user)
        )
        for subscriber in list(live.subscribers):
            subscriber.deleted(live)
        if live.scribe is not None:
            live.scribe.deleted(live)
        self._conversations.forget(live)
        intake.refuse_held(live)
        assert live.deletion is not None
        live.deletion.set()
        self._accounts.backlog.recount(live)

    async def _keep(self, live: Live, before: Shape) -> None:
        """Write the row as it was changed, or take the change back."""
        after = live.shape()
        await live.commit(live.write_row, instead=lambda: live.reshape(before, after))


def _stay(live: Live) -> None:
    """It could not be deleted: what waits in it goes on."""
    decided, live.deletion = live.deletion, None
    assert decided is not None
    decided.set()
    intake.advance(live)


def check_title(title: object, characters_max: int) -> str:
    """A title somebody gave; raises `PeerError`."""
    if not isinstance(title, str) or not title.strip():
        raise PeerError("Field 'title' is required and must be a non-empty string")
    if len(title) > characters_max:
        raise PeerError(f"Field 'title' must be at most {characters_max} characters")
    return title
