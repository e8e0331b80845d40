"""Compares what a transcript expects with what came, and remembers the names in it.

Neighbours: `frames` holds lists of frames against it; `transcript` has the names.
Invariant: a name has one value, and two names of the same letters have two.
"""

import re
import secrets

NAME = re.compile(r"\$\{([A-Za-z]+[0-9]*)\}|\$([A-Za-z]+[0-9]*)")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Mismatch(Exception):
    """What came is not what the transcript has."""


def is_number(value):
    # In Python True is an int; on the wire `true` is none.
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value):
    return is_number(value) and float(value).is_integer()


WORDS = {
    "$any": lambda value: True,
    "$time": lambda value: isinstance(value, str) and TIME.fullmatch(value),
    "$ms": lambda value: is_whole(value) and value >= 0,
    "$duration": lambda value: is_number(value) and value >= 0,
    "$count": lambda value: is_whole(value) and value >= 0,
    "$id": is_whole,
    "$cursor": is_whole,
}


class Names:
    """The values of one transcript's names."""

    def __init__(self, values=None):
        self.values = values or {}

    def copy(self):
        return Names(dict(self.values))

    def filled(self, value):
        """What a client sends: names without a value are made up."""
        if isinstance(value, str):
            return NAME.sub(self._made_up, value)
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        if isinstance(value, dict):
            return {key: self.filled(item) for key, item in value.items()}
        return value

    def _made_up(self, match):
        name = match[1] or match[2]
        if name not in self.values:
            self.values[name] = f"{name}-{secrets.token_hex(6)}"
        return str(self.values[name])

    def _known(self, match):
        name = match[1] or match[2]
        if name not in self.values:
            raise Mismatch(f"${name} has no value yet")
        return str(self.values[name])

    def match(self, expected, came, where=""):
        """Raises Mismatch, or gives names their values."""
        if isinstance(expected, str):
            self._match_text(expected, came, where)
        elif isinstance(expected, dict):
            self._match_object(expected, came, where)
        elif isinstance(expected, list):
            self._match_array(expected, came, where)
        elif is_number(expected):
            if not is_number(came) or expected != came:
                raise Mismatch(f"{where}: {came!r} instead of {expected!r}")
        elif expected is not came:  # true, false and null
            raise Mismatch(f"{where}: {came!r} instead of {expected!r}")

    def _match_text(self, expected, came, where):
        if expected in WORDS:
            if not WORDS[expected](came):
                raise Mismatch(f"{where}: {came!r} is no {expected}")
            if expected == "$cursor":
                self.values["cursor"] = came
            return
        alone = NAME.fullmatch(expected)
        name = alone and (alone[1] or alone[2])
        if name and name not in self.values:
            self._bind(name, came, where)
            return
        wanted = NAME.sub(self._known, expected)
        if came != wanted:
            raise Mismatch(f"{where}: {came!r} instead of {wanted!r} ({expected})")

    def _bind(self, name, came, where):
        if not isinstance(came, str) or not came:
            raise Mismatch(f"{where}: {came!r} cannot be ${name}")
        letters = name.rstrip("0123456789")
        for other, value in self.values.items():
            if value == came and other.rstrip("0123456789") == letters:
                raise Mismatch(f"{where}: {came!r} is ${other} already, not ${name}")
        self.values[name] = came

    def _match_object(self, expected, came, where):
        if not isinstance(came, dict):
            raise Mismatch(f"{where}: {came!r} is no object")
        for key, value in expected.items():
            here = f"{where}.{key}"
            if value == "$absent":
                if key in came:
                    raise Mismatch(f"{here}: should not be there")
            elif key not in came:
                raise Mismatch(f"{here}: missing in {came!r}")
            elif key in ("message", "error") and isinstance(value, str) and "code" in expected:
                # Words for people: any will do.
                if not isinstance(came[key], str):
                    raise Mismatch(f"{here}: {came[key]!r} is no string")
            else:
                self.match(value, came[key], here)

    def _match_array(self, expected, came, where):
        if not isinstance(came, list):
            raise Mismatch(f"{where}: {came!r} is no array")
        if expected[-1:] == ["$others"]:
            expected = expected[:-1]
            others = came[len(expected) :]
            came = came[: len(expected)]
        else:
            others = []
        if len(came) != len(expected):
            raise Mismatch(f"{where}: {len(came)} items instead of {len(expected)}")
        for index, (one, other) in enumerate(zip(expected, came, strict=True)):
            self.match(one, other, f"{where}[{index}]")
        for item in others:
            if isinstance(item, dict) and item.get("id") in self.values.values():
                raise Mismatch(f"{where}: {item['id']!r} is not one of the others")
