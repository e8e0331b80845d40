"""The TOML file that settings are read from: what it says, and in which line.

Neighbours: `settings` lays the environment and the flags over it, and asks here how to tell what is
wrong; `agents.options` reads its own part of it. What is told begins with the setting's name, as
the file nests it (`agents.NAME.KEY`): by that name it is looked up.
Invariant: a line is told only where the setting that is named is the one that begins there.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dispatch.errors import ConfigError

Place = tuple[str | int, ...]

_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_PLACED: Final = re.compile(r"(.*) - at `\$\.?(.*)`", re.DOTALL)
_INDEX: Final = re.compile(r"\[(\d+)\]")


class SettingsFile:
    """One file, as it is written."""

    def __init__(self, path: Path) -> None:
        """Read it; raises `ConfigError` where it cannot be."""
        self._path = path
        try:
            self._text = path.read_text("utf-8")
            self.table: dict[str, object] = tomllib.loads(self._text)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error

    def placed(self, message: str, above: Mapping[str, object]) -> str:
        """A complaint with the file in front, unless it is about what stands `above` the file."""
        place, is_whole = _place_of(message, self.table)
        higher, _ = _place_of(message, above)
        if higher and len(higher) >= len(place):
            return message
        line = f", line {self._line(place)}" if place and is_whole else ""
        return f"{self._path}{line}: {message}"

    def _line(self, place: Place) -> int:
        """Where the statement begins that brings it.

        Asked of the parser, which tells no lines: so many lines of the file are TOML by themselves
        only if a statement ends with the last one.
        """
        lines = self._text.split("\n")
        begins_at = 1
        for count in range(1, len(lines) + 1):
            try:
                table = tomllib.loads("\n".join(lines[:count]))
            except tomllib.TOMLDecodeError:
                continue
            if _holds(table, place):
                break
            begins_at = count + 1
        return begins_at


def complaint(text: str) -> tuple[str, str]:
    """What msgspec finds wrong, as the setting and the reason."""
    reason, place = match.groups() if (match := _PLACED.fullmatch(text)) else (text, "")
    for pattern, words in ((_UNKNOWN, "no such setting"), (_MISSING, "required")):
        if match := pattern.fullmatch(reason):
            return f"{place}.{match[1]}" if place else match[1], words
    return place, reason


def _place_of(message: str, table: Mapping[str, object]) -> tuple[Place, bool]:
    """How much of the name that a message begins with is in a table, and whether all of it is.

    The table decides where a part of the name ends: an agent's may have dots and blanks.
    """
    place: Place = ()
    inner: object = table
    rest = message
    while True:
        part: str | int
        if isinstance(inner, Mapping):
            keys = [key for key in inner if re.match(rf"{re.escape(key)}(?![\w-])", rest)]
            if not keys:
                break
            part = key = max(keys, key=len)
            inner, rest = inner[key], rest[len(key) :]
        elif isinstance(inner, list) and (index := _INDEX.match(rest)):
            part = int(index[1])
            if part >= len(inner):
                break
            inner, rest = inner[part], rest[index.end() :]
        else:
            break
        place, rest = (*place, part), rest.removeprefix(".")
    return place, rest[:1] in {":", " "}


def _holds(table: object, place: Place) -> bool:
    inner = table
    for part in place:
        match inner, part:
            case dict(), str() if part in inner:
                inner = inner[part]
            case list(), int() if part < len(inner):
                inner = inner[part]
            case _:
                return False
    return True
