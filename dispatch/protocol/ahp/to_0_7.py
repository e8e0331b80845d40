"""The step from 0.9 to 0.7, and back for what clients of 0.7 dispatch.

Neighbours: `conversion` takes it on the way to every version before 0.8; `rebuild` says a resumed
turn again. What 0.8 and 0.9 added and 0.7 lacks: errors as parts, resuming, read and archived
chats, automations, and a client's tool runs that ask for nobody. Customizations changed their
shape in between and are shown to newer clients alone.
Invariant: down of a fold is the fold of what is sent down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dispatch.protocol.ahp.objects import changed, mapped, without
from dispatch.protocol.ahp.rebuild import rebuilt
from dispatch.protocol.ahp.status import IS_ARCHIVED, IS_READ, with_flag
from dispatch.protocol.codec import Object

_SESSION_NEWER: Final = ("origin", "repositories", "artifacts", "customizations")
_SUMMARY_NEWER: Final = ("chats", "defaultChat", "origin", "repositories", "artifacts")
_CHAT_NEWER: Final = ("changes", "movable", "changesets", "backgroundWork", "description")
_HIDDEN_ACTIONS: Final = frozenset(
    f"{channel}/{name}"
    for channel, names in {
        "session": "customizationsChanged customizationToggled customizationUpdated"
        " customizationRemoved mcpServerStateChanged mcpServerStartRequested"
        " mcpServerStopRequested",
        "chat": "isReadChanged isArchivedChanged",
    }.items()
    for name in names.split()
)

READS_STATE: Final = frozenset({"chat/turnResume", "session/inputNeededSet"})


def down_state(kind: str, state: Object) -> Object:
    """A channel's state."""
    if kind == "session":
        return _session(state)
    if kind == "chat":
        return _chat(state)
    return changed(state, agents=mapped(state["agents"], _agent))


def down_summary(summary: Object) -> Object:
    """A session's summary, or the part of one that changed."""
    return without(summary, *_SUMMARY_NEWER)


def down_action(action: Object, before: Object, after: Object) -> list[Object]:
    """What is said instead of an action, given the states it was folded from and to (both 0.9)."""
    kind = action["type"]
    if kind in _HIDDEN_ACTIONS:
        return []
    step = _ACTIONS.get(kind)
    return [action] if step is None else step(action, before, after)


def up_action(action: Object, _at: str) -> Object:
    """What a client dispatched, in the shapes of 0.9: they are the same."""
    return action


def up_params(_method: str, params: Object) -> Object:
    """What a client asks with, in the shapes of 0.9: they are the same."""
    return params


def _agent(agent: Object) -> Object:
    agent = without(agent, "customizations")
    capabilities = agent.get("capabilities", {})
    directories = capabilities.get("multipleWorkingDirectories")
    if directories is None:
        return agent
    directories = without(directories, "primaryReplacement")
    return changed(
        agent, capabilities=changed(capabilities, multipleWorkingDirectories=directories)
    )


def _session(state: Object) -> Object:
    waiting = _visible(state)
    lifecycle = state["lifecycle"]
    return changed(
        without(state, *_SESSION_NEWER),
        lifecycle="creationFailed" if lifecycle == "failed" else lifecycle,
        chats=mapped(state["chats"], _chat_summary),
        activeClients=mapped(state["activeClients"], lambda c: without(c, "customizations")),
        inputNeeded=waiting or None,
    )


def _is_hidden(request: Object) -> bool:
    return request.get("kind") == "toolClientExecution"


def _visible(session: Object) -> list[Object]:
    return [request for request in session.get("inputNeeded", []) if not _is_hidden(request)]


def _chat_summary(summary: Object) -> Object:
    """Also of the part of one that changed."""
    summary = without(summary, *_CHAT_NEWER)
    if "status" not in summary:
        return summary
    return changed(summary, status=_unflagged(summary["status"]))


def _unflagged(status: int) -> int:
    """A chat's status without the flags that no action of 0.7 sets."""
    return with_flag(with_flag(status, IS_READ, on=False), IS_ARCHIVED, on=False)


