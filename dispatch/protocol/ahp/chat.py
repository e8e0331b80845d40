"""The chat channel's reducer: turns, what is said in them, and what waits to be said.

Neighbours: `reduce` calls it; `tool_calls` and `questions` fold those parts of a turn, `rules` has
what versions differ in. Source: `protocol/ahp.md` and the conformance data of 0.7.0.
Invariant: an action of a turn that is not the active one changes nothing; a turn that ends has no
tool call that is still open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dispatch.protocol.ahp.objects import changed, later, present, removed, upserted
from dispatch.protocol.ahp.questions import QUESTIONING
from dispatch.protocol.ahp.rules import Rules
from dispatch.protocol.ahp.session import directory_removed, directory_set
from dispatch.protocol.ahp.status import ERROR, IS_ARCHIVED, IS_READ, with_activity, with_flag
from dispatch.protocol.ahp.tool_calls import CALLING, skipped, update_call
from dispatch.protocol.ahp.turn import activity, in_turn, refreshed, touched, with_part
from dispatch.protocol.codec import Object


def reduce_chat(state: Object, action: Object, rules: Rules, now: str) -> Object:
    """The chat's state after an action."""
    kind = action["type"]
    if kind in CALLING:
        called = update_call(state, action, CALLING[kind], rules)
        return called if called is state else refreshed(called, rules)
    if kind in QUESTIONING:
        return QUESTIONING[kind](state, action, rules, now)
    change = _CHANGES.get(kind)
    return state if change is None else change(state, action, rules, now)


def _turn_started(state: Object, action: Object, rules: Rules, now: str) -> Object:
    turn = present(
        id=action["turnId"],
        startedAt=action.get("startedAt") if rules.turns_are_timed else None,
        message=action["message"],
        responseParts=[],
    )
    started = changed(state, activeTurn=turn)
    status = with_flag(with_activity(state["status"], activity(started, rules)), IS_READ, on=False)
    started = touched(changed(started, status=status), rules, now, action.get("startedAt"))
    pending = action.get("queuedMessageId")
    if pending is None:
        return started
    return _without_steering(_without_queued(started, pending), pending)


def _delta(kind: str) -> Callable[[Object, Object, Rules, str], Object]:
    def append(state: Object, action: Object, _rules: Rules, _now: str) -> Object:
        turn = in_turn(state, action)
        if turn is None:
            return state
        for index, part in enumerate(turn["responseParts"]):
            if part.get("id") == action["partId"] and part.get("kind") == kind:
                grown = changed(part, content=part["content"] + action["content"])
                return with_part(state, index, grown)
        return state

    return append


def _part(state: Object, action: Object, rules: Rules, _now: str) -> Object:
    turn = in_turn(state, action)
    # Where errors are parts, a turn's end alone brings one; older versions append what they get.
    is_error = rules.errors_are_parts and action["part"].get("kind") == "error"
    if turn is None or is_error:
        return state
    return with_part(state, len(turn["responseParts"]), action["part"])


def _call_started(state: Object, action: Object, _rules: Rules, _now: str) -> Object:
    turn = in_turn(state, action)
    if turn is None:
        return state
    call = present(
        status="streaming",
        toolCallId=action["toolCallId"],
        toolName=action["toolName"],
        displayName=action["displayName"],
        intention=action.get("intention"),
        contributor=action.get("contributor"),
        _meta=action.get("_meta"),
    )
    part = {"kind": "toolCall", "toolCall": call}
    return with_part(state, len(turn["responseParts"]), part)


def _usage(state: Object, action: Object, _rules: Rules, _now: str) -> Object:
    turn = in_turn(state, action)
    if turn is None:
        return state
    return changed(state, activeTurn=changed(turn, usage=action["usage"]))


def _ended(outcome: str) -> Callable[[Object, Object, Rules, str], Object]:
    def end(state: Object, action: Object, rules: Rules, now: str) -> Object:
        active = in_turn(state, action)
        if active is None:
            return state
        parts = [skipped(part) for part in active["responseParts"]]
        error = None
        if outcome == "error" and rules.errors_are_parts:
            parts.append(action["part"])
        elif outcome == "error":
            error = action["error"]
        duration_ms = max(0, action.get("duration", 0))
        turn = changed(active, responseParts=parts, state=outcome, error=error)
        if rules.turns_are_timed:
            turn = changed(turn, duration=duration_ms)
        ended = changed(state, turns=[*state["turns"], turn], activeTurn=None, inputRequests=None)
        of_activity = ERROR if outcome == "error" else activity(ended, rules)
        ended = changed(ended, status=with_activity(state["status"], of_activity))
        return touched(ended, rules, now, later(active.get("startedAt"), duration_ms))

    return end


