"""Lines of JSON between the daemon and a program: bounded, checked, and safe to show.

Neighbours: `command` writes and reads them; `core.events` has the shape of what comes out.
Invariant: no line that a program writes costs more memory than `bytes_max`, and what is not an
event of an agent is an `AgentFailure`, whatever it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from dispatch.agents.port import AgentFailure
from dispatch.core.events import AgentEvent, decode_agent_event

_REASON_CHARACTERS_MAX: Final = 200

# Terminal sequences, then control characters and those that reorder text: an error's text is shown
# on people's terminals and pages.
_CONTROLS: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)

_ENCODER: Final = msgspec.json.Encoder()
# Line ends to some readers of lines, and legal inside JSON strings only, so escaping is safe.
_LINE_ENDS: Final = (
    ("\u0085".encode(), rb"\u0085"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)


class Lines:
    """Splits a stream of bytes into lines of at most `bytes_max`, holding no more than one."""

    def __init__(self, bytes_max: int) -> None:
        """Begin with nothing."""
        self._bytes_max = bytes_max
        self._open = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that `data` completes, blank ones left out. Raises after the good ones."""
        first, *others = data.split(b"\n")
        for piece in others:
            # Nothing but line ends must cost next to nothing: a program may write them for ever.
            if first or self._open:
                yield from self._close(first)
            first = piece
        self._extend(first)

    def rest(self) -> Iterator[bytes]:
        """A last line without its end."""
        yield from self._close(b"")

    def _close(self, piece: bytes) -> Iterator[bytes]:
        self._extend(piece)
        line = bytes(self._open).strip()
        self._open.clear()
        if line:
            yield line

    def _extend(self, piece: bytes) -> None:
        if len(self._open) + len(piece) > self._bytes_max:
            raise AgentFailure(f"a line is longer than {self._bytes_max} bytes", "too_large")
        self._open += piece


def encode_line(value: object) -> bytes:
    """One line in: JSON that is one line to every reader of lines."""
    line = _ENCODER.encode(value)
    if not line.isascii():
        for character, escaped in _LINE_ENDS:
            line = line.replace(character, escaped)
    return line + b"\n"


def decode_line(line: bytes) -> AgentEvent:
    """One line out, checked; raises `AgentFailure`."""
    try:
        # Also what is passed on unread, such as a tool's input, must be text.
        line.decode()
        return decode_agent_event(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = printable(str(error).encode())[:_REASON_CHARACTERS_MAX]
        raise AgentFailure(f"a line is not an event: {reason}", "bad_event") from error


def printable(data: bytes) -> str:
    """Text of a program without what would move a terminal's cursor."""
    return _CONTROLS.sub("", data.decode("utf-8", "replace")).strip()
