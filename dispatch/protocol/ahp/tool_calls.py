"""Tool calls of a turn: from the first piece of input to the result, with everybody's consent.

Neighbours: `chat` folds with these and refreshes the status after. The states, drawn:

    streaming ──ready──▶ pending-confirmation ──confirmed──▶ running ──complete──▶ completed
        └────ready, confirmed────────────────────────────────▲ │ ▲ │                  ▲
                                                     ready ◀───┘ │ └─▶ pending-result-confirmation
                                          auth-required ◀────────┘        └─▶ cancelled

Invariant: an action that a call's state does not allow gives the very same call back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dispatch.protocol.ahp.objects import changed, present
from dispatch.protocol.ahp.rules import Rules
from dispatch.protocol.ahp.turn import in_turn, with_part
from dispatch.protocol.codec import Object

_Change = Callable[[Object, Object, Rules], Object]

_IDENTITY: Final = ("toolCallId", "toolName", "displayName", "intention", "contributor", "_meta")
_ASKED: Final = ("toolInput", "confirmationTitle", "riskAssessment", "edits", "editable", "options")
_RESULT: Final = ("success", "pastTenseMessage", "content", "structuredContent", "error")


def update_call(state: Object, action: Object, change: _Change, rules: Rules) -> Object:
    """The chat with a call of its active turn changed; the same chat if that changed nothing."""
    turn = in_turn(state, action)
    if turn is None:
        return state
    for index, part in enumerate(turn["responseParts"]):
        if part.get("kind") != "toolCall":
            continue
        call = part["toolCall"]
        if call["toolCallId"] == action["toolCallId"]:
            after = change(call, action, rules)
            if after is not call:
                state = with_part(state, index, changed(part, toolCall=after))
    return state


def skipped(part: Object) -> Object:
    """A part of a turn that ends: a call that did not get to its end is cancelled."""
    if part.get("kind") != "toolCall":
        return part
    call = part["toolCall"]
    if call["status"] in {"completed", "cancelled"}:
        return part
    return changed(part, toolCall=_cancelled(call, {}, reason="skipped"))


def _identity(call: Object, action: Object) -> Object:
    """Which call it is, with the action's `_meta` if it has one."""
    same: Object = {name: call[name] for name in _IDENTITY if name in call}
    return same if action.get("_meta") is None else {**same, "_meta": action["_meta"]}


def _cancelled(call: Object, action: Object, **why: object) -> Object:
    return present(
        status="cancelled",
        **_identity(call, action),
        invocationMessage=call.get("invocationMessage", ""),
        toolInput=call.get("toolInput"),
        **why,
    )


def _delta(call: Object, action: Object, _rules: Rules) -> Object:
    if call["status"] != "streaming":
        return call
    partial = call.get("partialInput")
    content = action.get("content")
    return changed(
        call,
        partialInput=partial if content is None else (partial or "") + content,
        invocationMessage=action.get("invocationMessage", call.get("invocationMessage")),
        _meta=action.get("_meta", call.get("_meta")),
    )


def _contributor(call: Object, action: Object) -> object:
    """Whose call it is: refined, but a client's stays that client's and none becomes a client's."""
    before, after = call.get("contributor"), action.get("contributor")
    kinds = {before and before.get("kind"), after and after.get("kind")}
    return before if after is None or "client" in kinds else after


def _ready(call: Object, action: Object, rules: Rules) -> Object:
    before = call["status"]
    again = ("pending-confirmation",) if rules.ready_repeats else ()
    if before not in ("streaming", "running", *again):
        return call
    identity = _identity(call, action)
    said: Object = {name: action.get(name) for name in _ASKED}
    if rules.ready_repeats:
        identity = changed(
            identity,
            contributor=_contributor(call, action),
            intention=action.get("intention", call.get("intention")),
        )
        if said["toolInput"] is None:
            said["toolInput"] = call.get("toolInput")
        if before == "pending-confirmation":
            said = {name: call.get(name) if item is None else item for name, item in said.items()}
    message = action["invocationMessage"]
    if action.get("confirmed"):
        return present(
            status="running",
            **identity,
            invocationMessage=message,
            toolInput=said["toolInput"],
            confirmed=action["confirmed"],
        )
    return present(status="pending-confirmation", **identity, invocationMessage=message, **said)


