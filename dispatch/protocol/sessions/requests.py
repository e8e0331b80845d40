"""What clients of chat sessions say: bodies, queries and WebSocket frames, read once.

Neighbours: `codec` reads the JSON, the routes and the WebSocket read its fields with these; the
package has the errors, `frames` is the other way. Source: `protocol/chat-sessions.md`.
Invariant: after this nothing is validated again; a body with a key that nobody knows changes
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, cast, get_args

import msgspec

from dispatch.errors import PeerError, UnknownType
from dispatch.protocol.codec import Object
from dispatch.protocol.sessions import ContentRequired, InvalidQuery, InvalidRequest

StatusWish = Literal["active", "archived", "all"]

TITLE_CHARACTERS_MAX: Final = 200
ID_CHARACTERS_MAX: Final = 128
LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 200
WAIT_SECONDS_MAX: Final = 60.0
UNKNOWN_EVENT_ID: Final = -1
"""Before every log's beginning: nothing can be replayed from there."""

_INTEGER_END: Final = 2**53
# What is wrong is told back, but not at the length of what was sent.
_ECHO_CHARACTERS_MAX: Final = 80
_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?", re.ASCII)
_CURSOR: Final = re.compile(r"([0-9]{1,15})\.([0-9]{1,18})", re.ASCII)
_BOOLEANS: Final = {"1": True, "true": True, "0": False, "false": False}
_ALIASES: Final = {
    "agentKey": "agent_key",
    "beforeSeq": "before_seq",
    "clientMessageId": "client_message_id",
    "deviceId": "device_id",
    "lastEventId": "last_event_id",
    "taskId": "task_id",
    "text": "content",
    "upToSeq": "up_to_seq",
    "workspaceId": "workspace_id",
}
_CAMEL: Final = {name: alias for alias, name in _ALIASES.items()}


