"""The step from 0.7 to 0.5.1, and back for what clients of 0.5.1 send.

Neighbours: `conversion` takes it after `to_0_7`; `calls_0_5_1` has what it does to tool calls.
What 0.6 and 0.7 added and 0.5.1 lacks: times of turns, questions as parts, authentication of calls,
side chats, several working directories, transcripts as attachments.
Invariant: down of a fold is the fold of what is sent down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dispatch.protocol.ahp.calls_0_5_1 import CALLS, down_call, down_call_action
from dispatch.protocol.ahp.objects import changed, mapped, present, without
from dispatch.protocol.ahp.rebuild import rebuilt
from dispatch.protocol.ahp.rules import RULES_0_5_1
from dispatch.protocol.ahp.status import INPUT_NEEDED, activity_of
from dispatch.protocol.ahp.turn import is_open_question, refreshed
from dispatch.protocol.codec import Object

_HIDDEN_ACTIONS: Final = frozenset(
    f"{channel}/workingDirectory{word}"
    for channel in ("session", "chat")
    for word in ("Set", "Removed")
)
_ENDINGS: Final = frozenset({"chat/turnComplete", "chat/turnCancelled", "chat/error"})
_ANSWERS: Final = frozenset(
    {"chat/inputRequested", "chat/inputAnswerChanged", "chat/inputCompleted"}
)

READS_STATE: Final = frozenset(CALLS) | _ANSWERS | {"chat/turnStarted"}


def down_state(kind: str, state: Object) -> Object:
    """A channel's state."""
    if kind == "session":
        return changed(
            without(state, "workingDirectories"),
            chats=mapped(state["chats"], _chat_summary),
            inputNeeded=mapped(state.get("inputNeeded", []), _input) or None,
        )
    if kind == "chat":
        return _chat(state)
    return changed(state, agents=mapped(state["agents"], _agent))


def down_summary(summary: Object) -> Object:
    """A session's summary, or the part of one that changed: of its directories the first."""
    directories = summary.get("workingDirectories") or [None]
    return changed(without(summary, "workingDirectories"), workingDirectory=directories[0])


def down_action(action: Object, before: Object, after: Object) -> list[Object]:
    """What is said instead of an action, given the states it was folded from and to (both 0.7)."""
    kind = action["type"]
    if kind in _HIDDEN_ACTIONS or (kind in _ANSWERS and after is before):
        return []
    if kind in _ENDINGS:
        return [without(action, "duration")]
    if kind in CALLS:
        # A call's own rules changed in between: what was nothing then might be something now.
        said = [] if after is before else down_call_action(action, before, after)
        return rebuilt(_chat(after)) if said is None else said
    step = _ACTIONS.get(kind)
    said = [action] if step is None else step(action)
    return [*_closed_questions(before), *said] if kind == "chat/turnStarted" else said


def up_action(action: Object, at: str) -> Object:
    """What a client dispatched, in the shapes of 0.7; `at` is now (ISO-8601)."""
    if action.get("type") == "chat/turnStarted":
        return changed(action, startedAt=at)
    if action.get("type") == "chat/turnCancelled":
        # How long the turn took is said when it has ended.
        return changed(action, duration=0)
    return action


def up_params(method: str, params: Object) -> Object:
    """What a client asks with, in the shapes of 0.7."""
    directory = params.get("workingDirectory")
    if method == "createSession" and directory is not None:
        return changed(params, workingDirectory=None, workingDirectories=[directory])
    source = params.get("source")
    if method == "createChat" and isinstance(source, dict):
        # There was one kind of source, and it did not say so.
        return changed(params, source={**source, "kind": "fork"})
    return params


def _agent(agent: Object) -> Object:
    capabilities = agent.get("capabilities")
    if capabilities is None:
        return agent
    capabilities = without(capabilities, "multipleWorkingDirectories")
    chats = capabilities.get("multipleChats")
    if chats is not None:
        capabilities = changed(capabilities, multipleChats=without(chats, "sideChat"))
    return changed(agent, capabilities=capabilities)


