"""Tool calls on the step from 0.7 to 0.5.1.

Neighbours: `to_0_5_1` calls it. 0.5.1 knows no authentication of a call, no assessment of risk, no
input that is kept elsewhere; a call that is ready cannot be made ready again there, and what an
action leaves out is gone.
Invariant: only actions that changed something come here; None means that this version has no word
for the change, and the turn is said again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dispatch.protocol.ahp.objects import changed, without
from dispatch.protocol.codec import Object

_REWRITTEN: Final = ("toolInput", "confirmationTitle", "edits", "editable", "options")


def down_call(call: Object) -> Object:
    """A tool call's state."""
    call = without(call, "riskAssessment")
    if isinstance(call.get("toolInput"), dict):
        call = without(call, "toolInput")
    return changed(call, status="running", auth=None) if "auth" in call else call


def down_call_action(action: Object, before: Object, after: Object) -> list[Object] | None:
    """What is said instead of an action on a call, given the states around it (both 0.7)."""
    return CALLS[action["type"]](action, _call(before, action), _call(after, action))


def _call(state: Object, action: Object) -> Object:
    """The call an action is about: in a turn there is one of its id."""
    parts = state["activeTurn"]["responseParts"]
    calls = (part["toolCall"] for part in parts if part.get("kind") == "toolCall")
    return next(call for call in calls if call["toolCallId"] == action["toolCallId"])


def _delta(action: Object, was: Object, _call: Object) -> list[Object] | None:
    if "content" in action:
        return [action]
    # Text must be said there, and none is not the same as empty text.
    return [{**action, "content": ""}] if "partialInput" in was else None


def _ready(action: Object, was: Object, call: Object) -> list[Object] | None:
    refined = any(was.get(name) != call.get(name) for name in ("contributor", "intention"))
    if refined or was["status"] == "pending-confirmation":
        return None
    shown = down_call(call)
    said = without(action, "contributor", "intention", "riskAssessment", *_REWRITTEN)
    return [changed(said, **{name: shown.get(name) for name in _REWRITTEN})]


def _confirmed(action: Object, _was: Object, call: Object) -> list[Object] | None:
    edited = action.get("editedToolInput")
    if edited is not None and edited != call.get("toolInput"):
        return [without(action, "editedToolInput")]
    return [action]


def _complete(action: Object, was: Object, call: Object) -> list[Object] | None:
    if was["status"] != "auth-required":
        return [action]
    # The content so far stays, and nobody is asked about such a result.
    result = changed(action["result"], content=call.get("content"))
    return [changed(without(action, "requiresResultConfirmation"), result=result)]


def _authentication(action: Object, _was: Object, _call: Object) -> list[Object] | None:
    return None if "_meta" in action else []


def _same(action: Object, _was: Object, _call: Object) -> list[Object] | None:
    return [action]


CALLS: Final[dict[str, Callable[[Object, Object, Object], list[Object] | None]]] = {
    "chat/toolCallDelta": _delta,
    "chat/toolCallReady": _ready,
    "chat/toolCallConfirmed": _confirmed,
    "chat/toolCallComplete": _complete,
    "chat/toolCallResultConfirmed": _same,
    "chat/toolCallContentChanged": _same,
    "chat/toolCallAuthRequired": _authentication,
    "chat/toolCallAuthResolved": _authentication,
}
"""What is said instead of an action, given the call before and after it."""
