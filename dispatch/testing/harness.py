"""The inner rings of a daemon, put together as `compose` does it, without a port to listen on.

Neighbours: `runtime` is what is put together, unmodified; `stores`, `scripted` and `clocks` are
what it is given; `watcher` looks at it.
Invariant: leaving a broker is killing it: what was not committed is gone, and nothing was said.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Final

import anyio
import anyio.abc

from dispatch.agents.port import Agent
from dispatch.core.commands import Accepted, OnBusy, Send, TurnBody
from dispatch.core.content import StoredLine, decode_line
from dispatch.core.identity import LOCAL, ConversationId, Principal, TurnId
from dispatch.runtime.accounts import Accounts
from dispatch.runtime.broker import Broker
from dispatch.runtime.catalog import Catalog
from dispatch.runtime.chats.verbs import ChatVerbs
from dispatch.runtime.clock import Clock, Ids
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.feed import Encoding, Feeds
from dispatch.runtime.groups.verbs import GroupVerbs
from dispatch.runtime.history import History
from dispatch.runtime.journal import Journal
from dispatch.runtime.live import Live
from dispatch.runtime.people.catalog import People
from dispatch.runtime.services import Services
from dispatch.runtime.verbs import Verbs, all_verbs
from dispatch.settings import Limits
from dispatch.storage.port import Store
from dispatch.testing.clocks import ManualClock, SequentialIds
from dispatch.testing.watcher import PLAIN, Watcher

GUARD_SECONDS: Final = 10.0
_EVERYTHING: Final = 2**31 - 1


def guard(seconds: float = GUARD_SECONDS) -> AbstractContextManager[anyio.CancelScope]:
    """A wait that is in vain ends here: `with guard(): await …`."""
    return anyio.fail_after(seconds)


@dataclass(slots=True)
class Harness:
    """A running broker and what it consists of."""

    store: Store
    services: Services
    verbs: Verbs
    accounts: Accounts
    conversations: Conversations
    history: History
    broker: Broker
    catalog: Catalog
    groups: GroupVerbs
    chats: ChatVerbs
    people: People

    async def send(
        self,
        text: str,
        conversation: str | None = "c1",
        *,
        on_busy: OnBusy = "reject",
        client_id: str | None = None,
        principal: Principal = LOCAL,
        model: str | None = None,
    ) -> Accepted:
        """Send, and return the acknowledgement."""
        told: list[Accepted] = []
        send = Send(
            body=TurnBody(message=text, model=model),
            conversation=None if conversation is None else ConversationId(conversation),
            client_message_id=client_id,
            on_busy=on_busy,
        )
        await self.broker.send(principal, send, told.append)
        (accepted,) = told
        return accepted

    async def resume(
        self,
        turn: str,
        conversation: str = "c1",
        *,
        client_id: str | None = None,
        principal: Principal = LOCAL,
    ) -> Accepted:
        """Resume the last turn, and return the acknowledgement."""
        told: list[Accepted] = []
        send = Send(
            body=TurnBody(message="", resumes=TurnId(turn)),
            conversation=ConversationId(conversation),
            client_message_id=client_id,
        )
        await self.broker.send(principal, send, told.append)
        (accepted,) = told
        return accepted

    async def stop(self, conversation: str = "c1") -> str | None:
        """Stop what runs; its id."""
        return await self.broker.stop(LOCAL, ConversationId(conversation))

    def live(self, conversation: str = "c1", principal: Principal = LOCAL) -> Live:
        """A conversation that must be in memory."""
        live = self.conversations.peek(principal, ConversationId(conversation))
        assert live is not None, f"{conversation} is not in memory"
        return live

    @asynccontextmanager
    async def watching(
        self,
        conversation: str = "c1",
        *,
        after: int | None = None,
        principal: Principal = LOCAL,
        encoding: Encoding = PLAIN,
    ) -> AsyncIterator[Watcher]:
        """Follow a conversation from an offset, or from the turn in flight."""
        async with self.conversations.using(principal, ConversationId(conversation)) as live:
            offset = live.in_flight_offset if after is None else after
            watcher = Watcher(live.feed, after=offset, principal=principal, encoding=encoding)
            watcher.resume()
            try:
                yield watcher
            finally:
                watcher.pause()

    async def until_idle(self) -> None:
        """Return once no turn runs or waits, and nothing is on its way to disk."""
        while True:
            await self.services.journal.idle()
            busy = [live.current for live in self.conversations if live.current is not None]
            if not busy:
                return
            await busy[0].sealed.wait()
            await busy[0].gone.wait()

    async def lines(
        self, conversation: str = "c1", principal: Principal = LOCAL
    ) -> list[StoredLine]:
        """What is kept of a conversation, without the seqs."""
        record = await self.store.conversation(principal.account, ConversationId(conversation))
        if record is None:
            return []
        turns = await self.store.sealed_turns(record.key, limit=_EVERYTHING)
        pieces = await self.store.chunk_bytes([turn.key for turn in turns])
        return [decode_line(line) for data in pieces for line in data.split(b"\n")[:-1]]

    async def texts(self, conversation: str = "c1") -> list[tuple[str, str]]:
        """Who said what, of everything kept that is text."""
        return [
            (line.role, text)
            for line in await self.lines(conversation)
            if isinstance(text := getattr(line.chunk, "text", None), str)
        ]


@asynccontextmanager
async def broker_on(
    store: Store,
    *,
    agents: Iterable[Agent] = (),
    limits: Limits | None = None,
    clock: Clock | None = None,
    ids: Ids | None = None,
    seconds: float = GUARD_SECONDS,
) -> AsyncIterator[Harness]:
    """Open a store and run a broker on it; the first agent is the default one.

    Everything inside must be over within `seconds` (`math.inf` on virtual time).
    """
    named = {agent.info.name: agent for agent in agents}
    harness: Harness | None = None
    with anyio.fail_after(None if math.isinf(seconds) else seconds):
        try:
            harness = await _build(
                store, named, limits or Limits(), clock or ManualClock(), ids or SequentialIds()
            )
            async with anyio.create_task_group() as tasks:
                await tasks.start(_serve, harness)
                yield harness
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await store.close()


async def _serve(
    harness: Harness, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    async with harness.broker.running():
        await harness.verbs.recover(harness.services)
        task_status.started()
        await asyncio.Event().wait()


async def _build(
    store: Store, agents: dict[str, Agent], limits: Limits, clock: Clock, ids: Ids
) -> Harness:
    opened = await store.open()
    feeds = Feeds(
        events_max=limits.ring_events_max,
        bytes_max=limits.ring_bytes_max,
        bytes_total_max=limits.rings_bytes_max,
    )
    journal = Journal(
        store,
        feeds,
        clock,
        next_position=opened.next_position,
        delta_bytes_max=limits.delta_bytes_max,
    )
    services = Services(
        store=store,
        opened=opened,
        feeds=feeds,
        journal=journal,
        clock=clock,
        ids=ids,
        limits=limits,
        agents=agents,
        default_agent=next(iter(agents), "nobody"),
        keys=count(opened.next_key),
    )
    verbs = all_verbs(services)
    return Harness(store, services, verbs, *verbs)
