"""What AHP calls the things of the core: messages, questions, tool calls, token counts, errors.

Neighbours: `projection` says them as they happen, `transcript` reads them back from what is kept.
Invariant: a thing has one form, whether it was watched or is read later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dispatch.core.events import ErrorEvent, Image, Request, RequestQuestion, TokenUsage
from dispatch.protocol.ahp.objects import present
from dispatch.protocol.codec import Object

_QUESTIONS: Final = {"text": "text", "boolean": "boolean", "choice": "single-select"}
APPROVAL_QUESTION: Final = "approval"
"""The id of the one question that asks for an approval which is about no tool call."""


def message_object(text: str, images: Sequence[Image] = ()) -> Object:
    """A person's message; a data URL is embedded, any other is named."""
    attached = [_attachment(image, number) for number, image in enumerate(images, 1)]
    return present(text=text, origin={"kind": "user"}, attachments=attached or None)


def _attachment(image: Image, number: int) -> Object:
    label = f"Image {number}"
    head, comma, data = image.url.partition(",")
    if head.startswith("data:") and head.endswith(";base64") and comma:
        kind = image.mime_type or head.removeprefix("data:").removesuffix(";base64")
        return {"type": "embeddedResource", "label": label, "data": data, "contentType": kind}
    return present(type="resource", label=label, uri=image.url, contentType=image.mime_type)


def usage_object(usage: TokenUsage) -> Object:
    """The tokens of a turn so far."""
    return present(
        inputTokens=usage.input_tokens,
        outputTokens=usage.output_tokens,
        cacheReadTokens=usage.cache_read_tokens,
    )


def question_object(request: Request) -> Object:
    """A question to people; an approval that is about no tool call is a choice, or a yes or no."""
    message = request.title if request.message is None else f"{request.title}\n{request.message}"
    if request.kind == "input":
        asked = [_question(question) for question in request.questions]
        return present(id=request.request_id, message=message, questions=asked or None)
    options = [{"id": option.id, "label": option.label} for option in request.options]
    one = present(
        kind="single-select" if options else "boolean",
        id=APPROVAL_QUESTION,
        message=request.title,
        required=True,
        options=options or None,
    )
    return {"id": request.request_id, "message": message, "questions": [one]}


def _question(question: RequestQuestion) -> Object:
    options = [{"id": option, "label": option} for option in question.options]
    return present(
        kind=_QUESTIONS[question.type],
        id=question.id,
        message=question.label,
        required=question.required or None,
        options=options if question.type == "choice" else None,
    )


def confirmation_options(request: Request) -> list[Object] | None:
    """The ways to answer an approval of a tool call."""
    kinds = {"allow": "approve", "deny": "deny"}
    options = [
        {"id": option.id, "label": option.label, "kind": kinds[option.effect]}
        for option in request.options
    ]
    return options or None


def error_part(error: ErrorEvent, *, resumable: bool) -> Object:
    """What a failed turn ends with."""
    info = {"errorType": error.code or "error", "message": error.message}
    return present(kind="error", error=info, resumable=resumable or None)


def result_object(tool_name: str, content: str, *, is_error: bool) -> Object:
    """What a tool call ended with."""
    shown = [{"type": "text", "text": content}] if content else None
    error = {"message": content} if is_error else None
    return present(success=not is_error, pastTenseMessage=tool_name, content=shown, error=error)


def notice_part(text: str) -> Object:
    """Something that is neither the agent's words nor its work: steering, an error on the way."""
    return {"kind": "systemNotification", "content": text}
