"""One WebSocket to a daemon: where it is, how it is opened, how long to wait before the next.

Neighbours: `session` keeps a connection alive with these; `http` shares the address and the token.
A token travels in the `Authorization` header alone, never in a URL.
Invariant: whatever websockets or the network raises leaves here as a `DispatchError`, and only
`CannotConnect` is worth another attempt.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import anyio
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from dispatch.client.decoding import decode_frame
from dispatch.client.failures import CannotConnect, ending_of, failure_from_status, reason_of
from dispatch.client.frames import Hello
from dispatch.client.transport import Transport
from dispatch.errors import DispatchError, PeerError

PROTOCOL: Final = Subprotocol("dispatch.v1")

# A snapshot carries a whole running turn (64 MiB by default), escaped.
FRAME_BYTES_MAX: Final = 256 * 1024 * 1024


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How patient a client is. The defaults suit a person as well as a service."""

    # The first wait after a loss is up to this long: a restarted daemon is back within a second.
    backoff_seconds: float = 0.5
    # The longest wait: what a person accepts who sees "reconnecting".
    backoff_seconds_max: float = 15.0
    # How long to try again after a loss before giving up; None: for ever.
    patience_seconds: float | None = None
    # The same for the very first connection; 0: one attempt, so that a wrong address is told.
    first_patience_seconds: float = 0.0
    # One handshake, including the hello.
    open_seconds: float = 10.0
    # One reply, or one HTTP exchange, other than a send's.
    reply_seconds: float = 30.0
    # How often a quiet connection is asked for a sign of life, and how long that may take: a line
    # that died without a word (a laptop that slept, a firewall) is noticed after both.
    heartbeat_seconds: float = 20.0
    heartbeat_answer_seconds: float = 20.0
    # Items that wait for a slow `async for`, per conversation; beyond it the conversation is
    # left and resumed from its position once they are taken.
    buffer_bytes_max: int = 16 * 1024 * 1024
    # Between 0 and 1, for the jitter.
    random: Callable[[], float] = random.random


class Address(msgspec.Struct, frozen=True):
    """Where a daemon is, and the credential for it."""

    http: str
    websocket: str
    is_loopback: bool
    token: str | None = None

    @classmethod
    def parse(cls, url: str, token: str | None = None) -> Address:
        """Read `http(s)://host[:port][/prefix]`; `ws(s)` means the same."""
        try:
            parts = urlsplit(url)
            # Reading the port checks it.
            is_place = (
                bool(parts.hostname) and parts.port != 0 and not (parts.query + parts.fragment)
            )
        except ValueError:
            is_place = False
        secure = {"http": "", "ws": "", "https": "s", "wss": "s"}.get(url.partition(":")[0])
        if secure is None or not is_place or parts.hostname is None:
            raise CannotConnect(f'"{url}" is not an address such as http://127.0.0.1:8765')
        if "@" in parts.netloc:
            raise CannotConnect("credentials do not belong in the address; use a token")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise CannotConnect("the token has characters that no token has")
        place = f"{parts.netloc}{parts.path.rstrip('/')}".removesuffix("/ws")
        is_loopback = parts.hostname in {"localhost", "::1"} or parts.hostname.startswith("127.")
        return cls(f"http{secure}://{place}", f"ws{secure}://{place}/ws", is_loopback, token)

    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


def jittered(options: Options, attempt: int) -> float:
    """Full jitter: anything up to a doubling bound, so that clients do not return in step."""
    bound = options.backoff_seconds * 2.0 ** min(attempt, 32)
    return options.random() * min(options.backoff_seconds_max, bound)


class _Dialler(connect):
    """websockets' own dialling, on the line of a transport if there is one."""

    def __init__(self, address: Address, options: Options, transport: Transport | None) -> None:
        super().__init__(
            address.websocket,
            subprotocols=[PROTOCOL],
            additional_headers=address.headers(),
            # The daemon offers none, and a token in a compressed stream is a risk of its own.
            compression=None,
            # A proxy of the environment cannot reach this machine's own loopback.
            proxy=None if address.is_loopback else True,
            open_timeout=options.open_seconds,
            ping_interval=options.heartbeat_seconds,
            ping_timeout=options.heartbeat_answer_seconds,
            close_timeout=1,
            max_size=FRAME_BYTES_MAX,
        )
        self._transport = transport

    async def open_tcp_connection(self) -> ClientConnection:
        if self._transport is None:
            return await super().open_tcp_connection()
        return await self._transport.open_line(lambda: self.factory(self.ws_uri))


async def dial(
    address: Address, options: Options, transport: Transport | None = None
) -> tuple[ClientConnection, Hello]:
    """Open a connection and read its hello."""
    try:
        connection = await _Dialler(address, options, transport)
    except InvalidStatus as error:
        raise _refusal(address, error) from error
    except TimeoutError as error:
        raise CannotConnect(f"no answer from {address.http}") from error
    except OSError as error:
        raise CannotConnect(f"cannot connect to {address.http}: {reason_of(error)}") from error
    except WebSocketException as error:
        raise CannotConnect(f"{address.http} does not answer as a daemon does: {error}") from error
    hello = None
    try:
        with anyio.fail_after(options.open_seconds):
            hello = await _hello(connection, address)
    except TimeoutError as error:
        raise CannotConnect(f"{address.http} says nothing") from error
    finally:
        # Whatever went wrong, cancellation included: nobody else knows this connection.
        if hello is None:
            connection.transport.abort()
    return connection, hello


async def _hello(connection: ClientConnection, address: Address) -> Hello:
    if connection.subprotocol != PROTOCOL:
        raise PeerError(f"{address.http} does not speak {PROTOCOL}")
    try:
        if address.token is None:
            # A daemon that wants a token waits for it in the first frame, and says so at once if
            # that is anything else; every other daemon answers with a pong.
            await connection.send('{"type":"ping"}')
        hello = decode_frame(await connection.recv(decode=False))
    except ConnectionClosed as closed:
        reason, failure = ending_of(closed)
        raise failure or CannotConnect(f"{address.http}: {reason}") from closed
    if not isinstance(hello, Hello):
        raise PeerError(f"{address.http} did not say hello")
    return hello


def _refusal(address: Address, error: InvalidStatus) -> DispatchError:
    response = error.response
    status = response.status_code
    text: object = None
    with contextlib.suppress(msgspec.DecodeError):
        text = msgspec.json.decode(response.body or b"", type=dict[str, object]).get("error")
    words = f"{address.http} refused the connection: {text or f'HTTP {status}'}"
    if status == 429 or status >= 500:
        after = response.headers.get("Retry-After", "")
        # Bounded, so that a confused proxy cannot send a client away for a year.
        wait = min(int(after), 60) * 1000 if after.isdecimal() else None
        return CannotConnect(words, retry_after_ms=wait)
    return failure_from_status(status, words)
