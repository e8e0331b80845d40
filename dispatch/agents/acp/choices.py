"""What a session lets its client choose: the model, the mode, how hard it thinks.

Neighbours: `session` sets a choice, `agent` decides which. An agent tells its choices as
`configOptions` with a category, or in the older fields `models` and `modes`; both are read, and the
newer one counts.
Invariant: a choice is only ever set to a value that the agent listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from acp.meta import AGENT_METHODS
from acp.schema import (
    ConfigOptionUpdate,
    CurrentModeUpdate,
    LoadSessionResponse,
    NewSessionResponse,
    SessionConfigOptionSelect,
    SessionConfigSelectGroup,
)

MODEL: Final = "model"
MODE: Final = "mode"
EFFORT: Final = "thought_level"

# Unstable, and gone from the library's schema; agents of the field still speak it.
_SET_MODEL: Final = "session/set_model"


class _Model(msgspec.Struct, rename="camel"):
    model_id: str


class _Models(msgspec.Struct, rename="camel"):
    current_model_id: str
    available_models: list[_Model]


class Choice(msgspec.Struct):
    """One of them. `given` are the fixed parameters of `method`, `key` names the chosen one;
    `initial` is what it was before a client chose anything, `is_chosen` whether one has.
    """

    method: str
    key: str
    given: dict[str, str]
    values: tuple[str, ...]
    current: str
    initial: str = ""
    is_chosen: bool = False

    def __post_init__(self) -> None:
        """Begin with what the session has."""
        self.initial = self.initial or self.current

    def params(self, session: str, value: str) -> dict[str, Any]:
        """The parameters of `method`."""
        return {"sessionId": session, **self.given, self.key: value}


class Choices:
    """Those of one session, by what they are about."""

    def __init__(self, known: dict[str, Choice] | None = None) -> None:
        """Begin with these."""
        self._known = known or {}

    @classmethod
    def told(
        cls, response: NewSessionResponse | LoadSessionResponse, raw: dict[str, Any]
    ) -> Choices:
        """As a session's beginning tells them; `raw` is the answer as it was sent."""
        known: dict[str, Choice] = {}
        if models := _models(raw.get("models")):
            values = tuple(model.model_id for model in models.available_models)
            known[MODEL] = Choice(_SET_MODEL, "modelId", {}, values, models.current_model_id)
        if modes := response.modes:
            values = tuple(mode.id for mode in modes.available_modes)
            method = AGENT_METHODS["session_set_mode"]
            known[MODE] = Choice(method, "modeId", {}, values, modes.current_mode_id)
        for option in response.config_options or ():
            if isinstance(option, SessionConfigOptionSelect) and isinstance(option.category, str):
                known[option.category] = _of_option(option)
        return cls(known)

    def get(self, about: str) -> Choice | None:
        """One of them, if the agent has it."""
        return self._known.get(about)

    def find(self, value: str) -> Choice | None:
        """Which of model and mode, in this order, has that value."""
        for about in (MODEL, MODE):
            choice = self._known.get(about)
            if choice is not None and value in choice.values:
                return choice
        return None

    @property
    def names(self) -> list[str]:
        """Everything `find` would find."""
        return [name for choice in self._model_and_mode() for name in choice.values]

    def _model_and_mode(self) -> Iterator[Choice]:
        return (self._known[about] for about in (MODEL, MODE) if about in self._known)

    def follow(self, update: object) -> None:
        """Take over what the agent changed by itself."""
        match update:
            case CurrentModeUpdate(current_mode_id=mode) if MODE in self._known:
                self._known[MODE].current = mode
            case ConfigOptionUpdate(config_options=options):
                for option in options or ():
                    if isinstance(option, SessionConfigOptionSelect):
                        self._follow_option(option)
            case _:
                pass

    def _follow_option(self, option: SessionConfigOptionSelect) -> None:
        known = self._known.get(option.category) if isinstance(option.category, str) else None
        if known is not None:
            known.values, known.current = _values(option), option.current_value


def _of_option(option: SessionConfigOptionSelect) -> Choice:
    method = AGENT_METHODS["session_set_config_option"]
    return Choice(method, "value", {"configId": option.id}, _values(option), option.current_value)


def _values(option: SessionConfigOptionSelect) -> tuple[str, ...]:
    return tuple(
        value.value
        for entry in option.options
        for value in (entry.options if isinstance(entry, SessionConfigSelectGroup) else [entry])
    )


def _models(told: object) -> _Models | None:
    try:
        return msgspec.convert(told, _Models)
    except msgspec.ValidationError:
        return None
