"""HTTP over the operating system's sockets: the standard library's client, in worker threads.

Neighbours: `http` and `events` ask through it. A few requests a minute need no client of their own;
a stream keeps a thread for as long as it is read.
Redirects are refused, so that a token never follows one to another host.
Invariant: a caller that is cancelled waits for no thread, and no thread waits for ever.
"""

from __future__ import annotations

import contextlib
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from types import TracebackType
from typing import Self, TypeVar

import anyio
import anyio.to_thread

from dispatch.client.dial import Address
from dispatch.client.exchange import PIECE_BYTES, Request
from dispatch.client.failures import CannotConnect, ConnectionLost, reason_of

T = TypeVar("T")

# What a connection that was made ends with, while a request is written to it.
_BROKEN = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        """Answer every redirect as what it is: not the daemon."""


class NetworkHttp:
    """A `Carrier` to an address."""

    def __init__(self, address: Address) -> None:
        """Nothing is opened before something is asked."""
        self._address = address
        # A proxy of the environment cannot reach this machine's own loopback.
        proxies = urllib.request.ProxyHandler({} if address.is_loopback else None)
        self._opener = urllib.request.build_opener(proxies, _NoRedirects)

    async def open(self, request: Request) -> NetworkReply:
        """See `exchange.Carrier`."""
        worker = _Worker(self._address.http)
        return NetworkReply(await worker.run(lambda: self._open(request)), worker)

    def _open(self, request: Request) -> HTTPResponse | urllib.error.HTTPError:
        asked = urllib.request.Request(
            self._address.http + request.path,
            data=request.content,
            method=request.method,
            headers=dict(request.headers),
        )
        try:
            reply: HTTPResponse = self._opener.open(asked, timeout=request.patience_seconds)
        except urllib.error.HTTPError as error:
            return error
        return reply


class NetworkReply:
    """A `Reply` of the standard library, which blocks."""

    def __init__(self, reply: HTTPResponse | urllib.error.HTTPError, worker: _Worker) -> None:
        """To be left with `async with`."""
        self.status = reply.status or 0
        self._reply = reply
        self._worker = worker
        # A thread that waits for the next byte is woken by the end of the connection alone.
        response = reply.fp if isinstance(reply, urllib.error.HTTPError) else reply
        is_whole = isinstance(response, HTTPResponse) and response.isclosed()
        self._line = None if is_whole else socket.socket(fileno=os.dup(response.fileno()))

    def header(self, name: str) -> str | None:
        """See `exchange.Reply`."""
        value: str | None = self._reply.headers.get(name)
        return value

    async def piece(self) -> bytes:
        """See `exchange.Reply`."""
        return await self._worker.run(lambda: self._reply.read1(PIECE_BYTES))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)
            self._line.close()
        self._reply.close()


class _Worker:
    """Runs what blocks, one thing after the other, and says in our words what the network said."""

    def __init__(self, place: str) -> None:
        self._place = place
        # Of its own: streams must not use up the threads that everything else takes turns in.
        self._limiter = anyio.CapacityLimiter(1)

    async def run(self, call: Callable[[], T]) -> T:
        """A cancelled caller does not wait for it."""
        try:
            return await anyio.to_thread.run_sync(
                call, abandon_on_cancel=True, limiter=self._limiter
            )
        except TimeoutError as error:
            raise ConnectionLost(f"no answer from {self._place}") from error
        except urllib.error.URLError as error:
            cause = error.reason
            if isinstance(cause, _BROKEN):
                # It was there, and took some of the request at least.
                raise ConnectionLost(f"the connection to {self._place} was lost") from error
            reason = reason_of(cause) if isinstance(cause, OSError) else cause
            raise CannotConnect(f"cannot connect to {self._place}: {reason}") from error
        except (OSError, HTTPException) as error:
            raise ConnectionLost(f"the connection to {self._place} was lost") from error
