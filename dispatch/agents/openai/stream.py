"""What an endpoint streams, as events: one answer of a model, from its first piece to its end.

Neighbours: `endpoint` brings the lines, `agent` emits the events. Written after what
servers send and not after the reference alone: `reasoning_content` (vLLM, DeepSeek, llama.cpp) and
`reasoning` (Ollama, vLLM, OpenRouter), lists of parts (Mistral), counts in every piece, tool calls
that all have index 0 (Ollama) or none, errors in the middle.
Invariant: nothing of a payload is believed before it was decoded into a type, and what is wrong
with it is an `EndpointFailure`, whatever it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec

from dispatch.agents.openai.failures import EndpointFailure, failure_of_error, fit
from dispatch.core.events import (
    AgentEvent,
    Done,
    ReasoningDelta,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolResult,
)

# More tools than any model was seen to call in one answer.
_CALLS_MAX: Final = 128
_CHARACTERS_MAX: Final = 128
_NOT_RUN: Final = "not run: this agent offers its model no tools"
# Reasons that mean the answer is not whole, or that would be taken for somebody's stop.
_BROKEN: Final = frozenset({"abort", "aborted", "cancelled", "error", "interrupted"})
_CALLING: Final = frozenset({"tool_calls", "function_call"})

Count = Annotated[int, msgspec.Meta(ge=0)]


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: object = None


class _CallPiece(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: object = None
    reasoning_content: object = None
    reasoning: object = None
    refusal: object = None
    tool_calls: list[_CallPiece] | None = None


class _Choice(msgspec.Struct):
    index: int | None = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Cached(msgspec.Struct):
    cached_tokens: Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Count
    completion_tokens: Count
    prompt_tokens_details: _Cached | None = None


class _Piece(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: object = None
    error: object = None
    kind: str | None = msgspec.field(name="object", default=None)


@dataclass(slots=True)
class _Call:
    """A tool call that comes in pieces."""

    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)


_DECODER: Final = msgspec.json.Decoder(_Piece)


class Answer:
    """What one call of the model says. `is_over`: the endpoint has said its last word."""

    def __init__(self, key: str) -> None:
        """`key` is what must not be shown of an endpoint's words."""
        self._key = key
        self._calls: list[_Call] = []
        self._open: dict[int, _Call] = {}
        self._reason = ""
        self._refuses = False
        self.usage: TokenUsage | None = None
        self.is_over = False

    @property
    def is_complete(self) -> bool:
        """The answer is whole; only counts may follow."""
        return self.is_over or bool(self._reason)

    @property
    def has_calls(self) -> bool:
        """A tool call has begun, which asking again would lose."""
        return bool(self._calls)

    def take(self, line: bytes) -> list[AgentEvent]:
        """The events of one line of the stream; raises `EndpointFailure`.

        Each payload is a line of its own, so a line is an event: no server was seen to spread one
        over several, which the format of server-sent events would allow.
        """
        name, _, payload = line.partition(b":")
        payload = payload.strip()
        if name == b"error":
            # How older servers of llama.cpp tell what went wrong.
            payload = b'{"error":%b}' % payload
        elif name != b"data" or not payload:
            # A comment that keeps the connection alive, an event's name, an id.
            return []
        if payload == b"[DONE]":
            self.is_over = True
            return []
        try:
            piece = _DECODER.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise EndpointFailure("bad_answer", fit(str(error), self._key)) from error
        if piece.error:
            raise failure_of_error(piece.error, self._key)
        if piece.kind == "error":
            raise failure_of_error(msgspec.json.decode(payload), self._key)
        if piece.usage is not None:
            self._count(piece.usage)
        events: list[AgentEvent] = []
        for choice in piece.choices or ():
            # One answer is asked for; a second one would be mixed into it.
            if choice.index:
                continue
            if choice.delta is not None:
                events += self._said(choice.delta)
            self._reason = choice.finish_reason or self._reason
        return events

    def calls(self) -> Iterator[AgentEvent]:
        """The tool calls that were made, each with the answer that it was not run."""
        ids: set[str] = set()
        for number, call in enumerate(self._calls):
            call_id = call.id or f"call-{number}"
            while call_id in ids:
                call_id += "'"
            ids.add(call_id)
            name = call.name or "unknown"
            yield ToolCall(call_id, name, _input("".join(call.arguments)))
            yield ToolResult(call_id, name, _NOT_RUN, is_error=True)

    def done(self) -> Done:
        """How it ended; raises `EndpointFailure` if it did not end well."""
        reason = self._reason
        if self._calls or reason in _CALLING:
            raise EndpointFailure("no_tools")
        if reason == "content_filter":
            raise EndpointFailure("content_filter")
        if reason in _BROKEN:
            raise EndpointFailure("provider_failed", fit(f"it ended with {reason}", self._key))
        if not self.is_complete:
            raise EndpointFailure("cut_off")
        reason = "refusal" if self._refuses else fit(reason, self._key)[:_CHARACTERS_MAX] or "stop"
        used = self.usage
        return Done(
            reason,
            context_size=None if used is None else used.input_tokens + used.output_tokens,
        )

    def _said(self, delta: _Delta) -> Iterator[AgentEvent]:
        # Servers that know both names say the same under both.
        thought = delta.reasoning_content or delta.reasoning
        if isinstance(thought, str) and thought:
            yield ReasoningDelta(thought)
        yield from _content(delta.content)
        if isinstance(delta.refusal, str) and delta.refusal:
            self._refuses = True
            yield TextDelta(delta.refusal)
        for piece in delta.tool_calls or ():
            self._gather(piece)

    def _gather(self, piece: _CallPiece) -> None:
        """Put a piece to its call: the one with its index, unless its id says otherwise."""
        name = (piece.function and piece.function.name) or ""
        index = -1 if piece.index is None else piece.index
        call = self._open.get(index)
        is_another = call is not None and (
            bool(piece.id and call.id and piece.id != call.id)
            or bool(index == -1 and not piece.id and name and call.name)
        )
        if call is None or is_another:
            if len(self._calls) == _CALLS_MAX:
                raise EndpointFailure("bad_answer", f"more than {_CALLS_MAX} tool calls")
            call = self._open[index] = _Call(piece.id or "")
            self._calls.append(call)
        call.id = call.id or piece.id or ""
        call.name = call.name or name
        given = piece.function and piece.function.arguments
        if isinstance(given, str):
            call.arguments.append(given)
        elif given is not None:
            call.arguments.append(msgspec.json.encode(given).decode())

    def _count(self, usage: object) -> None:
        """Keep the last counts. Bad ones are left out: an answer does not fail for them."""
        try:
            found = msgspec.convert(usage, _Usage, strict=False)
        except msgspec.ValidationError:
            return
        details = found.prompt_tokens_details
        self.usage = TokenUsage(
            found.prompt_tokens,
            found.completion_tokens,
            cache_read_tokens=None if details is None else details.cached_tokens,
        )


def _content(content: object) -> Iterator[AgentEvent]:
    """Text, or a list of parts of text and thinking."""
    if isinstance(content, str) and content:
        yield TextDelta(content)
    for part in content if isinstance(content, list) else ():
        match part:
            case {"type": "text", "text": str(text)} if text:
                yield TextDelta(text)
            case {"type": "thinking", "thinking": list(thoughts)}:
                texts = (one.get("text") for one in thoughts if isinstance(one, dict))
                yield from (ReasoningDelta(x) for x in texts if isinstance(x, str) and x)
            case _:
                pass


def _input(arguments: str) -> msgspec.Raw:
    """A tool's input: the arguments if they are JSON, else their text as a JSON string."""
    if not arguments.strip():
        return msgspec.Raw(b"{}")
    try:
        msgspec.json.decode(arguments)
    except (msgspec.MsgspecError, RecursionError):
        return msgspec.Raw(msgspec.json.encode(arguments))
    return msgspec.Raw(arguments.encode())
