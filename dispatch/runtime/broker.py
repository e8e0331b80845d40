"""The broker: what may be done to turns, for every dialect.

Neighbours: `server` calls these verbs for a principal, `catalog` has those about conversations,
`intake` and `live` carry them out, `accounts` bounds them. Rights are checked here, once.
Invariant: when a verb returns, what it says is durable; when it raises, nothing was changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio
import anyio.abc
import msgspec
import structlog

from dispatch.core.commands import Accepted, Cut, Dispatched, Send, Truncate
from dispatch.core.events import ErrorEvent, Response
from dispatch.core.identity import SEND, ConversationId, Principal, TurnId, require
from dispatch.errors import Conflict, Unavailable
from dispatch.runtime import intake
from dispatch.runtime.accounts import Accounts
from dispatch.runtime.admission import (
    Admission,
    CurrentTurn,
    body_digest,
    client_key_of,
    decode_accepted,
)
from dispatch.runtime.branching import still_there
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.deciding import Deciding
from dispatch.runtime.directories import allowed_directory
from dispatch.runtime.errand import carry_out
from dispatch.runtime.history import History
from dispatch.runtime.live import Live
from dispatch.runtime.rewinding import Rewinding
from dispatch.runtime.services import Services
from dispatch.runtime.truncation import check_alone
from dispatch.runtime.turns import run_turn
from dispatch.storage.keys import TurnKey

log = structlog.get_logger()

_LAST_COMMITS_SECONDS: Final = 10.0

INTERRUPTED: Final = ErrorEvent("the turn was interrupted: the daemon ended", "interrupted")


class Broker:
    """The verbs of turns. Inside `async with broker.running()` agents and the journal run."""

    def __init__(
        self,
        services: Services,
        conversations: Conversations,
        accounts: Accounts,
        history: History,
    ) -> None:
        """Wire the live conversations to the task group that `running` opens."""
        self._services = services
        self._conversations = conversations
        self._accounts = accounts
        self._history = history
        self._tasks: anyio.abc.TaskGroup | None = None
        self._deciding = Deciding()
        self._rewinding = Rewinding(services, conversations, accounts, history, self._deciding)
        services.launch = self._launch
        services.start = self._start
        services.began = self._began
        services.ended = self._ended

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the journal and every agent; leaving ends agents first, then the journal.

        A fatal fault of the journal cancels the body and is raised.
        """
        async with anyio.create_task_group() as journal_task:
            journal_task.start_soon(self._services.journal.run)
            try:
                async with anyio.create_task_group() as self._tasks:
                    yield
                    # What is queued stays so: the next start runs it.
                    self._services.is_draining = True
                    self._tasks.cancel_scope.cancel()
            finally:
                self._tasks = None
            await self._journal_idle()
            journal_task.cancel_scope.cancel()

    async def send(
        self,
        principal: Principal,
        send: Send,
        accepted: Callable[[Accepted], None],
        prepare: Callable[[Live], None] | None = None,
    ) -> None:
        """Start, queue, steer or interrupt, exactly once under a client's id. A body that resumes a
        turn has no message; it starts or is refused: `NotResumable`, `InTimeline`, `Busy`.

        `prepare` runs right before the message is placed (not for a repeat), `accepted` when it is
        durable and before anything of it is shown. Raises what refused it.
        """
        require(principal, SEND)
        if send.client_message_id is None:
            await self._admit(principal, send, accepted, prepare, None)
            return
        key = client_key_of(principal, send.conversation, send.client_message_id)
        # Before the first wait, or two of them would both find that nobody was first.
        await self._deciding.enter(key)
        is_placed = False

        def placed(live: Live) -> None:
            nonlocal is_placed
            if prepare is not None:
                prepare(live)
            is_placed = True

        try:
            repeat = await self._repeat(key, send)
            if repeat is not None:
                accepted(repeat)
            else:
                await self._admit(principal, send, accepted, placed, key)
        finally:
            # What is on its way goes on deciding for both, though nobody may wait for it any more.
            if not is_placed:
                self._deciding.leave(key)

    async def truncate(self, principal: Principal, wish: Truncate) -> Cut:
        """Let what is behind a sealed turn not count any more, exactly once under a client's id.

        A running turn is ended as aborted and is behind it; what is queued stays, and runs after
        it. Raises what refused it: `NotFound` for a turn that is not sealed or does not count,
        `InTimeline` for conversations of groups and chat sessions.
        """
        require(principal, SEND)
        return await carry_out(self._services, partial(self._rewinding.truncate, principal, wish))

    async def stop(
        self,
        principal: Principal,
        conversation: ConversationId,
        turn: TurnId | None = None,
        by: Dispatched | None = None,
    ) -> TurnId | None:
        """End the running turn as aborted; its id once that is durable, or None if none runs."""
        require(principal, SEND)
        live = self._conversations.peek(principal, conversation)
        return None if live is None else await self._stop(live, turn, by)

    async def close(self, principal: Principal, conversation: ConversationId) -> TurnId | None:
        """Abort the running turn, drop the queue and close; idempotent, and nothing where there is
        no conversation.
        """
        require(principal, SEND)
        async with self._conversations.using(principal, conversation) as live:
            if not live.is_stored and live.current is None:
                return None
            intake.close(live)
            self._accounts.backlog.recount(live)
            stopped = await self._stop(live, None)
            await live.written()
            return stopped

    async def cancel(
        self,
        principal: Principal,
        conversation: ConversationId,
        turn: TurnId,
        by: Dispatched | None = None,
    ) -> bool:
        """Remove a queued message; False if it is no longer queued."""
        require(principal, SEND)
        live = self._conversations.peek(principal, conversation)
        if live is None or live.is_deleting or not intake.cancel(live, turn, by):
            return False
        self._accounts.backlog.recount(live)
        await live.written()
        return True

    async def reorder(
        self,
        principal: Principal,
        conversation: ConversationId,
        turns: Sequence[TurnId],
        by: Dispatched | None = None,
    ) -> list[TurnId]:
        """Let these queued messages run first, in this order; the order of all that wait then.

        Those that are not queued (any more) are passed over. Raises `InTimeline` where a group or
        chat session says what comes when.
        """
        require(principal, SEND)
        async with self._conversations.using(principal, conversation) as live:
            check_alone(live)
            await still_there(live)
            await intake.reorder(live, turns, by)
            return [waiting.turn for waiting in live.state.queue]

    async def respond(
        self,
        principal: Principal,
        conversation: ConversationId,
        response: Response,
        by: Dispatched | None = None,
    ) -> None:
        """Answer an agent's request; raises `RequestClosed` when somebody was first."""
        require(principal, SEND)
        async with self._conversations.using(principal, conversation) as live:
            live.respond(response, principal.user, by)
            await live.written()

    async def drain(self, seconds: float) -> None:
        """No new turns; running ones get so long, then are sealed as interrupted."""
        self._services.is_draining = True
        log.info("broker.draining", running=self._accounts.running_total, seconds=seconds)
        with anyio.move_on_after(seconds):
            for live in self._conversations:
                if (current := live.current) is not None:
                    await current.sealed.wait()
        is_over = False
        while not is_over:
            for live in self._conversations:
                live.end(None, "interrupted", error=INTERRUPTED)
            is_idle = await self._journal_idle()
            # Again for those whose start was still on its way.
            is_over = not is_idle or all(live.current is None for live in self._conversations)

    async def _journal_idle(self) -> bool:
        """Wait for the last commits, but not for ever: what a full disk does not take is nothing
        that anybody was shown, and the next start seals it.
        """
        with anyio.move_on_after(_LAST_COMMITS_SECONDS) as patience:
            await self._services.journal.idle()
        if patience.cancelled_caught:
            log.error("broker.journal_not_idle")
        return not patience.cancelled_caught

    async def _admit(
        self,
        principal: Principal,
        send: Send,
        accepted: Callable[[Accepted], None],
        prepare: Callable[[Live], None] | None,
        client_key: str | None,
    ) -> None:
        services = self._services
        self._accounts.check_send(principal.account)
        trouble = services.journal.trouble
        if trouble is not None:
            raise type(trouble)(trouble.message, retry_after_ms=1_000)
        admission = Admission(
            key=TurnKey(next(services.keys)),
            turn_id=TurnId(services.ids.new("t")),
            user=principal.user,
            body=send.body,
            on_busy=send.on_busy,
            accepted=accepted,
            client_key=client_key,
            digest=body_digest(send.body),
            workspace=send.workspace,
        )
        backlog = self._accounts.backlog
        conversation = send.conversation or ConversationId(services.ids.new("c"))
        async with self._conversations.using(principal, conversation) as live:
            admission.waits = partial(backlog.take_in, live, admission)
            # Until it is settled, not until the request is over: a request may be cancelled.
            admission.then = partial(self._settled, live, admission)
            if send.body.resumes is not None:
                body, admission.check = await self._rewinding.resumed(live, send.body.resumes)
                dispatched = send.body.dispatched
                admission.body = msgspec.structs.replace(body, dispatched=dispatched)
            if send.body.cwd is not None:
                cwd = await allowed_directory(services, live, send.body)
                admission.body = msgspec.structs.replace(send.body, cwd=cwd)
            # Others may have begun turns while this one waited; from here to `admit` it does not.
            self._accounts.check_running(principal.account)
            if prepare is not None:
                prepare(live)
            intake.admit(live, admission)
            await admission.outcome()

    def _settled(self, live: Live, admission: Admission) -> None:
        if admission.error is not None:
            self._accounts.backlog.recount(live)
        if admission.client_key is not None:
            self._deciding.leave(admission.client_key)

    async def _repeat(self, client_key: str, send: Send) -> Accepted | None:
        found = await self._services.store.turn_by_client_key(client_key)
        if found is None:
            return None
        _, turn = found
        if turn.digest != body_digest(send.body):
            raise Conflict("this clientMessageId was used before with another message")
        return msgspec.structs.replace(decode_accepted(turn.acceptance), duplicate=True)

    async def _stop(
        self, live: Live, turn: TurnId | None, by: Dispatched | None = None
    ) -> TurnId | None:
        current = live.current
        if current is None or (turn is not None and current.id != turn):
            return None
        await current.begun.wait()
        if not live.end(current.id, "aborted", by=by):
            await current.sealed.wait()
            return None
        await current.sealed.wait()
        return current.id

    def _launch(self, live: Live, current: CurrentTurn) -> None:
        if self._tasks is None:
            # Its start became durable while the broker ended: the next start seals it.
            current.gone.set()
            return
        self._tasks.start_soon(run_turn, live, current, self._history)

    def _start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._tasks is None:
            raise Unavailable("the daemon is shutting down", retry_after_ms=1_000)
        self._tasks.start_soon(work)

    def _began(self, live: Live) -> None:
        self._accounts.began(live.record.account)
        self._accounts.backlog.recount(live)

    def _ended(self, live: Live) -> None:
        self._accounts.ended(live.record.account)
        self._accounts.backlog.recount(live)
        intake.advance(live)
        self._conversations.rest(live)