def _chat_summary(summary: Object) -> Object:
    """Also of the part of one that changed."""
    summary = without(summary, "workingDirectories")
    if summary.get("origin", {}).get("kind") == "sideChat":
        return changed(summary, origin={"kind": "user"})
    return summary


def _input(request: Object) -> Object:
    """What waits in a session; an authentication is shown as a question without fields."""
    call: Object | None = request.get("toolCall")
    if call is not None and request.get("kind") == "toolAuthentication":
        asked = {"id": call["toolCallId"], "message": f"{call['displayName']} needs to sign in"}
        return {"kind": "chatInput", "id": request["id"], "chat": request["chat"], "request": asked}
    return request if call is None else changed(request, toolCall=down_call(call))


def _chat(state: Object) -> Object:
    chat = changed(_chat_summary(state), turns=mapped(state["turns"], _turn))
    if "activeTurn" in state:
        turn = state["activeTurn"]
        chat = changed(chat, activeTurn=_turn(turn), inputRequests=_asked(state) or None)
    if "steeringMessage" in state:
        chat = changed(chat, steeringMessage=_pending(state["steeringMessage"]))
    if "queuedMessages" in state:
        chat = changed(chat, queuedMessages=mapped(state["queuedMessages"], _pending))
    if "draft" in state:
        chat = changed(chat, draft=_message(state["draft"]))
    # A call that waits for an authentication runs, as far as this version can tell.
    waits = activity_of(chat["status"]) == INPUT_NEEDED
    return refreshed(chat, RULES_0_5_1) if waits else chat


def _asked(state: Object) -> list[Object]:
    """The open questions of the active turn."""
    parts = state.get("activeTurn", {}).get("responseParts", ())
    return [part["request"] for part in parts if is_open_question(part)]


def _closed_questions(state: Object) -> list[Object]:
    """Questions go with the turn that they stand in; beside the turns each has to be closed."""
    return [
        {"type": "chat/inputCompleted", "requestId": request["id"], "response": "cancel"}
        for request in _asked(state)
    ]


def _pending(entry: Object) -> Object:
    return changed(entry, message=_message(entry["message"]))


def _message(message: Object) -> Object:
    if "attachments" not in message:
        return message
    return changed(message, attachments=mapped(message["attachments"], _attachment))


def _attachment(attachment: Object) -> Object:
    """A transcript is named only."""
    if attachment.get("type") != "chat":
        return attachment
    return present(
        type="simple",
        label=attachment["label"],
        range=attachment.get("range"),
        displayKind=attachment.get("displayKind"),
        _meta=attachment.get("_meta"),
    )


def _turn(turn: Object) -> Object:
    parts = [_part(part) for part in turn["responseParts"] if part.get("kind") != "inputRequest"]
    turn = without(turn, "startedAt", "duration")
    return changed(turn, message=_message(turn["message"]), responseParts=parts)


def _part(part: Object) -> Object:
    if part.get("kind") != "toolCall":
        return part
    return changed(part, toolCall=down_call(part["toolCall"]))


def _turn_started(action: Object) -> list[Object]:
    return [changed(without(action, "startedAt"), message=_message(action["message"]))]


def _response_part(action: Object) -> list[Object]:
    part = action["part"]
    return [] if part.get("kind") == "inputRequest" else [changed(action, part=_part(part))]


def _draft(action: Object) -> list[Object]:
    draft = action.get("draft")
    return [action if draft is None else changed(action, draft=_message(draft))]


_ACTIONS: Final[dict[str, Callable[[Object], list[Object]]]] = {
    "root/agentsChanged": lambda a: [changed(a, agents=mapped(a["agents"], _agent))],
    "session/chatAdded": lambda a: [changed(a, summary=_chat_summary(a["summary"]))],
    "session/chatUpdated": lambda a: [changed(a, changes=_chat_summary(a["changes"]))],
    "session/inputNeededSet": lambda a: [changed(a, request=_input(a["request"]))],
    "chat/turnStarted": _turn_started,
    "chat/pendingMessageSet": lambda a: [changed(a, message=_message(a["message"]))],
    "chat/draftChanged": _draft,
    "chat/turnsLoaded": lambda a: [changed(a, turns=mapped(a["turns"], _turn))],
    "chat/responsePart": _response_part,
}
