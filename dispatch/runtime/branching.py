"""Conversations that come out of another one: forks, and side chats that know what was said there.

Neighbours: `catalog` has these as its own and checks rights, `history` reads what an agent is told.
Invariant: what comes out of a conversation stays whole when that one is truncated or deleted.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from dispatch.core.identity import ConversationId, Principal, TurnId
from dispatch.core.truncation import is_superseded
from dispatch.errors import Gone, NotFound
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.history import History
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft
from dispatch.runtime.services import Services
from dispatch.runtime.shape import Background, Details
from dispatch.storage.keys import ConversationKey, TurnKey
from dispatch.storage.port import SealedTurn, TurnCopy, TurnRecord

_EVERYTHING = 2**31 - 1

Prepare = Callable[[Live], None]
"""What is done with a branch right before it is written for the first time."""


class Branching:
    """See the module."""

    def __init__(self, services: Services, conversations: Conversations, history: History) -> None:
        """Whoever calls has checked the rights."""
        self._services = services
        self._conversations = conversations
        self._history = history

    async def fork(
        self,
        principal: Principal,
        conversation: ConversationId,
        turn: TurnId,
        prepare: Prepare | None = None,
    ) -> ConversationId:
        """A new conversation with everything up to and including a sealed turn that counts."""
        store = self._services.store
        async with self._conversations.using(principal, conversation) as source:
            sealed = await self._sealed(source, turn)
            turns = await store.sealed_turns(
                source.record.key, before_seq=sealed.seqs.stop, limit=_EVERYTHING
            )
            superseded = source.past.superseded
            turns = [one for one in turns if not is_superseded(superseded, one.first_seq)]
            known = source.details.background
            background = b"" if known is None else (await store.chunk_bytes([known.marker]))[0]
            details = msgspec.structs.replace(
                source.details, forked_from=(conversation, turn), side_chat_of=None
            )
            return await self._branch(principal, source, details, background, turns, prepare)

    async def side_chat(
        self,
        principal: Principal,
        conversation: ConversationId,
        turn: TurnId,
        prepare: Prepare | None = None,
    ) -> ConversationId:
        """A new, empty conversation whose agent knows what was said up to and including a turn that
        counts; of the one that runs, what was shown of it until now.
        """
        async with self._conversations.using(principal, conversation) as source:
            current = source.current
            if current is not None and current.id == turn and current.begun.is_set():
                background = await self._history.background(source, with_running=True)
            else:
                sealed = await self._sealed(source, turn)
                background = await self._history.background(source, up_to_seq=sealed.seqs[-1])
            details = msgspec.structs.replace(
                source.details, forked_from=None, side_chat_of=(conversation, turn)
            )
            return await self._branch(principal, source, details, background, [], prepare)

    async def _sealed(self, source: Live, turn: TurnId) -> SealedTurn:
        record = await self._services.store.turn(source.record.key, turn)
        if record is None or record.state != "sealed" or record.first_seq is None:
            raise NotFound(f"no sealed turn {turn} in this conversation")
        if is_superseded(source.past.superseded, record.first_seq):
            raise NotFound(f"turn {turn} was truncated")
        (found,) = await self._services.store.sealed_turns(
            source.record.key,
            since_seq=record.first_seq - 1,
            before_seq=record.first_seq + 1,
            limit=1,
        )
        return found

    async def _branch(
        self,
        principal: Principal,
        source: Live,
        details: Details,
        background: bytes,
        turns: list[SealedTurn],
        prepare: Prepare | None,
    ) -> ConversationId:
        """In the session of its source, with copies of the turns."""
        services = self._services
        branch_id = ConversationId(services.ids.new("c"))
        async with self._conversations.using(principal, branch_id) as branch:
            record = branch.record
            record.session = source.record.session
            record.workspace = source.record.workspace
            record.visibility = source.record.visibility
            if turns:
                record.title = source.record.title
                record.last_message = source.record.last_message
            record.last_seq = sum(one.chunk_count for one in turns)
            marker = self._marker(principal, record.key, background) if background else None
            known = None if marker is None else Background(marker.key)
            branch.details = msgspec.structs.replace(details, background=known, timeline=None)
            copies = self._copies(turns, record.key)

            def write(draft: Draft, offset: int) -> None:
                branch.write_row(draft, offset)
                if marker is not None:
                    draft.turns.append(marker)
                draft.copies.extend(copies)

            self._conversations.keeper.placed(branch)
            await self._conversations.keeper.copied(branch, source, turns)
            await still_there(source)
            if prepare is not None:
                prepare(branch)
            await branch.commit(write)
            return branch_id

    def _marker(
        self, principal: Principal, conversation: ConversationKey, chunks: bytes
    ) -> TurnRecord:
        key, now_ms = TurnKey(next(self._services.keys)), self._services.clock.now_ms()
        return TurnRecord(
            key=key,
            conversation=conversation,
            id=TurnId(self._services.ids.new("t")),
            state="marker",
            ordinal=key,
            user=principal.user,
            body=b"",
            created_at_ms=now_ms,
            sealed_at_ms=now_ms,
            chunks=chunks,
        )

    def _copies(self, turns: list[SealedTurn], conversation: ConversationKey) -> list[TurnCopy]:
        """The turns with new seqs, from 1 and without what was left out."""
        copies, last_seq = [], 0
        for turn in turns:
            key = TurnKey(next(self._services.keys))
            copies.append(TurnCopy(turn.key, key, conversation, last_seq + 1))
            last_seq += turn.chunk_count
        return copies


async def still_there(live: Live) -> None:
    """Asked again after every wait: nothing may be written behind a tombstone."""
    while live.deletion is not None:
        if live.deletion.is_set():
            raise Gone("the conversation was deleted")
        await live.deletion.wait()
