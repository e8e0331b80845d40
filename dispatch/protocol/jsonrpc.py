"""JSON-RPC 2.0, one message a frame: bytes to messages and messages to bytes, for any dialect.

Neighbours: `codec` bounds the JSON, `ahp` gives methods their meaning. Batches are refused: both
sides send one object a frame. Source: the JSON-RPC 2.0 specification, sections 4 and 5.
Invariant: whatever the bytes were, reading gives one message or one `RpcError`, never another
exception; what is spliced into a message is JSON already.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from dispatch.errors import PeerError
from dispatch.protocol.codec import Object, read_object

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

ID_CHARACTERS_MAX: Final = 128
"""An id is echoed and remembered while its request runs."""
METHOD_CHARACTERS_MAX: Final = 128
"""A method is named in the refusal of it."""
_INTEGER_MAX: Final = 2**53 - 1
"""What every JSON reader holds exactly."""

Id = int | str
"""What a request is answered by; null, floats and fractions are refused."""


class Request(msgspec.Struct, frozen=True):
    """A call that is answered; `params` is empty where none were sent."""

    id: Id
    method: str
    params: Object


class Notification(msgspec.Struct, frozen=True):
    """A call that is not answered."""

    method: str
    params: Object


class Success(msgspec.Struct, frozen=True):
    """The answer to a request of ours; `result` is any JSON value."""

    id: Id
    result: Any


class Failure(msgspec.Struct, frozen=True):
    """The refusal of a request of ours; `id` is None where it could not be read there."""

    id: Id | None
    code: int
    message: str
    data: Any = msgspec.UNSET


Message = Request | Notification | Success | Failure


class RpcError(Exception):
    """What a request is refused with; `request_id` is None where the request's could not be read.

    Encoded by `encode_failure`; `data` is any JSON value, or UNSET for none.
    """

    def __init__(
        self, code: int, message: str, *, request_id: Id | None = None, data: Any = msgspec.UNSET
    ) -> None:
        """Keep what is sent."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.request_id = request_id
        self.data = data


def read_message(data: bytes, *, depth_max: int) -> Message:
    """One message; raises `RpcError` with the code and, where it could be read, the id."""
    try:
        frame = read_object(data, depth_max=depth_max)
    except PeerError as error:
        code = INVALID_REQUEST if _is_no_object(data) else PARSE_ERROR
        raise RpcError(code, error.message) from None
    sent_id = frame.get("id")
    readable = sent_id if _is_id(sent_id) else None
    if frame.get("jsonrpc") != "2.0":
        raise RpcError(INVALID_REQUEST, 'Expected "jsonrpc": "2.0"', request_id=readable)
    if "method" in frame:
        return _call(frame, readable)
    return _answer(frame, readable)


def encode_notification(method: str, params: bytes) -> bytes:
    """A call without an answer; `params` is encoded JSON."""
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (_ENCODER.encode(method), params)


def encode_request(request_id: Id, method: str, params: bytes) -> bytes:
    """A call with an answer; `params` is encoded JSON."""
    parts = (_ENCODER.encode(request_id), _ENCODER.encode(method), params)
    return b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":%b}' % parts


def encode_success(request_id: Id, result: bytes) -> bytes:
    """An answer; `result` is encoded JSON, `null` where there is nothing to say."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_ENCODER.encode(request_id), result)


def encode_failure(error: RpcError) -> bytes:
    """A refusal; its id is null where the request's could not be read."""
    body: Object = {"code": error.code, "message": error.message}
    if error.data is not msgspec.UNSET:
        body["data"] = error.data
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (
        _ENCODER.encode(error.request_id),
        _ENCODER.encode(body),
    )


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder()


def _call(frame: Object, request_id: Id | None) -> Request | Notification:
    method, params = frame["method"], frame.get("params", {})
    if not isinstance(method, str) or not 0 < len(method) <= METHOD_CHARACTERS_MAX:
        limit = f"Expected a method of 1 to {METHOD_CHARACTERS_MAX} characters"
        raise RpcError(INVALID_REQUEST, limit, request_id=request_id)
    if "id" in frame and request_id is None:
        raise RpcError(INVALID_REQUEST, "Expected an id that is an integer or a short string")
    if not isinstance(params, dict):
        raise RpcError(INVALID_PARAMS, "Expected params by name", request_id=request_id)
    return (
        Notification(method, params) if request_id is None else Request(request_id, method, params)
    )


def _answer(frame: Object, request_id: Id | None) -> Success | Failure:
    if ("result" in frame) == ("error" in frame) or "id" not in frame:
        raise RpcError(INVALID_REQUEST, "Expected a method, or an id with a result or an error")
    if "result" in frame:
        if request_id is None:
            raise RpcError(INVALID_REQUEST, "Expected an id that was given")
        return Success(request_id, frame["result"])
    error = frame["error"]
    code = error.get("code") if isinstance(error, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    if type(code) is not int or not isinstance(message, str):
        raise RpcError(
            INVALID_REQUEST, "Expected an error with a code and a message", request_id=request_id
        )
    return Failure(request_id, code, message, error.get("data", msgspec.UNSET))


def _is_id(value: object) -> bool:
    if type(value) is int:
        return -_INTEGER_MAX <= value <= _INTEGER_MAX
    return isinstance(value, str) and len(value) <= ID_CHARACTERS_MAX


def _is_no_object(data: bytes) -> bool:
    """Whether it is JSON all the same; asked only of what was refused, and bounded by its frame."""
    if data.lstrip().startswith(b"{"):
        return False
    try:
        _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True
