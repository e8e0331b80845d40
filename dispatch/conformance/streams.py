"""Frames of one stream, held against those that are written, as they come.

Neighbours: `matching` compares one frame; `replay` reads the streams.
Two things may differ between servers that both keep the protocol. A run of text may be cut into
other pieces: pieces are joined until they are the text that is written. And members of a group do
not wait for each other: frames with a `familiarId` are in order only among those of the same one.
Invariant: every frame is either one of those that are written, or a `Mismatch`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from dispatch.conformance.matching import Mismatch, Names, shown
from dispatch.conformance.transcripts import Json

# Where a frame of each dialect has its payload.
_PAYLOADS: Final = ("event", "data")
# A payload that is a piece of a run, and the field that holds its text.
_PIECES: Final = {
    ("type", "text-delta"): "delta",
    ("type", "reasoning-delta"): "delta",
    ("kind", "assistant_chunk"): "text",
}
# Of a frame that holds a run's last piece alone: which number each piece has is not said.
_PER_PIECE: Final = frozenset({"position", "frameId", "id"})


def payload_of(frame: Json) -> tuple[str, Json]:
    """Where a frame has its payload, and the payload; the frame itself if it is one."""
    if isinstance(frame, dict):
        for key in _PAYLOADS:
            if isinstance(frame.get(key), dict):
                return key, frame[key]
    return "", frame


class Piece(NamedTuple):
    """A piece of a run: of which kind, the field of its text, and the text."""

    kind: str
    field: str
    text: str


def piece_of(frame: Json) -> Piece | None:
    """The piece that a frame is, if it is one."""
    _, payload = payload_of(frame)
    if isinstance(payload, dict):
        for (key, kind), field in _PIECES.items():
            if payload.get(key) == kind and isinstance(payload.get(field), str):
                return Piece(kind, field, payload[field])
    return None


def with_text(frame: dict[str, Json], field: str, text: str) -> dict[str, Json]:
    """A frame that is a piece, with another text."""
    key, payload = payload_of(frame)
    changed = {**payload, field: text}
    return {**frame, key: changed} if key else changed


def _lane_of(frame: Json) -> object:
    payload = payload_of(frame)[1]
    return payload.get("familiarId") if isinstance(payload, dict) else None


class Expectation:
    """Frames that are to come on one stream."""

    def __init__(self, names: Names, frames: Iterable[Json]) -> None:
        """`names` are bound as frames come."""
        self._names = names
        self._lanes: dict[object, deque[Json]] = {}
        for frame in frames:
            self._lanes.setdefault(_lane_of(frame), deque()).append(frame)
        # The text so far of each lane's run.
        self._said: dict[object, str] = {}
        # What came, each run of text as one frame.
        self.taken: list[Json] = []

    @property
    def is_met(self) -> bool:
        """Whether all of it came."""
        return not any(self._lanes.values())

    @property
    def missing(self) -> str:
        """The next frame that is to come, for a report."""
        return next((shown(lane[0]) for lane in self._lanes.values() if lane), "nothing more")

    def take(self, frame: Json) -> None:
        """One frame that came; raises `Mismatch`."""
        lane = _lane_of(frame)
        waiting = self._lanes.get(lane)
        if not waiting:
            raise Mismatch("the stream", self.missing, shown(frame))
        expected = waiting[0]
        wanted, piece = piece_of(expected), piece_of(frame)
        if wanted is None or piece is None or wanted.kind != piece.kind:
            self._take_whole(expected, frame)
            waiting.popleft()
            return
        said = self._said.get(lane, "") + piece.text
        if not wanted.text.startswith(said):
            raise Mismatch("text", shown(wanted.text), shown(said))
        if said != wanted.text:
            self._said[lane] = said
            self._names.match(_template(expected, piece), frame)
            return
        self._take_whole(expected, with_text(frame, piece.field, said))
        self._said.pop(lane, None)
        waiting.popleft()

    def _take_whole(self, expected: Json, frame: Json) -> None:
        branch = self._names.branch()
        try:
            branch.match(expected, frame)
        except Mismatch as error:
            raise Mismatch(str(error), shown(expected), shown(frame)) from error
        self._names.adopt(branch)
        self.taken.append(frame)


def _template(expected: dict[str, Json], piece: Piece) -> dict[str, Json]:
    """What a piece that is not the last of its run has to be."""
    freed = {key: "$any" if key in _PER_PIECE else value for key, value in expected.items()}
    return with_text(freed, piece.field, piece.text)
