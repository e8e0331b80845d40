"""One OpenAI-compatible endpoint over HTTP, through OpenAI's client library.

Neighbours: `agent` asks, `stream` reads what comes, `failures` says what went wrong.
The library makes the request; the response is read here, byte by byte bounded. Its own reader has
no bound on a line or on an error's body, does not tell whether `[DONE]` came, and takes 73 µs for
a piece of text where `Lines` and msgspec take 1 µs (openai 3.54, on the daemon's one loop).
Each request has a connection of its own: one kept for later may be closed by the endpoint in the
moment it is used, and would be an open file that outlives its turn.
Invariant: no exception of the library or of HTTP leaves this module, only `AgentFailure`.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import msgspec

from dispatch.agents.lines import Lines
from dispatch.agents.openai.failures import (
    EndpointFailure,
    failure_of_body,
    failure_of_status,
    fit,
)
from dispatch.agents.openai.options import is_loopback, is_openai
from dispatch.errors import ConfigError

if TYPE_CHECKING:
    import httpx2
    import openai

# An error is a few hundred bytes; a page of a proxy a few thousand.
_ERROR_BYTES_MAX: Final = 64 * 1024
_ERROR_SECONDS_MAX: Final = 2.0
# The list of a provider of hundreds of models, with a page of text about each.
_MODELS_BYTES_MAX: Final = 4 * 1024 * 1024
_MODELS_MAX: Final = 500
_MODEL_CHARACTERS_MAX: Final = 200
# How JSON and pages of proxies begin, and no line of a stream. Their type is not asked: there are
# servers that give a stream the wrong one.
_NO_STREAM: Final = (b"{", b"[", b"<")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an endpoint is and how long it may take; `key` is empty where none is sent."""

    base_url: str
    key: str
    connect_seconds: float
    stall_seconds: float
    line_bytes_max: int


class _Model(msgspec.Struct):
    id: str = ""


class _Models(msgspec.Struct):
    data: list[_Model] | None = None


