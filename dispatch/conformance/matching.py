"""What came, held against what is written: names stand for what differs from run to run.

Neighbours: `streams` compares frames with it, `replay` puts the values into requests.
A name (`$turn1`) stands for the value that it first met; a word (`$time`, `$any`, …) for any value
of a kind. `fixtures/README.md` lists both.
Invariant: two names of one kind never stand for the same value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from dispatch.conformance.transcripts import Json

# A comparison is reported with so much of what it was about, for a line of a terminal.
_SHOWN_CHARACTERS_MAX: Final = 300

_NAME: Final = re.compile(r"\$(?:\{(?P<braced>[a-z]+[0-9]*)\}|(?P<bare>[a-z]+[0-9]*))")
_BOUND_ALONE: Final = frozenset({"last", "cursor"})
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
# Beside a code these are words for people, which every server chooses itself.
_FOR_PEOPLE: Final = frozenset({"message", "error"})
# 2001 in milliseconds: seconds are taken for a mistake.
_EPOCH_MS_MIN: Final = 10**12


class Mismatch(Exception):
    """What came is not what is written; `at` is the path to it."""

    def __init__(self, at: str, expected: str, got: str) -> None:
        """The words of both sides."""
        super().__init__(f"{at or 'it'}: expected {expected}, got {got}")


def shown(value: Json) -> str:
    """JSON for a report, cut where nobody reads on."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else f"{text[:_SHOWN_CHARACTERS_MAX]}…"


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_WORDS: Final[dict[str, Callable[[Json], bool]]] = {
    "$any": lambda _: True,
    "$time": lambda value: isinstance(value, str) and bool(_TIME.fullmatch(value)),
    "$ms": lambda value: _is_whole(value) and value >= _EPOCH_MS_MIN,
    "$duration": lambda value: _is_number(value) and value >= 0,
    "$id": _is_whole,
    "$count": lambda value: _is_whole(value) and value >= 0,
    "$cursor": _is_whole,
}


class Names:
    """What the names of one transcript stand for on one server."""

    def __init__(self, new_id: Callable[[], str], *, exact: bool) -> None:
        """`new_id` gives what a client makes up; `exact`: no further fields, the same words."""
        self.values: dict[str, str] = {}
        self._new_id = new_id
        self._exact = exact

    def branch(self) -> Names:
        """A copy, for a comparison that may fail; `adopt` it if it did not."""
        copy = Names(self._new_id, exact=self._exact)
        copy.values = dict(self.values)
        return copy

    def adopt(self, branch: Names) -> None:
        """What a comparison has bound holds from here."""
        self.values = branch.values

    def fill(self, value: Json) -> Json:
        """A request with what its names stand for; what has no value yet, the client makes up."""
        match value:
            case str():
                return _NAME.sub(lambda found: self._own(found), value)
            case dict():
                return {key: self.fill(inner) for key, inner in value.items()}
            case list():
                return [self.fill(inner) for inner in value]
            case _:
                return value

    def match(self, expected: Json, got: Json, at: str = "") -> None:
        """Compare, and bind names that are met for the first time; raises `Mismatch`."""
        match expected:
            case str() if expected in _WORDS:
                if not _WORDS[expected](got):
                    raise Mismatch(at, expected, shown(got))
                if expected == "$cursor":
                    self.values["cursor"] = str(got)
            case str():
                self._match_text(expected, got, at)
            case dict():
                self._match_fields(expected, got, at)
            case list():
                self._match_items(expected, got, at)
            case bool() | None:
                if got is not expected:
                    raise Mismatch(at, shown(expected), shown(got))
            case _:
                if not _is_number(got) or got != expected:
                    raise Mismatch(at, shown(expected), shown(got))

    def _own(self, found: re.Match[str]) -> str:
        name = found["braced"] or found["bare"]
        if name not in self.values:
            if not name[-1].isdigit():
                raise Mismatch("the transcript", f"a value of ${name} before its use", "none")
            self.values[name] = f"{name.rstrip('0123456789')}-{self._new_id()}"
        return self.values[name]

    def _match_text(self, expected: str, got: Json, at: str) -> None:
        whole = _NAME.fullmatch(expected)
        name = whole and (whole["braced"] or whole["bare"])
        if name and name not in self.values and name not in _BOUND_ALONE:
            self._bind(name, got, at)
        elif got != self._known(expected, at):
            raise Mismatch(at, shown(self._known(expected, at)), shown(got))

    def _known(self, text: str, at: str) -> str:
        def value(found: re.Match[str]) -> str:
            name = found["braced"] or found["bare"]
            if name not in self.values:
                raise Mismatch(at, f"{text} with a known ${name}", "a name without a value")
            return self.values[name]

        return _NAME.sub(value, text)

    def _bind(self, name: str, got: Json, at: str) -> None:
        if not name[-1].isdigit():
            raise Mismatch(at, f"a word of the format, not ${name}", shown(got))
        if not isinstance(got, str) or not got:
            raise Mismatch(at, f"a new ${name}", shown(got))
        kind = name.rstrip("0123456789")
        for other, value in self.values.items():
            if value == got and other.rstrip("0123456789") == kind:
                raise Mismatch(at, f"a new ${name}", f"{shown(got)}, which is ${other}")
        self.values[name] = got

    def _match_fields(self, expected: dict[str, Json], got: Json, at: str) -> None:
        if not isinstance(got, dict):
            raise Mismatch(at, "an object", shown(got))
        for key, value in expected.items():
            where = f"{at}.{key}" if at else key
            if value == "$absent":
                if key in got:
                    raise Mismatch(where, "no such field", shown(got[key]))
            elif key not in got:
                raise Mismatch(where, shown(value), f"no such field in {shown(got)}")
            elif isinstance(value, str) and self._is_for_people(key, expected):
                if not isinstance(got[key], str):
                    raise Mismatch(where, "words for people", shown(got[key]))
            else:
                self.match(value, got[key], where)
        if self._exact and (more := sorted(got.keys() - expected.keys())):
            raise Mismatch(at, "no further fields", f"{', '.join(more)} in {shown(got)}")

    def _is_for_people(self, key: str, expected: dict[str, Json]) -> bool:
        return key in _FOR_PEOPLE and isinstance(expected.get("code"), str) and not self._exact

    def _match_items(self, expected: list[Json], got: Json, at: str) -> None:
        if not isinstance(got, list):
            raise Mismatch(at, "an array", shown(got))
        is_open = expected[-1:] == ["$others"]
        wanted = expected[:-1] if is_open else expected
        if len(got) < len(wanted) or (len(got) > len(wanted) and not is_open):
            raise Mismatch(at, f"{len(wanted)} items", f"{len(got)}: {shown(got)}")
        for index, (value, item) in enumerate(zip(wanted, got, strict=False)):
            self.match(value, item, f"{at}[{index}]")
        known = set(self.values.values())
        for item in got[len(wanted) :]:
            if isinstance(item, dict) and item.get("id") in known:
                raise Mismatch(at, "nothing further of this transcript", shown(item))
