"""What clients ask of groups: every body, query and frame becomes a command or a coded error."""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.identity import ConversationId
from dispatch.errors import PeerError, UnknownType
from dispatch.protocol.groups.requests import (
    FRAME_TYPES,
    GroupAdopt,
    GroupCreate,
    GroupDelete,
    GroupFrame,
    GroupPage,
    GroupPatch,
    GroupSend,
    GroupStop,
    read_adopt,
    read_body,
    read_create,
    read_cursor,
    read_delete,
    read_frame,
    read_page,
    read_patch,
    read_send,
    read_stop,
)
from tests.properties.strategies import json_values

FIELDS = [
    "text",
    "clientMessageId",
    "runId",
    "targetFamiliarIds",
    "onBusy",
    "familiarId",
    "replyTo",
    "title",
    "sessionIds",
    "memberFamiliarIds",
    "addMemberFamiliarIds",
    "removeMemberFamiliarIds",
    "clientGroupId",
    "groupId",
    "cursor",
    "upToSeq",
    "type",
]
READERS: list[Callable[[dict[str, Any]], object]] = [
    read_send,
    read_stop,
    read_create,
    read_adopt,
    read_patch,
    read_frame,
]
MANY = [f"m{index}" for index in range(257)]
C1, C2 = ConversationId("c1"), ConversationId("c2")


@pytest.mark.parametrize("body", [b"", b"[]", b"nul", b'{"a":', b"\xff", b'"x"', b"[" * 99])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(PeerError, match=r"^invalid json body$") as caught:
        read_body(body, depth_max=8)
    assert caught.value.code == "invalid_json_body"


@pytest.mark.parametrize(
    ("reader", "body", "command"),
    [
        (read_send, {"text": "hi"}, GroupSend(text="hi")),
        (
            read_send,
            {"text": "hi", "runId": "m1", "targetFamiliarIds": ["a", "a"], "onBusy": "reject"},
            GroupSend(text="hi", client_message_id="m1", targets=("a",), on_busy="reject"),
        ),
        (read_stop, {}, GroupStop()),
        (read_stop, {"replyTo": 3, "runId": "r"}, GroupStop(reply_to=3, run_id="r")),
        (
            read_create,
            {"title": " ", "memberFamiliarIds": ["b", "a", "b"]},
            GroupCreate(members=("b", "a")),
        ),
        (
            read_adopt,
            {"sessionIds": {"b": "c2", "a": "c1"}},
            GroupAdopt(sessions=(("a", C1), ("b", C2))),
        ),
        (
            read_adopt,
            {"sessionIds": {"a": "c1", "b": "c2"}, "memberFamiliarIds": ["b", "a"]},
            GroupAdopt(sessions=(("b", C2), ("a", C1))),
        ),
        (read_patch, {"title": "T"}, GroupPatch(title="T")),
        (read_patch, {"memberFamiliarIds": ["a"]}, GroupPatch(members=("a",))),
        (read_patch, {"addMemberFamiliarIds": ["a"]}, GroupPatch(add=("a",))),
        (read_page, {}, GroupPage()),
        (
            read_page,
            {"afterSeq": "3", "limit": "5000", "resync": "1"},
            GroupPage(after_seq=3, limit=1000, resync=True),
        ),
        (read_delete, {"sessions": "keep"}, GroupDelete(sessions="keep")),
        (
            read_frame,
            {"type": "group.subscribe", "groupId": "g", "cursor": 5},
            GroupFrame(verb="subscribe", group="g", cursor=5),
        ),
        (
            read_frame,
            {"type": "group.send", "groupId": "g", "text": "x"},
            GroupFrame(verb="send", group="g", command=GroupSend(text="x")),
        ),
        (
            read_frame,
            {"type": "group.read", "groupId": "g", "upToSeq": 0},
            GroupFrame(verb="read", group="g"),
        ),
    ],
)
def test_what_is_well_formed_becomes_a_command(
    reader: Callable[[Any], object], body: Any, command: object
) -> None:
    assert reader(body) == command


