"""What a refused request is told: `{"error", "code"}`, the same from every corner of the edge.

Under `/api/` there is `"ok": false` in it as well.

Neighbours: `http1` writes it on the wire, `gate` sends it through ASGI; an app's own handler of
`DispatchError` may use it as well.
Invariant: the text is for people and names a rule, never what was sent.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dispatch.errors import DispatchError

# What clients of groups look at first.
_SAYS_OK: Final = "/api/"


class Answer(msgspec.Struct):
    """A response that is complete but for the headers every response has."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def answer(
    status: int, code: str, message: str, *, retry_after_ms: int | None = None, path: str = ""
) -> Answer:
    """Put a refusal into words: those of the dialect that has the path."""
    said: dict[str, object] = {"error": message, "code": code}
    if path.startswith(_SAYS_OK):
        said = {"ok": False, **said}
    body = msgspec.json.encode(said)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="dispatch"'))
    if status in (429, 503):
        # In whole seconds, and never too early.
        seconds = -(-(retry_after_ms or 1000) // 1000)
        headers.append((b"retry-after", str(seconds).encode()))
    return Answer(status, headers, body)


def refusal(error: DispatchError, path: str = "") -> Answer:
    """The answer that an error stands for."""
    return answer(
        error.http_status,
        error.code,
        error.message,
        retry_after_ms=error.retry_after_ms,
        path=path,
    )
