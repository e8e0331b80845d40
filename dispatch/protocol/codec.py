"""Reading JSON from outside within bounds: one place, used by every dialect and route.

Neighbours: `chat` reads frames with it, `server.http` bodies.
Invariant: what comes back is an object no deeper than allowed and of no more parts; anything else
is a `PeerError`, never another exception, whatever the bytes were.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from dispatch.errors import PeerError

Object = dict[str, Any]

CONTAINERS_MAX: Final = 10_000
# Of what comes back as it was sent, a `ref` or an id: no frame is answered with its own megabyte.
ECHO_CHARACTERS_MAX: Final = 128
_REF_MAX: Final = 2**53

_DECODER: Final = msgspec.json.Decoder()
# Also one that does not end, or each of its escaped quotes would be tried as a beginning.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_CONTAINERS: Final = frozenset((dict, list))


def read_object(data: bytes, *, depth_max: int, containers_max: int = CONTAINERS_MAX) -> Object:
    """A JSON object; raises `PeerError` with the texts of the public contract."""
    # Counting brackets is cheap, and enough for every honest frame.
    brackets = _openings(data)
    if brackets > containers_max and _openings(_STRING.sub(b"", data)) > containers_max:
        raise PeerError(f"JSON of more than {containers_max} objects and arrays")
    try:
        value = _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise PeerError("Invalid JSON") from None
    if not isinstance(value, dict):
        raise PeerError("Expected a JSON object")
    if brackets > depth_max and _is_deeper(value, depth_max):
        raise PeerError(f"JSON nested deeper than {depth_max}")
    return value


def echoed_ref(value: object) -> str | int | None:
    """What of a client's `ref` comes back: a name or a number, and no longer than one."""
    match value:
        case bool():
            return None
        case int():
            return value if abs(value) < _REF_MAX else None
        case str():
            return value if len(value) <= ECHO_CHARACTERS_MAX else None
        case _:
            return None


def _openings(data: bytes) -> int:
    return data.count(b"{") + data.count(b"[")


def _is_deeper(value: Object, depth_max: int) -> bool:
    """Whether it nests deeper, found without recursing: its own depth is what is in doubt."""
    level: list[Any] = [value]
    for _ in range(depth_max):
        level = [
            inner
            for item in level
            for inner in (item.values() if type(item) is dict else item)
            if type(inner) in _CONTAINERS
        ]
        if not level:
            return False
    return True
