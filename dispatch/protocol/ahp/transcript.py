"""A finished turn built from what is kept of it, for turns that nobody watched.

Neighbours: `core.content` are the chunks, `projection` says the same turn as it happens.
Questions are not kept, nor how a call was consented to: a turn read back has none of that.
Invariant: built from its chunks, a turn is what folding its projected actions gave.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from dispatch.core.content import (
    RESUMED,
    ErrorChunk,
    ImageChunk,
    StoredLine,
    System,
    Text,
    Thinking,
    ToolCallChunk,
    ToolResultChunk,
)
from dispatch.core.events import ErrorEvent, Image, TokenUsage, one_line
from dispatch.core.turn import Outcome
from dispatch.protocol.ahp.objects import changed, iso_time, present
from dispatch.protocol.ahp.projection import said_before, unique_name
from dispatch.protocol.ahp.words import (
    error_part,
    message_object,
    notice_part,
    result_object,
    usage_object,
)
from dispatch.protocol.codec import Object


class TurnFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a sealed turn beside its chunks; times in epoch ms, `duration_ms` too."""

    turn_id: str
    started_at_ms: int
    duration_ms: int
    outcome: Outcome
    usage: TokenUsage | None = None
    done_reason: str = "error"


def turn_object(
    facts: TurnFacts, lines: Iterable[StoredLine], before: Object | None = None
) -> Object:
    """The turn; `lines` are its chunks, in order, its message first.

    `before` is the turn that it goes on with, which has its name: then both are one turn.
    """
    said = [] if before is None else before["responseParts"]
    message, images, parts, error = _parts(facts.turn_id, lines, said)
    state = {"completed": "complete", "aborted": "cancelled"}.get(facts.outcome, "error")
    if state == "error":
        last = error or ErrorEvent(f"the turn ended: {facts.done_reason}", facts.done_reason)
        parts.append(error_part(last, resumable=True))
    elif error is not None:
        parts.append(notice_part(error.message))
    begun = before or {
        "startedAt": iso_time(facts.started_at_ms),
        "message": message_object(message, images),
    }
    return present(
        id=facts.turn_id,
        startedAt=begun["startedAt"],
        message=begun["message"],
        responseParts=[*said, *parts],
        usage=None if facts.usage is None else usage_object(facts.usage),
        state=state,
        duration=max(0, facts.duration_ms),
    )


def _parts(
    turn_id: str, lines: Iterable[StoredLine], said: Iterable[Object]
) -> tuple[str, list[Image], list[Object], ErrorEvent | None]:
    """The message and its images, the parts, and the error that is not among them."""
    message: str | None = None
    images: list[Image] = []
    parts: list[Object] = []
    error: ErrorEvent | None = None
    texts, names = said_before(said)
    calls: dict[str, int] = {}
    for line in lines:
        match line.chunk:
            case Text(text) if line.role == "user" and message is None:
                message = text
            case ImageChunk(url, mime_type):
                images.append(Image(url, mime_type))
            case chunk if chunk == RESUMED:
                continue
            case Text(text) | System(text) if line.role != "assistant":
                parts.append(notice_part(text))
            case Text(text) | Thinking(text) as chunk:
                kind = "reasoning" if isinstance(chunk, Thinking) else "markdown"
                parts.append({"kind": kind, "id": f"{turn_id}.{texts}", "content": text})
                texts += 1
            case ToolCallChunk() as chunk:
                calls[chunk.tool_call_id] = len(parts)
                parts.append(_call(chunk, unique_name(chunk.tool_call_id, names)))
            case ToolResultChunk() as chunk:
                place = calls.pop(chunk.tool_call_id, None)
                if place is not None:
                    parts[place] = _returned(parts[place], chunk)
            case ErrorChunk(text, code):
                if error is not None:
                    parts.append(notice_part(error.message))
                error = ErrorEvent(text, code)
            case _:
                pass
    return message or "", images, parts, error


def _call(chunk: ToolCallChunk, name: str) -> Object:
    """A call that has no result is one that did not get to its end."""
    call = {
        "status": "cancelled",
        "toolCallId": name,
        "toolName": chunk.tool_name,
        "displayName": chunk.tool_name,
        "invocationMessage": chunk.tool_name,
        "toolInput": one_line(bytes(chunk.input)).decode(),
        "reason": "skipped",
    }
    return {"kind": "toolCall", "toolCall": call}


def _returned(part: Object, chunk: ToolResultChunk) -> Object:
    result = result_object(chunk.tool_name, chunk.content, is_error=chunk.is_error)
    call = changed(part["toolCall"], status="completed", reason=None, confirmed="not-needed")
    return changed(part, toolCall={**call, **result})
