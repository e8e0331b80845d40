"""The verbs that go back in a conversation: truncate it, resume its last turn.

Neighbours: `broker` has these as its own and checks rights; `truncation` is one on its way,
`intake` begins it; `core.truncation` decides.
Invariant: as in `broker`: what a verb says is durable, and a verb that raises changed nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from dispatch.core.commands import Cut, Truncate, TurnBody
from dispatch.core.identity import Principal, TurnId
from dispatch.core.truncation import check_resumable
from dispatch.errors import Conflict, NotFound, NotResumable, Unavailable
from dispatch.runtime import intake
from dispatch.runtime.accounts import Accounts
from dispatch.runtime.admission import client_key_of, decode_body
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.deciding import Deciding
from dispatch.runtime.history import History
from dispatch.runtime.live import Live
from dispatch.runtime.services import Services
from dispatch.runtime.truncation import Truncation, check_alone, decode_cut, truncation_digest
from dispatch.storage.keys import TurnKey
from dispatch.storage.port import TurnRecord


class Rewinding:
    """See the module."""

    def __init__(
        self,
        services: Services,
        conversations: Conversations,
        accounts: Accounts,
        history: History,
        deciding: Deciding,
    ) -> None:
        """`deciding` is the broker's: an id is one message's or one truncation's."""
        self._services = services
        self._conversations = conversations
        self._accounts = accounts
        self._history = history
        self._deciding = deciding

    async def truncate(self, principal: Principal, wish: Truncate) -> Cut:
        """See `Broker.truncate`; carried to its end, whoever waits for it."""
        if wish.client_message_id is None:
            return await self._truncate(principal, wish, None)
        key = client_key_of(principal, wish.conversation, wish.client_message_id)
        await self._deciding.enter(key)
        try:
            found = await self._services.store.turn_by_client_key(key)
            if found is None:
                return await self._truncate(principal, wish, key)
            _, marker = found
            if marker.digest != truncation_digest(wish.after_turn):
                raise Conflict("this clientMessageId was used before for something else")
            return msgspec.structs.replace(decode_cut(marker.acceptance), duplicate=True)
        finally:
            self._deciding.leave(key)

    async def resumed(self, live: Live, turn: TurnId) -> tuple[TurnBody, Callable[[], None]]:
        """What a turn that resumes this one is asked to do, and a check to be made where it starts:
        nobody else may have gone on meanwhile. Raises `NotFound`, `NotResumable`, `InTimeline`.
        """
        while (ending := _on_its_way(live)) is not None:
            await ending.wait()
        check_alone(live)
        seen = _head(live)
        record = await self._services.store.turn(live.record.key, turn)
        if record is None:
            raise NotFound(f"no turn {turn} in this conversation")
        last = await self._history.last_counting(live)
        check_resumable(turn, None if last is None else (last.id, last.outcome))
        body = decode_body(record.body)

        def check() -> None:
            if _head(live) != seen:
                raise NotResumable(f"turn {turn} is not the last one of this conversation")
            check_alone(live)

        resumed = TurnBody(
            message=body.message,
            images=body.images,
            resumes=turn,
            first_started_at_ms=body.first_started_at_ms or record.started_at_ms,
        )
        return resumed, check

    async def _truncate(self, principal: Principal, wish: Truncate, key: str | None) -> Cut:
        services = self._services
        if services.is_draining:
            raise Unavailable("the daemon is shutting down", retry_after_ms=1_000)
        self._accounts.check_rate(principal.account)
        async with self._conversations.using(principal, wish.conversation) as live:
            if not live.is_stored and live.current is None:
                raise NotFound("Conversation not found")
            kept = None if wish.after_turn is None else await self._sealed(live, wish.after_turn)
            told: list[Cut] = []
            truncation = Truncation(
                key=TurnKey(next(services.keys)),
                turn_id=TurnId(services.ids.new("t")),
                user=principal.user,
                kept=kept,
                client_key=key,
                by=wish.by,
                accepted=told.append,
            )
            intake.truncate(live, truncation)
            await truncation.outcome()
            return told[0]

    async def _sealed(self, live: Live, turn: TurnId) -> TurnRecord:
        """What is sealed stays as it is, so it may be read ahead of the decision."""
        record = await self._services.store.turn(live.record.key, turn)
        if record is None or record.state != "sealed":
            raise NotFound(f"no sealed turn {turn} in this conversation")
        return record


def _head(live: Live) -> tuple[int, bytes]:
    """What every turn that is sealed and every truncation changes."""
    return live.record.last_seq, live.record.superseded


def _on_its_way(live: Live) -> asyncio.Event | None:
    """What is about to change the past: a turn that is being sealed, or a truncation."""
    if live.past.on_its_way is not None:
        return live.past.on_its_way.settled
    return live.current.sealed if live.state.ending and live.current is not None else None
