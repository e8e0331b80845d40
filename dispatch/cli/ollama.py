"""Whether an Ollama answers, and with which models: all that `dispatch init` wants to know of it.

Neighbours: `init` asks; the daemon talks to Ollama by its OpenAI-compatible side (`agents.openai`).
Source: Ollama's documentation of `GET /api/tags` and of the variable `OLLAMA_HOST`.
Invariant: a look takes seconds at most, and whatever answers there is data.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from dispatch.errors import DispatchError

P = TypeVar("P", bound=asyncio.BaseProtocol)

USUAL_URL: Final = "http://127.0.0.1:11434"

# A person waits for it, and on the loopback it takes milliseconds.
LOOK_SECONDS_MAX: Final = 2.0
# Hundreds of models; what sends more is not Ollama.
_BODY_BYTES_MAX: Final = 1024 * 1024


class _Model(msgspec.Struct, frozen=True):
    name: str


class _Tags(msgspec.Struct, frozen=True):
    models: tuple[_Model, ...] = ()


def address(text: str | None) -> str:
    """The base URL meant by `OLLAMA_HOST`, which may lack the scheme, the port, or both.

    The variable is the server's too, which binds `0.0.0.0` to be reached from everywhere; from
    here that is the loopback. Raises `ValueError` where it is no address.
    """
    if not text:
        return USUAL_URL
    parts = urlsplit(text if "://" in text else f"http://{text}")
    host = parts.hostname
    if not host or parts.scheme not in {"http", "https"} or parts.username is not None:
        raise ValueError("not an address of the form http://HOST:PORT")
    usual = 443 if parts.scheme == "https" else 11434
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{parts.port or usual}{parts.path.rstrip('/')}"


def models(url: str) -> tuple[str, ...] | None:
    """The names of the models that the Ollama at `url` has, the latest first; None: no Ollama."""
    import anyio

    return anyio.run(_models, url)


async def _models(url: str) -> tuple[str, ...] | None:
    import anyio

    from dispatch.client import HttpApi
    from dispatch.client.dial import Address
    from dispatch.client.exchange import read_all

    # Without the token of the environment, which is for a daemon.
    http = HttpApi(Address.parse(url), transport=_Sockets(url))
    with anyio.move_on_after(LOOK_SECONDS_MAX):
        try:
            asked = http.open("GET", "/api/tags", patience_seconds=LOOK_SECONDS_MAX)
            async with await asked as reply:
                tags = msgspec.json.decode(await read_all(reply, _BODY_BYTES_MAX), type=_Tags)
        except (DispatchError, msgspec.DecodeError):
            # Nobody there, or somebody else.
            return None
        return tuple(model.name for model in tags.models if model.name and model.name.isprintable())
    return None


class _Sockets:
    """Lines to one address, which nothing waits for once they are given up: no thread has them."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._tls = True if parts.scheme == "https" else None

    async def open_line(self, factory: Callable[[], P]) -> P:
        """See `client.transport`."""
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(factory, self._host, self._port, ssl=self._tls)
        return protocol
