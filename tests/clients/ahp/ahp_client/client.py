"""A client of one version: it follows channels, acts before it is told, and comes back.

Neighbours: `rpc` is the connection, `copies` the channels. Tests drive it.
Invariant: an action is sent with the same clientSeq however often it has to be sent.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import anyio
from anyio.abc import TaskGroup
from websockets.asyncio.client import connect

from tests.clients.ahp.ahp_client.copies import Copy, Pending
from tests.clients.ahp.ahp_client.rpc import GUARD_SECONDS, Gone, Rpc, RpcError
from tests.clients.ahp.ahp_client.words import Json, version_number

ROOT = "ahp-root://"
NOT_FOUND = -32008


class Client:
    """One window: a clientId, a version, the channels that it follows."""

    def __init__(self, tasks: TaskGroup, url: str, version: str, token: str | None) -> None:
        self.version = version
        self.client_id = str(uuid.uuid4())
        self.server_seq = 0
        self.copies: dict[str, Copy] = {}
        self.notifications: list[tuple[str, Json]] = []
        self.initialized: Json = {}
        self.url = url
        self.token = token
        self.rpc: Rpc
        self._tasks = tasks
        self._client_seq = 0

    async def open(self) -> None:
        """A connection, without a word said on it."""
        query = {} if self.token is None else {"tkn": self.token}
        address = f"{self.url.replace('http', 'ws', 1)}/ahp?{urlencode(query)}".rstrip("?")
        socket = await connect(address, max_size=None, max_queue=None, compression=None)
        self.rpc = Rpc(socket, self._notified)
        self._tasks.start_soon(self.rpc.receive)

    async def initialize(self, *subscriptions: str) -> None:
        """Say who this is; the root is followed from here on."""
        wanted = [ROOT, *subscriptions]
        params = {
            "channel": ROOT,
            "protocolVersions": [self.version],
            "clientId": self.client_id,
            "initialSubscriptions": wanted,
        }
        await self.rpc.request("initialize", params, self._take_initialized)

    async def subscribe(self, uri: str, **view: Any) -> Copy:
        """Follow a channel from its snapshot on."""
        params = {"channel": uri, **view}
        await self.rpc.request("subscribe", params, lambda result: self._begin(result["snapshot"]))
        return self.copies[uri]

    async def unsubscribe(self, uri: str) -> None:
        del self.copies[uri]
        await self.rpc.notify("unsubscribe", {"channel": uri})

    async def check(self, *uris: str) -> None:
        """Hold what was folded of these channels, or of all, against snapshots of the moment.

        The answer to `subscribe` has its place among the envelopes, so this holds in the middle of
        a stream too.
        """
        for uri in uris or tuple(self.copies):
            copy = self.copies[uri]
            await self.rpc.request(
                "subscribe",
                {"channel": uri},
                lambda result, copy=copy: copy.compare(result["snapshot"]),
            )

    async def dispatch(self, channel: str, action: Json) -> int:
        """Act: shown here at once, told to the host; its clientSeq."""
        self._client_seq += 1
        client_seq = self._client_seq
        if channel in self.copies:
            self.copies[channel].pending.append(Pending(client_seq, action))
        await self.send_action(channel, client_seq, action)
        return client_seq

    async def send_action(self, channel: str, client_seq: int, action: Json) -> None:
        params = {"channel": channel, "clientSeq": client_seq, "action": action}
        await self.rpc.notify("dispatchAction", params)

    async def request(self, method: str, channel: str, **params: Any) -> Any:
        return await self.rpc.request(method, {"channel": channel, **params})

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait, message by message, until something holds."""
        with anyio.fail_after(GUARD_SECONDS):
            while not holds():
                if self.rpc.ended.is_set():
                    raise Gone("the connection ended")
                await self.rpc.came.wait()

    async def settled(self) -> None:
        """Wait until nothing that was done is without its echo."""
        await self.until(lambda: not any(copy.pending for copy in self.copies.values()))

    async def break_off(self) -> None:
        """End the connection as a network does, without a farewell."""
        self.rpc.socket.transport.abort()
        with anyio.fail_after(GUARD_SECONDS):
            await self.rpc.ended.wait()

    async def reconnect(self, last_seen: int | None = None) -> str:
        """Come back on a new connection; how: `replay`, `snapshot` or `initialize`."""
        await self.open()
        subscriptions = list(self.copies)
        params = {
            "channel": ROOT,
            "clientId": self.client_id,
            "lastSeenServerSeq": self.server_seq if last_seen is None else last_seen,
            "subscriptions": subscriptions,
        }
        try:
            how = (await self.rpc.request("reconnect", params, self._take_reconnected))["type"]
        except RpcError as error:
            if error.code != NOT_FOUND:
                raise
            await self.initialize(*subscriptions)
            how = "initialize"
        for uri, copy in list(self.copies.items()):
            for client_seq, action in list(copy.pending):
                await self.send_action(uri, client_seq, action)
        return str(how)

    def _take_initialized(self, result: Json) -> None:
        self.initialized = result
        self.server_seq = result["serverSeq"]
        for snapshot in result["snapshots"]:
            self._begin(snapshot)

    def _take_reconnected(self, result: Json) -> None:
        if result["type"] == "snapshot":
            kept = {snapshot["resource"] for snapshot in result["snapshots"]}
            self.copies = {uri: copy for uri, copy in self.copies.items() if uri in kept}
            for snapshot in result["snapshots"]:
                self._begin(snapshot)
            return
        for uri in result["missing"]:
            del self.copies[uri]
        for envelope in result["actions"]:
            self._receive(envelope)

    def _begin(self, snapshot: Json) -> None:
        uri = snapshot["resource"]
        if uri not in self.copies:
            self.copies[uri] = Copy(uri, version_number(self.version), self.client_id)
        self.copies[uri].begin(snapshot)
        # Everything before it has come, in every channel that is followed.
        self.server_seq = max(self.server_seq, snapshot["fromSeq"])

    def _notified(self, method: str, params: Json) -> None:
        if method == "action":
            self._receive(params)
        else:
            self.notifications.append((method, params))

    def _receive(self, envelope: Json) -> None:
        assert envelope["serverSeq"] >= self.server_seq, "the host's numbers went backwards"
        self.server_seq = envelope["serverSeq"]
        # One may still come for a channel that was just left.
        if envelope["channel"] in self.copies:
            self.copies[envelope["channel"]].receive(envelope)


@asynccontextmanager
async def client(
    url: str, version: str = "0.9.0", token: str | None = None
) -> AsyncIterator[Client]:
    """A client that has introduced itself and follows the root."""
    async with anyio.create_task_group() as tasks:
        made = Client(tasks, url, version, token)
        await made.open()
        await made.initialize()
        yield made
        await made.rpc.socket.close()
