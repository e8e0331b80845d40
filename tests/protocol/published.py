"""Whatever the suite is told is checked against `protocol/schemas`, as a stranger would read it.

Neighbours: the wires of `tests/e2e`, `tests/server` and `tests/simulation` hand in every frame they
receive, and the client of `replies` what comes over HTTP. It shares no code with the package: it
reads the published files alone. Compiled, a check costs a fraction of a millisecond, too much for
thousands of deltas: of each shape (which fields there are, of which type, and the words that tell
one frame from another) the first frame is checked, and then the second, fourth, eighth and so on.
Invariant: here schemas are closed; a field that is not published fails the test that saw it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]

_seen: Counter[object] = Counter()


def saw_frame(frame: Object, *, is_v1: bool = True) -> None:
    """A frame that the server sent on a WebSocket; raises AssertionError."""
    kind = frame.get("type")
    if not is_v1:
        saw("Part1ServerFrame", frame)
    elif kind == "chats.event":
        # It is what it carries, with fields of its own in front.
        own = _fields_of("ChatsEventFrame")
        saw("ChatsEventFrame", {name: value for name, value in frame.items() if name in own})
        saw("ChatStreamEvent", {name: value for name, value in frame.items() if name not in own})
    else:
        is_of_group = isinstance(kind, str) and kind.startswith("group.")
        saw("GroupServerFrame" if is_of_group else "NativeServerFrame", frame)


def saw_line(value: Object) -> None:
    """A line of NDJSON, of a turn or of an export; raises AssertionError."""
    saw("ExportLine" if value.get("type") in _export_types() else "Part1Event", value)


def saw(name: str, value: Object) -> None:
    """Something that has a schema of this name; raises AssertionError."""
    seen = (name, _shape(value))
    _seen[seen] += 1
    times = _seen[seen]
    if times & (times - 1) == 0:
        try:
            check(name, value)
        except AssertionError:
            # The next one like it is wrong as well.
            del _seen[seen]
            raise


def saw_one_of(names: Sequence[str], value: Object) -> None:
    """Something that has the schema of one of these names; raises AssertionError."""
    wrong = []
    for name in names:
        try:
            saw(name, value)
        except AssertionError as error:
            wrong.append(str(error))
        else:
            return
    raise AssertionError("\n".join(wrong))


def check(name: str, value: object) -> None:
    """Whether a value is what is published under a name, and no more; raises AssertionError."""
    error = best_match(_validator(name).iter_errors(value))
    if error is not None:
        at = "/".join(map(str, error.absolute_path))
        raise AssertionError(f"not as published, {name} {at}: {error.message}\n{value}")


def documents() -> dict[str, Object]:
    """The schemas by name of file."""
    folder = ROOT / "protocol" / "schemas"
    return {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}


@cache
def _closed() -> dict[str, Object]:
    """The document that has a name, each of its objects closed."""
    found: dict[str, Object] = {}
    for document in documents().values():
        definitions = {name: _close(value) for name, value in document["$defs"].items()}
        found |= {name: {"$defs": definitions} for name in definitions}
    return found


def _close(value: Object) -> Object:
    if "properties" not in value:
        return value
    # What a frame carries besides its own fields is checked by itself.
    own = {key: inner for key, inner in value.items() if key != "allOf"}
    return {**own, "additionalProperties": False}


@cache
def _fields_of(name: str) -> frozenset[str]:
    return frozenset(_closed()[name]["$defs"][name]["properties"])


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({**_closed()[name], "$ref": f"#/$defs/{name}"})


@cache
def _export_types() -> frozenset[str]:
    definitions = documents()["native"]["$defs"]
    refs = [option["$ref"].rpartition("/")[2] for option in definitions["ExportLine"]["anyOf"]]
    return frozenset(definitions[name]["properties"]["type"]["const"] for name in refs)


@cache
def _words() -> dict[str, set[object]]:
    """The words that a field may have: which one it is, or that it is none, is part of a shape."""
    found: defaultdict[str, set[object]] = defaultdict(set)
    for document in documents().values():
        for field, value in _fields(document):
            found[field] |= {value.get("const"), *value.get("enum", ())}
    return found


def _fields(value: Any) -> Iterator[tuple[str, Object]]:
    if isinstance(value, dict):
        for field, inner in value.get("properties", {}).items():
            yield field, inner
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _fields(inner)


def _shape(value: object, field: str = "") -> object:
    match value:
        case dict():
            return tuple((name, _shape(inner, name)) for name, inner in value.items())
        case list():
            return frozenset(_shape(inner) for inner in value)
        case str() if value in _words().get(field, ()):
            return value
        case _:
            return type(value)
