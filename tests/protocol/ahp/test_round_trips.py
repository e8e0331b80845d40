"""The round-trip data of 0.7.0: what is read and written again is what was read, key by key."""

from typing import Any

import msgspec
import pytest

from dispatch.protocol.ahp.reduce import reduce
from dispatch.protocol.jsonrpc import (
    Failure,
    Notification,
    Request,
    RpcError,
    Success,
    encode_failure,
    encode_notification,
    encode_request,
    encode_success,
    read_message,
)
from tests.protocol.ahp.conformance import fixtures
from tests.protocol.ahp.histories import EMPTY_SESSION

FIXTURES = fixtures("round-trips")
encode = msgspec.json.encode


def written_again(frame: Any) -> bytes:
    match read_message(encode(frame), depth_max=64):
        case Request(number, method, params):
            return encode_request(number, method, encode(params))
        case Notification(method, params):
            return encode_notification(method, encode(params))
        case Success(number, result):
            return encode_success(number, encode(result))
        case Failure(number, code, message, data):
            return encode_failure(RpcError(code, message, request_id=number, data=data))


@pytest.mark.parametrize("fixture", FIXTURES)
def test_a_value_passes_through_a_message_whole(fixture: dict[str, Any]) -> None:
    """Members nobody knows are kept, absent ones stay absent: the pass-through form of group B."""
    value = fixture["input"]
    expected = fixture.get("preservedOutput", fixture["acceptableOutputs"][0])
    if fixture["type"] == "JsonRpcMessage":
        assert msgspec.json.decode(written_again(value)) == expected
        return
    frame = {"jsonrpc": "2.0", "method": "action", "params": {"value": value}}
    assert msgspec.json.decode(written_again(frame))["params"]["value"] == expected


ACTIONS = [
    fixture
    for fixture in FIXTURES
    if fixture.marks or fixture.values[0]["type"] in {"ActionEnvelope", "StateAction"}
]


@pytest.mark.parametrize("fixture", ACTIONS)
def test_an_action_of_the_data_is_folded_or_passed_over(fixture: dict[str, Any]) -> None:
    action = fixture["input"]
    if fixture["type"] == "ActionEnvelope":
        action = action["action"]
    if action["type"].startswith("session/"):
        assert reduce(EMPTY_SESSION, action) is not EMPTY_SESSION
    else:
        assert reduce(EMPTY_SESSION, {"type": "future/newAction"}) is EMPTY_SESSION


def test_unknown_bits_of_a_status_are_kept() -> None:
    bits = 2_147_483_720
    session = {**EMPTY_SESSION, "status": bits}
    assert reduce(session, {"type": "session/isReadChanged", "isRead": True})["status"] == bits | 32
