"""Golden transcripts: what a client says and what a server answers, step by step.

Neighbours: `replay` carries the steps out; `fixtures/README.md` has the format in words, for those
who replay it in another language. The files are inside the package, so that an installed
`dispatch conformance` has them; `protocol/fixtures` is the same directory.
Invariant: a file that is not of the format is refused by name, never half replayed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from dispatch.client.exchange import Method
from dispatch.errors import ConfigError

FIXTURES: Final = Path(__file__).resolve().parent / "fixtures"
# Those of `fixtures` that are of this format.
DIALECTS: Final = ("chat", "groups", "sessions", "ahp")

# Any JSON: a transcript holds frames of every dialect, also of those to come.
Json = Any


class Step(msgspec.Struct, frozen=True, tag_field="do", forbid_unknown_fields=True):
    """One thing that a client does or waits for."""


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An HTTP request; `body` is sent as JSON, `text` as it is."""

    method: Method
    path: str
    headers: dict[str, str] = {}
    body: Json | UnsetType = UNSET
    text: str | UnsetType = UNSET


class Exchange(Step, frozen=True, tag="request"):
    """An HTTP request and its answer: one `reply`, the `frames` of an event stream, or `lines`.

    `leave`: the client leaves the stream once it has these; else the stream ends with them.
    """

    request: Asked
    status: int
    headers: dict[str, str] = {}
    reply: Json | UnsetType = UNSET
    frames: list[Json] | UnsetType = UNSET
    lines: list[Json] | UnsetType = UNSET
    leave: bool = False


class Connect(Step, frozen=True, tag="connect"):
    """A WebSocket, known as `on` from here; `subprotocol` is what the server has to choose."""

    on: str
    path: str = "/ws"
    subprotocols: list[str] = []
    subprotocol: str | None = None


class Send(Step, frozen=True, tag="send"):
    """One message: a JSON `frame`, any `text`, `binary` (its UTF-8), or `fill` letters x."""

    on: str
    frame: Json | UnsetType = UNSET
    text: str | UnsetType = UNSET
    binary: str | UnsetType = UNSET
    fill: int | UnsetType = UNSET


class Expect(Step, frozen=True, tag="expect"):
    """The next frames of a connection, broadcasts aside."""

    on: str
    frames: list[Json]


class Told(Step, frozen=True, tag="told"):
    """Broadcasts of a connection, in this order among others."""

    on: str
    frames: list[Json]


class Close(Step, frozen=True, tag="close"):
    """The client closes a connection."""

    on: str
    code: int = 1000


class Closed(Step, frozen=True, tag="closed"):
    """The server closes a connection, with this code."""

    on: str
    code: int


AnyStep = Exchange | Connect | Send | Expect | Told | Close | Closed


class Transcript(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A claim, the agents that it needs, and its steps."""

    claim: str
    agents: list[str]
    steps: list[AnyStep]


_DECODER: Final = msgspec.json.Decoder(Transcript)


def read_transcript(path: Path) -> Transcript:
    """One file; raises `ConfigError`."""
    try:
        return _DECODER.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: not a transcript: {error}") from error


def name_of(path: Path) -> str:
    """`dialect/NNN-claim`."""
    return f"{path.parent.name}/{path.stem}"


def published(only: Iterable[str] = (), folder: Path = FIXTURES) -> dict[str, Path]:
    """The transcripts by name, in order; `only` those whose name begins with or contains one."""
    found = {
        name_of(path): path
        for dialect in DIALECTS
        for path in sorted((folder / dialect).glob("*.json"))
    }
    wanted = tuple(only)
    if not wanted:
        return found
    return {name: path for name, path in found.items() if any(part in name for part in wanted)}
