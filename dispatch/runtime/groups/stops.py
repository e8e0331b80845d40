"""Ending runs of groups: those that run, those that wait, and those whose message is still to come.

Neighbours: `sends` asks for the stops that were ahead of a message, `catalog` ends the runs of
members that leave; `timeline` writes the ends down.
Invariant: queued runs end in one commit, by message and then by member, before or with the running
ones; a stop returns once every end is durable.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from dispatch.core.identity import SEND, Principal, TurnId, require
from dispatch.runtime import intake
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.groups.timeline import GroupTimeline
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft, PendingChange
from dispatch.runtime.scribes import chronicle_of
from dispatch.runtime.services import Services
from dispatch.runtime.timeline import Reply
from dispatch.runtime.timelines import Timelines
from dispatch.storage.port import TurnChange
from dispatch.storage.timeline import TimelineRecord

_REMEMBERED_STOP_MS: Final = 15 * 60 * 1000
_REMEMBERED_STOPS_MAX: Final = 1_000


def message_key(principal: Principal, record: TimelineRecord, client_message_id: str) -> str:
    """The exactly-once key of a message: within the group and the user."""
    group = f"g{record.key}"
    return "\x1f".join((principal.account, principal.user, group, client_message_id))


class Stopped(NamedTuple):
    """Whose runs were ended; `is_remembered`: nothing was known yet, and the stop will win."""

    agents: list[str]
    is_remembered: bool


class GroupStops:
    """The verb `stop`. `sending`: messages with a client's id that are not settled yet."""

    def __init__(
        self, services: Services, conversations: Conversations, timelines: Timelines
    ) -> None:
        """Begin with nothing remembered."""
        self._services = services
        self._conversations = conversations
        self._timelines = timelines
        self.sending: dict[str, asyncio.Event] = {}
        # Stops of messages that are not here yet, by their exactly-once key and whose runs they
        # are about: when they end.
        self._stops: OrderedDict[tuple[str, str | None], int] = OrderedDict()

    async def stop(
        self,
        principal: Principal,
        group_id: str,
        *,
        agent: str | None = None,
        reply_to: int | None = None,
        run_id: str | None = None,
    ) -> Stopped:
        """End runs, queued ones too; returns once their last words are durable.

        `run_id` is a run's, or the client's id of a message.
        """
        require(principal, SEND)
        async with self._timelines.group(principal.account, group_id) as timeline:
            seq = None
            if run_id is not None and not await self._is_run(timeline, run_id):
                # Before it is looked for, or it could come in between and be missed by both.
                stop = message_key(principal, timeline.record, run_id), agent
                self._remember(stop)
                seq = await self._seq_of(stop[0])
                if seq is None:
                    return Stopped([], is_remembered=True)
                self._stops.pop(stop, None)
            replies = [
                reply
                for reply in in_order(timeline)
                if agent in (None, reply.row.agent)
                and reply_to in (None, reply.row.reply_to)
                and (run_id is None or run_id == reply.row.turn_id or seq == reply.row.reply_to)
            ]
            await self.end(timeline, replies)
            return Stopped([reply.row.agent for reply in replies], is_remembered=False)

    async def end(
        self, timeline: GroupTimeline, replies: Sequence[Reply], ending: str | None = None
    ) -> None:
        """End open replies: the queued ones in one commit, before or with those that run."""
        self.end_soon(timeline, replies, ending)
        for reply in replies:
            await reply.over.wait()

    def end_soon(
        self, timeline: GroupTimeline, replies: Sequence[Reply], ending: str | None = None
    ) -> None:
        """`end` without waiting for it."""
        for reply in replies:
            reply.ending = reply.ending or ending
        dropped: list[tuple[Live, TurnChange]] = []
        told: list[Callable[[Draft], None]] = []
        for reply in replies:
            live = self._live(timeline, reply)
            if live is None or reply.row.turn_id not in live.queued:
                continue
            dropped.append((live, intake.take_out(live, reply.row.turn_id)))
            if (chronicle := chronicle_of(live.scribe)) is not None:
                told.append(partial(chronicle.dropped, turns=[reply.row.turn_id]))
        turns = [reply.row.turn_id for reply in replies if reply.row.turn_id is not None]
        if dropped:
            keys = {change.turn for _, change in dropped}
            ended = [
                turn for reply, turn in zip(replies, turns, strict=True) if reply.row.turn in keys
            ]

            def write(draft: Draft, _offset: int) -> None:
                # Where the conversation went meanwhile, its turns went with it.
                draft.changes.extend(change for live, change in dropped if not _is_gone(live))
                timeline.dropped(draft, ended)
                for tell in told:
                    tell(draft)

            timeline.outbox.change(PendingChange(write))
        for reply in replies:
            live = self._live(timeline, reply)
            if live is not None and live.current is not None:
                intake.end_when_begun(live, reply.row.turn_id)

    def _live(self, timeline: GroupTimeline, reply: Reply) -> Live | None:
        conversation = reply.row.conversation
        assert conversation is not None, "a reply names its conversation"
        return self._conversations.find(timeline.record.account, conversation)

    async def _seq_of(self, client_key: str) -> int | None:
        """The seq of the message that this user sent under a client's id."""
        await self.sending_over(client_key)
        found = await self._services.store.row_by_client_key(client_key)
        return None if found is None else found[1].seq

    async def _is_run(self, timeline: GroupTimeline, run_id: str) -> bool:
        found = await self._services.store.row_of_turn(timeline.record.key, TurnId(run_id))
        return found is not None

    async def sending_over(self, client_key: str) -> None:
        """Return once no message is on its way under this key."""
        while (sending := self.sending.get(client_key)) is not None:
            await sending.wait()

    def end_remembered(self, timeline: GroupTimeline, client_key: str, seq: int) -> None:
        """End the replies to a message that was stopped before it came."""
        now_ms = self._services.clock.now_ms()
        replies = [reply for reply in in_order(timeline) if reply.row.reply_to == seq]
        for agent in (None, *(reply.row.agent for reply in replies)):
            if self._stops.pop((client_key, agent), 0) > now_ms:
                self.end_soon(timeline, [r for r in replies if agent in (None, r.row.agent)])

    def _remember(self, stop: tuple[str, str | None]) -> None:
        self._stops[stop] = self._services.clock.now_ms() + _REMEMBERED_STOP_MS
        self._stops.move_to_end(stop)
        while len(self._stops) > _REMEMBERED_STOPS_MAX:
            self._stops.popitem(last=False)


def _is_gone(live: Live) -> bool:
    return live.deletion is not None and live.deletion.is_set()


def in_order(timeline: GroupTimeline) -> list[Reply]:
    """The open replies, by message and then by member; those that are on disk."""
    kept = [reply for reply in timeline.replies.values() if reply.is_kept]
    return sorted(kept, key=lambda reply: (reply.row.reply_to or 0, reply.row.key))
