"""A client's action, carried out: accepted or refused, and told to everybody who follows.

Neighbours: `protocol.ahp.validation` accepts, `intents` says what is wanted, `broker` and `catalog`
do it; what AHP alone knows is written down in `scope` and `chronicle`.
Invariant: an action that is refused changed nothing; one that is accepted is durable when this
returns, and its echo was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import msgspec
import structlog

from dispatch.core.commands import Accepted, Dispatched, OnBusy, Send, Truncate, TurnBody
from dispatch.core.events import Response
from dispatch.core.identity import SEND, ConversationId, TurnId, require
from dispatch.errors import DispatchError, Gone, NotFound, PeerError
from dispatch.protocol.ahp import intents
from dispatch.protocol.ahp.conversion import up_action
from dispatch.protocol.ahp.envelopes import Origin
from dispatch.protocol.ahp.objects import iso_time
from dispatch.protocol.ahp.records import Acted, Waits
from dispatch.protocol.ahp.uris import ROOT
from dispatch.protocol.ahp.validation import Rejected, accept
from dispatch.protocol.ahp.words import message_object
from dispatch.protocol.codec import Object
from dispatch.runtime import intake
from dispatch.runtime.ahp.chronicle import ChatChronicle
from dispatch.runtime.ahp.clients import Client
from dispatch.runtime.ahp.host import Host
from dispatch.runtime.ahp.scope import Scope
from dispatch.runtime.ahp.transcripts import with_transcripts
from dispatch.runtime.live import Live

log = structlog.get_logger()

_ENCODER: Final = msgspec.json.Encoder()
_ON_BUSY: Final[dict[str, OnBusy]] = {"steering": "steer", "queued": "queue"}


class Wish(NamedTuple):
    """An action that was accepted, of a chat, and who wants it."""

    client: Client
    scope: Scope
    chronicle: ChatChronicle
    action: Object
    origin: Origin

    @property
    def conversation(self) -> ConversationId:
        """Whose chat it is."""
        return self.chronicle.live.record.id

    @property
    def numbered(self) -> Dispatched:
        """Whose wish it is, as the core keeps it."""
        return Dispatched(client=self.origin.client_id, client_seq=self.origin.client_seq)


class Dispatching:
    """See the module."""

    def __init__(self, host: Host) -> None:
        """See the module."""
        self._host = host

    async def dispatch(self, client: Client, channel: str, client_seq: int, sent: Object) -> bool:
        """Carry an action out; False where the channel is unknown, or the action is of the root
        and nobody is told but its sender. Raises `Rejected` with the reason.
        """
        now = iso_time(self._host.services.clock.now_ms())
        try:
            action = up_action(client.version, sent, now)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise Rejected("Malformed action") from None
        if channel == ROOT:
            self._accept("root", self._host.directory.root_state(), action, client)
            return False
        try:
            async with self._host.following(client.principal, channel) as scope:
                return await self._on_channel(client, scope, channel, client_seq, action)
        except (NotFound, Gone) as error:
            log.info("ahp.action_ignored", action=sent.get("type"), code=error.code)
            return False
        except DispatchError as error:
            raise Rejected(_sentence(error)) from error

    async def _on_channel(
        self, client: Client, scope: Scope, channel: str, client_seq: int, action: Object
    ) -> bool:
        state = scope.state_of(channel)
        if state is None:
            return False
        origin = Origin(client.id, client_seq)
        try:
            if channel == scope.uri:
                accepted = self._accept("session", state, action, client)
                intent = intents.intent_of(accepted, state)
                await self._on_session(client, scope, intent, action, origin)
                return True
            conversation = scope.conversation_of(channel)
            chronicle = None if conversation is None else scope.chronicles.get(conversation)
            if chronicle is None:
                return False
            accepted = self._accept("chat", state, action, client)
            wish = Wish(client, scope, chronicle, action, origin)
            await self._on_chat(wish, intents.intent_of(accepted, state), state)
        except DispatchError as error:
            # Also of something in the channel that is not there (any more): its sender waits.
            raise Rejected(_sentence(error)) from error
        return True

    async def begin(self, client: Client, chat: str, message: Object) -> None:
        """The first turn of a chat that was just made; raises `PeerError` with the reason."""
        turn_id = self._host.services.ids.new("t")
        now = iso_time(self._host.services.clock.now_ms())
        action = {
            "type": "chat/turnStarted",
            "turnId": turn_id,
            "startedAt": now,
            "message": message,
        }
        try:
            await self.dispatch(client, chat, 0, action)
        except Rejected as error:
            raise PeerError(f"the first message was refused: {error.reason}") from error

    def _accept(self, kind: str, state: Object, action: Object, client: Client) -> Any:
        require(client.principal, SEND)
        try:
            return accept(kind, state, action, version=client.version, client_id=client.id)
        except (KeyError, TypeError, AttributeError):
            raise Rejected("Malformed action") from None

    async def _on_session(
        self,
        client: Client,
        scope: Scope,
        intent: intents.Intent,
        action: Object,
        origin: Origin,
    ) -> None:
        chats = scope.ledger.details.chats
        if isinstance(intent, intents.Rename) and len(chats) == 1:
            # Elsewhere a session of one chat is that conversation.
            await self._host.catalog.set_title(client.principal, chats[0], intent.title)
        await scope.keep(action, origin)

    async def _on_chat(self, wish: Wish, intent: intents.Intent, state: Object) -> None:
        match intent:
            case intents.StartTurn():
                await self._start(wish, intent)
            case intents.Wait():
                await self._wait(wish, intent)
            case intents.Forget(pending_id):
                await self._forget(wish, pending_id)
            case intents.StopTurn(turn_id):
                await self._stop(wish, turn_id)
            case intents.Answered(response):
                await self._answer(wish, response)
            case intents.TruncateChat(after_turn):
                await self._truncate(wish, after_turn)
            case intents.ResumeTurn(turn_id):
                await self._resume(wish, turn_id)
            case _ if wish.action["type"] == "chat/queuedMessagesReordered":
                await self._reorder(wish)
            case _:
                await wish.chronicle.keep(Acted(wish.action, wish.origin))

    # -- messages ------------------------------------------------------------------------------

    async def _start(self, wish: Wish, intent: intents.StartTurn) -> None:
        def prepare(live: Live) -> None:
            waiting = _waiting(wish, intent.pending_id)
            if waiting is not None:
                # Its message is the one that is sent now.
                intake.cancel(live, waiting.turn)

        dispatched = _dispatched(
            wish, intent.prompt, turn=intent.turn_id, pending=intent.pending_id
        )
        accepted = await self._send(
            wish, intent.prompt, dispatched, "reject", intent.turn_id, prepare
        )
        if accepted.duplicate:
            raise Rejected("There was a turn of this id")

    async def _resume(self, wish: Wish, turn_id: str) -> None:
        dispatched = msgspec.structs.replace(wish.numbered, turn=turn_id)
        told: list[Accepted] = []
        send = Send(
            body=TurnBody(message="", resumes=self._turn(wish, turn_id), dispatched=dispatched),
            conversation=wish.conversation,
            client_message_id=_once(wish.origin),
        )
        await self._host.broker.send(wish.client.principal, send, told.append)
        if told[0].duplicate:
            raise Rejected("This was done already")

    async def _wait(self, wish: Wish, intent: intents.Wait) -> None:
        before = _waiting(wish, intent.pending_id)
        name = intent.pending_id
        if before is not None:
            # Sent again, or changed: it is the same message only if it says the same.
            if before.message == wish.action["message"]:
                raise Rejected("This message waits already")
            if before in wish.chronicle.ledger.details.steers:
                raise Rejected("The agent has this message already")
            name = f"{name}#{wish.origin.client_seq}"

        def prepare(live: Live) -> None:
            if before is not None:
                intake.cancel(live, before.turn)

        dispatched = _dispatched(wish, intent.prompt, pending=intent.pending_id, kind=intent.how)
        accepted = await self._send(
            wish, intent.prompt, dispatched, _ON_BUSY[intent.how], name, prepare
        )
        if accepted.duplicate:
            raise Rejected("This message was sent already")

    async def _send(
        self,
        wish: Wish,
        prompt: intents.Prompt,
        dispatched: Dispatched,
        on_busy: OnBusy,
        name: str,
        prepare: Callable[[Live], None],
    ) -> Accepted:
        told: list[Accepted] = []
        principal = wish.client.principal
        text = await with_transcripts(self._host, principal, prompt.text, prompt.transcripts)
        # A group's chats have an agent each; a model of that name is the agent's own choice.
        agent = self._host.services.agent_of(wish.chronicle.live.details.model)[0]
        model = None if prompt.model == agent else prompt.model
        send = Send(
            body=TurnBody(
                message=text,
                images=prompt.images,
                model=None if model is None else f"{agent}/{model}",
                dispatched=dispatched,
            ),
            conversation=wish.conversation,
            client_message_id=name,
            on_busy=on_busy,
        )
        await self._host.broker.send(principal, send, told.append, prepare)
        return told[0]

    async def _forget(self, wish: Wish, pending_id: str) -> None:
        waiting = _waiting(wish, pending_id)
        details = wish.chronicle.ledger.details
        if waiting is None or waiting not in details.queue:
            raise Rejected("The agent has this message already")
        gone = await self._host.broker.cancel(
            wish.client.principal, wish.conversation, waiting.turn, wish.numbered
        )
        if not gone:
            raise Rejected("No such message is waiting")

    async def _reorder(self, wish: Wish) -> None:
        turns = {entry.id: entry.turn for entry in wish.chronicle.ledger.details.queue}
        wanted = [turns[name] for name in wish.action["order"] if name in turns]
        await self._host.broker.reorder(
            wish.client.principal, wish.conversation, wanted, wish.numbered
        )

    # -- turns ---------------------------------------------------------------------------------

    async def _stop(self, wish: Wish, turn_id: str) -> None:
        stopped = await self._host.broker.stop(
            wish.client.principal, wish.conversation, self._turn(wish, turn_id), wish.numbered
        )
        if stopped is None:
            raise Rejected("This turn is not running")

    async def _truncate(self, wish: Wish, after_turn: str | None) -> None:
        truncate = Truncate(
            conversation=wish.conversation,
            after_turn=None if after_turn is None else self._turn(wish, after_turn),
            client_message_id=_once(wish.origin),
            by=wish.numbered,
        )
        cut = await self._host.broker.truncate(wish.client.principal, truncate)
        if cut.duplicate:
            raise Rejected("This was done already")

    async def _answer(self, wish: Wish, response: Response) -> None:
        await self._host.broker.respond(
            wish.client.principal, wish.conversation, response, wish.numbered
        )

    def _turn(self, wish: Wish, turn_id: str) -> TurnId:
        fold = wish.scope.fold
        assert fold is not None, "an action is carried out while its session is followed"
        return fold.chats[wish.conversation].names[turn_id]


def _once(origin: Origin) -> str | None:
    """A client's number is its own for one action; clients that count nothing say 0."""
    return f"{origin.client_id}#{origin.client_seq}" if origin.client_seq > 0 else None


def _waiting(wish: Wish, pending_id: str | None) -> Waits | None:
    details = wish.chronicle.ledger.details
    entries = (*details.queue, *details.steers)
    return next((entry for entry in entries if entry.id == pending_id), None)


def _dispatched(
    wish: Wish,
    prompt: intents.Prompt,
    *,
    turn: str | None = None,
    pending: str | None = None,
    kind: Literal["steering", "queued"] | None = None,
) -> Dispatched:
    """What goes with a message; the message itself, where its text does not say all of it."""
    message = wish.action["message"]
    is_plain = message == message_object(prompt.text, prompt.images)
    return msgspec.structs.replace(
        wish.numbered,
        turn=turn,
        pending=pending,
        kind=kind,
        message=None if is_plain else _ENCODER.encode(message).decode(),
    )


def _sentence(error: DispatchError) -> str:
    text = error.message
    return text[:1].upper() + text[1:]
