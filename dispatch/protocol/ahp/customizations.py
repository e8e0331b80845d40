"""The list of customizations of a session: plugins, folders, MCP servers, and what is in them.

Neighbours: `session` calls it. They are kept and shown, never acted upon.
Source: the conformance data of 0.7.0.
Invariant: what is not found, or is no MCP server where one is needed, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dispatch.protocol.ahp.objects import changed, mapped, removed, upserted
from dispatch.protocol.codec import Object

_Change = Callable[[Object], Object]


def _updated(state: Object, action: Object) -> Object:
    items = upserted(state.get("customizations", []), action["customization"], "id")
    return changed(state, customizations=items)


def _removed(state: Object, action: Object) -> Object:
    """Without the one of this id: at the top with its children, else among them."""
    items: list[Object] = state.get("customizations", [])
    kept = removed(items, "id", action["id"])
    if kept is items:

        def less(item: Object) -> Object:
            children = item.get("children")
            fewer = None if children is None else removed(children, "id", action["id"])
            return item if fewer is children else changed(item, children=fewer)

        kept = mapped(items, less)
    return state if kept is items else changed(state, customizations=kept)


def _toggled(state: Object, action: Object) -> Object:
    if "enabled" not in action:
        return state
    return _at(state, action["id"], lambda item: changed(item, enabled=action["enabled"]))


def _server(change: Callable[[Object, Object], Object]) -> Callable[[Object, Object], Object]:
    def apply(state: Object, action: Object) -> Object:
        def on_server(item: Object) -> Object:
            return change(item, action) if item.get("type") == "mcpServer" else item

        return _at(state, action["id"], on_server)

    return apply


def _at(state: Object, item_id: str, change: _Change) -> Object:
    """With the one of this id changed, at the top or among children."""

    def visit(item: Object) -> Object:
        if item.get("id") == item_id:
            return change(item)
        children = item.get("children")
        if children is None:
            return item
        visited = mapped(children, visit)
        return item if visited is children else changed(item, children=visited)

    items: list[Object] = state.get("customizations", [])
    visited = mapped(items, visit)
    return state if visited is items else changed(state, customizations=visited)


CUSTOMIZING: Final[dict[str, Callable[[Object, Object], Object]]] = {
    "session/customizationUpdated": _updated,
    "session/customizationRemoved": _removed,
    "session/customizationToggled": _toggled,
    "session/mcpServerStateChanged": _server(
        lambda item, action: changed(item, state=action["state"], channel=action.get("channel"))
    ),
    "session/mcpServerStartRequested": _server(
        lambda item, _: changed(item, state={"kind": "starting"}, channel=None)
    ),
    "session/mcpServerStopRequested": _server(
        lambda item, _: changed(item, state={"kind": "stopped"}, channel=None)
    ),
}
"""The actions of this list."""
