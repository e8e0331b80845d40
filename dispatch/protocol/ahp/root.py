"""The root channel's reducer: agents, how many sessions run, terminals, settings.

Neighbours: `reduce` calls it; `session` folds a session's settings in the same way.
Source: `protocol/ahp.md`; the list of sessions is no part of this state.
Invariant: settings of a state that has none change nothing.
"""

from __future__ import annotations

from typing import Final

from dispatch.protocol.ahp.objects import changed
from dispatch.protocol.ahp.rules import Rules
from dispatch.protocol.codec import Object

_REPLACES: Final = {
    "root/agentsChanged": "agents",
    "root/activeSessionsChanged": "activeSessions",
    "root/terminalsChanged": "terminals",
}


def reduce_root(state: Object, action: Object, _rules: Rules, _now: str) -> Object:
    """The root state after an action."""
    kind = action["type"]
    if kind in _REPLACES:
        name = _REPLACES[kind]
        return changed(state, **{name: action[name]})
    if kind == "root/configChanged":
        return with_settings(state, action)
    return state


def with_settings(state: Object, action: Object) -> Object:
    """The state with settings merged, or replaced if the action says so."""
    config = state.get("config")
    if config is None:
        return state
    values = action["config"] if action.get("replace") else config["values"] | action["config"]
    return changed(state, config=changed(config, values=values))
