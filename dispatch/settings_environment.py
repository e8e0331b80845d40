"""What the environment says of the settings: `DISPATCH_PORT`, `DISPATCH_LIMITS__FRAME_BYTES_MAX`.

Neighbours: `settings` lays it over what `settings_file` reads.
Invariant: a variable under our name that is neither a setting nor known otherwise is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final

from dispatch.errors import ConfigError

# What is in the environment under our name and is no setting: of clients, agents and tests.
OTHER_VARIABLES: Final = frozenset(
    {
        "DISPATCH_CONFIG",
        "DISPATCH_PROCESS",
        "DISPATCH_SIMULATION_SEED",
        "DISPATCH_SIMULATION_SEEDS",
        "DISPATCH_TEST_KILL_CYCLES",
        "DISPATCH_TOKEN",
        "DISPATCH_TRACEBACK",
        "DISPATCH_URL",
    }
)
# What the environment gives as words with commas between them.
_LISTS: Final = frozenset({"hosts", "origins", "trusted_proxies"})


def read_environment(environment: Mapping[str, str], fields: tuple[str, ...]) -> dict[str, object]:
    """What is set, nested as a file nests it; raises `ConfigError` for what is none of `fields`."""
    found: dict[str, object] = {}
    for name, text in environment.items():
        if not name.startswith("DISPATCH_") or name in OTHER_VARIABLES:
            continue
        first, *rest = name.removeprefix("DISPATCH_").lower().split("__")
        if first not in fields:
            raise ConfigError(_unknown(name, fields))
        inner = found
        for part in [first, *rest][:-1]:
            nested = inner.setdefault(part, {})
            if not isinstance(nested, dict):
                raise ConfigError(f"{name}: {part} is not a table")
            inner = nested
        is_list = not rest and first in _LISTS
        inner[[first, *rest][-1]] = _listed(text) if is_list else text
    return found


def _listed(text: str) -> list[str]:
    """A list as the environment can hold one: with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _unknown(name: str, fields: tuple[str, ...]) -> str:
    known = [*fields, *(n.removeprefix("DISPATCH_") for n in OTHER_VARIABLES)]
    first = name.removeprefix("DISPATCH_").partition("__")[0]
    near = difflib.get_close_matches(first, [one.upper() for one in known], n=1)
    hint = f"; is DISPATCH_{near[0]} meant?" if near else ""
    return f"{name} in the environment is no setting{hint}"
