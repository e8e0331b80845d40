"""What went wrong at an endpoint, in words for people and codes for programs.

Neighbours: `endpoint` makes failures of what HTTP says, `stream` of what a stream says; `agent`
decides by `is_passing` whether to ask again.
Invariant: an endpoint's own words are data: they come out printable, bounded and without the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from dispatch.agents.lines import printable
from dispatch.agents.port import AgentFailure

# A sentence or two; a page of HTML says no more than its beginning.
_WORDS_CHARACTERS_MAX: Final = 300
# What is looked at for them: a line of a stream may be megabytes.
READ_CHARACTERS_MAX: Final = 8192

HEADINGS: Final = {
    "bad_answer": "the endpoint's answer cannot be read",
    "bad_request": "the endpoint refused the request",
    "content_filter": "the endpoint's content filter withheld the answer or its rest",
    "context_too_long": "the conversation is longer than the model's context",
    "cut_off": "the endpoint broke off",
    "forbidden": "the endpoint does not allow this",
    "no_tools": "the model called tools, and this agent offers none",
    "not_found": "the endpoint has nothing there; does base_url end in /v1?",
    "provider_failed": "the endpoint failed",
    "quota_exceeded": "the quota at the endpoint is used up",
    "rate_limited": "the endpoint takes no more requests now",
    "redirected": "the endpoint is elsewhere: base_url must name it without a redirect",
    "stalled": "the endpoint said nothing for too long",
    "unauthorized": "the endpoint does not accept the key",
    "unknown_model": "the endpoint does not have this model",
    "unreachable": "the endpoint cannot be reached",
}
"""What people read, by code."""

# The kind of failure is in `code` or in `type`, depending on who wrote the server.
_BY_WORD: Final = {
    "billing_not_active": "quota_exceeded",
    "content_filter": "content_filter",
    "content_policy_violation": "content_filter",
    "context_length_exceeded": "context_too_long",
    "exceed_context_size_error": "context_too_long",
    "insufficient_quota": "quota_exceeded",
    "invalid_api_key": "unauthorized",
    "model_not_found": "unknown_model",
    "overloaded_error": "provider_failed",
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "server_error": "provider_failed",
}
_BY_STATUS: Final = {
    401: "unauthorized",
    402: "quota_exceeded",
    403: "forbidden",
    404: "not_found",
    408: "stalled",
    409: "provider_failed",
    429: "rate_limited",
}
# Worth asking again. Not for ever: a broken answer may be broken each time.
_PASSING: Final = frozenset(
    {"cut_off", "provider_failed", "rate_limited", "stalled", "unreachable"}
)


class EndpointFailure(AgentFailure):
    """An endpoint did not do its part. `is_passing`: asking again may help, no sooner than
    `after_seconds` if the endpoint said so.
    """

    def __init__(
        self, code: str, words: str = "", *, status: int = 0, after_seconds: float | None = None
    ) -> None:
        """`words` are the endpoint's own, made fit to be shown by `fit`."""
        heading = HEADINGS[code] + (f" ({status})" if status else "")
        super().__init__(f"{heading}: {words}" if words else heading, code)
        self.is_passing = code in _PASSING
        self.after_seconds = after_seconds


class _Told(msgspec.Struct):
    """An error object, in any of the shapes that servers give it."""

    message: object = None
    detail: object = None
    code: object = None
    type: object = None
    error: object = None


def fit(text: str, key: str) -> str:
    """Somebody else's words, fit to be shown: without the key, printable, on one line, bounded."""
    if len(text) > READ_CHARACTERS_MAX:
        text = text[:READ_CHARACTERS_MAX]
        text = text.replace(key, "[key]") if key else text
        # The key itself may be what was cut in two.
        text = text[: len(text) - len(key)]
    # Twice: the key may only appear once what is not printable is gone.
    for _ in range(2):
        text = text.replace(key, "[key]") if key else text
        text = " ".join(printable(text.encode("utf-8", "replace")).split())
        text = "".join(character for character in text if character.isprintable())
    if len(text) > _WORDS_CHARACTERS_MAX:
        text = text[: _WORDS_CHARACTERS_MAX - 1] + "…"
    return text


