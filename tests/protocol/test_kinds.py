"""The types of what is published, held to what writes frames and to what reads them."""

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given

from dispatch.agents.port import AgentInfo
from dispatch.core.commands import Accepted
from dispatch.core.conversation import Waiting
from dispatch.core.events import AnyEvent, Request, RequestClosed, Truncated, encode_event
from dispatch.core.group import Group, GroupView, Member
from dispatch.core.identity import AccountId, ConversationId, TurnId
from dispatch.core.notices import (
    AnyConversationNotice,
    AnyNotice,
    DeletedNotice,
    GroupChangedNotice,
    GroupDeletedNotice,
    Opened,
    ReadNotice,
    StatusNotice,
    TitleNotice,
)
from dispatch.core.replay import Entry
from dispatch.errors import Busy, PeerError, RateLimited
from dispatch.protocol.chat import requests as native_requests
from dispatch.protocol.chat import shown, wishes
from dispatch.protocol.chat.frames import ChatDialect, chunks_frame, event_line, queue_surface
from dispatch.protocol.chat.hello import ToldLimits
from dispatch.protocol.groups import requests as group_requests
from dispatch.protocol.groups import socket
from dispatch.protocol.groups.frames import ws_notice
from dispatch.protocol.sessions import kinds as session_kinds
from dispatch.protocol.sessions import requests as session_requests
from dispatch.runtime.roster import Standing
from dispatch.settings import Limits
from tests.properties.strategies import events
from tests.protocol.published import check, saw_frame, saw_line

C, T = ConversationId("c1"), TurnId("t1")
OLD = ChatDialect("g1", is_v1=False, delta_bytes_max=1000)
V1 = ChatDialect("g1", is_v1=True, delta_bytes_max=1000)
OF_ACCOUNT: dict[str, Any] = {"account": AccountId("a"), "conversation": C}
NOTICES: tuple[AnyConversationNotice, ...] = (
    Opened(**OF_ACCOUNT, workspace="w"),
    StatusNotice(**OF_ACCOUNT, workspace="w", status="active"),
    TitleNotice(**OF_ACCOUNT, title="t"),
    DeletedNotice(**OF_ACCOUNT),
    ReadNotice(**OF_ACCOUNT, last_read_seq=1, unread=2),
)
BAND = GroupView(
    id="g-1",
    group=Group(members=(Member("ann", C),), title="T"),
    created_at_ms=0,
    updated_at_ms=1,
    last_seq=3,
)
GROUP_NOTICES: tuple[AnyNotice, ...] = (
    GroupChangedNotice(account=AccountId("a"), view=BAND),
    GroupDeletedNotice(account=AccountId("a"), group="g-1"),
)


def check_all(dialect: ChatDialect, frames: list[bytes]) -> None:
    for frame in frames:
        name = "NativeServerFrame" if dialect.is_v1 else "Part1ServerFrame"
        check(name, json.loads(frame))


def plain(value: msgspec.Struct) -> Any:
    """As it comes out of JSON."""
    return json.loads(msgspec.json.encode(value))


@given(events)
def test_every_event_is_shown_as_published(event: AnyEvent) -> None:
    entry = Entry(1, T, encode_event(event))
    for dialect in (OLD, V1):
        check_all(dialect, dialect.entries(C, [entry]))
    line = event_line(C, entry)
    if line is not None:
        saw_line(json.loads(line))


def test_every_kind_of_event_is_published() -> None:
    published = {kind.__struct_config__.tag for kind in shown.SHOWN_EVENTS}
    # A request is a frame of its own; nothing says `status`.
    stored = {kind.__struct_config__.tag for kind in get_args(AnyEvent)}
    frames = {kind.__struct_config__.tag for kind in (Request, RequestClosed, Truncated)}
    assert published == (stored - frames) | {"status"}


@pytest.mark.parametrize("notice", NOTICES, ids=lambda notice: type(notice).__name__)
def test_every_notice_is_shown_as_published(notice: AnyConversationNotice) -> None:
    assert {type(one) for one in NOTICES} == set(get_args(AnyConversationNotice))
    for dialect in (OLD, V1):
        frame = dialect.notice(notice)
        check_all(dialect, [] if frame is None else [frame])


@pytest.mark.parametrize("notice", GROUP_NOTICES, ids=lambda notice: type(notice).__name__)
def test_every_notice_of_a_group_is_shown_as_published(notice: AnyNotice) -> None:
    assert {type(one) for one in (*NOTICES, *GROUP_NOTICES)} == set(get_args(AnyNotice))
    frame = ws_notice(notice)
    assert frame is not None
    saw_frame(json.loads(frame))
    for dialect in (OLD, V1):
        assert dialect.notice(notice) is None


@pytest.mark.parametrize("notice", NOTICES, ids=lambda notice: type(notice).__name__)
def test_groups_have_no_word_for_a_conversation(notice: AnyNotice) -> None:
    assert ws_notice(notice) is None


@pytest.mark.parametrize("place", ["started", "queued", "steered"])
def test_every_acknowledgement_is_as_published(place: Any) -> None:
    for duplicate in (False, True):
        told = Accepted(conversation=C, turn=T, place=place, offset=7, duplicate=duplicate)
        check_all(V1, [V1.accepted(told, "m-1", "r"), V1.accepted(told, None, None)])


