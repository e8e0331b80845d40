"""A session and its chats while they are followed: what is stored becomes actions, and states.

Neighbours: `projection` says turns, `aggregation` what a session says of its chats; `runtime.ahp`
feeds one of these what becomes durable, or what is read back of it, which gives the same.
Invariant: it is fed in the order of positions, states are made by `reduce` alone, and an action's
number follows from the position and its place there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from dispatch.core.events import (
    AnyEvent,
    RequestClosed,
    Truncated,
    TurnSealed,
    TurnStart,
    UserMessage,
)
from dispatch.core.identity import ConversationId, TurnId
from dispatch.protocol.ahp.aggregation import catalogue_change, inputs_of
from dispatch.protocol.ahp.envelopes import Change, Origin, server_seq
from dispatch.protocol.ahp.objects import changed, present
from dispatch.protocol.ahp.projection import Projection
from dispatch.protocol.ahp.records import Acted, Claimed, Record
from dispatch.protocol.ahp.reduce import channel_kind, reduce
from dispatch.protocol.ahp.running_fold import TEXT, RunningFold
from dispatch.protocol.codec import Object

_QUIET: Final = "chat/toolCallContentChanged"
"""What a session says nothing of, and there is much of; text apart."""

_BEGINS: Final = frozenset({"chat/turnStarted", "chat/turnResume"})


class UnknownTurn(Exception):
    """Something happened to a turn that has no name here: states have to be made anew."""


class TurnNames(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn is called, and whose wish it was; times in epoch ms.

    `queued_id` is the message that waited for it. `message` is it as it was written, if that says
    more than its text. `ended_at_ms` is the start while it runs.
    """

    turn_id: str
    started_at_ms: int
    ended_at_ms: int
    queued_id: str | None = None
    message: Object | None = None
    origin: Origin | None = None


class ChatFold:
    """One chat. `names` are those of turns that began, by what clients call them."""

    def __init__(self, state: Object, names: dict[str, TurnId]) -> None:
        """Continue a state between two turns."""
        self.text = RunningFold(state)
        self.names = names
        self.projection: Projection | None = None
        self.running: TurnNames | None = None
        self.claims: dict[str, Origin] = {}
        self.uri: str = state["resource"]

    def begin(self, turn: TurnId, names: TurnNames, event: UserMessage | TurnStart) -> None:
        """A turn runs from here; one that goes on with another has the name of that."""
        parts = None
        if isinstance(event, TurnStart) and event.resumes is not None:
            names = msgspec.structs.replace(names, turn_id=self.name_of(event.resumes))
            last = self.state["turns"][-1] if self.state["turns"] else {}
            if last.get("id") != names.turn_id:
                raise UnknownTurn("a turn goes on with one that is not the last")
            parts = last["responseParts"]
        self.running = names
        self.names[names.turn_id] = turn
        self.projection = Projection(
            names.turn_id, queued_id=names.queued_id, message=names.message, resumes=parts
        )

    def name_of(self, turn: str) -> str:
        """What a turn of the core is called; of one that was resumed, the newest has its name."""
        for name, other in self.names.items():
            if other == turn:
                return name
        raise UnknownTurn("something happened to a turn that is not held")

    @property
    def state(self) -> Object:
        """As it is now."""
        return self.text.state

    @state.setter
    def state(self, state: Object) -> None:
        self.text.state = state


