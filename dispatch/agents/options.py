"""What an operator writes under `[agents.NAME]`, decoded and checked.

Neighbours: each adapter gives its own struct; `runtime` asks `resolve_cwd` before it accepts a
client's directory, and an adapter asks again before it uses one.
Invariant: every complaint names the setting, `agents.NAME.KEY`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from dispatch.agents.port import AgentFailure, AgentInfo
from dispatch.errors import ConfigError
from dispatch.settings_file import complaint

OptionsT = TypeVar("OptionsT", bound="AgentOptions")

Milliseconds = Annotated[float, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
TurnsMax = Annotated[int, msgspec.Meta(ge=1)]


class AgentOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every agent can be told. `models` are the names that may follow `NAME/`; with none
    listed, whatever a client names is passed on. Of its turns `turns_max` run at a time, and the
    next wait; without it as many as the account may have.
    """

    models: tuple[str, ...] = ()
    turns_max: TurnsMax | None = None


def decode_options(name: str, options: dict[str, object], kind: type[OptionsT]) -> OptionsT:
    """Read the table of one agent; raises `ConfigError` naming the key that is wrong."""
    try:
        # Not strict: the same settings come from the environment, where everything is text.
        return msgspec.convert(options, kind, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        key, reason = complaint(str(error))
        raise wrong_option(name, key, reason) from error


def wrong_option(name: str, key: str, reason: str) -> ConfigError:
    """The complaint about one setting of one agent."""
    return ConfigError(f"agents.{name}.{key}: {reason}" if key else f"agents.{name}: {reason}")


def _decode(kind: type, value: object) -> object:
    if kind is not Path:
        raise NotImplementedError(f"cannot read {value!r} as {kind.__name__}")
    if not isinstance(value, str | Path):
        # In msgspec's words, which adds where it is.
        raise ValueError(f"Expected `str`, got `{type(value).__name__}`")
    # A person's `~`; of nobody's home it stays as it is, and is not found.
    return Path(os.path.expanduser(value))


def check_model(info: AgentInfo, model: str | None) -> None:
    """Refuse a model that is not among those listed, as the turn's own error."""
    if model is not None and info.models and model not in info.models:
        known = ", ".join(info.models)
        raise AgentFailure(f'{info.name} has no model "{model}", only {known}', "unknown_model")


def resolve_cwd(roots: tuple[Path, ...], cwd: str) -> Path | None:
    """The directory that a client named, with every link followed; None if it may not be used.

    It must be absolute (the daemon's own directory is nobody's business), exist, and lie in a root
    after both were resolved. Touches the file system.
    """
    try:
        if not Path(cwd).is_absolute():
            return None
        found = Path(cwd).resolve(strict=True)
        inside = any(found.is_relative_to(root.resolve()) for root in roots)
        return found if inside and found.is_dir() else None
    except (OSError, ValueError, RuntimeError):
        # Missing, not permitted, a NUL, or a loop of links (RuntimeError before 3.13).
        return None
