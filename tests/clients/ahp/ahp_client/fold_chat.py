"""The reducer of a chat.

Neighbours: `fold_calls` and `fold_questions` have the parts with a life of their own;
`folding` chooses between the channels.
Invariant: the status says what is in the state: a turn, a question, a failure.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from tests.clients.ahp.ahp_client import fold_calls, fold_questions
from tests.clients.ahp.ahp_client.words import (
    ERROR,
    IDLE,
    IN_PROGRESS,
    INPUT_NEEDED,
    IS_ARCHIVED,
    IS_READ,
    Json,
    Moment,
    changed,
    upserted,
    with_activity,
    with_flag,
)

_ENDS = {
    "chat/turnComplete": "complete",
    "chat/turnCancelled": "cancelled",
    "chat/error": "error",
}
_QUESTIONS = {
    "chat/inputRequested": fold_questions.requested,
    "chat/inputAnswerChanged": fold_questions.answer_changed,
    "chat/inputCompleted": fold_questions.completed,
}


def chat_folded(state: Json, action: Json, moment: Moment) -> Json:
    """The chat after an action; an unknown one changes nothing."""
    kind = action["type"]
    if kind.startswith("chat/toolCall"):
        return _call(state, action, moment)
    if kind in _ENDS:
        return _ended(state, action, moment)
    if kind in _QUESTIONS:
        return _question(state, action, moment)
    if "turnId" in action and kind in _OF_THE_TURN:
        return _OF_THE_TURN[kind](state, action, moment)
    return _beside_the_turn(state, action, moment)


def _started(state: Json, action: Json, moment: Moment) -> Json:
    turn = {"id": action["turnId"], "message": action["message"], "responseParts": []}
    if action.get("startedAt") is not None and moment.version >= (0, 6, 0):
        turn["startedAt"] = action["startedAt"]
    made = {**state, "activeTurn": turn}
    taken = action.get("queuedMessageId")
    if taken is not None:
        if (state.get("steeringMessage") or {}).get("id") == taken:
            made = changed(made, steeringMessage=None)
        made = _without_queued(made, taken)
    made = _with_status(made, moment)
    made["status"] = with_flag(made["status"], IS_READ, False)
    made["modifiedAt"] = action["startedAt"] if moment.version >= (0, 9, 0) else moment.now
    return made


def _ended(state: Json, action: Json, moment: Moment) -> Json:
    turn = state.get("activeTurn")
    if turn is None or turn["id"] != action["turnId"]:
        return state
    parts = [_part_ended(part) for part in turn["responseParts"]]
    done = {**turn, "responseParts": parts, "state": _ENDS[action["type"]]}
    duration = max(0, action.get("duration") or 0)
    if moment.version >= (0, 6, 0):
        done["duration"] = duration
    if action["type"] == "chat/error":
        if moment.version >= (0, 9, 0):
            done["responseParts"] = [*parts, action["part"]]
        else:
            done["error"] = action["error"]
    made = changed(state, activeTurn=None)
    made["turns"] = [*state["turns"], done]
    if moment.version < (0, 6, 0):
        made.pop("inputRequests", None)
    if moment.version >= (0, 9, 0):
        made["modifiedAt"] = later(turn["startedAt"], duration)
    else:
        made["modifiedAt"] = moment.now
    return _with_status(made, moment, failed=action["type"] == "chat/error")


def _part_ended(part: Json) -> Json:
    if part["kind"] != "toolCall":
        return part
    return {**part, "toolCall": fold_calls.ended_with_turn(part["toolCall"])}


def _response_part(state: Json, action: Json, moment: Moment) -> Json:
    turn = state.get("activeTurn")
    if turn is None or turn["id"] != action["turnId"]:
        return state
    if moment.version >= (0, 9, 0) and action["part"]["kind"] == "error":
        return state
    return _with_parts(state, [*turn["responseParts"], action["part"]])


def _appended(kind: str) -> Any:
    def fold(state: Json, action: Json, moment: Moment) -> Json:
        turn = state.get("activeTurn")
        if turn is None or turn["id"] != action["turnId"]:
            return state
        parts = turn["responseParts"]
        for index, part in enumerate(parts):
            if part["kind"] != kind or part.get("id") != action["partId"]:
                continue
            grown = {**part, "content": part["content"] + action["content"]}
            return _with_parts(state, [*parts[:index], grown, *parts[index + 1 :]])
        return state

    return fold


def _usage(state: Json, action: Json, moment: Moment) -> Json:
    turn = state.get("activeTurn")
    if turn is None or turn["id"] != action["turnId"]:
        return state
    return {**state, "activeTurn": {**turn, "usage": action["usage"]}}


def _resumed(state: Json, action: Json, moment: Moment) -> Json:
    turns = state["turns"]
    last = turns[-1] if turns else None
    is_resumable = (
        moment.version >= (0, 9, 0)
        and state.get("activeTurn") is None
        and last is not None
        and last["id"] == action["turnId"]
        and last["state"] == "error"
        and bool(last["responseParts"])
        and last["responseParts"][-1]["kind"] == "error"
        and last["responseParts"][-1].get("resumable") is True
    )
    if not is_resumable:
        return state
    assert last is not None
    turn = {name: value for name, value in last.items() if name not in ("state", "duration")}
    made = _with_status({**state, "turns": turns[:-1], "activeTurn": turn}, moment)
    made["status"] = with_flag(made["status"], IS_READ, False)
    return made


_OF_THE_TURN = {
    "chat/turnStarted": _started,
    "chat/responsePart": _response_part,
    "chat/delta": _appended("markdown"),
    "chat/reasoning": _appended("reasoning"),
    "chat/usage": _usage,
    "chat/turnResume": _resumed,
}


def _call(state: Json, action: Json, moment: Moment) -> Json:
    turn = state.get("activeTurn")
    if turn is None or turn["id"] != action["turnId"]:
        return state
    parts = turn["responseParts"]
    if action["type"] == "chat/toolCallStart":
        part = {"kind": "toolCall", "toolCall": fold_calls.started(action, moment)}
        return _with_parts(state, [*parts, part])
    for index, part in enumerate(parts):
        if part["kind"] != "toolCall" or part["toolCall"]["toolCallId"] != action["toolCallId"]:
            continue
        call = fold_calls.folded(part["toolCall"], action, moment)
        if call is part["toolCall"]:
            return state
        made = _with_parts(state, [*parts[:index], {**part, "toolCall": call}, *parts[index + 1 :]])
        return _with_status(made, moment)
    return state


def _question(state: Json, action: Json, moment: Moment) -> Json:
    made = _QUESTIONS[action["type"]](state, action, moment)
    if made is state:
        return state
    made = _with_status(made, moment)
    if action["type"] == "chat/inputRequested":
        made["status"] = with_flag(made["status"], IS_READ, False)
    if moment.version < (0, 9, 0):
        made["modifiedAt"] = moment.now
    return made


def _beside_the_turn(state: Json, action: Json, moment: Moment) -> Json:
    match action["type"]:
        case "chat/activityChanged":
            return changed(state, activity=action.get("activity"))
        case "chat/draftChanged":
            return changed(state, draft=action.get("draft"))
        case "chat/pendingMessageSet":
            row = {"id": action["id"], "message": action["message"]}
            if action["kind"] == "steering":
                return {**state, "steeringMessage": row}
            return {**state, "queuedMessages": upserted(state.get("queuedMessages"), row, "id")}
        case "chat/pendingMessageRemoved" if action["kind"] == "steering":
            is_it = (state.get("steeringMessage") or {}).get("id") == action["id"]
            return changed(state, steeringMessage=None) if is_it else state
        case "chat/pendingMessageRemoved":
            return _without_queued(state, action["id"])
        case "chat/queuedMessagesReordered":
            return _reordered(state, action["order"])
        case "chat/truncated":
            return _truncated(state, action, moment)
        case "chat/turnsLoaded":
            known = {turn["id"] for turn in state["turns"]}
            older = [turn for turn in action["turns"] if turn["id"] not in known]
            made = {**state, "turns": [*older, *state["turns"]]}
            return changed(made, turnsNextCursor=action.get("turnsNextCursor"))
        case "chat/workingDirectorySet" | "chat/workingDirectoryRemoved":
            return directories_folded(state, action)
        case "chat/isReadChanged" if moment.version >= (0, 9, 0):
            return {**state, "status": with_flag(state["status"], IS_READ, action["isRead"])}
        case "chat/isArchivedChanged" if moment.version >= (0, 9, 0):
            is_set = action["isArchived"]
            return {**state, "status": with_flag(state["status"], IS_ARCHIVED, is_set)}
        case _:
            return state


def directories_folded(state: Json, action: Json) -> Json:
    """The working directories of a chat or a session, as a set."""
    directories = state.get("workingDirectories") or []
    is_there = action["directory"] in directories
    if action["type"].endswith("Set"):
        if is_there:
            return state
        return {**state, "workingDirectories": [*directories, action["directory"]]}
    if not is_there:
        return state
    kept = [one for one in directories if one != action["directory"]]
    return {**state, "workingDirectories": kept}


def _truncated(state: Json, action: Json, moment: Moment) -> Json:
    turns, upto = state["turns"], action.get("turnId")
    kept: list[Json] = []
    if upto is not None:
        ids = [turn["id"] for turn in turns]
        if upto not in ids:
            return state
        kept = turns[: ids.index(upto) + 1]
    made = {**changed(state, activeTurn=None), "turns": kept, "modifiedAt": moment.now}
    if upto is None:
        made.pop("turnsNextCursor", None)
    if moment.version < (0, 6, 0):
        made.pop("inputRequests", None)
    return _with_status(made, moment)


def _reordered(state: Json, order: list[str]) -> Json:
    rows = state.get("queuedMessages")
    if rows is None:
        return state
    by_id = {row["id"]: row for row in rows}
    first = [by_id[one] for one in dict.fromkeys(order) if one in by_id]
    rest = [row for row in rows if row["id"] not in set(order)]
    return {**state, "queuedMessages": [*first, *rest]}


def _without_queued(state: Json, message_id: str) -> Json:
    rows = state.get("queuedMessages") or []
    kept = [row for row in rows if row["id"] != message_id]
    return state if len(kept) == len(rows) else changed(state, queuedMessages=kept or None)


def _with_parts(state: Json, parts: list[Json]) -> Json:
    return {**state, "activeTurn": {**state["activeTurn"], "responseParts": parts}}


def _with_status(state: Json, moment: Moment, *, failed: bool = False) -> Json:
    turn = state.get("activeTurn")
    parts = [] if turn is None else turn["responseParts"]
    calls = [part["toolCall"]["status"] for part in parts if part["kind"] == "toolCall"]
    activity = IDLE
    if failed:
        activity = ERROR
    elif fold_questions.open_requests(state, moment) or fold_calls.WAITING.intersection(calls):
        activity = INPUT_NEEDED
    elif turn is not None:
        activity = IN_PROGRESS
    return {**state, "status": with_activity(state["status"], activity)}


def later(time: str, milliseconds: float) -> str:
    """A time so much later, in the same form."""
    moved = datetime.fromisoformat(time) + timedelta(milliseconds=milliseconds)
    return moved.isoformat(timespec="milliseconds").replace("+00:00", "Z")
