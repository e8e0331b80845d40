"""A turn as what an agent is prompted with: content blocks.

Neighbours: `agent` asks for them once its session knows what it has to be told.
Invariant: nothing a person sent is dropped without a word: what an agent cannot take is named.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

from acp.schema import ImageContentBlock, ResourceContentBlock, TextContentBlock

from dispatch.core.content import (
    AnyChunk,
    ErrorChunk,
    ImageChunk,
    StoredLine,
    System,
    Text,
    Thinking,
    ToolCallChunk,
    ToolResultChunk,
)
from dispatch.core.events import Image

Block = TextContentBlock | ImageContentBlock | ResourceContentBlock

_BEFORE: Final = "This conversation began before this session. It went so far, oldest first:"
_FROM_HERE: Final = "What follows is the next message of it."
_SYSTEM: Final = "Instructions for this conversation:"
_KIND_UNKNOWN: Final = "application/octet-stream"


def text_block(text: str) -> TextContentBlock:
    """Words."""
    return TextContentBlock(type="text", text=text)


def blocks_of(
    message: str,
    images: tuple[Image, ...],
    *,
    takes_images: bool,
    system_prompt: str | None = None,
    history: list[StoredLine] | None = None,
) -> list[Block]:
    """The message and what must be said before it; the message is a block of its own, untouched."""
    blocks: list[Block] = []
    if system_prompt:
        blocks.append(text_block(f"{_SYSTEM}\n\n{system_prompt}"))
    if history:
        blocks.append(text_block(f"{_BEFORE}\n\n{transcript(history)}\n\n{_FROM_HERE}"))
    blocks.append(text_block(message))
    blocks += (_image(image, takes_images=takes_images) for image in images)
    return blocks


def transcript(history: list[StoredLine]) -> str:
    """What was said, a paragraph for each piece; thoughts are left out, as they are between turns
    of an agent's own.
    """
    return "\n\n".join(
        f"{who}: {words}" for line in history for who, words in _said(line.role, line.chunk)
    )


def _said(role: str, chunk: AnyChunk) -> Iterator[tuple[str, str]]:
    match chunk:
        case Text(text):
            yield role.capitalize(), text
        case System(text):
            yield "System", text
        case ToolCallChunk(tool_name=name, input=given):
            yield "Assistant used a tool", f"{name} {bytes(given).decode()}"
        case ToolResultChunk(tool_name=name, content=content, is_error=is_error):
            yield f"{name} {'failed' if is_error else 'answered'}", content
        case ErrorChunk(message=message):
            yield "The turn failed", message
        case ImageChunk(url=url):
            # As long as it may be, it is of no use as text.
            yield role.capitalize(), "(a picture)" if url.startswith("data:") else f"(see {url})"
        case Thinking():
            return


def _image(image: Image, *, takes_images: bool) -> Block:
    kind, data = _data(image)
    if data is None:
        # Every agent takes links; whether it follows one is up to it.
        return ResourceContentBlock(
            type="resource_link", uri=image.url, name="image", mime_type=image.mime_type
        )
    if not takes_images:
        return text_block(f"(A picture, {kind}, was sent along, which this agent cannot be given.)")
    return ImageContentBlock(type="image", data=data, mime_type=kind)


def _data(image: Image) -> tuple[str, str | None]:
    """The kind and the base64 of a data URL (RFC 2397); no data for any other."""
    if not image.url.startswith("data:"):
        return image.mime_type or _KIND_UNKNOWN, None
    header, _, data = image.url.removeprefix("data:").partition(",")
    kind, *parameters = header.split(";")
    if "base64" not in parameters:
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    return image.mime_type or kind or _KIND_UNKNOWN, data
