"""Sessions over AHP as tests see them: a daemon, a seat before a session, the words to act with.

Neighbours: `tests/clients/ahp/ahp_client` is the client, which knows the specification alone; every
`test_ahp_*` of this folder, each of which has one daemon.
Invariant: ids are new each time, so that what a test finds is its own.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from dispatch.conformance.agents import configuration
from tests.clients.ahp.ahp_client.client import Client
from tests.clients.ahp.ahp_client.copies import Copy
from tests.clients.ahp.ahp_client.words import Json
from tests.e2e.process import DaemonProcess
from tests.e2e.test_clients_resume import free_port

VERSIONS = ("0.5.1", "0.7.0", "0.9.0", "1.0.0")

# Those of the transcripts, and of `tests/e2e/agents`: who counts, counts for ever, leaves a mark,
# says megabytes, or takes no notice of steering.
_OURS = {
    "counter": "counter",
    "numbers": "endless",
    "marking": "marking",
    "flood": "flood",
    "deaf": "deaf",
}
AGENTS = configuration() + "".join(
    f'\n[agents.{name}]\nkind = "python"\ntarget = "tests.e2e.agents:{target}"\n'
    f'path = "{Path(__file__).parents[2]}"\n' + ("steer = true\n" if name == "deaf" else "")
    for name, target in _OURS.items()
)


@asynccontextmanager
async def serving(folder: Path, more: str = "") -> AsyncIterator[DaemonProcess]:
    """A daemon with all of these agents, at an address that outlives its kills."""
    daemon = DaemonProcess(folder, AGENTS + more, ("--port", str(free_port())))
    try:
        await daemon.start()
        yield daemon
    finally:
        await daemon.end()


class Seat(NamedTuple):
    """A client before one session: its copies of the session and of the session's first chat."""

    client: Client
    session: Copy
    chat: Copy

    async def act(self, kind: str, /, **members: Any) -> int:
        """Dispatch an action on the chat."""
        return await self.client.dispatch(self.chat.uri, {"type": f"chat/{kind}", **members})

    async def start(self, text: str, turn_id: str = "") -> str:
        """Start a turn; its id."""
        turn_id = turn_id or new_id("turn")
        await self.client.dispatch(self.chat.uri, turn_started(turn_id, text, self.client.version))
        return turn_id

    async def ended(self, turn_id: str) -> Json:
        """The turn, once it is over and nothing waits for an echo."""
        await self.client.until(lambda: turn_of(self.chat, turn_id) is not None)
        await self.client.settled()
        turn = turn_of(self.chat, turn_id)
        assert turn is not None
        return turn

    async def said(self, turn_id: str, pieces: int) -> None:
        """Wait until a running turn has said so much."""
        await self.client.until(lambda: len(self.chat.text(turn_id).split()) >= pieces)

    async def ask(self, text: str) -> Json:
        """A turn from its start to its end."""
        return await self.ended(await self.start(text))


def new_id(word: str) -> str:
    return f"{word}-{uuid.uuid4()}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def message(text: str) -> Json:
    return {"text": text, "origin": {"kind": "user"}}


def turn_started(turn_id: str, text: str, version: str = "0.9.0") -> Json:
    started = {"type": "chat/turnStarted", "turnId": turn_id, "message": message(text)}
    return started if version == "0.5.1" else {**started, "startedAt": now()}


def turn_of(chat: Copy, turn_id: str) -> Json | None:
    """A turn that is over."""
    return next((turn for turn in chat.confirmed["turns"] if turn["id"] == turn_id), None)


def ids_of(chat: Copy) -> list[str]:
    """The turns that are over, oldest first."""
    return [turn["id"] for turn in chat.confirmed["turns"]]


def texts_of(chat: Copy) -> list[str]:
    """What those turns were started with."""
    return [turn["message"]["text"] for turn in chat.confirmed["turns"]]


async def created(client: Client, provider: str) -> Seat:
    """A new session with this agent, and a seat before it."""
    uri = f"{provider}:/{uuid.uuid4()}"
    assert await client.request("createSession", uri, provider=provider) is None
    return await seated(client, uri)


async def seated(client: Client, session_uri: str) -> Seat:
    """A seat before a session that is there."""
    session = await client.subscribe(session_uri)
    await client.until(lambda: session.confirmed["lifecycle"] == "ready")
    chat = await client.subscribe(session.confirmed["defaultChat"])
    return Seat(client, session, chat)
