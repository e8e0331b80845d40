"""Reading JSON from outside within bounds: one place, used by every dialect and route.

Neighbours: `chat` reads frames with it, `server.http` bodies.
Invariant: what comes back is an object no deeper than allowed; anything else is a `PeerError`,
never another exception, whatever the bytes were.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from dispatch.errors import PeerError

Object = dict[str, Any]

_DECODER: Final = msgspec.json.Decoder()


def read_object(data: bytes, *, depth_max: int) -> Object:
    """A JSON object; raises `PeerError` with the texts of the public contract."""
    try:
        value = _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise PeerError("Invalid JSON") from None
    if not isinstance(value, dict):
        raise PeerError("Expected a JSON object")
    # Counting brackets is cheap, and enough for every honest frame.
    if data.count(b"{") + data.count(b"[") > depth_max and _depth(value) > depth_max:
        raise PeerError(f"JSON nested deeper than {depth_max}")
    return value


def _depth(value: object) -> int:
    """How deep it nests, without recursing: its own depth is what is in doubt."""
    deepest, level = 0, [value]
    while level:
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
            else:
                continue
        deepest += 1
        level = [item for item in inner if isinstance(item, dict | list)]
    return deepest
