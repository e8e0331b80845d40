"""What clients ask of groups, read once: bodies, queries and frames become commands.

Neighbours: `codec` reads the JSON, `server` carries commands out, `refusals` has the errors.
Source: `protocol/groups.md`.
Invariant: whatever was sent becomes a command or an error whose code is in the contract; unknown
fields pass, an optional field that is null is absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, Literal

import msgspec

from dispatch.core.identity import ID_PATTERN, ConversationId
from dispatch.errors import PeerError, UnknownType
from dispatch.protocol.codec import CONTAINERS_MAX, Object, read_object
from dispatch.protocol.groups.refusals import (
    MEMBERS_MAX,
    InvalidBody,
    InvalidCursor,
    InvalidMembers,
    InvalidRequest,
    LastMember,
    NothingToPatch,
    Refusal,
    TextRequired,
)
from dispatch.protocol.groups.refusals import ClientMessageConflict as ClientMessageConflict
from dispatch.protocol.groups.refusals import InvalidTargets as InvalidTargets

NAME_CHARACTERS_MAX: Final = 128
TITLE_CHARACTERS_MAX: Final = 200
PAGE_ROWS_MAX: Final = 1000
_NUMBER_MAX: Final = 2**63 - 1
_DIGITS: Final = re.compile(r"[0-9]{1,40}")
_YES: Final = frozenset({"1", "true"})


class GroupSend(msgspec.Struct, frozen=True, kw_only=True):
    """A message to all members, or to `targets` (distinct, never empty)."""

    text: str
    client_message_id: str | None = None
    targets: tuple[str, ...] | None = None
    on_busy: Literal["queue", "reject"] = "queue"


class GroupStop(msgspec.Struct, frozen=True, kw_only=True):
    """End every run that all given fields match; `run_id` may be a `clientMessageId`."""

    familiar: str | None = None
    reply_to: int | None = None
    run_id: str | None = None


class GroupCreate(msgspec.Struct, frozen=True, kw_only=True):
    """A new group; members distinct, in order, at least one."""

    title: str | None = None
    members: tuple[str, ...]


class GroupAdopt(msgspec.Struct, frozen=True, kw_only=True):
    """A group of conversations that exist: (agent, conversation) in member order."""

    title: str | None = None
    sessions: tuple[tuple[str, ConversationId], ...]
    client_group_id: str | None = None


class GroupPatch(msgspec.Struct, frozen=True, kw_only=True):
    """A change: a title, and either members to add and remove or all of them in order."""

    title: str | None = None
    members: tuple[str, ...] | None = None
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


class GroupPage(msgspec.Struct, frozen=True, kw_only=True):
    """Which events to show beside a group; `limit` None means all."""

    after_seq: int = 0
    limit: int | None = None
    resync: bool = False


class GroupDelete(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of the conversations; None: the provisioned go, the adopted stay."""

    sessions: Literal["delete", "keep"] | None = None


class GroupFrame(msgspec.Struct, frozen=True, kw_only=True):
    """A WebSocket frame about one group; `command` is what a body of the same verb would be."""

    verb: Literal["subscribe", "unsubscribe", "send", "stop", "read"]
    group: str
    cursor: int | None = None
    up_to_seq: int = 0
    command: GroupSend | GroupStop | None = None


# ---------------------------------------------------------------- HTTP


def read_body(data: bytes, *, depth_max: int, containers_max: int = CONTAINERS_MAX) -> Object:
    """A body's JSON object; raises `InvalidBody`."""
    try:
        return read_object(data, depth_max=depth_max, containers_max=containers_max)
    except PeerError:
        raise InvalidBody from None


def read_send(body: Object) -> GroupSend:
    """The body of send; `runId` is an alias of `clientMessageId`."""
    text = body.get("text")
    if not isinstance(text, str) or not text.strip():
        raise TextRequired
    own, alias = _id(body, "clientMessageId"), _id(body, "runId")
    if own is not None and alias is not None and own != alias:
        raise InvalidRequest("clientMessageId and its alias runId differ")
    on_busy = body.get("onBusy")
    if on_busy not in (None, "queue", "reject"):
        raise InvalidRequest("onBusy must be queue or reject")
    targets = body.get("targetFamiliarIds")
    return GroupSend(
        text=text,
        client_message_id=alias if own is None else own,
        targets=None if targets is None else _names(targets, InvalidTargets),
        on_busy="reject" if on_busy == "reject" else "queue",
    )


def read_stop(body: Object) -> GroupStop:
    """The body of stop; every field may be absent."""
    familiar = body.get("familiarId")
    if familiar is not None and not _is_name(familiar):
        raise InvalidRequest("familiarId must be the name of an agent")
    return GroupStop(
        familiar=familiar,
        reply_to=_number(body, "replyTo", least=1),
        run_id=_id(body, "runId"),
    )


def read_create(body: Object) -> GroupCreate:
    """The body of create; a blank title is none."""
    return GroupCreate(
        title=_title(body), members=_names(body.get("memberFamiliarIds"), InvalidMembers)
    )


def read_adopt(body: Object) -> GroupAdopt:
    """The body of adopt; without `memberFamiliarIds` members are in the order of their names."""
    sessions = body.get("sessionIds")
    if not isinstance(sessions, dict) or not 1 <= len(sessions) <= MEMBERS_MAX:
        raise InvalidMembers(f"sessionIds must name 1 to {MEMBERS_MAX} agents")
    if not all(_is_name(agent) for agent in sessions):
        raise InvalidMembers("the keys of sessionIds must be names of agents")
    if not all(_is_id(conversation) for conversation in sessions.values()):
        raise InvalidRequest("the values of sessionIds must be session ids")
    if len(set(sessions.values())) < len(sessions):
        raise InvalidMembers("sessionIds names a session twice")
    listed = body.get("memberFamiliarIds")
    members = tuple(sorted(sessions)) if listed is None else _names(listed, InvalidMembers)
    if set(members) != sessions.keys():
        raise InvalidMembers("memberFamiliarIds and sessionIds name different agents")
    return GroupAdopt(
        title=_title(body),
        sessions=tuple((agent, ConversationId(sessions[agent])) for agent in members),
        client_group_id=_id(body, "clientGroupId"),
    )


