"""Generates protocol/dispatch.d.ts: everything that travels, as TypeScript declarations.

Neighbours: `protocol` writes it, `schemas` has the types, `tests/protocol/test_tools.py` has the
compiler read it. It is made of the same components as the JSON Schemas.
Invariant: each declaration says what its schema says, less what types cannot: bounds and patterns.
"""

from __future__ import annotations

import json
import textwrap
from typing import Any

from scripts.schemas import DIALECTS, GENERATED, components

Object = dict[str, Any]

WIDTH = 100
HEAD = f"""\
/**
 * What travels between dispatch and its clients; the contract is in the pages beside this file.
 * {GENERATED}
 *
 * A union is told apart by one field: `type` of frames, events and chunks, `kind` of what a
 * group's stream says, `event` of a person's chat events. A later server may say more: ignore
 * fields, types, kinds and events that are not here.
 */
"""
# What one connection of `dispatch.v1` carries, whatever it is about.
WHOLE = {
    "ServerFrame": (
        "What the server sends on a connection of `dispatch.v1`.",
        ("NativeServerFrame", "GroupServerFrame", "ChatsServerFrame"),
    ),
    "ClientFrame": (
        "What a client may send on a connection of `dispatch.v1`.",
        ("NativeClientFrame", "GroupClientFrame", "ChatsClientFrame"),
    ),
}
PRIMITIVES = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean"}


def typescript_page() -> str:
    """The whole file: the unions first, as that is where a reader begins."""
    found = components(DIALECTS, "{}")
    unions = {name: meaning for one in DIALECTS for name, (meaning, _) in one.unions.items()}
    parts = [HEAD]
    parts += [_alias(name, meaning, list(of)) for name, (meaning, of) in WHOLE.items()]
    parts += [
        _alias(name, meaning, [_type(option) for option in found[name]["anyOf"]])
        for name, meaning in unions.items()
    ]
    parts += [_declaration(value) for name, value in found.items() if name not in unions]
    return "\n".join(parts)


def _alias(name: str, meaning: str, options: list[str]) -> str:
    lines = "".join(f"\n  | {option}" for option in options)
    return f"{_comment(meaning)}export type {name} ={lines};\n"


def _declaration(value: Object) -> str:
    """An object's interface; one that carries another is both."""
    required = set(value.get("required", ()))
    fields = [
        f"{_comment(inner.get('description', ''), 2)}"
        f"  {_key(name)}{'' if name in required else '?'}: {_type(inner)};\n"
        for name, inner in value["properties"].items()
    ]
    body = "{\n" + "".join(fields) + "}"
    comment = _comment(value["description"])
    if "allOf" in value:
        carried = " & ".join(_type(inner) for inner in value["allOf"])
        return f"{comment}export type {value['title']} = {carried} & {body};\n"
    if not fields:
        return f"{comment}export type {value['title']} = Record<string, never>;\n"
    return f"{comment}export interface {value['title']} {body}\n"


def _comment(text: str, indent: int = 0) -> str:
    """A doc comment, on one line where it fits."""
    if not text:
        return ""
    margin = " " * indent
    if len(text) + indent + 7 <= WIDTH:
        return f"{margin}/** {text} */\n"
    lines = textwrap.wrap(text, WIDTH - indent - 3, break_long_words=False)
    return "\n".join([f"{margin}/**", *(f"{margin} * {line}" for line in lines), f"{margin} */\n"])


def _key(name: str) -> str:
    return name if name.isidentifier() else json.dumps(name)


def _type(value: Object) -> str:
    """A schema as an expression."""
    match value:
        case {"$ref": str(name)}:
            return name
        case {"const": only}:
            return json.dumps(only)
        case {"enum": options}:
            return " | ".join(json.dumps(option) for option in options)
        case {"anyOf": options}:
            return " | ".join(dict.fromkeys(_type(option) for option in options))
        case {"type": "null"}:
            return "null"
        case {"type": "array", "items": items}:
            inner = _type(items)
            return f"({inner})[]" if "|" in inner else f"{inner}[]"
        case {"type": "object", "additionalProperties": dict(inner)}:
            return f"Record<string, {_type(inner)}>"
        case {"type": "object"}:
            return "Record<string, unknown>"
        case {"type": str(name)}:
            return PRIMITIVES[name]
        case _:
            return "unknown"
