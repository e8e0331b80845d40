"""Sockets that read all they are sent and keep it: who follows a group, or a chat.

Neighbours: `groups` and `ahp` count what came. They block nothing and answer nothing, so that what
is measured is the daemon alone.
Invariant: a device that was hung up on fails the measurement.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Iterator
from typing import Final

from scripts.benchmark.client import WAIT_SECONDS_MAX
from scripts.benchmark.generator import Failed

# The longest turn that is measured.
TURN_SECONDS_MAX: Final = 10
_READ_BYTES: Final = 256 * 1024


class Devices:
    """Sockets that read all they are sent, and keep it."""

    def __init__(self, port: int) -> None:
        """Begin with none."""
        self._port = port
        self._selector = selectors.DefaultSelector()
        self.read: dict[int, bytearray] = {}

    def open(
        self, first: bytes, *wishes: bytes, until: bytes, greeting: bytes = b'"hello"'
    ) -> None:
        """One more: send these and return once it was answered with these words.

        Wishes are sent once the greeting came.
        """
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=WAIT_SECONDS_MAX)
        connection.sendall(first)
        seen = bytearray()
        words = greeting if wishes else until
        while words not in seen:
            seen += _received(connection)
        for wish in wishes:
            connection.sendall(wish)
        while seen.count(until) < max(1, len(wishes)):
            seen += _received(connection)
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        self.read[connection.fileno()] = bytearray()

    def until(self, words: bytes, times: int) -> None:
        """Read until everybody was told these words so often."""
        deadline = time.monotonic() + TURN_SECONDS_MAX + WAIT_SECONDS_MAX
        told = dict.fromkeys(self.read, 0)
        while any(count < times for count in told.values()):
            if time.monotonic() > deadline:
                raise Failed(f"{words!r} did not come {times} times: {told}")
            for key, _ in self._selector.select(1.0):
                data = os.read(key.fd, _READ_BYTES)
                if not data:
                    raise Failed("the daemon hung up on a device")
                buffer = self.read[key.fd]
                # Words may come in two parts.
                start = max(0, len(buffer) - len(words) + 1)
                buffer += data
                told[key.fd] += buffer.count(words, start)

    def close(self) -> None:
        """Everybody goes."""
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(_READ_BYTES)
    if not data:
        raise Failed("the daemon hung up on a device")
    return data


@contextlib.contextmanager
def devices_of(port: int) -> Iterator[Devices]:
    """None yet, and none left in the end."""
    devices = Devices(port)
    try:
        yield devices
    finally:
        devices.close()
