"""A line within a process: two transports of asyncio, each the other's peer, and no socket.

Neighbours: `memory` puts a client at one end and the daemon's own HTTP protocol at the other.
Bytes arrive at a later turn of the loop than the one they were written in, as on a network; who
does not read pauses who writes.
Invariant: bytes arrive once and in order, then the end; each protocol is told of its loss once.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any, Final, cast

# A socket's buffers, roughly: enough that nobody waits in vain, little enough that a slow reader
# is noticed.
HIGH_BYTES: Final = 64 * 1024

_PEER: Final = ("127.0.0.1", 0)


class Line:
    """Both ends."""

    def __init__(
        self, client: asyncio.BaseProtocol, server: asyncio.BaseProtocol, context: Context
    ) -> None:
        """Connects the two; both are told before this returns. `context`: what they are called in,
        as the protocols of a port are called in that of who opened it.
        """
        self._client, self._server = _End(client, context), _End(server, context)
        self._client.peer, self._server.peer = self._server, self._client
        context.run(server.connection_made, self._server)
        client.connection_made(self._client)

    @property
    def is_over(self) -> bool:
        """Whether neither side can write any more."""
        return self._client.is_closing() and self._server.is_closing()

    def cut(self) -> None:
        """End it in the middle: what was written and has not arrived is gone."""
        self._client.abort()
        self._server.abort()


class _End(asyncio.Transport):
    """What one protocol writes to."""

    peer: _End

    def __init__(self, protocol: asyncio.BaseProtocol, context: Context) -> None:
        super().__init__({"peername": _PEER, "sockname": _PEER})
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        # What this side wrote and the other has not read.
        self._written = bytearray()
        self._high, self._low = HIGH_BYTES, HIGH_BYTES // 4
        self._is_writer_paused = False
        self._is_reader_paused = False
        self._has_ended = False
        self._is_end_told = False
        self._is_closing = False
        self._is_lost = False

    # What the protocol calls.

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._is_closing or self._has_ended or not data:
            return
        self._written += data
        self._loop.call_soon(self._deliver, context=self._context)
        if len(self._written) > self._high and not self._is_writer_paused:
            self._is_writer_paused = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._has_ended = True
        self._loop.call_soon(self._deliver, context=self._context)

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self.write_eof()

    def abort(self) -> None:
        self._written.clear()
        self._is_closing = self._has_ended = True
        self._loop.call_soon(self._deliver, context=self._context)

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self._is_reader_paused = True

    def resume_reading(self) -> None:
        self._is_reader_paused = False
        self._loop.call_soon(self.peer._deliver, context=self._context)

    def is_reading(self) -> bool:
        return not self._is_reader_paused and not self._is_closing

    def get_write_buffer_size(self) -> int:
        return len(self._written)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    # What arrives at the other side.

    def _deliver(self) -> None:
        """Hand over what was written, as far as the other side reads; then the end."""
        peer = self.peer
        if self._written and not peer._is_closing:
            if peer._is_reader_paused:
                return
            data = bytes(self._written)
            self._written.clear()
            is_taken = False
            try:
                peer._reader.data_received(data)
                is_taken = True
            finally:
                if not is_taken:
                    # A defect ends the connection, as a socket's would, and is the loop's to log.
                    self.abort()
                    peer.abort()
        if peer._is_closing:
            # Nobody reads it any more.
            self._written.clear()
        self._drained()
        if not self._has_ended or self._written:
            return
        if not self._is_end_told and not peer._is_closing:
            self._is_end_told = True
            if not peer._reader.eof_received():
                peer.close()
        if self._is_closing:
            self._lose()

    @property
    def _reader(self) -> asyncio.Protocol:
        return cast("asyncio.Protocol", self._protocol)

    def _drained(self) -> None:
        if self._is_writer_paused and len(self._written) <= self._low:
            self._is_writer_paused = False
            if not self._is_lost:
                self._protocol.resume_writing()

    def _lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._protocol.connection_lost(None)
            if not self.peer._is_closing:
                self.peer.close()