class Create(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/chat`; an empty title is for the automatic one to fill."""

    agent_key: str
    title: str = ""
    workspace_id: str | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/chat/:id/messages`; the content is kept as it is."""

    content: str
    client_message_id: str | None = None


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """`PATCH /v1/chat/:id`."""

    title: str


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/chat/:id/read`; None reads up to the newest."""

    up_to_seq: int | None = None


class TypingNote(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/chat/:id/typing`."""

    typing: bool
    device_id: str | None = None


class Cancel(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/chat/:id/cancel`; None is for the running task, else the oldest queued."""

    task_id: str | None = None


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/chat`; `before` is (active_at_ms, key) of the last session of the page before."""

    status: StatusWish = "active"
    limit: int = LIMIT_DEFAULT
    before: tuple[int, int] | None = None


class DetailQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/chat/:id`."""

    limit: int = LIMIT_DEFAULT
    before_seq: int | None = None


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/chat/events` and `GET /v1/chat/:id/events`; None is live from now.

    `UNKNOWN_EVENT_ID` stands for what is no id.
    """

    last_event_id: int | None = None
    deltas: bool = False


class SubscribeChats(msgspec.Struct, frozen=True, kw_only=True):
    """`chats.subscribe` on a WebSocket."""

    last_event_id: int | None = None
    deltas: bool = False


class UnsubscribeChats(msgspec.Struct, frozen=True, kw_only=True):
    """`chats.unsubscribe` on a WebSocket."""


class _Body:
    """A body's fields under their own names, and everything that is wrong with it.

    A null is as good as a field that is not there.
    """

    def __init__(self, fields: Object, *names: str) -> None:
        self._values: Object = {}
        self._issues: list[str] = []
        for key, value in fields.items():
            name = _ALIASES.get(key, key)
            if name not in names:
                self._issues.append(f"{key[:_ECHO_CHARACTERS_MAX]}: unknown key")
            elif name in self._values:
                self._issues.append(f"{name}: given twice")
            else:
                self._values[name] = value

    def text(self, name: str, characters_max: int | None = None) -> str | None:
        """A string, blank ones too."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self._issues.append(f"{name}: must be a string")
            return None
        if characters_max is not None and len(value) > characters_max:
            self._issues.append(f"{name}: must be at most {characters_max} characters")
        return value

    def word(self, name: str, characters_max: int = ID_CHARACTERS_MAX) -> str | None:
        """A string that says something."""
        value = self.text(name, characters_max)
        if value is not None and not value.strip():
            self._issues.append(f"{name}: must not be blank")
        return value

    def needed(self, name: str, characters_max: int = ID_CHARACTERS_MAX) -> str:
        """A string that has to be there and to say something."""
        if self._values.get(name) is None:
            self._issues.append(f"{name}: is required")
        return self.word(name, characters_max) or ""

    def count(self, name: str) -> int | None:
        """A whole number from 0 on."""
        value = self._values.get(name)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < _INTEGER_END:
            self._issues.append(f"{name}: must be a non-negative integer")
            return None
        return value

    def flag(self, name: str) -> bool:
        """A boolean that has to be there."""
        value = self._values.get(name)
        if not isinstance(value, bool):
            self._issues.append(f"{name}: must be true or false")
        return value is True

    def check(self) -> None:
        """Raise `InvalidRequest` if anything is wrong."""
        if self._issues:
            raise InvalidRequest(*self._issues)


def read_create(fields: Object) -> Create:
    """A new session; raises `InvalidRequest`."""
    body = _Body(fields, "agent_key", "title", "workspace_id")
    create = Create(
        agent_key=body.needed("agent_key"),
        title=(body.text("title", TITLE_CHARACTERS_MAX) or "").strip(),
        workspace_id=body.word("workspace_id", TITLE_CHARACTERS_MAX),
    )
    body.check()
    return create


def read_message(fields: Object) -> Message:
    """A message; raises `InvalidRequest`, or `ContentRequired` where only the text is missing."""
    body = _Body(fields, "content", "client_message_id")
    content = body.text("content")
    client_message_id = body.word("client_message_id")
    body.check()
    if content is None or not content.strip():
        raise ContentRequired
    return Message(content=content, client_message_id=client_message_id)


def read_patch(fields: Object) -> Patch:
    """A new title; raises `InvalidRequest`."""
    body = _Body(fields, "title")
    title = body.needed("title", TITLE_CHARACTERS_MAX)
    body.check()
    return Patch(title=title.strip())


def read_read(fields: Object) -> Read:
    """How far somebody read; raises `InvalidRequest`."""
    body = _Body(fields, "up_to_seq")
    up_to_seq = body.count("up_to_seq")
    body.check()
    return Read(up_to_seq=up_to_seq)


def read_typing(fields: Object) -> TypingNote:
    """That somebody types; raises `InvalidRequest`."""
    body = _Body(fields, "typing", "device_id")
    note = TypingNote(typing=body.flag("typing"), device_id=body.word("device_id"))
    body.check()
    return note


def read_cancel(fields: Object) -> Cancel:
    """What to cancel; raises `InvalidRequest`."""
    body = _Body(fields, "task_id")
    task_id = body.word("task_id")
    body.check()
    return Cancel(task_id=task_id)


def read_nothing(fields: Object) -> None:
    """A body that says nothing, of restore and delete; raises `InvalidRequest`."""
    _Body(fields).check()


def read_list_query(query: Mapping[str, str]) -> ListQuery:
    """Which sessions; raises `InvalidQuery`. Fields that nobody knows pass, as in every query."""
    status = query.get("status", "active")
    if status not in get_args(StatusWish):
        raise InvalidQuery("status: must be one of " + ", ".join(get_args(StatusWish)))
    return ListQuery(
        status=cast("StatusWish", status), limit=_limit(query), before=_cursor(query.get("cursor"))
    )


def read_detail_query(query: Mapping[str, str]) -> DetailQuery:
    """Which messages; raises `InvalidQuery`."""
    return DetailQuery(limit=_limit(query), before_seq=_number(query, "before_seq"))


def read_wait(query: Mapping[str, str]) -> float | None:
    """How many seconds to wait for the answer, or None not to; raises `InvalidQuery`."""
    text = query.get("wait")
    if text is None:
        return None
    if not _SECONDS.fullmatch(text):
        raise InvalidQuery("wait: must be a number of seconds")
    return min(float(text), WAIT_SECONDS_MAX)


def read_purge(query: Mapping[str, str]) -> bool:
    """Whether a delete is for ever; raises `InvalidQuery`."""
    return _flag(query, "purge")


def read_events_query(query: Mapping[str, str], last_event_id: str | None = None) -> EventsQuery:
    """From where to stream; `last_event_id` is the header, which beats the query."""
    asked = last_event_id or _given(query, "last_event_id") or None
    return EventsQuery(
        last_event_id=None if asked is None else event_id(asked), deltas=_flag(query, "deltas")
    )


def read_frame(frame: Object) -> SubscribeChats | UnsubscribeChats:
    """A WebSocket frame of this dialect; raises `PeerError`.

    Fields that nobody knows pass, as in every frame.
    """
    match frame.get("type"):
        case "chats.subscribe":
            asked = frame.get("lastEventId", frame.get("last_event_id"))
            deltas = frame.get("deltas")
            if not isinstance(deltas, bool | None):
                raise PeerError("chats.subscribe: `deltas` must be true or false")
            return SubscribeChats(
                last_event_id=None if asked is None or asked == "" else event_id(asked),
                deltas=deltas is True,
            )
        case "chats.unsubscribe":
            return UnsubscribeChats()
        case _:
            raise UnknownType("Unknown message type: expected chats.subscribe or chats.unsubscribe")


def event_id(value: object) -> int:
    """An event's id as a number or in digits.

    Anything else is `UNKNOWN_EVENT_ID`, which is answered by `resync_required`: an event source
    that were refused would never come back.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    if type(value) is int and 0 <= value < 10**18:
        return value
    return UNKNOWN_EVENT_ID


def list_cursor(active_at_ms: int, key: int) -> str:
    """Where the next page of a list begins; what it is made of is nobody's business."""
    return f"{active_at_ms}.{key}"


def _cursor(text: str | None) -> tuple[int, int] | None:
    if text is None or text == "":
        return None
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise InvalidQuery("cursor: is not one of ours")
    return int(match[1]), int(match[2])


def _limit(query: Mapping[str, str]) -> int:
    limit = _number(query, "limit")
    return LIMIT_DEFAULT if limit is None else min(limit, LIMIT_MAX)


def _number(query: Mapping[str, str], name: str) -> int | None:
    """A whole number from 1 on."""
    text = _given(query, name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text) or int(text) < 1:
        raise InvalidQuery(f"{name}: must be a positive integer")
    return int(text)


def _flag(query: Mapping[str, str], name: str) -> bool:
    flag = _BOOLEANS.get(query.get(name, "0"))
    if flag is None:
        raise InvalidQuery(f"{name}: must be 1 or 0")
    return flag


def _given(query: Mapping[str, str], name: str) -> str | None:
    """A field of the query, under its own name or its alias."""
    text = query.get(name)
    return text if text is not None else query.get(_CAMEL.get(name, name))
