"""Saying something in a chat session: exactly once, answered before the agent is, or after it.

Neighbours: `broker` takes the message as any other, `chats.timeline` writes its rows in the same
commit; `chats` has the other verbs.
Invariant: a repeat is told what the first one was told, whatever has become of the session since.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import anyio

from dispatch.core.commands import Accepted, Send, TurnBody
from dispatch.core.identity import SEND, ConversationId, Principal, TurnId, require
from dispatch.errors import Gone, Unavailable
from dispatch.protocol.sessions import AgentUnavailable
from dispatch.protocol.sessions.requests import Message
from dispatch.runtime.chats.catalog import Chats
from dispatch.runtime.chats.timeline import ChatTimeline
from dispatch.runtime.live import Live
from dispatch.storage.timeline import RowRecord

_ROWS_BACK: Final = 256


class Sent(NamedTuple):
    """A message that was taken; `response` is the task's row where it ended in time."""

    message: RowRecord
    task: TurnId
    queued: bool
    duplicate: bool
    response: RowRecord | None


class ChatSends:
    """The verb of messages."""

    def __init__(self, chats: Chats) -> None:
        """See the module."""
        self._chats = chats
        self._store = chats.services.store

    async def send(
        self, principal: Principal, session: str, message: Message, wait_seconds: float | None
    ) -> Sent:
        """Say something; with `wait_seconds`, stay for the answer so long."""
        require(principal, SEND)
        async with self._chats.own(principal, session) as timeline:
            sent = await self._place(principal, timeline, message)
            self._chats.typing.sent(timeline)
            if wait_seconds is None:
                return sent
            return sent._replace(response=await self._response(timeline, sent, wait_seconds))

    async def _place(self, principal: Principal, timeline: ChatTimeline, message: Message) -> Sent:
        chats, agent = self._chats, timeline.session.agent
        conversation = ConversationId(timeline.record.id)
        told: list[Accepted] = []
        rows: list[RowRecord] = []

        def prepare(_live: Live) -> None:
            if agent not in chats.services.agents:
                raise AgentUnavailable(f"the agent {agent!r} is not there any more")

        def accepted(accepted: Accepted) -> None:
            told.append(accepted)
            reply = timeline.replies.get(accepted.turn)
            if not accepted.duplicate and reply is not None and reply.message is not None:
                rows.append(reply.message)

        send = Send(
            # The agent is fixed; a variant of it may have been chosen elsewhere.
            body=TurnBody(message=message.content, model=await self._model(principal, timeline)),
            conversation=conversation,
            client_message_id=message.client_message_id,
            on_busy="queue",
        )
        try:
            await chats.broker.send(principal, send, accepted, prepare)
        except Unavailable as error:
            if type(error) is not Unavailable:
                raise
            raise AgentUnavailable(error.message, retry_after_ms=error.retry_after_ms) from error
        message_row = rows[0] if rows else await self._repeated(principal, timeline, message)
        is_behind = told[0].place == "queued" and await self._was_behind(timeline, message_row)
        return Sent(message_row, told[0].turn, is_behind, told[0].duplicate, None)

    async def _model(self, principal: Principal, timeline: ChatTimeline) -> str | None:
        agent, conversation = timeline.session.agent, ConversationId(timeline.record.id)
        async with self._chats.conversations.using(principal, conversation) as live:
            chosen = self._chats.services.agent_of(live.details.model)[0]
            return None if chosen == agent and live.details.model is not None else agent

    async def _repeated(
        self, principal: Principal, timeline: ChatTimeline, message: Message
    ) -> RowRecord:
        client_id = message.client_message_id or ""
        client_key = "\x1f".join((principal.account, principal.user, timeline.record.id, client_id))
        found = await self._store.row_by_client_key(client_key)
        if found is None:
            raise Gone("the chat session was deleted")
        return found[1]

    async def _was_behind(self, timeline: ChatTimeline, message: RowRecord) -> bool:
        """Whether the task before it was open still when it came: tasks end in order.

        By positions, so that a repeat is told the same.
        """
        before = await self._store.rows(
            timeline.record.key, before_seq=message.seq, newest_first=True, limit=_ROWS_BACK
        )
        for row in before:
            if row.role == "reply" or row.turn_id is None:
                continue
            reply = await self._store.row_of_turn(timeline.record.key, row.turn_id)
            if reply is None:
                continue
            ended, came = reply.ended_position, message.began_position
            return ended is None or (came is not None and ended > came)
        return False

    async def _response(
        self, timeline: ChatTimeline, sent: Sent, wait_seconds: float
    ) -> RowRecord | None:
        reply = timeline.replies.get(sent.task)
        if reply is None:
            row = await self._store.row_of_turn(timeline.record.key, sent.task)
            return None if row is None or row.outcome is None else row
        with anyio.move_on_after(wait_seconds):
            await reply.over.wait()
        return reply.row if reply.over.is_set() else None
