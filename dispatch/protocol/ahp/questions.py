"""Questions that an agent asks in a turn: asked, answered piece by piece, completed.

Neighbours: `chat` folds with these. A question is a part of the turn; before 0.6 it stood beside
the turns, in `inputRequests`, until it was completed.
Source: `protocol/ahp.md` and the conformance data of 0.7.0.
Invariant: a question that is completed is never open again; asking with its id opens another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dispatch.protocol.ahp.objects import changed, removed, upserted
from dispatch.protocol.ahp.rules import Rules
from dispatch.protocol.ahp.status import IS_READ, with_flag
from dispatch.protocol.ahp.turn import is_open_question, refreshed, touched, with_part
from dispatch.protocol.codec import Object


def open_question(state: Object, request_id: str) -> tuple[int, Object] | None:
    """Where in the active turn the open question of this id is, and the part."""
    turn = state.get("activeTurn")
    for index, part in enumerate(turn["responseParts"] if turn else ()):
        if is_open_question(part) and part["request"]["id"] == request_id:
            return index, part
    return None


def _asked(state: Object, action: Object, rules: Rules, now: str) -> Object:
    request = action["request"]
    if rules.requests_are_parts:
        if "activeTurn" not in state:
            return state
        found = open_question(state, request["id"])
        if found is not None:
            request = _with_answers(request, found[1]["request"].get("answers"))
        index = len(state["activeTurn"]["responseParts"]) if found is None else found[0]
        asked = with_part(state, index, {"kind": "inputRequest", "request": request})
    else:
        waiting = state.get("inputRequests", [])
        before: Object = next((other for other in waiting if other["id"] == request["id"]), {})
        request = _with_answers(request, before.get("answers"))
        asked = changed(state, inputRequests=upserted(waiting, request, "id"))
    asked = refreshed(asked, rules)
    asked = changed(asked, status=with_flag(asked["status"], IS_READ, on=False))
    return touched(asked, rules, now, None)


def _with_answers(request: Object, answers: Object | None) -> Object:
    """A question asked again keeps what was answered, unless it brings answers itself."""
    return changed(request, answers=request.get("answers", answers))


def _answer_changed(state: Object, action: Object, rules: Rules, now: str) -> Object:
    def answer(request: Object) -> Object:
        answers = request.get("answers", {}) | {action["questionId"]: action.get("answer")}
        return changed(request, answers=changed(answers) or None)

    answered = _at(state, action["requestId"], rules, answer)
    return answered if answered is state else touched(answered, rules, now, None)


def _completed(state: Object, action: Object, rules: Rules, now: str) -> Object:
    if rules.requests_are_parts:
        found = open_question(state, action["requestId"])
        if found is None:
            return state
        index, part = found
        answers = part["request"].get("answers", {}) | (action.get("answers") or {})
        request = changed(part["request"], answers=answers or None)
        done = with_part(state, index, changed(part, request=request, response=action["response"]))
    else:
        waiting = state.get("inputRequests", [])
        left = removed(waiting, "id", action["requestId"])
        if left is waiting:
            return state
        done = changed(state, inputRequests=left or None)
    return touched(refreshed(done, rules), rules, now, None)


def _at(state: Object, request_id: str, rules: Rules, change: Callable[[Object], Object]) -> Object:
    """The chat with an open question changed; the same chat if it has none of this id."""
    if rules.requests_are_parts:
        found = open_question(state, request_id)
        if found is None:
            return state
        index, part = found
        return with_part(state, index, changed(part, request=change(part["request"])))
    waiting = state.get("inputRequests", [])
    asked = next((request for request in waiting if request["id"] == request_id), None)
    if asked is None:
        return state
    return changed(state, inputRequests=upserted(waiting, change(asked), "id"))


QUESTIONING: Final[dict[str, Callable[[Object, Object, Rules, str], Object]]] = {
    "chat/inputRequested": _asked,
    "chat/inputAnswerChanged": _answer_changed,
    "chat/inputCompleted": _completed,
}
"""The actions of questions."""
