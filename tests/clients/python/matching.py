"""What came against what a transcript says: names, words, text in pieces, members apart.

Neighbours: `replay` reads what comes. Source: `protocol/fixtures/README.md`, Comparing.
Invariant: what differs raises `Differs`; names are bound by what matched alone.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

NAME = re.compile(r"\$(?:\{([a-z]+[0-9]*)\}|([a-z]+[0-9]*))")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
PIECES = {"text-delta": "delta", "reasoning-delta": "delta", "assistant_chunk": "text"}
NUMBERS = ("position", "id", "frameId")


class Differs(Exception):
    """What came is not what is written."""


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


WORDS = {
    "$any": lambda _: True,
    "$time": lambda value: isinstance(value, str) and TIME.fullmatch(value),
    "$ms": lambda value: is_whole(value) and value > 10**12,
    "$duration": lambda value: is_number(value) and value >= 0,
    "$count": lambda value: is_whole(value) and value >= 0,
    "$id": is_whole,
    "$cursor": is_whole,
}


class Names:
    """What the names of a transcript stand for."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def fill(self, value: Any) -> Any:
        """What a client sends."""
        if isinstance(value, dict):
            return {key: self.fill(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.fill(inner) for inner in value]
        if isinstance(value, str):
            return NAME.sub(lambda found: self.own(found[1] or found[2]), value)
        return value

    def own(self, name: str) -> str:
        """A name's value, made up if it has none."""
        return self.values.setdefault(name, f"mine-{uuid.uuid4().hex}")

    def matches(self, wanted: Any, came: Any) -> bool:
        """Compare; names are bound if it is so."""
        before = dict(self.values)
        try:
            self.match(wanted, came)
        except Differs:
            self.values = before
            return False
        return True

    def match(self, wanted: Any, came: Any) -> None:
        """Compare; raises `Differs`."""
        if isinstance(wanted, dict) and isinstance(came, dict):
            for key, value in wanted.items():
                self.match_field(wanted, came, key, value)
        elif isinstance(wanted, list) and isinstance(came, list):
            self.match_items(wanted, came)
        elif isinstance(wanted, str) and wanted in WORDS:
            if not WORDS[wanted](came):
                raise Differs(f"expected {wanted}, got {came}")
            if wanted == "$cursor":
                self.values["cursor"] = str(came)
        elif isinstance(wanted, str):
            self.match_text(wanted, came)
        elif is_number(wanted) and is_number(came):
            if wanted != came:
                raise Differs(f"expected {wanted}, got {came}")
        elif wanted is not came:
            raise Differs(f"expected {wanted}, got {came}")

    def match_field(self, wanted: Any, came: Any, key: str, value: Any) -> None:
        if value == "$absent":
            if key in came:
                raise Differs(f"{key} is there")
        elif key not in came:
            raise Differs(f"no {key} in {came}")
        elif key in {"message", "error"} and isinstance(value, str) and "code" in wanted:
            if not isinstance(came[key], str):
                raise Differs(f"{key} is no text")
        else:
            self.match(value, came[key])

    def match_items(self, wanted: list[Any], came: list[Any]) -> None:
        others = []
        if wanted[-1:] == ["$others"]:
            wanted = wanted[:-1]
            came, others = came[: len(wanted)], came[len(wanted) :]
        if len(wanted) != len(came):
            raise Differs(f"expected {len(wanted)} items, got {came}")
        for one, other in zip(wanted, came, strict=True):
            self.match(one, other)
        known = set(self.values.values())
        if any(isinstance(item, dict) and item.get("id") in known for item in others):
            raise Differs(f"one of ours among {others}")

    def match_text(self, wanted: str, came: Any) -> None:
        whole = NAME.fullmatch(wanted)
        name = whole and (whole[1] or whole[2])
        if name and name[-1].isdigit() and name not in self.values:
            kind = name.rstrip("0123456789")
            same = [
                n for n, v in self.values.items() if v == came and n.rstrip("0123456789") == kind
            ]
            if not isinstance(came, str) or not came or same:
                raise Differs(f"expected a new {wanted}, got {came}, known as {same}")
            self.values[name] = came
            return
        try:
            known = NAME.sub(lambda found: self.values[found[1] or found[2]], wanted)
        except KeyError as unknown:
            raise Differs(f"{wanted}: nothing is known as {unknown}") from unknown
        if known != came:
            raise Differs(f"expected {known}, got {came}")


def payload_key(frame: Any) -> str | None:
    return next((key for key in ("event", "data") if isinstance(frame.get(key), dict)), None)


def payload(frame: Any) -> Any:
    key = payload_key(frame)
    return frame if key is None else frame[key]


def piece(frame: Any) -> str | None:
    """Which piece of text a frame is: its `type` or `kind`."""
    inner = payload(frame)
    kind = inner.get("kind") if inner.get("kind") == "assistant_chunk" else inner.get("type")
    return kind if kind in PIECES and isinstance(inner.get(PIECES[kind]), str) else None


def with_text(frame: Any, text: str) -> Any:
    key, field = payload_key(frame), PIECES[piece(frame) or ""]
    if key is None:
        return {**frame, field: text}
    return {**frame, key: {**frame[key], field: text}}


class Frames:
    """The frames that are to come on a stream."""

    def __init__(self, names: Names, frames: list[Any]) -> None:
        self.names = names
        self.lanes: dict[Any, list[Any]] = {}
        self.joined: dict[Any, str] = {}
        for frame in frames:
            self.lanes.setdefault(payload(frame).get("familiarId"), []).append(frame)

    @property
    def are_all(self) -> bool:
        """Whether every one came."""
        return not any(self.lanes.values())

    def take(self, frame: Any) -> None:
        """One frame that came."""
        lane = payload(frame).get("familiarId")
        waiting = self.lanes.get(lane)
        if not waiting:
            raise Differs(f"nothing was to come, but {frame}")
        wanted = waiting[0]
        kind = piece(wanted)
        if kind is not None and kind == piece(frame):
            text, said = payload(wanted)[PIECES[kind]], payload(frame)[PIECES[kind]]
            joined = self.joined.pop(lane, "") + said
            if joined != text:
                if not text.startswith(joined):
                    raise Differs(f"expected the text {text}, got {joined}")
                self.joined[lane] = joined
                freed = {k: "$any" if k in NUMBERS else v for k, v in wanted.items()}
                self.names.match(with_text(freed, said), frame)
                return
            frame = with_text(frame, joined)
        elif lane in self.joined:
            raise Differs(f"the text was not whole before {frame}")
        self.names.match(wanted, frame)
        waiting.pop(0)
