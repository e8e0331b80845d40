"""Wraps conversations that are there into a group: nothing of them is moved or written again.

Neighbours: `core.adopt` aligns what was said, `groups` has the other verbs, `timelines` keeps what
comes out.
Invariant: the rows, the group and the marks on its conversations are one commit; the same
conversations make the same group, however often and in whatever order they are named.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import msgspec

from dispatch.core.adopt import ChildTurn, MergedPrompt, adopt
from dispatch.core.content import Text, decode_line
from dispatch.core.group import Group, GroupView, Member, encode_group
from dispatch.core.identity import SEND, ConversationId, Principal, TurnId, require
from dispatch.core.timeline import RowDetails, encode_row_details
from dispatch.core.truncation import is_superseded
from dispatch.errors import Conflict, Gone
from dispatch.protocol.groups.refusals import (
    ClientGroupConflict,
    FamiliarNotFound,
    SessionBusy,
    SessionInGroup,
    SessionNotFound,
)
from dispatch.protocol.groups.requests import GroupAdopt
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.groups.catalog import commit, new_record
from dispatch.runtime.groups.timeline import GroupTimeline
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft
from dispatch.runtime.services import Services
from dispatch.runtime.timelines import Timelines
from dispatch.storage.keys import RowKey, TurnKey
from dispatch.storage.timeline import RowRecord

_OUTCOMES: Final = {"aborted": "cancelled"}


class GroupAdopting:
    """The verb `adopt`."""

    def __init__(
        self, services: Services, conversations: Conversations, timelines: Timelines
    ) -> None:
        """One adoption at a time: two of the same conversations would both find them free."""
        self._services = services
        self._conversations = conversations
        self._timelines = timelines
        self._adopting = asyncio.Lock()

    async def adopt(self, principal: Principal, wanted: GroupAdopt) -> tuple[GroupView, bool]:
        """The group of these conversations, and whether it is new."""
        require(principal, SEND)
        for agent, _ in wanted.sessions:
            if agent not in self._services.agents:
                raise FamiliarNotFound(f"no agent is called {agent!r}")
        async with self._adopting:
            found = await self._found(principal, wanted)
            if found is not None:
                return found, False
            async with AsyncExitStack() as stack:
                lives = [
                    await self._session(stack, principal, conversation)
                    for _, conversation in wanted.sessions
                ]
                return await self._adopt(principal, wanted, lives), True

    async def _found(self, principal: Principal, wanted: GroupAdopt) -> GroupView | None:
        """The group of the same conversations; raises `ClientGroupConflict`."""
        alias = _alias(wanted)
        record = await self._services.store.timeline_by_alias(principal.account, alias)
        if wanted.client_group_id is not None:
            named = await self._services.store.timeline(
                principal.account, "group", wanted.client_group_id
            )
            if named is not None and named.alias != alias:
                raise ClientGroupConflict
        if record is None:
            return None
        async with self._timelines.group(principal.account, record.id) as timeline:
            return timeline.view()

    async def _session(
        self, stack: AsyncExitStack, principal: Principal, conversation: ConversationId
    ) -> Live:
        try:
            live = await stack.enter_async_context(
                self._conversations.using(principal, conversation)
            )
        except Gone as error:
            raise SessionNotFound from error
        if not live.is_stored:
            raise SessionNotFound
        if live.details.timeline is not None:
            raise SessionInGroup
        return live

    async def _adopt(
        self, principal: Principal, wanted: GroupAdopt, lives: Sequence[Live]
    ) -> GroupView:
        services = self._services
        agents = [agent for agent, _ in wanted.sessions]
        children: dict[str, list[tuple[ChildTurn, TurnKey]]] = {}
        heads: list[int] = []
        # Who was said something to meanwhile is read again.
        while heads != [live.outbox.head for live in lives]:
            heads = [live.outbox.head for live in lives]
            for agent, live in zip(agents, lives, strict=True):
                children[agent] = await self._turns(live)
        merged = adopt(agents, {agent: [turn for turn, _ in children[agent]] for agent in agents})
        # Nothing waits from here to the commit.
        for live in lives:
            _check_free(live)
        now_ms = services.clock.now_ms()
        group = Group(
            members=tuple(
                Member(agent, live.record.id, is_adopted=True)
                for agent, live in zip(agents, lives, strict=True)
            ),
            title=wanted.title,
            session=services.ids.new("s"),
        )
        group_id = wanted.client_group_id or services.ids.new("g")
        record = new_record(services, principal, group_id, now_ms)
        record.alias = _alias(wanted)
        record.details, record.title = encode_group(group), group.shown_title
        timeline = GroupTimeline(services, record, is_stored=False, head=0)
        # A fork's turns are called as those that they were copied from.
        keys = {(agent, turn.turn): key for agent in agents for turn, key in children[agent]}
        conversations = {agent: live.record.id for agent, live in zip(agents, lives, strict=True)}
        rows = self._rows(principal, timeline, merged, conversations, keys)
        await self._keep(timeline, lives, rows)
        return timeline.view()

    async def _keep(
        self, timeline: GroupTimeline, lives: Sequence[Live], rows: list[RowRecord]
    ) -> None:
        """The group, its rows and the marks on its conversations in one commit."""
        self._timelines.add(timeline)
        before = [live.shape() for live in lives]
        for live in lives:
            live.details = msgspec.structs.replace(
                live.details, timeline=("group", timeline.record.id)
            )
        after = [live.shape() for live in lives]

        def write(draft: Draft, _offset: int) -> None:
            timeline.stage(draft).last_seq = len(rows)
            draft.rows.extend(rows)
            for live in lives:
                live.write_row(draft, live.outbox.head)

        def kept() -> None:
            for live in lives:
                timeline.users += 1
                live.attach(timeline)
            self._timelines.release(timeline)

        def refused() -> None:
            for live, was, became in zip(lives, before, after, strict=True):
                live.reshape(was, became)
            self._timelines.release(timeline)

        try:
            await commit(timeline, write, then=kept, instead=refused)
        except Conflict as error:
            raise ClientGroupConflict from error

    async def _turns(self, live: Live) -> list[tuple[ChildTurn, TurnKey]]:
        """What a conversation holds: every sealed turn that counts, its prompt and the text of its
        answer; one that was resumed is one turn with what went on with it.
        """
        store = self._services.store
        places = await store.sealed_turns(live.record.key, limit=2**31 - 1)
        found: list[tuple[ChildTurn, TurnKey]] = []
        for place in places:
            if is_superseded(live.past.superseded, place.first_seq):
                continue
            record = await store.turn(live.record.key, place.id)
            (data,) = await store.chunk_bytes([place.key])
            if record is None:
                continue
            prompt, reply = _texts(data)
            if place.resumes is not None and found:
                resumed, key = found[-1]
                whole = msgspec.structs.replace(
                    resumed,
                    reply=resumed.reply + reply,
                    outcome=place.outcome,
                    ended_at_ms=place.sealed_at_ms,
                )
                found[-1] = whole, key
                continue
            began_ms = record.started_at_ms or record.created_at_ms
            turn = ChildTurn(
                turn=place.id,
                prompt=prompt,
                prompt_at_ms=record.created_at_ms,
                reply=reply,
                reply_at_ms=began_ms,
                outcome=place.outcome,
                ended_at_ms=place.sealed_at_ms,
            )
            found.append((turn, place.key))
        return found

    def _rows(
        self,
        principal: Principal,
        timeline: GroupTimeline,
        merged: Sequence[MergedPrompt],
        conversations: dict[str, ConversationId],
        keys: dict[tuple[str, TurnId], TurnKey],
    ) -> list[RowRecord]:
        rows: list[RowRecord] = []
        row = partial(RowRecord, timeline=timeline.record.key, user=principal.user)
        for prompt in merged:
            details = RowDetails(targets=prompt.targets)
            message = row(
                key=RowKey(next(self._services.keys)),
                role="message",
                seq=len(rows) + 1,
                outcome="completed",
                began_position=0,
                ended_position=0,
                created_at_ms=prompt.at_ms,
                details=encode_row_details(details),
                text=prompt.text,
            )
            rows.append(message)
            for reply in prompt.replies:
                turn = reply.turn
                rows.append(
                    row(
                        key=RowKey(next(self._services.keys)),
                        role="reply",
                        seq=len(rows) + 1,
                        reply_to=message.seq,
                        turn=keys[reply.agent, turn.turn],
                        turn_id=turn.turn,
                        conversation=conversations[reply.agent],
                        agent=reply.agent,
                        outcome=_OUTCOMES.get(turn.outcome, turn.outcome),
                        began_position=0,
                        ended_position=0,
                        created_at_ms=turn.prompt_at_ms,
                        started_at_ms=turn.reply_at_ms,
                        ended_at_ms=turn.ended_at_ms,
                        text=turn.reply,
                    )
                )
        return rows


def _alias(wanted: GroupAdopt) -> str:
    """One name for the same map, whatever its order."""
    sessions = msgspec.json.encode(sorted(wanted.sessions))
    return "sessions:" + hashlib.sha256(sessions).hexdigest()


def _check_free(live: Live) -> None:
    if live.is_deleting:
        raise SessionNotFound
    if live.details.timeline is not None:
        raise SessionInGroup
    if live.state.is_busy or live.arriving or live.held or live.interrupts:
        raise SessionBusy
    if live.past.on_its_way is not None or live.past.waiting:
        raise SessionBusy


def _texts(data: bytes) -> tuple[str, str]:
    """The prompt and the answer's text of a turn's chunks."""
    prompt: list[str] = []
    reply: list[str] = []
    for line in data.split(b"\n")[:-1]:
        stored = decode_line(line)
        if isinstance(stored.chunk, Text):
            (prompt if stored.role == "user" else reply).append(stored.chunk.text)
    return "\n\n".join(prompt[:1]), "".join(reply)