def read_patch(body: Object) -> GroupPatch:
    """The body of a change."""
    title, listed = _title(body), body.get("memberFamiliarIds")
    add = _changes(body, "addMemberFamiliarIds")
    remove = _changes(body, "removeMemberFamiliarIds")
    if listed is not None and (add or remove):
        raise InvalidMembers("memberFamiliarIds does not go with adding or removing")
    if listed == []:
        raise LastMember
    if set(add) & set(remove):
        raise InvalidMembers("an agent is both added and removed")
    if title is None and listed is None and not add and not remove:
        raise NothingToPatch
    members = None if listed is None else _names(listed, InvalidMembers)
    return GroupPatch(title=title, members=members, add=add, remove=remove)


def read_page(query: Mapping[str, str]) -> GroupPage:
    """The query of GET; a limit above the maximum is the maximum."""
    limit = _digits(query.get("limit"), "limit")
    if limit == 0:
        raise InvalidRequest("limit must be a positive integer")
    return GroupPage(
        after_seq=_digits(query.get("afterSeq"), "afterSeq") or 0,
        limit=None if limit is None else min(limit, PAGE_ROWS_MAX),
        resync=query.get("resync") in _YES,
    )


def read_delete(query: Mapping[str, str]) -> GroupDelete:
    """The query of DELETE."""
    match query.get("sessions"):
        case None:
            return GroupDelete()
        case "delete":
            return GroupDelete(sessions="delete")
        case "keep":
            return GroupDelete(sessions="keep")
        case _:
            raise InvalidRequest("sessions must be delete or keep")


def read_cursor(last_event_id: str | None, cursor: str | None) -> int | None:
    """Where a stream goes on: the header beats the query; None is live. An empty header is none."""
    return _cursor(last_event_id or cursor)


# ---------------------------------------------------------------- WebSocket


def read_frame(frame: Object) -> GroupFrame:
    """A `group.*` frame; raises `UnknownType` by name, or what the body of the verb would."""
    kind = frame.get("type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise UnknownType(f"Unknown message type: {str(kind)[:80]}")
    group = frame.get("groupId")
    if not isinstance(group, str) or not _is_id(group):
        raise InvalidRequest("groupId must be a group id")
    return reader(group, frame)


def _subscribe(group: str, frame: Object) -> GroupFrame:
    return GroupFrame(verb="subscribe", group=group, cursor=_cursor(frame.get("cursor")))


def _read(group: str, frame: Object) -> GroupFrame:
    seq = _number(frame, "upToSeq", least=0)
    if seq is None:
        raise InvalidRequest("upToSeq must be an integer")
    return GroupFrame(verb="read", group=group, up_to_seq=seq)


_READERS: Final[dict[str, Callable[[str, Object], GroupFrame]]] = {
    "group.subscribe": _subscribe,
    "group.unsubscribe": lambda group, _: GroupFrame(verb="unsubscribe", group=group),
    "group.send": lambda group, f: GroupFrame(verb="send", group=group, command=read_send(f)),
    "group.stop": lambda group, f: GroupFrame(verb="stop", group=group, command=read_stop(f)),
    "group.read": _read,
}
FRAME_TYPES: Final = frozenset(_READERS)


# ---------------------------------------------------------------- fields


def _is_id(value: object) -> bool:
    return isinstance(value, str) and ID_PATTERN.fullmatch(value) is not None


def _is_name(value: object) -> bool:
    # Agents' names may have spaces: the settings say what they may be, not the pattern of ids.
    return isinstance(value, str) and 0 < len(value) <= NAME_CHARACTERS_MAX


def _id(fields: Object, name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not _is_id(value):
        raise InvalidRequest(f"{name}: expected 1 to 128 of A-Z a-z 0-9 . _ : -")
    return str(value)


def _names(value: object, error: type[Refusal]) -> tuple[str, ...]:
    """Distinct names in the order given, at least one."""
    if not isinstance(value, list) or not 1 <= len(value) <= MEMBERS_MAX:
        raise error
    if not all(_is_name(name) for name in value):
        raise error
    return tuple(dict.fromkeys(value))


def _changes(body: Object, name: str) -> tuple[str, ...]:
    value = body.get(name)
    return () if value is None or value == [] else _names(value, InvalidMembers)


def _title(body: Object) -> str | None:
    title = body.get("title")
    if title is None:
        return None
    if not isinstance(title, str) or len(title) > TITLE_CHARACTERS_MAX:
        raise InvalidRequest(f"title must be a string of at most {TITLE_CHARACTERS_MAX} characters")
    return title if title.strip() else None


def _number(fields: Object, name: str, *, least: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is not int or not least <= value < 2**53:
        raise InvalidRequest(f"{name} must be an integer from {least}")
    return value


def _digits(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    if not _DIGITS.fullmatch(text):
        raise InvalidRequest(f"{name} must be a non-negative integer")
    return min(int(text), _NUMBER_MAX)


def _cursor(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is int and value >= 0:
        return min(value, _NUMBER_MAX)
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return min(int(value), _NUMBER_MAX)
    raise InvalidCursor
