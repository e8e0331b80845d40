"""What routes answer with: a JSON value, a refusal, or a stream that ends with its reader.

Neighbours: the routes make these; `answer` words the refusals, uvicorn writes.
Invariant: a stream's generator is closed when its response is over, however that came about; a
reader that takes nothing for `stall_seconds_max` ends its own stream and nothing else, and nobody
is shown a part after the credential that asked for it ended.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Final

import msgspec
import structlog
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Send

from dispatch.errors import DispatchError
from dispatch.server.answer import Answer
from dispatch.server.call import Call

log = structlog.get_logger()

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"

# Answers are one reader's and of this moment; a browser must not guess what they are.
_HEADERS: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_ENCODER: Final = msgspec.json.Encoder()
_PIECE_BYTES: Final = 256 * 1024


class Json(Response):
    """A value as JSON."""

    media_type = JSON

    def __init__(self, value: object, status: int = 200) -> None:
        """Encode it now."""
        super().__init__(_ENCODER.encode(value), status, headers=_HEADERS)


class Outlived(Exception):
    """The credential has ended since."""


class Stream(StreamingResponse):
    """Parts as they come. Nobody is told of a failure but by the missing end of the body."""

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        media_type: str,
        headers: Mapping[str, str],
        *,
        is_valid: Callable[[], bool],
    ) -> None:
        """Made by `stream`."""
        super().__init__(parts, media_type=media_type, headers={**_HEADERS, **headers})
        self._parts = parts
        self._is_valid = is_valid

    async def stream_response(self, send: Send) -> None:
        """Write every part, then the end; a disconnection cancels this."""

        async def write(message: Message) -> None:
            if not self._is_valid():
                raise Outlived
            for piece in _pieces(message):
                # A reader that takes nothing is cut by the edge, which sees what drains.
                await send(piece)

        try:
            async with aclosing(self._parts):
                await super().stream_response(write)
        except Outlived:
            log.info("http.credential_ended")
        except DispatchError as error:
            # The head is sent: there is no other way left to say it.
            log.warning("http.stream_failed", code=error.code)


def _pieces(message: Message) -> Iterator[Message]:
    """A large part piece by piece, so that the transport holds one and not all of it."""
    body = message.get("body", b"")
    if len(body) <= _PIECE_BYTES:
        yield message
        return
    view = memoryview(body)
    for start in range(0, len(view), _PIECE_BYTES):
        yield {**message, "body": view[start : start + _PIECE_BYTES]}
    # Returns when the last piece has begun to leave: until then its part is held.
    yield {**message, "body": b""}


def stream(
    call: Call,
    parts: AsyncGenerator[bytes, None],
    media_type: str = JSON,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A response of these parts; to HEAD its head alone, and nothing is read for it."""
    headers = headers or {}
    if call.request.method == "HEAD":
        return Response(media_type=media_type, headers={**_HEADERS, **headers})
    return Stream(
        parts,
        media_type,
        headers,
        is_valid=call.is_still_valid,
    )


def refused(answer: Answer, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of the edge as a response."""
    response = Response(answer.body, answer.status, headers=headers)
    response.raw_headers = [
        (name, value) for name, value in response.raw_headers if name != b"content-length"
    ] + answer.headers
    return response
