"""The active turn of a chat: finding it, changing its parts, and what it makes of the status.

Neighbours: `chat`, `tool_calls` and `questions` fold with these.
Source: `protocol/ahp.md`, sections Status and Tool calls.
Invariant: a chat needs input exactly while its active turn has an open question or a tool call
that waits for somebody.
"""

from __future__ import annotations

from typing import Final

from dispatch.protocol.ahp.objects import changed
from dispatch.protocol.ahp.rules import Rules
from dispatch.protocol.ahp.status import IDLE, IN_PROGRESS, INPUT_NEEDED, with_activity
from dispatch.protocol.codec import Object

WAITING: Final = frozenset({"pending-confirmation", "pending-result-confirmation", "auth-required"})
"""In which states a tool call waits for somebody."""


def in_turn(state: Object, action: Object) -> Object | None:
    """The active turn, if the action is about that one."""
    turn: Object | None = state.get("activeTurn")
    return turn if turn is not None and turn["id"] == action["turnId"] else None


def with_part(state: Object, index: int, part: Object) -> Object:
    """The chat with a part of its active turn replaced, or added behind the last."""
    turn = state["activeTurn"]
    parts = [*turn["responseParts"]]
    parts[index : index + 1] = [part]
    return changed(state, activeTurn=changed(turn, responseParts=parts))


def is_open_question(part: Object) -> bool:
    """Whether a part is a question that nobody has answered."""
    return part.get("kind") == "inputRequest" and "response" not in part


def activity(state: Object, rules: Rules) -> int:
    """What the chat is doing, of its turn."""
    turn = state.get("activeTurn")
    if not rules.requests_are_parts and state.get("inputRequests"):
        return INPUT_NEEDED
    if turn is None:
        return IDLE
    for part in turn["responseParts"]:
        if part.get("kind") == "toolCall" and part["toolCall"]["status"] in WAITING:
            return INPUT_NEEDED
        if rules.requests_are_parts and is_open_question(part):
            return INPUT_NEEDED
    return IN_PROGRESS


def refreshed(state: Object, rules: Rules) -> Object:
    """The chat with the status that follows from its turn."""
    status = with_activity(state["status"], activity(state, rules))
    return state if status == state["status"] else changed(state, status=status)


def touched(state: Object, rules: Rules, now: str, at: str | None) -> Object:
    """The chat as changed at a time: the reader's where the rules read a clock, else the action's.

    Where an action has no time, the chat keeps the one it had.
    """
    time = now if rules.reads_clock else at
    return state if time is None else changed(state, modifiedAt=time)