@pytest.mark.parametrize(
    ("reader", "body", "code"),
    [
        (read_send, {}, "text_required"),
        (read_send, {"text": " \n"}, "text_required"),
        (read_send, {"text": 3}, "text_required"),
        (read_send, {"text": "x", "targetFamiliarIds": []}, "invalid_targets"),
        (read_send, {"text": "x", "targetFamiliarIds": MANY}, "invalid_targets"),
        (read_send, {"text": "x", "targetFamiliarIds": [1]}, "invalid_targets"),
        (read_send, {"text": "x", "onBusy": "steer"}, "invalid_request"),
        (read_send, {"text": "x", "clientMessageId": "a", "runId": "b"}, "invalid_request"),
        (read_send, {"text": "x", "clientMessageId": "a b"}, "invalid_request"),
        (read_stop, {"replyTo": True}, "invalid_request"),
        (read_stop, {"familiarId": ""}, "invalid_request"),
        (read_stop, {"familiarId": 1}, "invalid_request"),
        (read_create, {}, "invalid_members"),
        (read_create, {"memberFamiliarIds": MANY}, "invalid_members"),
        (read_create, {"memberFamiliarIds": ["a"], "title": "x" * 201}, "invalid_request"),
        (read_adopt, {"sessionIds": {}}, "invalid_members"),
        (read_adopt, {"sessionIds": {"": "c1"}}, "invalid_members"),
        (read_adopt, {"sessionIds": {"a": "c1", "b": "c1"}}, "invalid_members"),
        (read_adopt, {"sessionIds": {"a": "c"}, "memberFamiliarIds": ["b"]}, "invalid_members"),
        (read_patch, {}, "nothing_to_patch"),
        (read_patch, {"addMemberFamiliarIds": []}, "nothing_to_patch"),
        (read_patch, {"memberFamiliarIds": []}, "last_member"),
        (
            read_patch,
            {"memberFamiliarIds": ["a"], "addMemberFamiliarIds": ["b"]},
            "invalid_members",
        ),
        (
            read_patch,
            {"addMemberFamiliarIds": ["a"], "removeMemberFamiliarIds": ["a"]},
            "invalid_members",
        ),
        (read_page, {"limit": "0"}, "invalid_request"),
        (read_page, {"afterSeq": "-1"}, "invalid_request"),
        (read_delete, {"sessions": "burn"}, "invalid_request"),
        (read_frame, {"type": "group.stop"}, "invalid_request"),
        (read_frame, {"type": "group.subscribe", "groupId": "g", "cursor": "x"}, "invalid_cursor"),
        (read_frame, {"type": "group.read", "groupId": "g"}, "invalid_request"),
    ],
)
def test_what_is_not_has_a_code(reader: Callable[[Any], object], body: Any, code: str) -> None:
    with pytest.raises(PeerError) as caught:
        reader(body)
    assert caught.value.code == code
    # Only the names of fields have the wire's word for an agent.
    assert not re.search(r"\bfamiliars?\b", str(caught.value))


def test_the_header_beats_the_query_and_no_cursor_is_live() -> None:
    assert read_cursor("7", "x") == 7
    assert read_cursor(None, "0") == 0
    assert read_cursor("", None) is None
    assert read_cursor(None, "9" * 40) == 2**63 - 1


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "٣"])
def test_a_cursor_that_is_no_number_is_refused(cursor: str) -> None:
    with pytest.raises(PeerError) as caught:
        read_cursor(None, cursor)
    assert caught.value.code == "invalid_cursor"


def test_a_frame_of_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(UnknownType, match=r"group\.dance"):
        read_frame({"type": "group.dance", "groupId": "g"})


@given(
    st.sampled_from(READERS),
    st.dictionaries(
        st.sampled_from(FIELDS),
        json_values | st.sampled_from([*FRAME_TYPES, "a", ["a"], {"a": "c"}, 1]),
    ),
)
def test_whatever_is_sent_becomes_a_command_or_an_error(
    reader: Callable[[dict[str, Any]], object], body: dict[str, Any]
) -> None:
    # Both sorts of error are the peer's; anything else fails the test.
    with suppress(PeerError):
        reader(body)
