"""What of a conversation still counts: the seqs that truncations left behind, and its last turn.

Neighbours: `conversation` has the rules of running turns, `runtime.truncation` carries a truncation
out, `storage.port` keeps the stretches as opaque bytes. Source: `protocol/native.md`, 2.5.
Invariant: stretches ascend and do not touch; a seq that was superseded once stays so.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

import msgspec

from dispatch.core.events import Truncated
from dispatch.core.identity import TurnId
from dispatch.errors import NotFound, NotResumable, TooMany

Superseded = tuple[tuple[int, int], ...]
"""Stretches of seqs, each with its first and its last."""

NOTHING: Final[Superseded] = ()

_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Superseded)


class Kept(msgspec.Struct, frozen=True):
    """The sealed turn that is the last to stay, and its chunks' place."""

    turn: TurnId
    first_seq: int
    chunk_count: int

    @property
    def last_seq(self) -> int:
        """The seq of its last chunk."""
        return self.first_seq + self.chunk_count - 1


def encode_superseded(superseded: Superseded) -> bytes:
    """As stored in the conversation's row."""
    return _ENCODER.encode(superseded)


def decode_superseded(data: bytes) -> Superseded:
    """As read from the conversation's row."""
    return _DECODER.decode(data)


def truncate(
    superseded: Superseded, last_seq: int, kept: Kept | None, *, truncations_max: int
) -> tuple[Superseded, Truncated]:
    """What is superseded once everything behind `kept` is (None: all of it), and its event.

    No turn runs, and `last_seq` is the last one sealed. Raises `NotFound` for a turn that is
    superseded itself, `TooMany` where there would be too many stretches.
    """
    after = 0
    if kept is not None:
        if is_superseded(superseded, kept.first_seq):
            raise NotFound(f"turn {kept.turn} was truncated")
        after = kept.last_seq
    before = tuple(stretch for stretch in superseded if stretch[1] <= after)
    now = (*before, (after + 1, last_seq)) if after < last_seq else before
    if len(now) > max(truncations_max, len(superseded)):
        raise TooMany(f"a conversation may be truncated in {truncations_max} places")
    return now, Truncated(after, last_seq, None if kept is None else kept.turn)


def check_resumable(turn: TurnId, last: tuple[TurnId, str] | None) -> None:
    """Raise `NotResumable` unless the turn is the last one that counts, and failed; `last` is that
    one and its outcome.
    """
    if last is None or last[0] != turn:
        raise NotResumable(f"turn {turn} is not the last one of this conversation")
    if last[1] not in {"error", "interrupted"}:
        raise NotResumable(f"turn {turn} did not fail: it is {last[1]}")


def is_superseded(superseded: Superseded, seq: int) -> bool:
    """Whether a chunk was left behind; a turn is so as a whole."""
    return _stretch(superseded, seq) is not None


def last_counting(superseded: Superseded, last_seq: int) -> int:
    """The last seq up to there that still counts; 0 where there is none."""
    stretch = _stretch(superseded, last_seq)
    return last_seq if stretch is None else stretch[0] - 1


def count_after(superseded: Superseded, seq: int, last_seq: int) -> int:
    """How many chunks behind a seq still count."""
    left_behind = sum(
        max(0, min(last, last_seq) - max(first, seq + 1) + 1) for first, last in superseded
    )
    return max(0, last_seq - seq) - left_behind


def _stretch(superseded: Superseded, seq: int) -> tuple[int, int] | None:
    index = bisect_right(superseded, seq, key=lambda stretch: stretch[0]) - 1
    if index < 0 or superseded[index][1] < seq:
        return None
    return superseded[index]
