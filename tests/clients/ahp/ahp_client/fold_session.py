"""The reducers of a session and of the root.

Neighbours: `fold_chat` has what both kinds of channel do with working directories;
`fold_customizations` what plugins and servers do.
Invariant: entries that wait for a person are what puts a session's status to waiting.
"""

from __future__ import annotations

from tests.clients.ahp.ahp_client.fold_chat import directories_folded
from tests.clients.ahp.ahp_client.fold_customizations import customizations_folded
from tests.clients.ahp.ahp_client.words import (
    INPUT_NEEDED,
    IS_ARCHIVED,
    IS_READ,
    WAITING_BIT,
    Json,
    Moment,
    changed,
    upserted,
    with_activity,
    with_flag,
)


def root_folded(state: Json, action: Json, moment: Moment) -> Json:
    """The root after an action."""
    match action["type"]:
        case "root/agentsChanged":
            return {**state, "agents": action["agents"]}
        case "root/activeSessionsChanged":
            return {**state, "activeSessions": action["activeSessions"]}
        case "root/terminalsChanged":
            return {**state, "terminals": action["terminals"]}
        case "root/configChanged":
            return _config(state, action)
        case _:
            return state


def session_folded(state: Json, action: Json, moment: Moment) -> Json:
    """The session after an action; an unknown one changes nothing."""
    kind = action["type"].removeprefix("session/")
    if kind.startswith(("customization", "mcpServer")):
        return customizations_folded(state, action)
    if "hat" in kind and kind != "creationFailed":
        return _chats(state, kind, action)
    if kind.startswith(("activeClient", "inputNeeded", "workingDirectory")):
        return _lists(state, kind, action, moment)
    match kind:
        case "ready":
            return {**state, "lifecycle": "ready"}
        case "creationFailed":
            word = "failed" if moment.version >= (0, 9, 0) else "creationFailed"
            return {**state, "lifecycle": word, "creationError": action["error"]}
        case "titleChanged":
            return {**state, "title": action["title"]}
        case "isReadChanged":
            return {**state, "status": with_flag(state["status"], IS_READ, action["isRead"])}
        case "isArchivedChanged":
            flag = with_flag(state["status"], IS_ARCHIVED, action["isArchived"])
            return {**state, "status": flag}
        case "activityChanged":
            return changed(state, activity=action.get("activity"))
        case "configChanged":
            return _config(state, action)
        case "metaChanged":
            return changed(state, _meta=action.get("_meta"))
        case "serverToolsChanged":
            return {**state, "serverTools": action["tools"]}
        case "changesetsChanged":
            return changed(state, changesets=action.get("changesets"))
        case _:
            return state


def _lists(state: Json, kind: str, action: Json, moment: Moment) -> Json:
    match kind:
        case "activeClientSet":
            rows = upserted(state.get("activeClients"), action["activeClient"], "clientId")
            return {**state, "activeClients": rows}
        case "activeClientRemoved":
            rows = state.get("activeClients") or []
            kept = [one for one in rows if one["clientId"] != action["clientId"]]
            return state if len(kept) == len(rows) else {**state, "activeClients": kept}
        case "inputNeededSet" | "inputNeededRemoved":
            return _input_needed(state, kind, action, moment)
        case "workingDirectorySet" | "workingDirectoryRemoved":
            return directories_folded(state, action)
        case _:
            return state


def _config(state: Json, action: Json) -> Json:
    config = state.get("config")
    if config is None:
        return state
    before = {} if action.get("replace") else config["values"]
    return {**state, "config": {**config, "values": {**before, **action["config"]}}}


def _chats(state: Json, kind: str, action: Json) -> Json:
    chats = state["chats"]
    match kind:
        case "chatAdded":
            return {**state, "chats": upserted(chats, action["summary"], "resource")}
        case "chatRemoved":
            kept = [one for one in chats if one["resource"] != action["chat"]]
            if len(kept) == len(chats):
                return state
            made = {**state, "chats": kept}
            is_default = state.get("defaultChat") == action["chat"]
            return changed(made, defaultChat=None) if is_default else made
        case "chatUpdated":
            if all(one["resource"] != action["chat"] for one in chats):
                return state
            changes = {k: v for k, v in action["changes"].items() if k != "resource"}
            rows = [{**o, **changes} if o["resource"] == action["chat"] else o for o in chats]
            return {**state, "chats": rows}
        case "defaultChatChanged":
            return changed(state, defaultChat=action.get("defaultChat"))
        case _:
            return state


def _input_needed(state: Json, kind: str, action: Json, moment: Moment) -> Json:
    rows = state.get("inputNeeded") or []
    if kind == "inputNeededSet":
        kept = upserted(rows, action["request"], "id")
    else:
        kept = [one for one in rows if one["id"] != action["id"]]
        if len(kept) == len(rows):
            return state
    made = changed(state, inputNeeded=kept or None)
    # What a client runs by itself waits for nobody, since 0.8.
    counted = kept if moment.version < (0, 8, 0) else [o for o in kept if not _runs_alone(o)]
    if counted:
        made["status"] = with_activity(state["status"], INPUT_NEEDED)
    else:
        made["status"] = state["status"] & ~WAITING_BIT
    return made


def _runs_alone(request: Json) -> bool:
    return request["kind"] == "toolClientExecution"