def _chat(state: Object) -> Object:
    chat = changed(_chat_summary(state), turns=mapped(state["turns"], _turn))
    if "activeTurn" in state:
        chat = changed(chat, activeTurn=_turn(state["activeTurn"]))
    if "steeringMessage" in state:
        chat = changed(chat, steeringMessage=_pending(state["steeringMessage"]))
    if "queuedMessages" in state:
        chat = changed(chat, queuedMessages=mapped(state["queuedMessages"], _pending))
    if "draft" in state:
        chat = changed(chat, draft=_message(state["draft"]))
    return chat


def _pending(entry: Object) -> Object:
    return changed(entry, message=_message(entry["message"]))


def _message(message: Object) -> Object:
    if message["origin"].get("kind") != "automation":
        return message
    return changed(message, origin={"kind": "systemNotification"})


def _turn(turn: Object) -> Object:
    """A finished turn or the active one: errors are no parts, the last one becomes the turn's."""
    parts = [part for part in turn["responseParts"] if part.get("kind") != "error"]
    error = None
    if turn.get("state") == "error" and turn["responseParts"]:
        last = turn["responseParts"][-1]
        error = last["error"] if last.get("kind") == "error" else None
    return changed(turn, message=_message(turn["message"]), responseParts=parts, error=error)


def _with_message(action: Object, _before: Object, _after: Object) -> list[Object]:
    message = action.get("message")
    return [action if message is None else changed(action, message=_message(message))]


def _draft(action: Object, _before: Object, _after: Object) -> list[Object]:
    draft = action.get("draft")
    return [action if draft is None else changed(action, draft=_message(draft))]


def _loaded(action: Object, _before: Object, _after: Object) -> list[Object]:
    return [changed(action, turns=mapped(action["turns"], _turn))]


def _response_part(action: Object, _before: Object, _after: Object) -> list[Object]:
    return [] if action["part"].get("kind") == "error" else [action]


def _failed(action: Object, _before: Object, _after: Object) -> list[Object]:
    return [changed(without(action, "part"), error=action["part"]["error"])]


def _resumed(_action: Object, before: Object, after: Object) -> list[Object]:
    return [] if after is before else rebuilt(_chat(after))


def _chat_added(action: Object, _before: Object, _after: Object) -> list[Object]:
    return [changed(action, summary=_chat_summary(action["summary"]))]


def _chat_updated(action: Object, _before: Object, _after: Object) -> list[Object]:
    changes = _chat_summary(action["changes"])
    return [changed(action, changes=changes)] if changes else []


def _client_set(action: Object, _before: Object, _after: Object) -> list[Object]:
    return [changed(action, activeClient=without(action["activeClient"], "customizations"))]


def _agents(action: Object, _before: Object, _after: Object) -> list[Object]:
    return [changed(action, agents=mapped(action["agents"], _agent))]


def _input_set(action: Object, before: Object, after: Object) -> list[Object]:
    """One that is hidden is taken away; one that was hidden takes its place in the order again."""
    request_id = action["request"]["id"]
    if _is_hidden(action["request"]):
        shown = any(request["id"] == request_id for request in _visible(before))
        return [_input_removal(request_id)] if shown else []
    hidden = [request["id"] for request in before.get("inputNeeded", []) if _is_hidden(request)]
    if request_id not in hidden:
        return [action]
    visible = _visible(after)
    place = [request["id"] for request in visible].index(request_id)
    behind = visible[place + 1 :]
    sets = [{"type": "session/inputNeededSet", "request": request} for request in behind]
    return [*(_input_removal(request["id"]) for request in behind), action, *sets]


def _input_removal(request_id: str) -> Object:
    return {"type": "session/inputNeededRemoved", "id": request_id}


_ACTIONS: Final[dict[str, Callable[[Object, Object, Object], list[Object]]]] = {
    "root/agentsChanged": _agents,
    "session/chatAdded": _chat_added,
    "session/chatUpdated": _chat_updated,
    "session/activeClientSet": _client_set,
    "session/inputNeededSet": _input_set,
    "chat/turnStarted": _with_message,
    "chat/pendingMessageSet": _with_message,
    "chat/draftChanged": _draft,
    "chat/turnsLoaded": _loaded,
    "chat/responsePart": _response_part,
    "chat/error": _failed,
    "chat/turnResume": _resumed,
}
