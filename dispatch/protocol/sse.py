"""Line forms of HTTP streams: NDJSON and SSE.

Neighbours: `server.http` streams them. Some readers split lines at U+0085, U+2028 and U+2029, which
JSON may hold as they are: they are escaped in every line.
Invariant: a line holds one JSON text and no line end of any kind but its own.
"""

from __future__ import annotations

from typing import Final

_ESCAPES: Final = (
    ("\u0085".encode(), b"\\u0085"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


def one_line(text: bytes) -> bytes:
    """A JSON text with every line separator escaped."""
    for character, escape in _ESCAPES:
        if character in text:
            text = text.replace(character, escape)
    return text


def ndjson(text: bytes) -> bytes:
    """One line of NDJSON."""
    return one_line(text) + b"\n"
