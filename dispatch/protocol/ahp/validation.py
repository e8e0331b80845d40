"""Whether a client's action is accepted: the reasons why not, one sentence each.

Neighbours: `client_actions` reads it first, `reduce` folds what was accepted; the host echoes the
action with the reason as `rejectionReason` and changes nothing.
Source: `protocol/ahp.md`, section Refusals.
Invariant: an accepted action is folded without surprise: what it is about is there, in the state
that allows it, and nobody else's turn or call is touched.
"""

from __future__ import annotations

import msgspec

from dispatch.protocol.ahp.chat import is_resumable
from dispatch.protocol.ahp.client_actions import (
    DISPATCHABLE,
    ActiveClientRemoved,
    ActiveClientSet,
    AnswerChanged,
    AnyClientAction,
    CallConfirmed,
    CallResultConfirmed,
    DefaultChatChanged,
    InputCompleted,
    Message,
    PendingRemoved,
    PendingSet,
    Truncated,
    TurnCancelled,
    TurnResumed,
    TurnStarted,
    read_action,
)
from dispatch.protocol.ahp.questions import open_question
from dispatch.protocol.ahp.reduce import channel_kind
from dispatch.protocol.ahp.versions import ACTIONS_SINCE, Version, knows
from dispatch.protocol.codec import Object


class Rejected(Exception):
    """An action is refused; `reason` is what the client is told."""

    def __init__(self, reason: str) -> None:
        """Keep the sentence."""
        super().__init__(reason)
        self.reason = reason


def accept(
    kind: str, state: Object, action: Object, *, version: Version, client_id: str
) -> AnyClientAction:
    """The action, typed, if this client may dispatch it in this state; raises `Rejected`.

    `kind` is the channel's: `root`, `session` or `chat`. The action is in canonical shapes.
    """
    name = action.get("type")
    if not isinstance(name, str) or name not in ACTIONS_SINCE:
        raise Rejected("This host knows no action of this type")
    if name not in DISPATCHABLE:
        raise Rejected("Clients may not dispatch this action")
    if not knows(version, name):
        raise Rejected("The negotiated version has no such action")
    if channel_kind(action) != kind:
        raise Rejected("The action belongs to another kind of channel")
    try:
        read = read_action(action)
    except msgspec.ValidationError as error:
        raise Rejected(f"Malformed action: {error}") from None
    reason = _refusal(state, read, client_id)
    if reason is not None:
        raise Rejected(reason)
    return read


def _refusal(state: Object, action: AnyClientAction, client_id: str) -> str | None:
    match action:
        case TurnStarted():
            return _turn_refusal(state, action)
        case TurnCancelled(turn_id=turn_id):
            active = state.get("activeTurn", {}).get("id")
            return None if active == turn_id else "This turn is not running"
        case TurnResumed(turn_id=turn_id):
            return None if is_resumable(state, turn_id) else "This turn cannot be resumed"
        case CallConfirmed():
            return _confirmation_refusal(state, action)
        case CallResultConfirmed():
            call = _call(state, action)
            waits = call is not None and call["status"] == "pending-result-confirmation"
            return None if waits else "This tool call's result is not waiting for anybody"
        case PendingSet(message=message):
            return _message_refusal(message)
        case PendingRemoved():
            return None if _is_pending(state, action) else "No such message is waiting"
        case AnswerChanged() | InputCompleted():
            return _answer_refusal(state, action)
        case Truncated(turn_id=turn_id):
            known = turn_id is None or any(turn["id"] == turn_id for turn in state["turns"])
            return None if known else "No such turn is finished in this chat"
        case _:
            return _session_refusal(state, action, client_id)


def _session_refusal(state: Object, action: AnyClientAction, client_id: str) -> str | None:
    match action:
        case ActiveClientSet(active_client=client):
            return None if client.client_id == client_id else "A client speaks for itself alone"
        case ActiveClientRemoved(client_id=removed):
            if removed != client_id:
                return "A client speaks for itself alone"
            there = any(client["clientId"] == removed for client in state["activeClients"])
            return None if there else "This client takes no part in the session"
        case DefaultChatChanged(default_chat=chat):
            known = chat is None or any(other["resource"] == chat for other in state["chats"])
            return None if known else "The session has no such chat"
        case _:
            return None


def _turn_refusal(state: Object, action: TurnStarted) -> str | None:
    # The reducers would let it take the running turn's place, and that turn would be lost.
    if "activeTurn" in state:
        return "A turn is running: queue the message, or steer the turn"
    if any(turn["id"] == action.turn_id for turn in state["turns"]):
        return "There was a turn of this id"
    return _message_refusal(action.message)


def _message_refusal(message: Message) -> str | None:
    if not message.text.strip() and not message.attachments:
        return "The message is empty"
    return None


def _call(state: Object, action: CallConfirmed | CallResultConfirmed) -> Object | None:
    turn = state.get("activeTurn", {})
    if turn.get("id") != action.turn_id:
        return None
    for part in turn["responseParts"]:
        call: Object = part.get("toolCall", {})
        if call.get("toolCallId") == action.tool_call_id:
            return call
    return None


def _confirmation_refusal(state: Object, action: CallConfirmed) -> str | None:
    call = _call(state, action)
    if call is None or call["status"] != "pending-confirmation":
        return "This tool call is not waiting for a confirmation"
    needed = action.confirmed if action.approved else action.reason
    if needed is None:
        return "Malformed action: an approval says `confirmed`, a denial its `reason`"
    if action.edited_tool_input is not None and call.get("editable") is not True:
        return "This tool call's input may not be edited"
    kinds = {option["id"]: option["kind"] for option in call.get("options", ())}
    chosen = action.selected_option_id
    if chosen is not None and kinds.get(chosen) != ("approve" if action.approved else "deny"):
        return "This option does not say that"
    return None


def _is_pending(state: Object, action: PendingRemoved) -> bool:
    if action.kind == "steering":
        return bool(state.get("steeringMessage", {}).get("id") == action.id)
    return any(message["id"] == action.id for message in state.get("queuedMessages", ()))


def _answer_refusal(state: Object, action: AnswerChanged | InputCompleted) -> str | None:
    found = open_question(state, action.request_id)
    if found is None:
        return "This question is not open"
    request = found[1]["request"]
    questions = {question["id"]: question for question in request.get("questions", ())}
    if isinstance(action, AnswerChanged):
        return None if action.question_id in questions else "The request has no such question"
    if not action.answers.keys() <= questions.keys():
        return "The request has no such question"
    if action.response != "accept":
        return None
    given = {name for name, answer in action.answers.items() if answer.value is not None}
    given |= {
        name
        for name, answer in request.get("answers", {}).items()
        if name not in action.answers and "value" in answer
    }
    required = {name for name, question in questions.items() if question.get("required")}
    return None if required <= given else "A required answer is missing"
