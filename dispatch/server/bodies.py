"""Bodies of requests: read within bounds, and their fields with the texts of the contract.

Neighbours: `call` reads with these, the routes check fields with them; `protocol.codec` bounds the
JSON. The texts are those of `protocol/native.md`, 1.6.
Invariant: no more than `body_bytes_max` of a body is ever held, whatever its head promised.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import anyio
from starlette.requests import Request

from dispatch.errors import PeerError, TooLarge
from dispatch.protocol.codec import Object, read_object
from dispatch.settings import Limits

# What `codec` says of any JSON, in the words of `POST /chat`.
_TEXTS: Final = {
    "Invalid JSON": "Invalid JSON body",
    "Expected a JSON object": "Request body must be a JSON object",
}
_INTEGER_END: Final = 2**53


class TooSlow(PeerError):
    """A body that does not arrive."""

    http_status = 408


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body; raises `TooLarge` before it is read where its length says so."""
    too_large = TooLarge(f"the body is over {limits.body_bytes_max} bytes")
    promised = request.headers.get("content-length", "")
    if promised.isdecimal() and int(promised) > limits.body_bytes_max:
        raise too_large
    body = bytearray()
    with anyio.move_on_after(limits.wait_seconds_max) as patience:
        async for piece in request.stream():
            body += piece
            if len(body) > limits.body_bytes_max:
                raise too_large
    if patience.cancelled_caught:
        raise TooSlow(f"no whole body within {limits.wait_seconds_max:g} seconds")
    return bytes(body)


def read_fields(body: bytes, limits: Limits) -> Object:
    """The JSON object of a body; raises `PeerError`."""
    try:
        return read_object(
            body, depth_max=limits.json_depth_max, containers_max=limits.json_containers_max
        )
    except PeerError as error:
        raise PeerError(_TEXTS.get(error.message, error.message)) from None


def text_field(fields: Object, name: str, *, characters_max: int | None = None) -> str:
    """A field that must hold text, which is kept as it is; raises `PeerError`."""
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise PeerError(f"Field '{name}' is required and must be a non-empty string")
    if characters_max is not None and len(value) > characters_max:
        raise PeerError(f"Field '{name}' must be at most {characters_max} characters")
    return value


def number_field(fields: Object, name: str) -> int:
    """A field that must hold a count; raises `PeerError`."""
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _INTEGER_END:
        raise PeerError(f"Field '{name}' must be a non-negative integer")
    return value


def check_strings(fields: Object, names: Iterable[str]) -> None:
    """Raise `PeerError` for a field that is given and is no string."""
    for name in names:
        if not isinstance(fields.get(name), str | None):
            raise PeerError(f"Field '{name}' must be a string")