def test_every_refusal_is_as_published() -> None:
    for dialect in (OLD, V1):
        refusals = [Busy("busy"), RateLimited("slowly", retry_after_ms=3), PeerError("no")]
        check_all(dialect, [dialect.error(one, C, 7) for one in refusals])
        check_all(dialect, [dialect.error(one, ref="r", kind="error") for one in refusals])


def test_the_queue_and_history_are_as_published() -> None:
    waiting = [Waiting(turn=T, ordinal=1, text="x", queued_at_ms=5)]
    for is_update in (False, True):
        check_all(OLD, [queue_surface(C, waiting, is_update=is_update)])
        check_all(V1, [queue_surface(C, waiting, is_update=is_update)])
    chunk = b'{"seq":1,"role":"user","chunk":{"type":"text","text":"x"}}'
    saw_frame(json.loads(chunks_frame("chat.history", C, [chunk], 1, more=True)))


def test_an_agent_is_as_published() -> None:
    told = AgentInfo("a", "echo", models=("m",), steer=True, turns_max=2, problem="gone")
    check("ToldAgent", plain(told))
    check("ToldAgent", plain(AgentInfo("a", "echo")))
    standing = Standing("a", "echo", 1, 2, ("m",), True, True, 3, "gone")
    check("AgentStanding", plain(standing))


def test_the_limits_that_are_told_are_limits() -> None:
    limits = msgspec.structs.asdict(Limits())
    told = {field.name for field in msgspec.structs.fields(ToldLimits)}
    assert told <= limits.keys()


# -- what clients send -------------------------------------------------------------------------

SENT: dict[str, dict[str, Any]] = {
    "chat.send": {"message": "x"},
    "chat.queue": {"conversationId": "c1", "text": "x"},
    "chat.queue.cancel": {"conversationId": "c1", "messageId": "t1"},
    "chat.queue.reorder": {"conversationId": "c1", "messageIds": ["t2", "t1"]},
    "chat.subscribe": {"conversationId": "c1", "after": "g1:7"},
    "chat.unsubscribe": {"conversationId": "c1"},
    "chat.stop": {"conversationId": "c1", "turnId": None},
    "chat.truncate": {"conversationId": "c1", "afterTurn": None, "clientMessageId": "m-1"},
    "chat.resume": {"conversationId": "c1", "turnId": "t1"},
    "chat.fork": {"conversationId": "c1", "turnId": "t1", "sideChat": None},
    "chat.respond": {"conversationId": "c1", "requestId": "r", "action": "accept"},
    "chat.read": {"conversationId": "c1", "upToSeq": 3},
    "conversations.watch": {},
    "ping": {},
    "subscribe": {"surfaceId": "message-queue", "conversationId": "c1"},
    "unsubscribe": {"surfaceId": "message-queue", "conversationId": "c1"},
    "invoke": {"surfaceId": "message-queue", "actionId": "a", "payload": {"any": 1}},
    "group.subscribe": {"groupId": "g", "cursor": 7},
    "group.unsubscribe": {"groupId": "g"},
    "group.send": {"groupId": "g", "text": "x", "targetFamiliarIds": ["a"], "onBusy": "reject"},
    "group.stop": {"groupId": "g", "replyTo": 1},
    "group.read": {"groupId": "g", "upToSeq": 1},
    "chats.subscribe": {"lastEventId": 7, "deltas": True},
    "chats.unsubscribe": {},
}


def read(kind: str, frame: dict[str, Any]) -> object:
    if kind.startswith("group."):
        return group_requests.read_frame(frame)
    if kind.startswith("chats."):
        return session_requests.read_frame(frame)
    return native_requests.read_frame(frame)


def name_of(kind: str) -> str:
    if kind.startswith("group."):
        return "GroupClientFrame"
    return "ChatsClientFrame" if kind.startswith("chats.") else "NativeClientFrame"


@pytest.mark.parametrize("kind", SENT)
def test_what_is_published_of_a_wish_is_read(kind: str) -> None:
    frame = {"type": kind, "ref": 1, **SENT[kind]}
    check(name_of(kind), frame)
    read(kind, frame)


@pytest.mark.parametrize("kind", [kind for kind, fields in SENT.items() if fields])
def test_what_a_wish_must_have_is_said(kind: str) -> None:
    """Each required field of the schema is one without which the frame is refused."""
    (tagged,) = [one for one in ALL_WISHES if one.__struct_config__.tag == kind]
    required = [one.encode_name for one in msgspec.structs.fields(tagged) if one.required]
    for name in required:
        frame = {"type": kind, **SENT[kind]}
        del frame[name]
        with pytest.raises(AssertionError):
            check(name_of(kind), frame)
        with pytest.raises(PeerError):
            read(kind, frame)


ALL_WISHES = (*wishes.CLIENT_FRAMES, *socket.CLIENT_FRAMES, *session_kinds.CLIENT_FRAMES)


def test_every_wish_is_published() -> None:
    published = {str(kind.__struct_config__.tag) for kind in ALL_WISHES}
    # The first frame of a connection is read by itself.
    assert published == SENT.keys() | {"auth"}
    assert native_requests._READERS.keys() | group_requests.FRAME_TYPES <= published
