"""Reading JSON from outside: whatever the bytes are, an object or a typed error, and soon."""

import time
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.errors import PeerError
from dispatch.protocol.codec import read_object
from tests.properties.strategies import json_values

DEPTH_MAX = 64
CPU_SECONDS_MAX = 0.05


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + closing * depth


def in_a_frame(value: bytes) -> bytes:
    return b'{"type":"chat.send","message":"x","extra":%b}' % value


HOSTILE = {
    "ten thousand lists deep": in_a_frame(nested(10_000)),
    "ten thousand objects deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "a million brackets that never close": b"[" * 1_000_000,
    "one deeper than allowed": in_a_frame(nested(DEPTH_MAX)),
    "a number over every float": in_a_frame(b"1e400"),
    "a number under every float": in_a_frame(b"-1e400"),
    "not a number": in_a_frame(b"NaN"),
    "infinity": in_a_frame(b"-Infinity"),
    "an integer of ten megabytes": in_a_frame(b"9" * 10_000_000),
    "an integer too long to be printed": in_a_frame(b"9" * 5_000),
    "a lone surrogate": in_a_frame(b'"\\ud800"'),
    "two surrogates the wrong way round": in_a_frame(b'"\\udc00\\ud800"'),
    "a surrogate in UTF-8": in_a_frame(b'"\xed\xa0\x80"'),
    "bytes that are not UTF-8": in_a_frame(b'"\xff\xfe"'),
    "a raw control character": in_a_frame(b'"\x01"'),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"type":"ping"}'.encode("utf-16"),
    "nothing": b"",
    "white space": b" \n\t ",
    "two objects": b"{}{}",
    "a comment": b"{/**/}",
    "a trailing comma": b'{"a":1,}',
    "single quotes": b"{'a':1}",
    "half a string": b'{"a":"',
    "half an escape": b'{"a":"\\u00"}',
}

STRANGE_BUT_JSON = {
    "a duplicate key": (b'{"type":"a","type":"b"}', {"type": "b"}),
    "a prototype": (b'{"__proto__":{"x":1}}', {"__proto__": {"x": 1}}),
    "a constructor": (b'{"constructor":{"prototype":1}}', {"constructor": {"prototype": 1}}),
    "a null character": (b'{"a":"\\u0000"}', {"a": "\0"}),
    "an empty key": (b'{"":1}', {"": 1}),
    "an integer over 64 bits": (b'{"a":123456789012345678901234567890}', None),
    "a float of a megabyte": (in_a_frame(b"0." + b"9" * 1_000_000), None),
    "a string of a megabyte": (in_a_frame(b'"' + b"\\u0041" * 170_000 + b'"'), None),
    "as deep as allowed": (in_a_frame(nested(DEPTH_MAX - 1)), None),
    "brackets in a string": (in_a_frame(b'"' + b"[" * 10_000 + b'"'), None),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_one_typed_error_and_cost_little(data: bytes) -> None:
    began = time.process_time()
    with pytest.raises(PeerError):
        read_object(data, depth_max=DEPTH_MAX)
    assert time.process_time() - began < CPU_SECONDS_MAX


@pytest.mark.parametrize(("data", "value"), STRANGE_BUT_JSON.values(), ids=STRANGE_BUT_JSON)
def test_strange_json_is_an_object_like_any_other(data: bytes, value: object) -> None:
    began = time.process_time()
    found = read_object(data, depth_max=DEPTH_MAX)
    assert time.process_time() - began < CPU_SECONDS_MAX
    assert type(found) is dict
    if value is not None:
        assert found == value


@pytest.mark.parametrize("data", [b"[]", b'"x"', b"1", b"1.5", b"true", b"null", b"[{}]"])
def test_json_that_is_no_object_is_told_so(data: bytes) -> None:
    with pytest.raises(PeerError, match=r"^Expected a JSON object$"):
        read_object(data, depth_max=DEPTH_MAX)


def test_what_is_no_json_gets_the_text_of_the_contract() -> None:
    with pytest.raises(PeerError, match=r"^Invalid JSON$"):
        read_object(b"nonsense", depth_max=DEPTH_MAX)


def depth(value: object) -> int:
    match value:
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
        case list():
            return 1 + max(map(depth, value), default=0)
    return 0


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4), st.integers(1, 8))
def test_depth_is_counted_from_the_outermost_object(value: dict[str, object], allowed: int) -> None:
    data = msgspec.json.encode(value)
    if depth(value) <= allowed:
        assert read_object(data, depth_max=allowed) == value
    else:
        with pytest.raises(PeerError, match=rf"^JSON nested deeper than {allowed}$"):
            read_object(data, depth_max=allowed)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_a_typed_error(data: bytes) -> None:
    with suppress(PeerError):
        assert isinstance(read_object(data, depth_max=DEPTH_MAX), dict)
