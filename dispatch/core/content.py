"""What is kept of a turn: chunks, as the fold of its events.

Neighbours: `events` is what is folded; `storage.port` says how the bytes are kept (one chunk a
line); dialects splice the `seq` in. Source of shapes: `protocol/native.md`, section 1.6.
Invariant: the chunk bytes of a turn depend on its events alone, however they were batched, merged
or staged; text is appended already escaped and never decoded on the way.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from dispatch.core.events import (
    AnyEvent,
    ErrorEvent,
    ReasoningDelta,
    Steering,
    StepComplete,
    TextDelta,
    ToolCall,
    ToolResult,
    TurnStart,
    UserMessage,
    one_line,
)

Role = Literal["system", "user", "assistant", "tool"]


class Chunk(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True, rename="camel"):
    """One kept piece of a conversation."""


class Text(Chunk, frozen=True, tag="text"):
    """What somebody said."""

    text: str


class Thinking(Chunk, frozen=True, tag="thinking"):
    """What the agent thought."""

    text: str


class ToolCallChunk(Chunk, frozen=True, tag="tool-call"):
    """A tool was called."""

    tool_call_id: str
    tool_name: str
    input: msgspec.Raw
    step_id: str | None = None


class ToolResultChunk(Chunk, frozen=True, tag="tool-result"):
    """A tool ended."""

    tool_call_id: str
    tool_name: str
    content: str
    is_error: bool
    step_id: str | None = None


class ErrorChunk(Chunk, frozen=True, tag="error"):
    """The turn went wrong."""

    message: str
    code: str | None = None


class System(Chunk, frozen=True, tag="system"):
    """A word of the system."""

    text: str


class ImageChunk(Chunk, frozen=True, tag="image"):
    """A picture beside a message."""

    url: str
    mime_type: str | None = None


AnyChunk = Text | Thinking | ToolCallChunk | ToolResultChunk | ErrorChunk | System | ImageChunk


class StoredLine(msgspec.Struct, frozen=True):
    """A chunk with its role, as kept."""

    role: Role
    chunk: AnyChunk


class StoredChunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A chunk with its role and its place in the conversation.

    One that is `superseded` was left behind by a truncation: agents are not told of it any more.
    """

    seq: int
    role: Role
    chunk: AnyChunk
    superseded: bool = False


TEXT_DELTA_PREFIX: Final = b'{"type":"text-delta","delta":"'
REASONING_DELTA_PREFIX: Final = b'{"type":"reasoning-delta","delta":"'
DELTA_SUFFIX: Final = b'"}'

RESUMED: Final = System("The turn was resumed.")
"""What a turn without a message begins with, so that it is there whatever it came to say."""

_RUN_OPENING: Final = {
    TextDelta: b'"role":"assistant","chunk":{"type":"text","text":"',
    ReasoningDelta: b'"role":"assistant","chunk":{"type":"thinking","text":"',
}
_RUN_CLOSING: Final = b'"}\n'
_ENCODER: Final = msgspec.json.Encoder()
_LINE_DECODER: Final = msgspec.json.Decoder(StoredLine)


def delta_text(payload: bytes) -> bytes:
    """The escaped text inside an encoded delta event: what merging and folding append."""
    prefix = TEXT_DELTA_PREFIX if payload.startswith(TEXT_DELTA_PREFIX) else REASONING_DELTA_PREFIX
    return payload[len(prefix) : -len(DELTA_SUFFIX)]


def encode_line(role: Role, chunk: AnyChunk) -> bytes:
    """One chunk as it is kept: `"role":"…","chunk":{…}` and a newline."""
    return b'"role":"%b","chunk":%b\n' % (role.encode(), one_line(_ENCODER.encode(chunk)))


def decode_line(line: bytes) -> StoredLine:
    """Read a kept chunk (without its newline) back."""
    return _LINE_DECODER.decode(b"{%b}" % line)


def with_seq(line: bytes, seq: int) -> bytes:
    """The wire form of a kept chunk (without its newline): a JSON `StoredChunk`."""
    return b'{"seq":%d,%b}' % (seq, line)


def superseded_with_seq(line: bytes, seq: int) -> bytes:
    """`with_seq` of a chunk that a truncation left behind."""
    return b'{"seq":%d,"superseded":true,%b}' % (seq, line)


class Fold:
    """The chunks of one turn while it runs.

    `chunk_count` counts the chunks begun, `bytes_taken` the bytes handed out; `take` hands out what
    has grown since, so that a long turn can be staged in pieces; `finish` ends the open run.
    """

    __slots__ = ("_bytes", "_run", "_taken_chunks", "bytes_taken", "chunk_count")

    def __init__(self) -> None:
        """Begin with nothing."""
        self._bytes = bytearray()
        self._run: type[AnyEvent] | None = None
        self.chunk_count = 0
        self.bytes_taken = 0
        self._taken_chunks = 0

    @property
    def bytes_waiting(self) -> int:
        """How many bytes `take` would return."""
        return len(self._bytes)

    def add(self, event: AnyEvent, payload: bytes) -> None:
        """Fold one event in; `payload` is its encoded form."""
        kind = type(event)
        opening = _RUN_OPENING.get(kind)
        if opening is not None:
            self.add_delta(kind, delta_text(payload))
            return
        match event:
            case UserMessage(text=text, images=images):
                self._line("user", Text(text))
                for image in images:
                    self._line("user", ImageChunk(image.url, image.mime_type))
            case TurnStart(resumes=str()):
                self._line("system", RESUMED)
            case ToolCall():
                self._line(
                    "assistant",
                    ToolCallChunk(
                        event.tool_call_id, event.tool_name, event.input, event.step_id or None
                    ),
                )
            case ToolResult():
                self._line(
                    "tool",
                    ToolResultChunk(
                        event.tool_call_id,
                        event.tool_name,
                        event.content,
                        event.is_error,
                        event.step_id or None,
                    ),
                )
            case ErrorEvent(message=message, code=code):
                self._line("assistant", ErrorChunk(message, code))
            case Steering(text=text):
                self._line("user", Text(text))
            case StepComplete():
                self.finish()
            case _:
                pass

    def add_delta(self, kind: type[AnyEvent], escaped: bytes) -> None:
        """Append escaped text to the open run of its kind, or begin one; nothing begins nothing."""
        if not escaped:
            return
        if self._run is not kind:
            self.finish()
            self._run = kind
            self.chunk_count += 1
            self._bytes += _RUN_OPENING[kind]
        self._bytes += escaped

    def finish(self) -> None:
        """End the open run of deltas, if there is one."""
        if self._run is not None:
            self._bytes += _RUN_CLOSING
            self._run = None

    def take(self) -> tuple[int, bytes]:
        """The bytes since the last call, and how many chunks had begun before them."""
        first_index, data = self._taken_chunks, bytes(self._bytes)
        self.forget(len(data))
        return first_index, data

    def forget(self, size: int) -> None:
        """Drop the first `size` bytes: they are staged already."""
        del self._bytes[:size]
        self.bytes_taken += size
        self._taken_chunks = self.chunk_count

    def _line(self, role: Role, chunk: AnyChunk) -> None:
        self.finish()
        self.chunk_count += 1
        self._bytes += encode_line(role, chunk)
