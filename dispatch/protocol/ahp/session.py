"""The session channel's reducer: its life, its chats, who is active in it, what waits for a person.

Neighbours: `reduce` calls it, `customizations` folds the list of the same name; `aggregation` says
what a session's summary derives from its chats, which no action of this channel does.
Source: `protocol/ahp.md` and the conformance data of 0.7.0.
Invariant: whatever is not found changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dispatch.protocol.ahp.customizations import CUSTOMIZING
from dispatch.protocol.ahp.objects import changed, removed, upserted
from dispatch.protocol.ahp.root import with_settings
from dispatch.protocol.ahp.rules import Rules
from dispatch.protocol.ahp.status import (
    INPUT_NEEDED,
    IS_ARCHIVED,
    IS_READ,
    answered,
    with_activity,
    with_flag,
)
from dispatch.protocol.codec import Object

_REPLACES: Final = {
    "session/titleChanged": ("title", "title"),
    "session/activityChanged": ("activity", "activity"),
    "session/metaChanged": ("_meta", "_meta"),
    "session/serverToolsChanged": ("serverTools", "tools"),
    "session/changesetsChanged": ("changesets", "changesets"),
    "session/defaultChatChanged": ("defaultChat", "defaultChat"),
    "session/customizationsChanged": ("customizations", "customizations"),
}
"""Which member becomes which of the action's; absent there, it goes."""


def reduce_session(state: Object, action: Object, rules: Rules, _now: str) -> Object:
    """The session's state after an action."""
    kind = action["type"]
    if kind in _REPLACES:
        name, of = _REPLACES[kind]
        return changed(state, **{name: action.get(of)})
    if kind in CUSTOMIZING:
        return CUSTOMIZING[kind](state, action)
    change = _CHANGES.get(kind)
    return state if change is None else change(state, action, rules)


def _ready(state: Object, _action: Object, _rules: Rules) -> Object:
    return changed(state, lifecycle="ready")


def _creation_failed(state: Object, action: Object, rules: Rules) -> Object:
    return changed(state, lifecycle=rules.creation_failed, creationError=action["error"])


def _chat_added(state: Object, action: Object, _rules: Rules) -> Object:
    return changed(state, chats=upserted(state["chats"], action["summary"], "resource"))


def _chat_removed(state: Object, action: Object, _rules: Rules) -> Object:
    chats = removed(state["chats"], "resource", action["chat"])
    if chats is state["chats"]:
        return state
    default = state.get("defaultChat")
    return changed(state, chats=chats, defaultChat=None if default == action["chat"] else default)


def _chat_updated(state: Object, action: Object, _rules: Rules) -> Object:
    for summary in state["chats"]:
        if summary["resource"] == action["chat"]:
            updated = changed(summary, **{**action["changes"], "resource": action["chat"]})
            return changed(state, chats=upserted(state["chats"], updated, "resource"))
    return state


def _read(state: Object, action: Object, _rules: Rules) -> Object:
    return changed(state, status=with_flag(state["status"], IS_READ, action["isRead"]))


def _archived(state: Object, action: Object, _rules: Rules) -> Object:
    return changed(state, status=with_flag(state["status"], IS_ARCHIVED, action["isArchived"]))


def _config(state: Object, action: Object, _rules: Rules) -> Object:
    return with_settings(state, action)


def _client_set(state: Object, action: Object, _rules: Rules) -> Object:
    clients = upserted(state["activeClients"], action["activeClient"], "clientId")
    return changed(state, activeClients=clients)


def _client_removed(state: Object, action: Object, _rules: Rules) -> Object:
    clients = removed(state["activeClients"], "clientId", action["clientId"])
    return state if clients is state["activeClients"] else changed(state, activeClients=clients)


def _input_set(state: Object, action: Object, rules: Rules) -> Object:
    before = state.get("inputNeeded", [])
    return _with_inputs(state, before, upserted(before, action["request"], "id"), rules)


def _input_removed(state: Object, action: Object, rules: Rules) -> Object:
    before = state.get("inputNeeded", [])
    after = removed(before, "id", action["id"])
    return state if after is before else _with_inputs(state, before, after, rules)


def _with_inputs(state: Object, before: list[Object], after: list[Object], rules: Rules) -> Object:
    """With what waits now; only the first that asks and the last that does touch the status."""

    def asks(request: Object) -> bool:
        return rules.execution_asks or request.get("kind") != "toolClientExecution"

    status = state["status"]
    if any(map(asks, after)):
        status = with_activity(status, INPUT_NEEDED)
    elif any(map(asks, before)):
        status = answered(status)
    return changed(state, inputNeeded=after or None, status=status)


def directory_set(state: Object, action: Object) -> Object:
    """The state with one more working directory; a session's and a chat's are the same."""
    directories = state.get("workingDirectories", [])
    if action["directory"] in directories:
        return state
    return changed(state, workingDirectories=[*directories, action["directory"]])


def directory_removed(state: Object, action: Object) -> Object:
    """The state without a working directory."""
    directories = state.get("workingDirectories", [])
    if action["directory"] not in directories:
        return state
    return changed(
        state, workingDirectories=[other for other in directories if other != action["directory"]]
    )


_CHANGES: Final[dict[str, Callable[[Object, Object, Rules], Object]]] = {
    "session/ready": _ready,
    "session/creationFailed": _creation_failed,
    "session/chatAdded": _chat_added,
    "session/chatRemoved": _chat_removed,
    "session/chatUpdated": _chat_updated,
    "session/isReadChanged": _read,
    "session/isArchivedChanged": _archived,
    "session/configChanged": _config,
    "session/activeClientSet": _client_set,
    "session/activeClientRemoved": _client_removed,
    "session/inputNeededSet": _input_set,
    "session/inputNeededRemoved": _input_removed,
    "session/workingDirectorySet": lambda state, action, _: directory_set(state, action),
    "session/workingDirectoryRemoved": lambda state, action, _: directory_removed(state, action),
}