class SessionFold:
    """See the module."""

    def __init__(self, uri: str, state: Object, chats: dict[ConversationId, ChatFold]) -> None:
        """Continue from states that agree with each other."""
        self.uri = uri
        self.state = state
        self.chats = chats
        self._position = 0
        self._index = 0

    def event(
        self,
        position: int,
        conversation: ConversationId,
        turn: TurnId,
        event: AnyEvent,
        names: TurnNames | None,
        at_ms: int,
    ) -> list[Change]:
        """What an event of a turn changes; `names` are the turn's, needed where it begins."""
        chat = self.chats.get(conversation)
        if chat is None:
            return []
        if isinstance(event, Truncated):
            return self._truncated(position, chat, turn, event)
        if isinstance(event, UserMessage | TurnStart) and chat.projection is None:
            assert names is not None, "a turn that begins has a name"
            chat.begin(turn, names, event)
        if chat.projection is None or chat.running is None:
            return []
        if isinstance(event, UserMessage | TurnStart):
            # As it is stored: what is read back later says the same.
            at_ms = chat.running.started_at_ms
        actions = chat.projection.project(event, at_ms)
        changes: list[Change] = []
        for action in actions:
            origin = self._origin(chat, turn, event, action)
            changes += self._chat(position, chat, action, origin)
        if isinstance(event, TurnSealed):
            chat.projection = chat.running = None
            chat.claims.clear()
        return changes

    def _truncated(
        self, position: int, chat: ChatFold, turn: TurnId, event: Truncated
    ) -> list[Change]:
        name = None if event.after_turn is None else chat.name_of(event.after_turn)
        action = present(type="chat/truncated", turnId=name)
        return self._chat(position, chat, action, chat.claims.pop(turn, None))

    def record(
        self, position: int, conversation: ConversationId | None, record: Record
    ) -> list[Change]:
        """What a record of the session (None) or of a chat changes."""
        if conversation is None:
            return [] if isinstance(record, Claimed) else self._acted(position, record)
        chat = self.chats.get(conversation)
        if chat is None:
            return []
        if isinstance(record, Claimed):
            chat.claims[record.subject] = record.origin
            return []
        return self._chat(position, chat, record.action, record.origin)

    def join(self, conversation: ConversationId, chat: ChatFold) -> None:
        """A chat is there, whose being added is a record of its own."""
        self.chats[conversation] = chat

    def _origin(
        self, chat: ChatFold, turn: TurnId, event: AnyEvent, action: Object
    ) -> Origin | None:
        kind = action["type"]
        if kind in _BEGINS and chat.running is not None:
            return chat.running.origin
        if isinstance(event, RequestClosed):
            return chat.claims.pop(event.request_id, None)
        return chat.claims.pop(turn, None) if kind == "chat/turnCancelled" else None

    def _acted(self, position: int, record: Acted) -> list[Change]:
        action = record.action
        changes = [self._step(position, self.uri, self.state, action, record.origin)]
        self.state = changes[-1].after
        if action["type"] == "session/chatRemoved":
            gone = action["chat"]
            self.chats = {key: chat for key, chat in self.chats.items() if chat.uri != gone}
            waiting = [one for one in self.state.get("inputNeeded", ()) if one["chat"] == gone]
            changes += self._session(position, map(_no_input, waiting))
        return changes

    def _chat(
        self, position: int, chat: ChatFold, action: Object, origin: Origin | None
    ) -> list[Change]:
        if action["type"] in TEXT:
            # No version looks at the states around a piece of text.
            chat.text.add(action)
            return [self._said(position, chat.uri, action)]
        change = self._step(position, chat.uri, chat.state, action, origin)
        chat.state = change.after
        if action["type"] == _QUIET or change.after is change.before:
            return [change]
        return [change, *self._session(position, self._due(chat))]

    def _due(self, chat: ChatFold) -> list[Object]:
        """What the session has to say so that it says what the chat does."""
        listed = next((one for one in self.state["chats"] if one["resource"] == chat.uri), None)
        if listed is None:
            return []
        update = catalogue_change(self.state, changed(chat.state, title=listed["title"]))
        before = {
            one["id"]: one for one in self.state.get("inputNeeded", ()) if one["chat"] == chat.uri
        }
        after = {one["id"]: one for one in inputs_of(chat.state)}
        gone = [one for name, one in before.items() if name not in after]
        new = [one for name, one in after.items() if before.get(name) != one]
        return [
            *([] if update is None else [update]),
            *map(_no_input, gone),
            *({"type": "session/inputNeededSet", "request": one} for one in new),
        ]

    def _session(self, position: int, actions: Iterable[Object]) -> list[Change]:
        changes = []
        for action in actions:
            change = self._step(position, self.uri, self.state, action, None)
            self.state = change.after
            changes.append(change)
        return changes

    def _said(self, position: int, channel: str, action: Object) -> Change:
        number = self._number(position)
        return Change(channel=channel, server_seq=number, action=action, before={}, after={})

    def _number(self, position: int) -> int:
        if position != self._position:
            self._position, self._index = position, 0
        self._index += 1
        return server_seq(position, self._index)

    def _step(
        self, position: int, channel: str, before: Object, action: Object, origin: Origin | None
    ) -> Change:
        assert channel_kind(action) in ("session", "chat"), "of this session or a chat of it"
        return Change(
            channel=channel,
            server_seq=self._number(position),
            action=action,
            before=before,
            after=reduce(before, action),
            origin=origin,
        )


def _no_input(request: Object) -> Object:
    return {"type": "session/inputNeededRemoved", "id": request["id"]}
