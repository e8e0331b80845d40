"""The RFC's part of an upgrade: is the request one, and what does the answer say?

Neighbours: `http1` asks before `gate` judges who is asking; websockets checks the headers.
Invariant: an extension is never negotiated, so no frame is compressed: a bomb has nothing to
inflate, and one frame's bytes fit every subscriber.
"""

from __future__ import annotations

from typing import Final

import msgspec
from websockets.datastructures import Headers as Fields
from websockets.exceptions import InvalidHandshake, InvalidMethod, InvalidProtocol, InvalidUpgrade
from websockets.http11 import Request
from websockets.server import ServerProtocol

from dispatch.server.answer import Answer, answer
from dispatch.server.credential import Credential
from dispatch.server.head import Head

VERSION: Final = "13"

# What websockets looks at. Offers and origins are judged elsewhere.
_CHECKED: Final = {
    b"connection": "Connection",
    b"upgrade": "Upgrade",
    b"sec-websocket-key": "Sec-WebSocket-Key",
    b"sec-websocket-version": "Sec-WebSocket-Version",
}


class Handshake(msgspec.Struct, frozen=True):
    """An upgrade that was admitted.

    `credential` is None if nothing was offered and one is needed: the first frame may name it.
    """

    head: Head
    subprotocol: str | None
    credential: Credential | None


class HandshakeRefused(Exception):
    """Not an upgrade to WebSocket as RFC 6455 has it; carries the answer."""

    def __init__(self, reply: Answer) -> None:
        super().__init__()
        self.reply = reply


class Handshakes:
    """Checks the requests of all connections: between two of them websockets keeps no state."""

    def __init__(self) -> None:
        """One for a listener."""
        self._protocol = ServerProtocol()

    def accept_key(self, head: Head, http_version: str) -> str:
        """The value of Sec-WebSocket-Accept; raises `HandshakeRefused`."""
        fields = Fields()
        try:
            for name, value in head.headers:
                if name in _CHECKED:
                    fields[_CHECKED[name]] = value.decode("latin-1")
            versions = fields.get_all("Sec-WebSocket-Version")
            if versions and versions != [VERSION]:
                raise _refused(426, f"only version {VERSION} of WebSocket is spoken here")
            request = Request(head.path, fields, head.method, f"HTTP/{http_version}")
            key, _, _ = self._protocol.process_request(request)
        except InvalidMethod as error:
            raise _refused(405, f"not a WebSocket handshake: {error}") from error
        except InvalidProtocol as error:
            raise _refused(505, f"not a WebSocket handshake: {error}") from error
        except InvalidUpgrade as error:
            raise _refused(426, f"not a WebSocket handshake: {error}") from error
        except InvalidHandshake as error:
            raise _refused(400, f"not a WebSocket handshake: {error}") from error
        if head.value(b"transfer-encoding") or head.value(b"content-length") not in (None, "0"):
            raise _refused(400, "a WebSocket handshake has no body")
        return key


def switch(key: str, subprotocol: str | None) -> bytes:
    """The answer that ends HTTP on this connection."""
    chosen = f"sec-websocket-protocol: {subprotocol}\r\n" if subprotocol is not None else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        "server: dispatch\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        f"sec-websocket-accept: {key}\r\n{chosen}\r\n"
    ).encode()


def _refused(status: int, message: str) -> HandshakeRefused:
    reply = answer(status, "invalid", message)
    if status == 405:
        reply.headers.append((b"allow", b"GET"))
    elif status == 426:
        reply.headers.append((b"sec-websocket-version", VERSION.encode()))
        reply.headers.append((b"upgrade", b"websocket"))
    return HandshakeRefused(reply)
