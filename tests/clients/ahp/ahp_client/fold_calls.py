"""Tool calls: what each action makes of one call.

Neighbours: `fold_chat` finds the call and puts the new one in its place.
Invariant: an action that a call's status does not know leaves it as it is.
"""

from __future__ import annotations

from tests.clients.ahp.ahp_client.words import Json, Moment, picked

_SELF = ("toolCallId", "toolName", "displayName", "intention", "contributor", "_meta")
_WITH_INPUT = (*_SELF, "invocationMessage", "toolInput")
_ASKED = ("confirmationTitle", "riskAssessment", "edits", "editable", "options")
_RESULT = ("success", "pastTenseMessage", "content", "structuredContent", "error")
WAITING = {"pending-confirmation", "pending-result-confirmation", "auth-required"}
ENDED = {"completed", "cancelled"}


def started(action: Json, moment: Moment) -> Json:
    """The call of `chat/toolCallStart`."""
    return {"status": "streaming", **picked(action, *_SELF)}


def folded(call: Json, action: Json, moment: Moment) -> Json:
    """The call after an action about it."""
    match action["type"].removeprefix("chat/toolCall"):
        case "Delta":
            return _delta(call, action)
        case "Ready":
            return _ready(call, action, moment)
        case "Confirmed":
            return _confirmed(call, action)
        case "Complete":
            return _complete(call, action)
        case "ResultConfirmed":
            return _result_confirmed(call, action)
        case "ContentChanged" if call["status"] == "running":
            return {**call, "content": action["content"], **picked(action, "_meta")}
        case "AuthRequired":
            return _auth_required(call, action)
        case "AuthResolved" if call["status"] == "auth-required":
            kept = {name: value for name, value in call.items() if name != "auth"}
            return {**kept, "status": "running", **picked(action, "_meta")}
        case _:
            return call


def ended_with_turn(call: Json) -> Json:
    """The call once its turn is over."""
    if call["status"] in ENDED:
        return call
    kept = {"invocationMessage": "", **picked(call, *_WITH_INPUT)}
    return {**kept, "status": "cancelled", "reason": "skipped"}


def _delta(call: Json, action: Json) -> Json:
    if call["status"] != "streaming":
        return call
    made = {**call, **picked(action, "invocationMessage", "_meta")}
    if action.get("content") is not None:
        made["partialInput"] = call.get("partialInput", "") + action["content"]
    return made


def _ready(call: Json, action: Json, moment: Moment) -> Json:
    status = call["status"]
    is_later = moment.version >= (0, 6, 0)
    if status not in {"streaming", "running"} | ({"pending-confirmation"} if is_later else set()):
        return call
    made = {**picked(call, *_SELF), **picked(action, "_meta", "invocationMessage")}
    if is_later:
        made |= picked(action, "intention")
        if "client" not in (_owner(call), _owner(action)):
            made |= picked(action, "contributor")
    if status != "streaming":
        made |= picked(call, "toolInput")
    made |= picked(action, "toolInput")
    if action.get("confirmed"):
        return {**made, "status": "running", "confirmed": action["confirmed"]}
    if is_later and status == "pending-confirmation":
        made |= picked(call, *_ASKED)
    return {**made, **picked(action, *_ASKED), "status": "pending-confirmation"}


def _owner(holder: Json) -> str | None:
    return (holder.get("contributor") or {}).get("kind")


def _confirmed(call: Json, action: Json) -> Json:
    if call["status"] != "pending-confirmation":
        return call
    made = {**picked(call, *_WITH_INPUT), **picked(action, "_meta")}
    chosen = [o for o in call.get("options") or [] if o["id"] == action.get("selectedOptionId")]
    if chosen:
        made["selectedOption"] = chosen[0]
    if not action["approved"]:
        told = picked(action, "reason", "reasonMessage", "userSuggestion")
        return {**made, **told, "status": "cancelled"}
    edited = action.get("editedToolInput")
    # Only a text is edited: neither an input behind a reference nor one that is not there.
    if edited is not None and isinstance(made.get("toolInput"), str):
        made["toolInput"] = edited
    return {**made, "status": "running", "confirmed": action["confirmed"]}


def _complete(call: Json, action: Json) -> Json:
    result, status = action["result"], call["status"]
    made = {**picked(call, *_WITH_INPUT), **picked(action, "_meta")}
    told = picked(result, *_RESULT)
    if status == "auth-required":
        if result["success"]:
            return call
        kept = picked(call, "confirmed", "selectedOption", "content")
        return {**made, **kept, **told, "status": "completed"}
    if status not in ("running", "pending-confirmation"):
        return call
    made |= {"confirmed": "not-needed", **picked(call, "confirmed", "selectedOption")}
    asks = action.get("requiresResultConfirmation")
    return {**made, **told, "status": "pending-result-confirmation" if asks else "completed"}


def _result_confirmed(call: Json, action: Json) -> Json:
    if call["status"] != "pending-result-confirmation":
        return call
    made = {**picked(call, *_WITH_INPUT, "selectedOption"), **picked(action, "_meta")}
    if action["approved"]:
        return {**made, **picked(call, "confirmed", *_RESULT), "status": "completed"}
    return {**made, "status": "cancelled", "reason": "result-denied"}


def _auth_required(call: Json, action: Json) -> Json:
    if call["status"] != "running" or _owner(call) != "mcp":
        return call
    told = {"status": "auth-required", "auth": action["auth"]}
    return {**call, **told, **picked(action, "_meta")}
