"""Core events of one turn as AHP actions, as they happen.

Neighbours: `words` has the forms, `questions_asked` the requests and their answers, `transcript`
builds the same turn from what is kept of it. One `Projection` a turn; ids and times are arguments.
Invariant: the actions depend on the events alone, in their order; folded, they give the turn that
`transcript` gives, but for questions, which nobody keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from dispatch.core.events import (
    AnyEvent,
    Done,
    ErrorEvent,
    ProviderRetry,
    ReasoningDelta,
    Request,
    RequestClosed,
    Response,
    Steering,
    StepComplete,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolOutput,
    ToolResult,
    TurnSealed,
    TurnStart,
    Usage,
    UserMessage,
    answer_of,
    one_line,
)
from dispatch.core.turn import outcome_of
from dispatch.protocol.ahp.objects import iso_time, present
from dispatch.protocol.ahp.questions_asked import QuestionsAsked
from dispatch.protocol.ahp.words import (
    error_part,
    message_object,
    notice_part,
    result_object,
    usage_object,
)
from dispatch.protocol.codec import Object

OUTPUT_CHARACTERS_MAX: Final = 8_000
"""The live output of a tool is said as a whole each time, so only its end is."""

_DELTA: Final = {"markdown": "chat/delta", "reasoning": "chat/reasoning"}


class Projection:
    """One turn while it is said.

    `turn_id` is what AHP calls it: for one that resumes another, the turn that it goes on with.
    `queued_id` is the pending message that it began with, if it did.
    """

    def __init__(
        self,
        turn_id: str,
        *,
        queued_id: str | None = None,
        message: Object | None = None,
        resumes: Sequence[Object] | None = None,
    ) -> None:
        """Begin with nothing said; `resumes` are the parts that a resumed turn has already.

        `message` is its message as a client wrote it, where that says more than its text.
        """
        self.turn_id = turn_id
        self._resumes = resumes is not None
        self._queued_id = queued_id
        self._message = message
        self._parts, self._names = said_before(resumes or ())
        self._run: tuple[str, str] | None = None
        self._calls: dict[str, str] = {}
        self._output: dict[str, str] = {}
        self._asked = QuestionsAsked(turn_id)
        self._error: ErrorEvent | None = None
        self._errored = False
        self._usage: TokenUsage | None = None
        self._retrying = False
        self._started_at_ms = 0
        self._done: Done | None = None

    def project(
        self,
        event: AnyEvent,
        at_ms: int,
        *,
        response: Response | None = None,
        steering_id: str | None = None,
    ) -> list[Object]:
        """What the event is called in AHP; `at_ms` is its time (epoch ms).

        `response` is the answer that closed a request, `steering_id` the pending message that was
        taken, where the host knows others than the event says.
        """
        calm = [] if isinstance(event, ProviderRetry) else self._calmed()
        match event:
            case TextDelta(delta):
                said = self._delta("markdown", delta)
            case ReasoningDelta(delta):
                said = self._delta("reasoning", delta)
            case UserMessage() | TurnStart():
                said = self._began(event, at_ms)
            case Request():
                said = self._asked.ask(event, self._calls)
            case RequestClosed():
                said = self._asked.close(event, response or answer_of(event))
            case Steering(text, given):
                said = self._steered(text, steering_id or given)
            case TurnSealed():
                said = self._ended(at_ms)
            case _:
                said = self._worked(event)
        return calm + said

    def _worked(self, event: AnyEvent) -> list[Object]:
        match event:
            case ToolCall():
                return self._called(event)
            case ToolOutput(call, data):
                return self._printed(call, data)
            case ToolResult():
                return self._returned(event)
            case Usage(usage):
                return self._used(usage)
            case StepComplete():
                self._run = None
            case ErrorEvent():
                return self._failed(event)
            case ProviderRetry():
                self._retrying = True
                return [{"type": "chat/activityChanged", "activity": "Retrying"}]
            case Done():
                self._done = event
                if event.usage is not None and event.usage != self._usage:
                    return self._said("usage", usage=usage_object(event.usage))
            case _:
                pass
        return []

    def _said(self, word: str, **members: object) -> list[Object]:
        return [present(type=f"chat/{word}", turnId=self.turn_id, **members)]

    def _calmed(self) -> list[Object]:
        if not self._retrying:
            return []
        self._retrying = False
        return [{"type": "chat/activityChanged"}]

    def _began(self, event: UserMessage | TurnStart, at_ms: int) -> list[Object]:
        self._started_at_ms = self._started_at_ms or at_ms
        if isinstance(event, TurnStart):
            return self._said("turnResume") if self._resumes else []
        return self._said(
            "turnStarted",
            startedAt=iso_time(at_ms),
            message=self._message or message_object(event.text, event.images),
            queuedMessageId=self._queued_id,
        )

    def _delta(self, kind: str, text: str) -> list[Object]:
        if not text:
            return []
        if self._run is None or self._run[0] != kind:
            self._run = (kind, f"{self.turn_id}.{self._parts}")
            self._parts += 1
            part = {"kind": kind, "id": self._run[1], "content": text}
            return self._said("responsePart", part=part)
        return [
            {
                "type": _DELTA[kind],
                "turnId": self.turn_id,
                "partId": self._run[1],
                "content": text,
            }
        ]

    def _called(self, event: ToolCall) -> list[Object]:
        self._run = None
        name = unique_name(event.tool_call_id, self._names)
        self._calls[event.tool_call_id] = name
        started = self._said(
            "toolCallStart",
            toolCallId=name,
            toolName=event.tool_name,
            displayName=event.tool_name,
        )
        return started + self._said(
            "toolCallReady",
            toolCallId=name,
            invocationMessage=event.tool_name,
            toolInput=one_line(bytes(event.input)).decode(),
            confirmed="not-needed",
        )

    def _printed(self, call: str, data: str) -> list[Object]:
        name = self._calls.get(call)
        if name is None:
            return []
        output = (self._output.get(name, "") + data)[-OUTPUT_CHARACTERS_MAX:]
        self._output[name] = output
        content = [{"type": "text", "text": output}]
        return self._said("toolCallContentChanged", toolCallId=name, content=content)

    def _returned(self, event: ToolResult) -> list[Object]:
        self._run = None
        name = self._calls.pop(event.tool_call_id, None)
        if name is None:
            return []
        self._output.pop(name, None)
        result = result_object(event.tool_name, event.content, is_error=event.is_error)
        return self._said("toolCallComplete", toolCallId=name, result=result)

    def _used(self, usage: TokenUsage) -> list[Object]:
        before = self._usage
        self._usage = usage if before is None else _sum(before, usage)
        return self._said("usage", usage=usage_object(self._usage))

    def _failed(self, event: ErrorEvent) -> list[Object]:
        """An error waits for the turn's end, which says the last; the one before is said now."""
        self._run = None
        before, self._error, self._errored = self._error, event, True
        return [] if before is None else self._noticed(before.message)

    def _noticed(self, text: str) -> list[Object]:
        return self._said("responsePart", part=notice_part(text))

    def _steered(self, text: str, steering_id: str | None) -> list[Object]:
        self._run = None
        taken: list[Object] = []
        if steering_id is not None:
            taken = [{"type": "chat/pendingMessageRemoved", "kind": "steering", "id": steering_id}]
        return taken + self._noticed(text)

    def _ended(self, at_ms: int) -> list[Object]:
        done = self._done or Done("error")
        outcome = outcome_of(done.reason, errored=self._errored)
        duration = done.duration_ms
        duration_ms = at_ms - self._started_at_ms if duration is None else round(duration)
        if outcome in {"error", "interrupted"}:
            error = self._error or ErrorEvent(f"the turn ended: {done.reason}", done.reason)
            part = error_part(error, resumable=True)
            return self._said("error", duration=duration_ms, part=part)
        left = [] if self._error is None else self._noticed(self._error.message)
        word = "turnCancelled" if outcome == "aborted" else "turnComplete"
        return left + self._said(word, duration=duration_ms)


def said_before(parts: Iterable[Object]) -> tuple[int, set[str]]:
    """Of the parts of a turn that goes on: how many are texts, and what its calls are called."""
    texts, calls = 0, set()
    for part in parts:
        texts += part.get("kind") in _DELTA
        if "toolCall" in part:
            calls.add(str(part["toolCall"]["toolCallId"]))
    return texts, calls


def unique_name(call_id: str, taken: set[str]) -> str:
    """A tool call's id, with a number where the turn had a call of that id before; then taken."""
    name, number = call_id, 1
    while name in taken:
        number += 1
        name = f"{call_id}#{number}"
    taken.add(name)
    return name


def _sum(left: TokenUsage, right: TokenUsage) -> TokenUsage:
    caches = (left.cache_read_tokens, right.cache_read_tokens)
    known = [count for count in caches if count is not None]
    return TokenUsage(
        left.input_tokens + right.input_tokens,
        left.output_tokens + right.output_tokens,
        sum(known) if known else None,
    )
