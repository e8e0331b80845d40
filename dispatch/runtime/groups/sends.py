"""Messages to groups: checked, given to their targets, exactly once under a client's id.

Neighbours: `groups.fanout` is one on its way, `groups.stops` may be ahead of it, `groups` has the
verbs about groups as a whole.
Invariant: nothing is decided before the last wait; a send whose caller leaves is as good as any
other.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

import msgspec

from dispatch.core.group import Group, Member
from dispatch.core.identity import SEND, Principal, TurnId, require
from dispatch.core.timeline import RowDetails, encode_row_details
from dispatch.errors import Busy, DispatchError, Gone, TooMany, Unavailable
from dispatch.protocol.groups.refusals import ClientMessageConflict, InvalidTargets
from dispatch.protocol.groups.requests import GroupSend
from dispatch.runtime.accounts import Accounts
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.groups.fanout import Fanout, Target
from dispatch.runtime.groups.members import Provision
from dispatch.runtime.groups.stops import GroupStops, message_key
from dispatch.runtime.groups.timeline import GroupTimeline
from dispatch.runtime.live import Live
from dispatch.runtime.pending import PendingChange
from dispatch.runtime.scribes import timeline_scribe
from dispatch.runtime.services import Services
from dispatch.runtime.timeline import Reply
from dispatch.runtime.timelines import Timelines
from dispatch.storage.keys import RowKey, TurnKey
from dispatch.storage.timeline import RowRecord


class Sent(NamedTuple):
    """What became of a message: its seq, the id of its frame, and whether it was there before."""

    seq: int
    frame: int
    is_duplicate: bool


class GroupSends:
    """The verb `send`."""

    def __init__(
        self,
        services: Services,
        conversations: Conversations,
        accounts: Accounts,
        timelines: Timelines,
        stops: GroupStops,
    ) -> None:
        """Begin with nothing on its way."""
        self._services = services
        self._conversations = conversations
        self._accounts = accounts
        self._timelines = timelines
        self._stops = stops

    async def send(self, principal: Principal, group_id: str, send: GroupSend) -> Sent:
        """Append a message and have its targets answer it, exactly once under a client's id."""
        require(principal, SEND)
        async with self._timelines.group(principal.account, group_id) as timeline:
            if send.client_message_id is None:
                return await self._send(principal, timeline, send, None)
            client_key = message_key(principal, timeline.record, send.client_message_id)
            # The same send over another connection decides for both.
            await self._stops.sending_over(client_key)
            self._stops.sending[client_key] = asyncio.Event()
            return await self._send(principal, timeline, send, client_key)

    def _sent(self, client_key: str | None) -> None:
        sending = None if client_key is None else self._stops.sending.pop(client_key, None)
        if sending is not None:
            sending.set()

    async def _repeat(
        self, timeline: GroupTimeline, client_key: str | None, send: GroupSend
    ) -> Sent | None:
        if client_key is None:
            return None
        found = await self._services.store.row_by_client_key(client_key)
        if found is None:
            return None
        _, row = found
        if row.digest != _digest(send):
            raise ClientMessageConflict
        assert row.seq is not None, "a message has a seq"
        return Sent(row.seq, (row.began_position or 0) * 16, is_duplicate=True)

    async def _send(
        self,
        principal: Principal,
        timeline: GroupTimeline,
        send: GroupSend,
        client_key: str | None,
    ) -> Sent:
        is_handed_over = False
        try:
            repeat = await self._repeat(timeline, client_key, send)
            if repeat is not None:
                return repeat
            self._accounts.check_send(principal.account)
            async with AsyncExitStack() as stack:
                targets = await self._targets(stack, principal, timeline, send)
                settled = self._admit(principal, timeline, send, client_key, targets)
                is_handed_over = True
                return await asyncio.shield(settled)
        finally:
            if not is_handed_over:
                self._sent(client_key)

    async def _targets(
        self,
        stack: AsyncExitStack,
        principal: Principal,
        timeline: GroupTimeline,
        send: GroupSend,
    ) -> list[Target]:
        """Who is to answer, each with its conversation in memory."""
        while True:
            group = timeline.group
            targets = []
            for member in _chosen(group, send):
                live: Live | None
                try:
                    live = await stack.enter_async_context(
                        self._conversations.using(principal, member.conversation)
                    )
                except Gone:
                    live = None
                if live is not None and timeline_scribe(live.scribe) is not timeline:
                    live = None
                targets.append(Target(member, live))
            # Members may have changed while this waited, or may be on their way out.
            is_leaving = any(t.live is not None and t.live.is_deleting for t in targets)
            if timeline.group.members == group.members and not is_leaving:
                return targets

    def _admit(
        self,
        principal: Principal,
        timeline: GroupTimeline,
        send: GroupSend,
        client_key: str | None,
        targets: Sequence[Target],
    ) -> asyncio.Future[Sent]:
        """Decide, and put it on its way; the future is settled once it is durable or refused."""
        self._check(timeline, send, targets)
        missing = [target.member.agent for target in targets if target.live is None]
        fanout = Fanout(
            self._conversations,
            timeline,
            self._message(principal, timeline, send, client_key),
            [(target, self._reply(principal, timeline, target)) for target in targets],
            self._renewal(principal, timeline, missing),
        )
        settled: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()
        # Its error is told to whoever still waits.
        settled.add_done_callback(_retrieve)

        def durable(_offset: int) -> None:
            self._sent(client_key)
            row = fanout.durable()
            for target in targets:
                if target.live is not None:
                    self._accounts.backlog.recount(target.live)
            assert row.seq is not None, "a message has a seq"
            if client_key is not None:
                self._stops.end_remembered(timeline, client_key, row.seq)
            settled.set_result(Sent(row.seq, (row.began_position or 0) * 16, False))

        def refused(error: DispatchError) -> None:
            self._sent(client_key)
            fanout.refused()
            settled.set_exception(error)

        timeline.outbox.change(PendingChange(fanout.write, durable, refused))
        return settled

    def _renewal(
        self, principal: Principal, timeline: GroupTimeline, missing: Sequence[str]
    ) -> Provision | None:
        if not missing:
            return None
        return Provision(self._conversations, principal, timeline.record, timeline.group, missing)

    def _check(self, timeline: GroupTimeline, send: GroupSend, targets: Sequence[Target]) -> None:
        """Raise what refuses it; nothing waits between this and the decision."""
        services = self._services
        if services.is_draining:
            raise Unavailable("the daemon is shutting down", retry_after_ms=1_000)
        if timeline.is_ending or timeline.record.status == "deleted":
            raise Gone("the group was deleted")
        if send.on_busy == "reject" and timeline.replies:
            raise Busy("members of this group are still answering")
        trouble = services.journal.trouble
        if trouble is not None:
            raise type(trouble)(trouble.message, retry_after_ms=1_000)
        # Every target has a copy of its own.
        size = len(send.text.encode()) * len(targets)
        self._accounts.backlog.check(timeline.record.account, size)
        limit = services.limits.queue_turns_max
        waiting = Counter(reply.row.conversation for reply in timeline.replies.values())
        for target in targets:
            if waiting[target.member.conversation] >= limit:
                raise TooMany(
                    f"{limit} messages wait for {target.member.agent} already", retry_after_ms=1_000
                )

    def _message(
        self,
        principal: Principal,
        timeline: GroupTimeline,
        send: GroupSend,
        client_key: str | None,
    ) -> RowRecord:
        details = RowDetails(targets=send.targets, client_message_id=send.client_message_id)
        return RowRecord(
            key=RowKey(next(self._services.keys)),
            timeline=timeline.record.key,
            role="message",
            user=principal.user,
            outcome="completed",
            created_at_ms=self._services.clock.now_ms(),
            client_key=client_key,
            digest=_digest(send),
            details=encode_row_details(details),
            text=send.text,
        )

    def _reply(self, principal: Principal, timeline: GroupTimeline, target: Target) -> Reply:
        services = self._services
        return Reply(
            RowRecord(
                key=RowKey(next(services.keys)),
                timeline=timeline.record.key,
                role="reply",
                turn=TurnKey(next(services.keys)),
                turn_id=TurnId(services.ids.new("t")),
                conversation=target.member.conversation,
                agent=target.member.agent,
                user=principal.user,
                created_at_ms=services.clock.now_ms(),
            )
        )


def _chosen(group: Group, send: GroupSend) -> list[Member]:
    if send.targets is None:
        return list(group.members)
    members = [group.member(agent) for agent in send.targets]
    if not members or None in members:
        raise InvalidTargets
    wanted = set(send.targets)
    return [member for member in group.members if member.agent in wanted]


def _digest(send: GroupSend) -> bytes:
    targets = None if send.targets is None else sorted(send.targets)
    return hashlib.sha256(msgspec.json.encode((send.text, targets))).digest()


def _retrieve(settled: asyncio.Future[Sent]) -> None:
    if not settled.cancelled():
        settled.exception()
