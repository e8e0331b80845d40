"""Questions to the user: parts of the turn, and before 0.6 a list beside the turns.

Neighbours: `fold_chat`, which sets the status after each of these.
Invariant: a question that was answered is not changed any more.
"""

from __future__ import annotations

from tests.clients.ahp.ahp_client.words import Json, Moment, changed, picked


def open_requests(state: Json, moment: Moment) -> list[Json]:
    """The questions that wait for an answer."""
    if moment.version < (0, 6, 0):
        return state.get("inputRequests") or []
    parts = (state.get("activeTurn") or {}).get("responseParts", [])
    return [part["request"] for part in parts if _is_open(part)]


def requested(state: Json, action: Json, moment: Moment) -> Json:
    """A question is asked, or asked in other words: its answers stay unless others are given."""
    request = action["request"]
    known = _named(state, request["id"], moment)
    if known is not None:
        request = {**picked(known, "answers"), **request}
        return _replaced(state, request, moment)
    if moment.version < (0, 6, 0):
        return {**state, "inputRequests": [*(state.get("inputRequests") or []), request]}
    turn = state.get("activeTurn")
    if turn is None:
        return state
    parts = [*turn["responseParts"], {"kind": "inputRequest", "request": request}]
    return {**state, "activeTurn": {**turn, "responseParts": parts}}


def answer_changed(state: Json, action: Json, moment: Moment) -> Json:
    """One answer is drafted or taken back."""
    request = _named(state, action["requestId"], moment)
    if request is None:
        return state
    answers = dict(request.get("answers") or {})
    if action.get("answer") is None:
        answers.pop(action["questionId"], None)
    else:
        answers[action["questionId"]] = action["answer"]
    return _replaced(state, changed(request, answers=answers or None), moment)


def completed(state: Json, action: Json, moment: Moment) -> Json:
    """A question is answered: before 0.6 it is gone, later the turn keeps it with its response."""
    request = _named(state, action["requestId"], moment)
    if request is None:
        return state
    if moment.version < (0, 6, 0):
        kept = [one for one in state["inputRequests"] if one["id"] != request["id"]]
        return changed(state, inputRequests=kept or None)
    answers = {**(request.get("answers") or {}), **(action.get("answers") or {})}
    request = changed(request, answers=answers or None)
    return _replaced(state, request, moment, action["response"])


def _is_open(part: Json) -> bool:
    return part["kind"] == "inputRequest" and part.get("response") is None


def _named(state: Json, request_id: str, moment: Moment) -> Json | None:
    found = [one for one in open_requests(state, moment) if one["id"] == request_id]
    return found[0] if found else None


def _replaced(state: Json, request: Json, moment: Moment, response: str | None = None) -> Json:
    if moment.version < (0, 6, 0):
        rows = [request if one["id"] == request["id"] else one for one in state["inputRequests"]]
        return {**state, "inputRequests": rows}
    turn = state["activeTurn"]
    told = {"kind": "inputRequest", "request": request}
    if response is not None:
        told["response"] = response
    parts = [
        told if _is_open(part) and part["request"]["id"] == request["id"] else part
        for part in turn["responseParts"]
    ]
    return {**state, "activeTurn": {**turn, "responseParts": parts}}
