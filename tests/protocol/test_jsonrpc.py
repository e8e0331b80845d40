"""JSON-RPC frames: one message or one refusal, whatever the bytes are."""

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.protocol.jsonrpc import (
    ID_CHARACTERS_MAX,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_CHARACTERS_MAX,
    PARSE_ERROR,
    Failure,
    Message,
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
from tests.properties.strategies import json_values

encode = msgspec.json.encode
decode = msgspec.json.decode


def read(**frame: Any) -> Message:
    return read_message(encode({"jsonrpc": "2.0", **frame}), depth_max=16)


@pytest.mark.parametrize("request_id", [0, -1, 2**53 - 1, "", "a", "x" * ID_CHARACTERS_MAX])
def test_a_request_has_a_number_or_a_short_string(request_id: Any) -> None:
    assert read(id=request_id, method="ping") == Request(request_id, "ping", {})


def test_a_call_without_an_id_is_a_notification() -> None:
    assert read(method="action", params={"a": 1}) == Notification("action", {"a": 1})


def test_answers_are_read_with_their_ids() -> None:
    assert read(id=1, result=None) == Success(1, None)
    assert read(id="x", error={"code": -1, "message": "no"}) == Failure("x", -1, "no")
    told = read(id=None, error={"code": -32700, "message": "no", "data": [1]})
    assert told == Failure(None, -32700, "no", [1])


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"", PARSE_ERROR),
        (b"{", PARSE_ERROR),
        (b'{"a":1}{', PARSE_ERROR),
        (b"\xff", PARSE_ERROR),
        (b"[" * 100_000, PARSE_ERROR),
        (b'{"a":' * 100 + b"1" + b"}" * 100, PARSE_ERROR),
        (b"[]", INVALID_REQUEST),
        (b'[{"jsonrpc":"2.0","method":"ping","id":1}]', INVALID_REQUEST),
        (b"3", INVALID_REQUEST),
        (b'"x"', INVALID_REQUEST),
        (b"null", INVALID_REQUEST),
        (b"{}", INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","method":"ping","id":1}', INVALID_REQUEST),
        (b'{"jsonrpc":2.0,"method":"ping","id":1}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":9007199254740992,"method":"ping"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":""}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":null}', INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1,"result":1,"error":{}}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","result":1}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":null,"result":1}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":"x","message":"m"}}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"error":7}', INVALID_REQUEST),
    ],
)
def test_a_frame_that_is_no_message_is_refused(frame: bytes, code: int) -> None:
    with pytest.raises(RpcError) as refused:
        read_message(frame, depth_max=16)
    assert refused.value.code == code


def test_long_names_are_refused() -> None:
    for frame in (
        {"id": "x" * (ID_CHARACTERS_MAX + 1), "method": "ping"},
        {"id": 1, "method": "x" * (METHOD_CHARACTERS_MAX + 1)},
    ):
        with pytest.raises(RpcError):
            read(**frame)


def test_a_refusal_names_the_request_where_it_could_be_read() -> None:
    with pytest.raises(RpcError) as refused:
        read(id=7, method="ping", params=[])
    assert decode(encode_failure(refused.value)) == {
        "jsonrpc": "2.0",
        "id": 7,
        "error": {"code": INVALID_PARAMS, "message": "Expected params by name"},
    }


@given(data=st.binary(max_size=60))
def test_no_bytes_are_anything_but_a_message_or_a_refusal(data: bytes) -> None:
    with suppress(RpcError):
        assert isinstance(read_message(data, depth_max=8), Message)


values = st.dictionaries(st.text(max_size=4), json_values, max_size=3)
request_ids = st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=9)
methods = st.text(min_size=1, max_size=20)


@given(request_id=request_ids, method=methods, params=values)
def test_what_is_written_is_what_is_read(request_id: Any, method: str, params: Any) -> None:
    body = encode(params)
    params = decode(body)
    sent = encode_request(request_id, method, body)
    assert read_message(sent, depth_max=64) == Request(request_id, method, params)
    told = encode_notification(method, body)
    assert read_message(told, depth_max=64) == Notification(method, params)
    answered = encode_success(request_id, body)
    assert read_message(answered, depth_max=64) == Success(request_id, params)
    refusal = RpcError(-1, method, request_id=request_id, data=params)
    refused = read_message(encode_failure(refusal), depth_max=64)
    assert refused == Failure(request_id, -1, method, params)
