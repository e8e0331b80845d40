"""Held against the published schema of 0.7.0: what leaves for that version is of that version.

The schema is not in the tree; see `conformance`. It is made strict here: a member that it does not
name is an offence, so that nothing newer can hide.
"""

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator

from dispatch.protocol.ahp.conversion import down_actions, down_state
from dispatch.protocol.ahp.reduce import reduce
from dispatch.protocol.ahp.versions import V0_7
from tests.protocol.ahp.conformance import ABSENT, DATA
from tests.protocol.ahp.histories import histories, one_turn

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=ABSENT)

STATES = {"root": "RootState", "session": "SessionState", "chat": "ChatState"}


def strict(node: Any) -> Any:
    match node:
        case {"properties": dict() as members}:
            closed = {name: strict(item) for name, item in node.items()}
            closed.setdefault("additionalProperties", False)
            if not members:
                closed["additionalProperties"] = True
            return closed
        case dict():
            return {name: strict(item) for name, item in node.items()}
        case list():
            return [strict(item) for item in node]
    return node


@cache
def definitions() -> dict[str, Any]:
    schema = json.loads((DATA / "schema" / "actions.schema.json").read_text("utf-8"))
    closed: dict[str, Any] = strict(schema["$defs"])
    # A status is any combination of bits; the schema lists the single ones.
    closed["SessionStatus"] = {"type": "integer"}
    # One reference of the published file names nothing.
    closed[""] = False
    return closed


@cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions()})


@cache
def names_of(kind: str) -> list[str]:
    """The definitions of actions of a type."""
    return [
        name
        for name, definition in definitions().items()
        if definition and definition.get("properties", {}).get("type", {}).get("const") == kind
    ]


def is_action(action: dict[str, Any]) -> bool:
    return any(offences(name, action) == [] for name in names_of(action["type"]))


def offences(name: str, value: Any) -> list[str]:
    return [error.message[:300] for error in validator(name).iter_errors(value)]


@settings(suppress_health_check=list(HealthCheck))
@given(history=histories)
def test_states_and_actions_for_0_7_are_in_its_schema(history: Any) -> None:
    assert_in_schema(history)


@settings(suppress_health_check=list(HealthCheck))
@given(history=one_turn)
def test_one_turn_for_0_7_is_in_its_schema(history: Any) -> None:
    assert_in_schema(history)


def assert_in_schema(history: Any) -> None:
    kind, state, actions = history
    for action in actions:
        after = reduce(state, action)
        for said in down_actions(V0_7, action, state, after):
            assert is_action(said), said
        state = after
    theirs = down_state(V0_7, kind, state)
    assert offences(STATES[kind], theirs) == [], theirs


def test_a_newer_member_is_an_offence() -> None:
    chat = {"resource": "x:/y", "title": "", "status": 1, "modifiedAt": "", "turns": []}
    assert offences("ChatState", chat) == []
    assert offences("ChatState", {**chat, "movable": True})
    assert not is_action({"type": "chat/turnResume", "turnId": "t"})
    assert is_action({"type": "session/ready"})
    assert not is_action({"type": "session/ready", "movable": True})
