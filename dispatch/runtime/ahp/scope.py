"""One AHP session in memory: who writes it down, and, while it is followed, what it looks like.

Neighbours: `scopes` finds and makes these, `chronicle` writes down each of its chats, `reading`
builds what they look like, `protocol.ahp.session_fold` goes on from there, `hub` shows it.
Invariant: what is shown is durable and is shown in the order of the account's log; states are of
the journal's head, whenever one looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial
from typing import Final, Protocol

import structlog

from dispatch.core.events import decode_event
from dispatch.core.identity import RIGHTS_ALL, AccountId, ConversationId, Principal, TurnId
from dispatch.errors import Gone
from dispatch.protocol.ahp.aggregation import chat_summary
from dispatch.protocol.ahp.envelopes import Change, Origin
from dispatch.protocol.ahp.records import Acted, ChatDetails, Record, SessionDetails
from dispatch.protocol.ahp.session_fold import SessionFold, TurnNames
from dispatch.protocol.ahp.status import (
    with_flag,
)
from dispatch.protocol.codec import Object
from dispatch.runtime.ahp.chronicle import ChatChronicle, flag_of
from dispatch.runtime.ahp.ledger import Ledger
from dispatch.runtime.ahp.reading import (
    Copied,
    Cut,
    base_state,
    cut_of,
    new_chat,
    read_chat,
    session_state,
)
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.journal import Outbox
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft, PendingChange
from dispatch.storage.keys import ConversationKey

log = structlog.get_logger()

_NO_CONVERSATION: Final = ConversationKey(0)
# How a request's events begin: it is asked, or closed.
_REQUEST: Final = b'{"type":"request'


class Shows(Protocol):
    """Who fans actions out."""

    def publish(self, account: str, change: Change) -> None:
        """An action is durable: show it with the next flush."""
        ...

    def fail(self, account: str, channels: list[str]) -> None:
        """Who follows these cannot be told what comes."""
        ...

    def stir(self, account: str, session: str) -> None:
        """A session may look different in a list."""
        ...


class Scope:
    """See the module. `chats` are what is written of each chat, `chronicles` who writes it for the
    conversations that are in memory.
    """

    def __init__(
        self,
        conversations: Conversations,
        ledger: Ledger[SessionDetails],
        chats: dict[ConversationId, Ledger[ChatDetails]],
        shows: Shows,
    ) -> None:
        """Continue after what is stored; nobody follows it."""
        self.services = conversations.services
        self._conversations = conversations
        self._held: dict[ConversationId, Live] = {}
        self.ledger = ledger
        self.chats = chats
        self.chronicles: dict[ConversationId, ChatChronicle] = {}
        self.outbox = Outbox(self.services.journal, _NO_CONVERSATION, None)
        self.users = 0
        self.followers = 0
        self.fold: SessionFold | None = None
        self._shows = shows
        self._early: list[Callable[[SessionFold], list[Change]]] | None = None
        self._reading: asyncio.Event | None = None
        ledger.told = lambda position, record: self.told(position, None, record)

    @property
    def account(self) -> AccountId:
        """Whose it is."""
        return self.ledger.record.account

    @property
    def id(self) -> str:
        """The session's id in the core."""
        return self.ledger.record.id

    @property
    def uri(self) -> str:
        """Its channel."""
        return self.ledger.record.alias or ""

    @property
    def is_followed(self) -> bool:
        """Whether what happens is to be told to it."""
        return self.fold is not None or self._early is not None

    def is_visible_to(self, principal: Principal) -> bool:
        """Whether this person may know of it."""
        return not self.ledger.details.is_private or self.ledger.record.user == principal.user

    def conversation_of(self, chat: str) -> ConversationId | None:
        """The chat of a channel."""
        for conversation, ledger in self.chats.items():
            if ledger.details.uri == chat and not ledger.is_gone:
                return conversation
        return None

    def state_of(self, channel: str) -> Object | None:
        """What a channel of it looks like now; None where it is not one, or nobody follows."""
        if self.fold is None:
            return None
        if channel == self.uri:
            return None if self.ledger.is_gone else self.fold.state
        for chat in self.fold.chats.values():
            if chat.uri == channel:
                return chat.state
        return None

    # -- what becomes durable ------------------------------------------------------------------

    def heard(
        self, position: int, live: Live, turn: TurnId, payload: bytes, names: TurnNames | None
    ) -> None:
        """An event of a chat's turn."""
        if payload.startswith(_REQUEST):
            self._shows.stir(self.account, self.id)
        if not self.is_followed:
            return
        conversation, event = live.record.id, decode_event(payload)
        at_ms = self.services.clock.now_ms()
        self._show(lambda fold: fold.event(position, conversation, turn, event, names, at_ms))

    def told(self, position: int, conversation: ConversationId | None, record: Record) -> None:
        """A record of the session (None) or of a chat."""
        if conversation is None or (isinstance(record, Acted) and _is_listed(record)):
            self._shows.stir(self.account, self.id)
        if isinstance(record, Acted) and record.action["type"] == "session/chatAdded":
            self._added(position, record)
        elif self.is_followed:
            self._show(lambda fold: fold.record(position, conversation, record))

    def _added(self, position: int, record: Acted) -> None:
        conversation = self.conversation_of(record.action["summary"]["resource"])
        chronicle = None if conversation is None else self.chronicles.get(conversation)
        copied = None
        if chronicle is not None:
            copied, chronicle.copied = chronicle.copied, None
        if self.is_followed:
            self._show(partial(self._join, position, record, chronicle, copied))

    def _join(
        self,
        position: int,
        record: Acted,
        chronicle: ChatChronicle | None,
        copied: Copied | None,
        fold: SessionFold,
    ) -> list[Change]:
        if chronicle is not None and chronicle.live.record.id not in fold.chats:
            fold.join(chronicle.live.record.id, new_chat(chronicle.ledger.details, copied))
            self._hold(chronicle.live)
        return fold.record(position, None, record)

    def _hold(self, live: Live) -> None:
        if live.record.id not in self._held:
            self._held[live.record.id] = live
            self._conversations.hold(live)

    def _show(self, act: Callable[[SessionFold], list[Change]]) -> None:
        if self._early is not None:
            self._early.append(act)
        elif self.fold is not None:
            try:
                for change in act(self.fold):
                    self._shows.publish(self.account, change)
            except Exception:
                # It is called between a commit and what others are shown of it: what goes wrong
                # here must not reach them. Who follows comes back, to a fold that is made anew.
                log.exception("ahp.fold_failed", session=self.id)
                channels = [self.uri, *(chat.uri for chat in self.fold.chats.values())]
                self.fold = None
                self._shows.fail(self.account, channels)

    # -- following -----------------------------------------------------------------------------

    async def follow(self) -> None:
        """One more follower: have states from here on, and its conversations in memory.

        Whoever comes while they are read waits for the same.
        """
        self.followers += 1
        while self._reading is not None:
            await self._reading.wait()
        if self.fold is not None:
            return
        self._reading = asyncio.Event()
        try:
            await self._hold_all()
            self._early = []
            fold = await self._read()
            early, self._early = self._early, None
            self.fold = fold
            # Nobody follows yet to whom this could be shown.
            for act in early:
                act(fold)
        finally:
            reading, self._reading, self._early = self._reading, None, None
            reading.set()

    def unfollow(self) -> None:
        """One follower less."""
        self.followers -= 1
        if self.followers == 0:
            self.fold = None
            held, self._held = self._held, {}
            for live in held.values():
                self._conversations.release(live)

    async def _hold_all(self) -> None:
        owner = Principal(self.account, self.ledger.record.user, RIGHTS_ALL)
        for name in self.ledger.details.chats:
            try:
                async with self._conversations.using(owner, name) as live:
                    self._hold(live)
            except Gone:
                continue

    async def _read(self) -> SessionFold:
        # In one step: all of these are of the same moment.
        cuts = {name: self.cut(name) for name in self.chronicles}
        details = self.ledger.details
        limits, chats = self.services.limits, {}
        for name in details.chats:
            if name in cuts:
                chats[name] = await read_chat(
                    self.services.store,
                    cuts[name],
                    turns_max=limits.ahp_turns_max,
                    events_max=limits.ahp_events_max,
                )
        listed = {name: cuts[name].details.listed_title for name in chats}
        return SessionFold(self.uri, session_state(details, chats, listed), chats)

    def cut(self, name: ConversationId) -> Cut:
        """A chat as it is shown now; its conversation is in memory."""
        chronicle = self.chronicles[name]
        return cut_of(chronicle.live, self.chats[name].details, chronicle.names)

    # -- what its chats write down -------------------------------------------------------------

    def chat_added(self, draft: Draft, chronicle: ChatChronicle) -> None:
        """A chat is written for the first time."""
        name = chronicle.live.record.id
        details = self.ledger.in_draft(draft)
        if name in details.chats:
            return
        self.ledger.change(draft, chats=(*details.chats, name))
        chat = chronicle.ledger.in_draft(draft)
        state = base_state(chat, [])
        self.ledger.tell(
            draft, Acted({"type": "session/chatAdded", "summary": chat_summary(state)})
        )

    def chat_renamed(self, draft: Draft, chronicle: ChatChronicle, title: str) -> None:
        """A chat has another title; a session without a given title is called as its first."""
        uri = chronicle.ledger.details.uri
        update = {"type": "session/chatUpdated", "chat": uri, "changes": {"title": title}}
        self.ledger.tell(draft, Acted(update))
        details = self.ledger.in_draft(draft)
        if not details.is_title_given and details.chats[:1] == (chronicle.live.record.id,):
            self.ledger.change(draft, title=title)
            self.ledger.tell(draft, Acted({"type": "session/titleChanged", "title": title}))

    def chat_removed(self, draft: Draft, chronicle: ChatChronicle) -> None:
        """A chat is gone; the session too, with its last one."""
        details, name = self.ledger.in_draft(draft), chronicle.live.record.id
        left = tuple(other for other in details.chats if other != name)
        uri = chronicle.ledger.details.uri
        default = None if details.default_chat == uri else details.default_chat
        self.ledger.change(draft, chats=left, default_chat=default)
        self.ledger.tell(draft, Acted({"type": "session/chatRemoved", "chat": uri}))
        if not left:
            self.ledger.bury(draft)

    def asked(self, draft: Draft) -> None:
        """An agent asks somebody in one of its chats."""
        if not self.ledger.is_gone and not self.ledger.in_draft(draft).was_asked:
            self.ledger.change(draft, was_asked=True)

    async def keep(self, action: Object, origin: Origin | None) -> None:
        """An action of the session's channel, durable when it returns; raises what refused it."""
        await self.outbox.commit(lambda draft: self._tell(draft, action, origin))

    def forget_clients(self, clients: Collection[str]) -> None:
        """These take part no more."""

        def write(draft: Draft, _offset: int) -> None:
            for client in clients:
                action = {"type": "session/activeClientRemoved", "clientId": client}
                self._tell(draft, action, None)

        self.outbox.change(PendingChange(write))

    def _tell(self, draft: Draft, action: Object, origin: Origin | None) -> None:
        if not self.ledger.is_gone:
            self._keep(draft, action)
            self.ledger.tell(draft, Acted(action, origin))

    def _keep(self, draft: Draft, action: Object) -> None:
        details, change = self.ledger.in_draft(draft), self.ledger.change
        match action["type"]:
            case "session/titleChanged":
                change(draft, title=action["title"], is_title_given=True)
            case "session/defaultChatChanged":
                change(draft, default_chat=action.get("defaultChat"))
            case "session/isReadChanged" | "session/isArchivedChanged" as kind:
                change(draft, flags=with_flag(details.flags, *flag_of(kind, action)))
            case "session/activeClientSet":
                client = action["activeClient"]
                others = _other_clients(details, client["clientId"])
                change(draft, active_clients=(*others, client))
            case "session/activeClientRemoved":
                change(draft, active_clients=_other_clients(details, action["clientId"]))
            case _:
                pass


def _is_listed(record: Acted) -> bool:
    return record.action["type"] in ("chat/isReadChanged", "chat/isArchivedChanged")


def _other_clients(details: SessionDetails, client: str) -> tuple[Object, ...]:
    return tuple(other for other in details.active_clients if other["clientId"] != client)
