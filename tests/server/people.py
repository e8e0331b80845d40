"""Several people of two accounts in one daemon, and what there is of each of them.

Neighbours: `acting` has the daemon and its agents; `test_routes_users` asks and forgets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from dispatch.settings import AuthSettings, AuthToken
from dispatch.storage.port import Store
from tests.protocol.replies import http_client
from tests.server.acting import GUARD_SECONDS, Reading, Stage, lines, settings, staged

Object = dict[str, Any]

# Who there is: account and rights. Ann is whom everything is about.
PEOPLE: dict[str, tuple[str, tuple[Any, ...]]] = {
    "ann": ("one", ("watch", "send")),
    "bob": ("one", ("watch", "send")),
    "admin": ("one", ("admin",)),
    "eve": ("two", ("admin",)),
}


class People(NamedTuple):
    """A daemon, and a client for each of `PEOPLE`."""

    stage: Stage
    clients: dict[str, httpx.AsyncClient]

    def __getitem__(self, user: str) -> httpx.AsyncClient:
        return self.clients[user]

    async def say(self, user: str, conversation: str, message: str, **fields: Any) -> str:
        """A turn to its end; its id."""
        body = {"conversationId": conversation, "message": message, **fields}
        reply = await self[user].post("/chat", json=body)
        assert reply.status_code == 200, reply.text
        turn: str = lines(reply.text)[0]["turnId"]
        return turn

    async def chat(self, user: str, *contents: str) -> str:
        """A chat session in which this was said and answered; its id."""
        made = await self[user].post("/v1/chat", json={"agent_key": "plain", "title": "Notes"})
        session: str = made.json()["id"]
        for content in contents:
            path = f"/v1/chat/{session}/messages?wait=10"
            sent = await self[user].post(path, json={"content": content})
            assert sent.json()["response"]["status"] == "complete", sent.text
        return session

    async def group(self, user: str) -> str:
        """A group of both agents; its id."""
        made = await self[user].post("/api/groups", json={"memberFamiliarIds": ["actor", "plain"]})
        group: str = made.json()["id"]
        return group

    async def say_to(self, user: str, group: str, text: str) -> None:
        """A message to a group, to its end."""
        reply = await self[user].post(f"/api/groups/{group}/send", json={"text": text})
        assert reply.status_code == 200, reply.text

    @asynccontextmanager
    async def held(self, user: str, conversation: str, message: str) -> AsyncIterator[Reading]:
        """A turn that runs and waits until its message is released; its stream."""
        body = {"conversationId": conversation, "message": message}
        async with self[user].stream("POST", "/chat", json=body) as reply:
            assert reply.status_code == 200, reply
            reading = Reading(reply)
            await reading.until("text-delta")
            yield reading

    async def forget(self, user: str = "ann", by: str = "admin") -> Object:
        """What is told of a person that is forgotten."""
        reply = await self[by].delete(f"/users/{user}")
        assert reply.status_code == 200, reply.text
        told: Object = reply.json()
        return told

    async def export(self, user: str = "ann", by: str = "admin") -> list[Object]:
        """The lines of a person's export."""
        reply = await self[by].get(f"/users/{user}/export")
        assert reply.status_code == 200, reply.text
        return lines(reply.text)

    async def status(self, user: str, path: str) -> int:
        """What a person is answered."""
        return (await self[user].get(path)).status_code


def of_type(found: list[Object], kind: str) -> list[Object]:
    """The lines of a kind, without saying so."""
    return [
        {name: value for name, value in line.items() if name != "type"}
        for line in found
        if line["type"] == kind
    ]


def counts(told: Object) -> tuple[Object, Object]:
    """What went and what stayed, of what there is any."""
    removed, stayed = told["removed"], told["stayed"]
    return (
        {name: count for name, count in removed.items() if count},
        {name: count for name, count in stayed.items() if count},
    )


@asynccontextmanager
async def gathered(data: Path, store: Store | None = None) -> AsyncIterator[People]:
    """A daemon with all of them."""
    tokens = tuple(
        AuthToken(sha256=_digest(user), account=account, user=user, rights=rights)
        for user, (account, rights) in PEOPLE.items()
    )
    async with (
        staged(settings(data, auth=AuthSettings(tokens=tokens)), store) as stage,
        AsyncExitStack() as stack,
    ):
        clients = {}
        for user in PEOPLE:
            headers = {"authorization": f"Bearer {user}"}
            client = http_client(stage.daemon.url, headers=headers, timeout=GUARD_SECONDS)
            clients[user] = await stack.enter_async_context(client)
        yield People(stage, clients)


def _digest(user: str) -> str:
    return hashlib.sha256(user.encode()).hexdigest()


def texts_of(found: list[Object]) -> str:
    """Everything that stands in some lines."""
    return json.dumps(found)