def _confirmed(call: Object, action: Object, rules: Rules) -> Object:
    if call["status"] != "pending-confirmation":
        return call
    chosen = action.get("selectedOptionId")
    option = next((o for o in call.get("options", ()) if o["id"] == chosen), None)
    if not action["approved"]:
        return _cancelled(
            call,
            action,
            reason=action["reason"],
            reasonMessage=action.get("reasonMessage"),
            userSuggestion=action.get("userSuggestion"),
            selectedOption=option,
        )
    tool_input, edited = call.get("toolInput"), action.get("editedToolInput")
    # Text replaces text: an input that is kept elsewhere, or is not there, stays so.
    if edited is not None and (isinstance(tool_input, str) or not rules.ready_repeats):
        tool_input = edited
    return present(
        status="running",
        **_identity(call, action),
        invocationMessage=call["invocationMessage"],
        toolInput=tool_input,
        confirmed=action["confirmed"],
        selectedOption=option,
    )


def _completed(call: Object, action: Object, _rules: Rules) -> Object:
    before, result = call["status"], action["result"]
    interrupted = before == "auth-required"
    if before not in {"running", "pending-confirmation", "auth-required"}:
        return call
    if interrupted and result["success"]:
        return call
    asks = action.get("requiresResultConfirmation") and not interrupted
    ended = present(
        status="pending-result-confirmation" if asks else "completed",
        **_identity(call, action),
        invocationMessage=call["invocationMessage"],
        toolInput=call.get("toolInput"),
        confirmed=call.get("confirmed", "not-needed"),
        selectedOption=call.get("selectedOption"),
        content=call.get("content") if interrupted else None,
    )
    return changed(ended, **result)


def _result_confirmed(call: Object, action: Object, _rules: Rules) -> Object:
    if call["status"] != "pending-result-confirmation":
        return call
    option = call.get("selectedOption")
    if not action["approved"]:
        return _cancelled(call, action, reason="result-denied", selectedOption=option)
    return present(
        status="completed",
        **_identity(call, action),
        invocationMessage=call["invocationMessage"],
        toolInput=call.get("toolInput"),
        confirmed=call["confirmed"],
        selectedOption=option,
        **{name: call.get(name) for name in _RESULT},
    )


def _content(call: Object, action: Object, _rules: Rules) -> Object:
    if call["status"] != "running":
        return call
    meta = action.get("_meta", call.get("_meta"))
    return changed(call, content=action["content"], _meta=meta)


def _auth_required(call: Object, action: Object, rules: Rules) -> Object:
    of_server = call.get("contributor", {}).get("kind") == "mcp"
    if call["status"] != "running" or not of_server or not rules.authenticates:
        return call
    return {**call, **_identity(call, action), "status": "auth-required", "auth": action["auth"]}


def _auth_resolved(call: Object, action: Object, _rules: Rules) -> Object:
    if call["status"] != "auth-required":
        return call
    return changed({**call, **_identity(call, action)}, status="running", auth=None)


CALLING: Final[dict[str, _Change]] = {
    "chat/toolCallDelta": _delta,
    "chat/toolCallReady": _ready,
    "chat/toolCallConfirmed": _confirmed,
    "chat/toolCallComplete": _completed,
    "chat/toolCallResultConfirmed": _result_confirmed,
    "chat/toolCallContentChanged": _content,
    "chat/toolCallAuthRequired": _auth_required,
    "chat/toolCallAuthResolved": _auth_resolved,
}
"""The actions of a call that was started."""
