"""An agent's requests as AHP says them: an approval of a tool call is a state of that call.

Neighbours: `projection` has one of these a turn; `intents` is the way back, from a client's answer.
Any other request is a question in the turn.
Invariant: what was asked is closed in the way it was asked, and once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dispatch.core.events import Request, RequestClosed, Response
from dispatch.protocol.ahp.objects import present
from dispatch.protocol.ahp.words import APPROVAL_QUESTION, confirmation_options, question_object
from dispatch.protocol.codec import Object


class QuestionsAsked:
    """The open requests of a turn; a value is the AHP id of the call that an approval is about."""

    def __init__(self, turn_id: str) -> None:
        """Begin with none open."""
        self._turn_id = turn_id
        self._open: dict[str, tuple[Request, str | None]] = {}

    def ask(self, request: Request, calls: Mapping[str, str]) -> list[Object]:
        """A request; `calls` are the open tool calls, core id to AHP id."""
        call = None
        if request.kind == "approval" and request.tool_call_id is not None:
            call = calls.get(request.tool_call_id)
        self._open[request.request_id] = (request, call)
        if call is None:
            return [{"type": "chat/inputRequested", "request": question_object(request)}]
        return [
            present(
                type="chat/toolCallReady",
                turnId=self._turn_id,
                toolCallId=call,
                invocationMessage=request.message or request.title,
                confirmationTitle=request.title,
                options=confirmation_options(request),
                _meta={"requestId": request.request_id},
            )
        ]

    def close(self, closed: RequestClosed, response: Response | None) -> list[Object]:
        """A request is closed; `response` is the answer, where it is known."""
        request, call = self._open.pop(closed.request_id, (None, None))
        if request is None:
            return []
        answered = closed.outcome == "answered"
        if call is None:
            return [_completed(request, response, answered=answered)]
        approved = answered if response is None else _is_approved(request, response)
        if answered and approved:
            how: Object = {"approved": True, "confirmed": "user-action"}
        else:
            reason = "denied" if answered else "skipped"
            how = {"approved": False, "reason": reason}
        return [
            present(
                type="chat/toolCallConfirmed",
                turnId=self._turn_id,
                toolCallId=call,
                selectedOptionId=None if response is None else response.option_id,
                **how,
            )
        ]


def _is_approved(request: Request, response: Response) -> bool:
    if response.approved is not None:
        return response.approved
    effects = {option.id: option.effect for option in request.options}
    return effects.get(response.option_id or "") == "allow"


def _completed(request: Request, response: Response | None, *, answered: bool) -> Object:
    action = "accept" if answered else "cancel"
    given: dict[str, Any] = {}
    if response is not None and request.kind == "input":
        action = response.action or action
        types = {question.id: question.type for question in request.questions}
        for name, raw in (response.answers or {}).items():
            given[name] = _answer(types.get(name, "text"), msgspec.json.decode(raw))
    elif response is not None:
        chosen = response.option_id
        value = _is_approved(request, response) if chosen is None else chosen
        given[APPROVAL_QUESTION] = _answer("boolean" if chosen is None else "choice", value)
    return present(
        type="chat/inputCompleted",
        requestId=request.request_id,
        response=action,
        answers=given or None,
    )


def _answer(kind: str, value: object) -> Object:
    kinds = {"text": "text", "boolean": "boolean", "choice": "selected"}
    return {"state": "submitted", "value": {"kind": kinds[kind], "value": value}}
