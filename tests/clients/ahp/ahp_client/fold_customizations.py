"""Plugins, their children, and servers of tools: kept as they are told, in the shapes of 0.7.

Neighbours: `fold_session`.
Invariant: an id that is not there changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.clients.ahp.ahp_client.words import Json, changed, upserted

Change = Callable[[Json], Json]


def customizations_folded(state: Json, action: Json) -> Json:
    """The session after an action about what was added to it."""
    rows = state.get("customizations")
    kind = action["type"].removeprefix("session/")
    if kind == "customizationsChanged":
        return {**state, "customizations": action["customizations"]}
    if kind == "customizationUpdated":
        return {**state, "customizations": upserted(rows, action["customization"], "id")}
    if rows is None:
        return state
    if kind == "customizationRemoved":
        made = _without(rows, action["id"])
    else:
        made = _with_change(rows, action["id"], _change(kind, action))
    return state if made is rows else {**state, "customizations": made}


def _change(kind: str, action: Json) -> Change:
    def toggled(one: Json) -> Json:
        return {**one, "enabled": action["enabled"]}

    def served(one: Json) -> Json:
        if one["type"] != "mcpServer":
            return one
        if kind == "mcpServerStateChanged":
            return changed(one, state=action["state"], channel=action.get("channel"))
        word = "starting" if kind == "mcpServerStartRequested" else "stopped"
        return changed(one, state={"kind": word}, channel=None)

    return toggled if kind == "customizationToggled" else served


def _with_change(rows: list[Json], wanted: str, change: Change) -> list[Json]:
    for index, one in enumerate(rows):
        if one["id"] == wanted:
            made = change(one)
        else:
            children = one.get("children") or []
            fresh = _with_change(children, wanted, change)
            made = one if fresh is children else {**one, "children": fresh}
        if made is not one:
            return [*rows[:index], made, *rows[index + 1 :]]
    return rows


def _without(rows: list[Json], wanted: str) -> list[Json]:
    kept = [one for one in rows if one["id"] != wanted]
    if len(kept) < len(rows):
        return kept
    for index, one in enumerate(rows):
        children = one.get("children") or []
        fresh = _without(children, wanted)
        if fresh is not children:
            return [*rows[:index], {**one, "children": fresh}, *rows[index + 1 :]]
    return rows
