"""The configuration as it may be shown: in force, complete, and without secrets.

Neighbours: `cli` prints it for `config check`. Secrets are found by the names that people give
them, since an agent's options are its adapter's own; too much is hidden rather than too little.
Invariant: a value under a secret's name is never returned, at any depth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from dispatch.settings import Settings

HIDDEN: Final = "***"

# `secret_env` and `public_key_file` say where a secret is, and `tokens` is a table of digests.
_SECRET: Final = re.compile(
    r"(?i)(key|secret|token|passw(or)?d|passphrase|credentials?|authorization)$"
)
# Of these tables the names are of interest, the values are anything.
_OPAQUE: Final = frozenset({"env", "environment", "headers"})
_INLINE: Final = re.compile(r"(?i)((?:key|secret|token|password)=|bearer )\S+")
_USER_INFO: Final = re.compile(r"(://)[^/@\s]+@")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def redacted(settings: Settings) -> dict[str, object]:
    """Every setting in the form of the TOML file."""
    tree: dict[str, object] = msgspec.to_builtins(settings, enc_hook=str)
    tree["agents"] = {
        name: {"kind": agent.kind, **agent.options} for name, agent in settings.agents.items()
    }
    shown = {name: _shown(name, value) for name, value in tree.items()}
    return msgspec.convert(shown, dict[str, object])


def _shown(name: str, value: object) -> object:
    match value:
        case Mapping():
            return {
                key: HIDDEN if name.lower() in _OPAQUE else _shown(str(key), inner)
                for key, inner in value.items()
            }
        case list() | tuple():
            return [_shown(name, inner) for inner in value]
        case str() if name == "sha256":
            # Enough to tell tokens apart.
            return f"{value[:8]}..."
        case str() if _SECRET.search(name):
            return HIDDEN
        case str():
            return _USER_INFO.sub(rf"\1{HIDDEN}@", _INLINE.sub(rf"\1{HIDDEN}", value))
        case _:
            return value


def toml_lines(tree: Mapping[str, object], prefix: str = "") -> list[str]:
    """`a.b = value`, one line each; what is not set is left out as a comment."""
    return list(_lines(tree, prefix))


def _lines(tree: Mapping[str, object], prefix: str) -> Iterator[str]:
    for name, value in tree.items():
        key = prefix + (name if _BARE_KEY.fullmatch(name) else json.dumps(name))
        match value:
            case None:
                yield f"# {key} is not set"
            case Mapping() if value:
                yield from _lines(value, f"{key}.")
            case _:
                yield f"{key} = {toml_value(value)}"


def toml_value(value: object) -> str:
    """One value on one line."""
    match value:
        case Mapping():
            inner = (f"{k} = {toml_value(v)}" for k, v in value.items() if v is not None)
            return "{ " + ", ".join(inner) + " }"
        case list() | tuple():
            return "[" + ", ".join(toml_value(inner) for inner in value) + "]"
        case _:
            # JSON's strings, numbers and booleans are TOML's too.
            return json.dumps(value, ensure_ascii=False)
