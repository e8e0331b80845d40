"""HTTP over real sockets: what went wrong on the way, in words that say what may be repeated."""

from __future__ import annotations

import asyncio

import pytest

from dispatch.client.dial import Address
from dispatch.client.exchange import Request
from dispatch.client.failures import ConnectionLost
from dispatch.client.network import NetworkHttp
from dispatch.testing.harness import guard

# More than the buffers of both sides take: it is being written when the connection ends.
REQUEST_BYTES = 32 * 1024 * 1024


async def test_a_connection_that_breaks_while_a_request_is_written_was_lost_and_not_refused() -> (
    None
):
    def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    network = NetworkHttp(Address.parse(f"http://127.0.0.1:{port}"))
    async with server:
        with guard(), pytest.raises(ConnectionLost):
            await network.open(Request("POST", "/chat", {}, b"x" * REQUEST_BYTES, 10.0))
