"""What happens in a turn: one tagged union, the payload of every stored event.

Neighbours: agents yield these, `conversation` decides which are legal, `content` folds them into
chunks, dialects splice the ids in (an event does not carry its conversation's or turn's id; the
row it is stored in does). Source of names and fields: `protocol/native.md`, section 1.4.
Invariant: an event encodes to one JSON object whose first member is its `type`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

RequestKind = Literal["approval", "input"]
RequestOutcome = Literal["answered", "cancelled"]
RequestAction = Literal["accept", "decline", "cancel"]


class Event(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True, rename="camel"):
    """What happened, as shown to watchers. Absent optional fields are omitted, never null."""


class Image(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A picture beside a message: a data URL, or an http(s) URL that is passed on unread."""

    url: str
    mime_type: str | None = None


class UserMessage(Event, frozen=True, tag="user-message"):
    """The message that a turn answers; `author` (a user id) where an account has several people."""

    text: str
    images: tuple[Image, ...] = ()
    author: str | None = None


class TurnStart(Event, frozen=True, tag="turn-start"):
    """The turn runs from here; one without a message goes on with the turn that it `resumes`."""

    resumes: str | None = None


class TextDelta(Event, frozen=True, tag="text-delta"):
    """More of the answer."""

    delta: str


class ReasoningDelta(Event, frozen=True, tag="reasoning-delta"):
    """More of the agent's thinking."""

    delta: str


class ToolCall(Event, frozen=True, tag="tool-call"):
    """The agent calls a tool; `input` is any JSON value, passed on byte for byte."""

    tool_call_id: str
    tool_name: str
    input: msgspec.Raw
    step_id: str = ""


class ToolOutput(Event, frozen=True, tag="tool-output"):
    """Live output of a running tool; not kept."""

    tool_call_id: str
    data: str
    stream: Literal["stdout", "stderr"]


class ToolResult(Event, frozen=True, tag="tool-result"):
    """A tool ended. `duration_ms` in milliseconds."""

    tool_call_id: str
    tool_name: str
    content: str
    is_error: bool
    step_id: str = ""
    duration_ms: float | None = None


class TokenUsage(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Tokens that a step or a turn used."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None


class Usage(Event, frozen=True, tag="usage"):
    """Token counts, of a step if it is named."""

    usage: TokenUsage
    step_id: str | None = None


class StepComplete(Event, frozen=True, tag="step-complete"):
    """One call of the model ended; times in milliseconds."""

    step_id: str = ""
    ttft_ms: float | None = None
    decode_ms: float | None = None
    gen_total_ms: float | None = None


class ErrorEvent(Event, frozen=True, tag="error"):
    """The turn went wrong; kept as a chunk."""

    message: str
    code: str | None = None


class Steering(Event, frozen=True, tag="steering"):
    """The agent took this text into the running turn; the id is its sender's, where it had one."""

    text: str
    client_message_id: str | None = None


class ProviderRetry(Event, frozen=True, tag="provider-retry"):
    """The provider failed and is tried again after `delay_ms`; `attempt` counts from 0."""

    attempt: int
    delay_ms: float
    message: str
    code: str | None = None


class RequestOption(msgspec.Struct, frozen=True):
    """One way to answer an approval."""

    id: str
    label: str
    effect: Literal["allow", "deny"]


class RequestQuestion(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field of an input request."""

    id: str
    label: str
    type: Literal["text", "choice", "boolean"]
    options: tuple[str, ...] = ()
    required: bool = False


class Request(Event, frozen=True, tag="request"):
    """The agent asks its watchers; open until answered, stopped or sealed."""

    request_id: str
    kind: RequestKind
    title: str
    message: str | None = None
    tool_call_id: str | None = None
    options: tuple[RequestOption, ...] = ()
    questions: tuple[RequestQuestion, ...] = ()


class RequestClosed(Event, frozen=True, tag="request-closed"):
    """A request is closed for everybody; `by` is the user who answered, the rest is the answer."""

    request_id: str
    outcome: RequestOutcome
    by: str | None = None
    approved: bool | None = None
    option_id: str | None = None
    # Not `Raw`: a decoder takes no union of that with null.
    edited_input: Any = None
    reason: str | None = None
    action: RequestAction | None = None
    answers: dict[str, msgspec.Raw] | None = None


class Done(Event, frozen=True, tag="done"):
    """The turn's end in words: stop, aborted, error, interrupted, max-steps or the provider's."""

    reason: str
    duration_ms: float | None = None
    usage: TokenUsage | None = None
    context_size: int | None = None


class TurnSealed(Event, frozen=True, tag="turn-sealed"):
    """History and metrics of the turn are readable from here on."""


class Truncated(Event, frozen=True, tag="truncated"):
    """Of no turn: what is behind `after_turn` (None: everything) does not count any more.

    In seqs: what is behind `after_seq`, up to `last_seq`.
    """

    after_seq: int
    last_seq: int
    after_turn: str | None = None


AgentEvent = (
    TextDelta
    | ReasoningDelta
    | ToolCall
    | ToolOutput
    | ToolResult
    | Usage
    | StepComplete
    | ErrorEvent
    | Steering
    | ProviderRetry
    | Request
    | Done
)
"""What an agent may yield."""

AnyEvent = AgentEvent | UserMessage | TurnStart | RequestClosed | TurnSealed | Truncated
"""What may be stored."""


class Response(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The answer to a request: an approval's fields or an input's (`model.md`, Request)."""

    request_id: str
    approved: bool | None = None
    option_id: str | None = None
    edited_input: msgspec.Raw | None = None
    reason: str | None = None
    action: RequestAction | None = None
    answers: dict[str, msgspec.Raw] | None = None


def closed_by(response: Response, by: str) -> RequestClosed:
    """What is stored of a user's answer: all of it."""
    return RequestClosed(outcome="answered", by=by, **msgspec.structs.asdict(response))


def answer_of(closed: RequestClosed) -> Response | None:
    """The answer that closed a request; None where nobody answered, or it was not kept."""
    fields = {name: getattr(closed, name) for name in Response.__struct_fields__}
    answer = Response(**fields)
    return None if answer == Response(closed.request_id) else answer


# Their JSON was written by others, over several lines perhaps.
_WITH_RAW: Final = frozenset({ToolCall, RequestClosed})
_ENCODER: Final = msgspec.json.Encoder()
_ANY_DECODER: Final = msgspec.json.Decoder(AnyEvent)
_AGENT_DECODER: Final = msgspec.json.Decoder(AgentEvent)


def encode_event(event: Event) -> bytes:
    """The stored and spliced form of an event: one line, whatever JSON was given for a part."""
    payload = _ENCODER.encode(event)
    return one_line(payload) if type(event) in _WITH_RAW else payload


def one_line(json: bytes) -> bytes:
    """JSON without line ends: between its tokens they mean nothing, inside of strings there are
    none.
    """
    if b"\n" in json or b"\r" in json:
        return json.replace(b"\n", b" ").replace(b"\r", b" ")
    return json


def decode_event(payload: bytes) -> AnyEvent:
    """Read a stored event back."""
    event: AnyEvent = _ANY_DECODER.decode(payload)
    return event


def decode_agent_event(line: bytes) -> AgentEvent:
    """Read one event that a program wrote; raises `msgspec.MsgspecError` with the reason."""
    event: AgentEvent = _AGENT_DECODER.decode(line)
    return event
