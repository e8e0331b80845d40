"""The active turn of a chat said again from its beginning, in words that every version has.

Neighbours: the steps between versions use it where an older version has no word for a change: a
turn that is resumed, a call that is asked about again. The state is in the shapes of that version.
Invariant: folded from any state with the same finished turns, it gives the state it was made of;
so it may also be folded twice, as a client does that was cut off between its actions.
"""

from __future__ import annotations

from typing import Final

from dispatch.protocol.ahp.objects import present, without
from dispatch.protocol.ahp.turn import is_open_question
from dispatch.protocol.codec import Object

_IDENTITY: Final = ("toolCallId", "toolName", "displayName", "intention", "contributor", "_meta")
_RUNNING: Final = (*_IDENTITY, "invocationMessage", "toolInput", "confirmed", "selectedOption")


def rebuilt(chat: Object) -> list[Object]:
    """The actions that make the chat's active turn what it is; it has one."""
    turns, turn = chat["turns"], chat["activeTurn"]
    cursor = chat.get("turnsNextCursor")
    kept = turns[-1]["id"] if turns else None
    actions = [present(type="chat/truncated", turnId=kept)]
    if not turns and cursor is not None:
        actions.append({"type": "chat/turnsLoaded", "turns": [], "turnsNextCursor": cursor})
    actions.append(
        present(
            type="chat/turnStarted",
            turnId=turn["id"],
            startedAt=turn.get("startedAt"),
            message=turn["message"],
        )
    )
    for part in turn["responseParts"]:
        actions += _part(turn["id"], part)
    if "usage" in turn:
        actions.append({"type": "chat/usage", "turnId": turn["id"], "usage": turn["usage"]})
    asked = chat.get("inputRequests", [])
    return actions + [{"type": "chat/inputRequested", "request": request} for request in asked]


def _part(turn_id: str, part: Object) -> list[Object]:
    """A part, and the actions that bring the chat's status along with it."""
    if is_open_question(part):
        return [{"type": "chat/inputRequested", "request": part["request"]}]
    status = part["toolCall"]["status"] if part.get("kind") == "toolCall" else None
    if status not in _WAYS:
        return [{"type": "chat/responsePart", "turnId": turn_id, "part": part}]
    before, kept, word = _WAYS[status]
    call = part["toolCall"]
    shown = {"status": before, **{name: call[name] for name in kept if name in call}}
    of_call = {"turnId": turn_id, "toolCallId": call["toolCallId"]}
    said = without(call, "status", *kept)
    if word == "toolCallReady":
        rest = {"invocationMessage": call["invocationMessage"], **said}
    elif word == "toolCallComplete":
        rest = {"result": said, "requiresResultConfirmation": True}
    else:
        rest = {"auth": call["auth"]}
    return [
        {
            "type": "chat/responsePart",
            "turnId": turn_id,
            "part": {"kind": "toolCall", "toolCall": shown},
        },
        {"type": f"chat/{word}", **of_call, **rest},
    ]


_WAYS: Final = {
    "pending-confirmation": ("streaming", _IDENTITY, "toolCallReady"),
    "pending-result-confirmation": ("running", _RUNNING, "toolCallComplete"),
    "auth-required": ("running", (*_RUNNING, "content"), "toolCallAuthRequired"),
}
"""For a call that waits: the state before, what it has then, and the action that makes it wait."""