def is_resumable(state: Object, turn_id: str) -> bool:
    """Whether the turn is the last one, failed, may be resumed, and nothing runs."""
    if "activeTurn" in state or not state["turns"]:
        return False
    last = state["turns"][-1]
    if last["id"] != turn_id or last["state"] != "error" or not last["responseParts"]:
        return False
    part = last["responseParts"][-1]
    return part.get("kind") == "error" and part.get("resumable") is True


def _resumed(state: Object, action: Object, rules: Rules, _now: str) -> Object:
    if not rules.errors_are_parts or not is_resumable(state, action["turnId"]):
        return state
    last = state["turns"][-1]
    names = ("id", "startedAt", "message", "responseParts", "usage")
    turn = {name: last[name] for name in names if name in last}
    opened = changed(state, turns=state["turns"][:-1], activeTurn=turn)
    status = with_flag(with_activity(state["status"], activity(opened, rules)), IS_READ, on=False)
    return changed(opened, status=status)


def _activity(state: Object, action: Object, _rules: Rules, _now: str) -> Object:
    return changed(state, activity=action.get("activity"))


def _draft(state: Object, action: Object, _rules: Rules, _now: str) -> Object:
    return changed(state, draft=action.get("draft"))


def _pending_set(state: Object, action: Object, _rules: Rules, _now: str) -> Object:
    entry = {"id": action["id"], "message": action["message"]}
    if action["kind"] == "steering":
        return changed(state, steeringMessage=entry)
    queue = upserted(state.get("queuedMessages", []), entry, "id")
    return changed(state, queuedMessages=queue)


def _pending_removed(state: Object, action: Object, _rules: Rules, _now: str) -> Object:
    drop = _without_steering if action["kind"] == "steering" else _without_queued
    return drop(state, action["id"])


def _without_steering(state: Object, pending_id: str) -> Object:
    if state.get("steeringMessage", {}).get("id") != pending_id:
        return state
    return changed(state, steeringMessage=None)


def _without_queued(state: Object, pending_id: str) -> Object:
    queue = state.get("queuedMessages", [])
    kept = removed(queue, "id", pending_id)
    return state if kept is queue else changed(state, queuedMessages=kept or None)


def _reordered(state: Object, action: Object, _rules: Rules, _now: str) -> Object:
    queue = state.get("queuedMessages")
    if queue is None:
        return state
    places = {named: place for place, named in reversed(list(enumerate(action["order"])))}
    # Sorting keeps those that are not named behind the others, in the order they had.
    order = sorted(queue, key=lambda message: places.get(message["id"], len(places)))
    return changed(state, queuedMessages=order)


def _truncated(state: Object, action: Object, rules: Rules, now: str) -> Object:
    turn_id, turns = action.get("turnId"), state["turns"]
    ids = [turn["id"] for turn in turns]
    if turn_id is not None and turn_id not in ids:
        return state
    kept = [] if turn_id is None else turns[: ids.index(turn_id) + 1]
    left = changed(state, turns=kept, activeTurn=None, inputRequests=None)
    if turn_id is None:
        left = changed(left, turnsNextCursor=None)
    return touched(refreshed(left, rules), rules, now, None)


def _turns_loaded(state: Object, action: Object, _rules: Rules, _now: str) -> Object:
    known = {turn["id"] for turn in state["turns"]}
    older = [turn for turn in action["turns"] if turn["id"] not in known]
    return changed(
        state, turns=older + state["turns"], turnsNextCursor=action.get("turnsNextCursor")
    )


def _flag(flag: int, name: str) -> Callable[[Object, Object, Rules, str], Object]:
    def switch(state: Object, action: Object, _rules: Rules, _now: str) -> Object:
        return changed(state, status=with_flag(state["status"], flag, action[name]))

    return switch


_CHANGES: Final[dict[str, Callable[[Object, Object, Rules, str], Object]]] = {
    "chat/turnStarted": _turn_started,
    "chat/delta": _delta("markdown"),
    "chat/reasoning": _delta("reasoning"),
    "chat/responsePart": _part,
    "chat/toolCallStart": _call_started,
    "chat/usage": _usage,
    "chat/turnComplete": _ended("complete"),
    "chat/turnCancelled": _ended("cancelled"),
    "chat/error": _ended("error"),
    "chat/turnResume": _resumed,
    "chat/activityChanged": _activity,
    "chat/draftChanged": _draft,
    "chat/pendingMessageSet": _pending_set,
    "chat/pendingMessageRemoved": _pending_removed,
    "chat/queuedMessagesReordered": _reordered,
    "chat/truncated": _truncated,
    "chat/turnsLoaded": _turns_loaded,
    "chat/isReadChanged": _flag(IS_READ, "isRead"),
    "chat/isArchivedChanged": _flag(IS_ARCHIVED, "isArchived"),
    "chat/workingDirectorySet": lambda state, action, _rules, _now: directory_set(state, action),
    "chat/workingDirectoryRemoved": lambda state, action, _rules, _now: directory_removed(
        state, action
    ),
}