def failure_of_status(
    status: int, headers: Mapping[str, str], body: bytes, key: str
) -> EndpointFailure:
    """What a response other than 2xx means."""
    if 300 <= status < 400:
        return EndpointFailure("redirected", status=status)
    words, kind = _read(body)
    code = _BY_STATUS.get(status, "provider_failed" if status >= 500 else "bad_request")
    code = _sharpened(code, kind, words)
    return EndpointFailure(
        code, fit(words, key), status=status, after_seconds=retry_after_seconds(headers)
    )


def failure_of_error(error: object, key: str) -> EndpointFailure:
    """What an error object in the middle of a stream means."""
    words, kind, status = _unpack(error)
    # Nothing that is wrong with the request is found out this late, unless it says so.
    code = _BY_STATUS.get(status, "bad_request" if 400 <= status < 500 else "provider_failed")
    code = _sharpened(code, kind, words)
    return EndpointFailure(code, fit(words, key), status=status)


def failure_of_body(kind: str, body: bytes, key: str) -> EndpointFailure:
    """What a response that is not a stream means, though its status says that all is well; `kind`
    is its content type.
    """
    try:
        error = msgspec.json.decode(body, type=_Told).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        error = None
    if error:
        return failure_of_error(error, key)
    return EndpointFailure("bad_answer", f"it is {fit(kind, key)} and not a stream of events")


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """When an endpoint wants to be asked again, in seconds from now; None if it does not say.

    `Retry-After` is a number of seconds or a date (RFC 9110, section 10.2.3); `retry-after-ms` is
    OpenAI's finer one.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        said = headers.get(name, "").strip()
        # Digits alone: `float` also reads "nan" and "inf".
        if said and len(said) < 16 and said.replace(".", "", 1).isdecimal():
            return float(said) * unit
    try:
        due = parsedate_to_datetime(headers.get("retry-after", ""))
        due = due if due.tzinfo else due.replace(tzinfo=UTC)
        return max(0.0, (due - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None


def _sharpened(code: str, kind: str, words: str) -> str:
    """The code after what the endpoint said of it."""
    if kind in _BY_WORD:
        return _BY_WORD[kind]
    said = words.lower()
    if code == "not_found" and "model" in said:
        return "unknown_model"
    if code == "bad_request" and "maximum context length" in said:
        return "context_too_long"
    return code


def _read(body: bytes) -> tuple[str, str]:
    """The words and the kind of an error's body."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = body.decode("utf-8", "replace")
        # A page of a proxy: its words are for a browser.
        return ("" if text.lstrip().startswith("<") else text), ""
    words, kind, _ = _unpack(value)
    return words, kind


def _unpack(value: object) -> tuple[str, str, int]:
    """Words, kind and status of an error, however deep it lies; nothing is taken for granted."""
    for _ in range(4):
        if isinstance(value, list):
            value = value[0] if value else None
        if not isinstance(value, dict):
            break
        inner = value.get("error")
        if not isinstance(inner, dict | str | list) or not inner:
            break
        value = inner
    if isinstance(value, str):
        return value, "", 0
    if not isinstance(value, dict):
        return "", "", 0
    told = msgspec.convert(value, _Told)
    words = told.message if told.message is not None else told.detail
    if not isinstance(words, str):
        words = "" if words is None else msgspec.json.encode(words).decode()
    kind = next((k for k in (told.code, told.type) if isinstance(k, str) and k in _BY_WORD), "")
    status = told.code
    if isinstance(status, str) and status.isdecimal() and len(status) == 3:
        status = int(status)
    is_status = isinstance(status, int) and 400 <= status < 600
    return words, kind, status if is_status and isinstance(status, int) else 0