class Endpoint:
    """Asks one endpoint. Serves many turns at once."""

    def __init__(self, name: str, address: Address) -> None:
        """Import the library; raises `ConfigError` where it is not installed.

        `name` is the agent's, for the complaint.
        """
        try:
            import httpx2
            import openai
        except ImportError as error:
            raise ConfigError(
                f"agents.{name}: kind openai needs a library that is not installed: "
                f"pip install 'dispatch-broker[openai]' ({error})"
            ) from error
        self._address = address
        self._failures: tuple[type[Exception], ...] = (
            openai.OpenAIError,
            httpx2.HTTPError,
            # What comes through of a broken TLS connection, in versions of today.
            ssl.SSLError,
            anyio.EndOfStream,
        )
        self._timeouts = (openai.APITimeoutError, httpx2.TimeoutException)
        self._connecting = (httpx2.ConnectTimeout, httpx2.ConnectError, httpx2.ProxyError)
        try:
            self._client = self._new_client()
        except (ImportError, OSError, ValueError, httpx2.InvalidURL) as error:
            # A proxy or certificates that the environment names, or a host that is no name.
            raise ConfigError(f"agents.{name}: no client for base_url: {error}") from error
        self._headers: dict[str, Any] = {}
        if not address.key:
            self._headers["Authorization"] = openai.omit
        if not is_openai(address.base_url):
            # Taken from the environment by the library, and nobody else's business.
            self._headers["OpenAI-Organization"] = openai.omit
            self._headers["OpenAI-Project"] = openai.omit

    async def lines(self, body: dict[str, object]) -> AsyncGenerator[bytes, None]:
        """Ask for an answer and yield the lines of its stream, blank ones left out; close it to
        hang up.
        """
        # Its arguments are typed one by one; these were put together from options.
        ask = cast(Any, self._client.chat.completions.with_streaming_response.create)
        lines = Lines(self._address.line_bytes_max)
        try:
            async with ask(**body, stream=True, extra_headers=dict(self._headers)) as response:
                http: httpx2.Response = response.http_response
                async with self._reading(http) as pieces:
                    first = await anext(pieces, b"")
                    if first.lstrip().startswith(_NO_STREAM):
                        kind = http.headers.get("content-type", "something else")
                        text = await self._beginning(pieces, first)
                        raise failure_of_body(kind, text, self._address.key)
                    for line in lines.feed(first):
                        yield line
                    async for piece in pieces:
                        for line in lines.feed(piece):
                            yield line
                for line in lines.rest():
                    yield line
        except self._failures as error:
            raise self._failure(error) from error

    async def models(self) -> tuple[str, ...]:
        """The names of the models it has."""
        listing = self._client.models.with_streaming_response.list
        body = bytearray()
        try:
            async with (
                listing(extra_headers=dict(self._headers)) as response,
                self._reading(response.http_response) as pieces,
            ):
                async for piece in pieces:
                    body += piece
                    if len(body) > _MODELS_BYTES_MAX:
                        raise EndpointFailure("bad_answer", "its list of models has no end")
        except self._failures as error:
            raise self._failure(error) from error
        try:
            found = msgspec.json.decode(body, type=_Models).data or []
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise EndpointFailure("bad_answer", "that is no list of models") from error
        names = [model.id for model in found if self._is_shown(model.id)]
        return tuple(dict.fromkeys(names))[:_MODELS_MAX]

    async def aclose(self) -> None:
        """Close the client; idempotent."""
        await self._client.close()

    def _new_client(self) -> openai.AsyncOpenAI:
        import openai

        address = self._address
        timeout = openai.Timeout(address.stall_seconds, connect=address.connect_seconds)
        return openai.AsyncOpenAI(
            # The library insists on one; where there is none the header is left out.
            api_key=address.key or "none",
            base_url=address.base_url,
            max_retries=0,
            timeout=timeout,
            default_headers={"Connection": "close", "Accept-Encoding": "identity"},
            http_client=openai.DefaultAsyncHttpxClient(
                timeout=timeout,
                # What is said goes where the operator wrote, and nowhere else.
                follow_redirects=False,
                # A proxy that the environment names is not for this machine itself.
                trust_env=not is_loopback(address.base_url),
                event_hooks={"response": [self._refuse]},
            ),
        )

    def _is_shown(self, model: str) -> bool:
        return 0 < len(model) <= _MODEL_CHARACTERS_MAX and model.isprintable()

    @asynccontextmanager
    async def _reading(self, response: httpx2.Response) -> AsyncIterator[AsyncIterator[bytes]]:
        """The body of a response piece by piece, as far as the block reads it."""
        pieces = response.aiter_bytes()
        try:
            yield pieces
        finally:
            # Closed between two pieces, httpx2 leaves a generator of its own to the garbage
            # collector, and with it a task. Cancelled in the middle of a read, it leaves nothing.
            with anyio.CancelScope() as scope, suppress(*self._failures):
                scope.cancel()
                async for _ in pieces:
                    pass

    async def _refuse(self, response: httpx2.Response) -> None:
        """Make a failure of a status, before the library reads a body that may have no end."""
        if not response.is_success:
            async with self._reading(response) as pieces:
                body = await self._beginning(pieces)
            raise failure_of_status(response.status_code, response.headers, body, self._address.key)

    async def _beginning(self, pieces: AsyncIterator[bytes], first: bytes = b"") -> bytes:
        """As much of a body as words may need; what came before it broke off."""
        body = bytearray(first)
        # Whether or not its body can be read, what is wrong is known.
        with anyio.move_on_after(_ERROR_SECONDS_MAX), suppress(*self._failures):
            while len(body) < _ERROR_BYTES_MAX and (piece := await anext(pieces, b"")):
                body += piece
        return bytes(body[:_ERROR_BYTES_MAX])

    def _failure(self, error: Exception) -> EndpointFailure:
        """What went wrong between us and the endpoint."""
        # The library says "Connection error." and has the reason beside it.
        cause = error.__cause__ or error
        if isinstance(error, self._connecting) or isinstance(cause, self._connecting):
            late = f"no connection within {self._address.connect_seconds:g} seconds"
            return EndpointFailure("unreachable", fit(str(cause), self._address.key) or late)
        if isinstance(error, self._timeouts):
            return EndpointFailure("stalled", f"{self._address.stall_seconds:g} seconds")
        return EndpointFailure("cut_off", fit(str(cause), self._address.key))
