"""A client of AHP for tests: it folds what it is sent, and can be held against a snapshot.

It folds with the reducers of its own version and looks at every envelope: numbers only grow, and
nothing comes that its version does not know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import websockets

from dispatch.agents.port import Agent
from dispatch.compose import Daemon, running
from dispatch.protocol.ahp.reduce import channel_kind, reduce
from dispatch.protocol.ahp.versions import knows, negotiate
from dispatch.protocol.codec import Object
from dispatch.settings import AgentSettings, AuthSettings, Limits, Settings
from dispatch.storage.port import Store
from dispatch.testing.harness import guard

ROOT = "ahp-root://"
AT = "2026-01-01T00:00:00.000Z"


class Refused(Exception):
    """A request got an error."""

    def __init__(self, error: Object) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.data = error.get("data")


def message(text: str, **members: Any) -> Object:
    return {"text": text, "origin": {"kind": "user"}, **members}


def turn_started(text: str, turn_id: str = "t1", **members: Any) -> Object:
    return {
        "type": "chat/turnStarted",
        "turnId": turn_id,
        "startedAt": AT,
        "message": message(text),
        **members,
    }


def pending(kind: str, text: str, name: str = "p1") -> Object:
    return {"type": "chat/pendingMessageSet", "kind": kind, "id": name, "message": message(text)}


class Peer:
    """One connection. `states` are what it folded, `actions` the envelopes, all of them."""

    def __init__(self, socket: Any, version: str, client_id: str) -> None:
        self._socket = socket
        self._ids = 0
        self._clock_is_read = False
        self.version_text = version
        self.version = negotiate([version])[1]
        self.client_id = client_id
        self.client_seq = 0
        self.seq = 0
        self.states: dict[str, Object] = {}
        self.actions: list[Object] = []
        self.told: list[Object] = []
        self.rejected: list[Object] = []

    # -- requests ------------------------------------------------------------------------------

    async def call(self, method: str, **params: Any) -> Any:
        self._ids += 1
        await self._send({"id": self._ids, "method": method, "params": params})
        while True:
            frame = await self.receive()
            if frame.get("id") == self._ids:
                if "error" in frame:
                    raise Refused(frame["error"])
                return frame["result"]

    async def notify(self, method: str, **params: Any) -> None:
        await self._send({"method": method, "params": params})

    async def initialize(self, *channels: str) -> Object:
        result: Object = await self.call(
            "initialize",
            channel=ROOT,
            protocolVersions=[self.version_text],
            clientId=self.client_id,
            initialSubscriptions=list(channels),
        )
        self.seq = result["serverSeq"]
        for one in result["snapshots"]:
            self.states[one["resource"]] = one["state"]
        return result

    async def reconnect(self, seq: int, *channels: str) -> Object:
        result: Object = await self.call(
            "reconnect", clientId=self.client_id, lastSeenServerSeq=seq, subscriptions=channels
        )
        return result

    def take_reconnected(self, result: Object, seq: int) -> None:
        """Go on from a replay, or from snapshots."""
        if result["type"] == "replay":
            self.seq = seq
            for envelope in result["actions"]:
                self._fold(envelope)
            for channel in result["missing"]:
                self.states.pop(channel, None)
            return
        self.states = {one["resource"]: one["state"] for one in result["snapshots"]}
        self.seq = max((one["fromSeq"] for one in result["snapshots"]), default=seq)

    async def subscribe(self, channel: str, **more: Any) -> Object:
        result = await self.call("subscribe", channel=channel, **more)
        found: Object = result["snapshot"]
        assert found["resource"] == channel
        assert found["fromSeq"] >= self.seq
        self.states[channel] = found["state"]
        self.seq = found["fromSeq"]
        return found["state"]

    async def make_session(self, uri: str = "scripted:/s1", **more: Any) -> tuple[str, str]:
        """A new session, followed with its default chat; their channels."""
        await self.call("createSession", channel=uri, **more)
        state = await self.subscribe(uri)
        chat: str = state["defaultChat"]
        await self.subscribe(chat)
        return uri, chat

    # -- actions -------------------------------------------------------------------------------

    async def dispatch(self, channel: str, action: Object, client_seq: int | None = None) -> int:
        if client_seq is None:
            self.client_seq += 1
            client_seq = self.client_seq
        params = {"channel": channel, "clientSeq": client_seq, "action": action}
        await self._send({"method": "dispatchAction", "params": params})
        return client_seq

    async def echo(self, client_seq: int) -> Object:
        """The envelope that answers an action of this client."""
        origin = {"clientId": self.client_id, "clientSeq": client_seq}
        return await self.until(lambda one: one.get("origin") == origin)

    async def act(self, channel: str, action: Object) -> Object:
        """Dispatch, and return the echo."""
        return await self.echo(await self.dispatch(channel, action))

    async def accepted(self, channel: str, action: Object) -> Object:
        envelope = await self.act(channel, action)
        assert "rejectionReason" not in envelope, envelope["rejectionReason"]
        return envelope

    async def refused(self, channel: str, action: Object) -> str:
        envelope = await self.act(channel, action)
        assert envelope["action"] == action
        reason: str = envelope["rejectionReason"]
        return reason

    async def until(self, is_it: Callable[[Object], bool]) -> Object:
        """The first envelope that is it, from now on."""
        while True:
            before = len(self.actions)
            await self.receive()
            for envelope in self.actions[before:]:
                if is_it(envelope):
                    return envelope

    async def until_type(self, *kinds: str) -> Object:
        return await self.until(lambda one: one["action"]["type"] in kinds)

    async def until_turns(self, chat: str, count: int = 1) -> list[Object]:
        """The turns of a chat once so many have ended, which may have been before."""
        while len(self.states[chat]["turns"]) < count:
            await self.receive()
        turns: list[Object] = self.states[chat]["turns"]
        return turns

    async def until_told(self, method: str) -> Object:
        """The params of the first such notification from now on."""
        while True:
            before = len(self.told)
            await self.receive()
            for frame in self.told[before:]:
                if frame["method"] == method:
                    params: Object = frame["params"]
                    return params

    # -- the wire ------------------------------------------------------------------------------

    async def _send(self, frame: Object) -> None:
        await self._socket.send(msgspec.json.encode({"jsonrpc": "2.0", **frame}).decode())

    async def send_text(self, text: str) -> None:
        await self._socket.send(text)

    async def receive(self) -> Object:
        with guard():
            frame: Object = msgspec.json.decode(await self._socket.recv())
        assert frame["jsonrpc"] == "2.0"
        if frame.get("method") == "action":
            self._fold(frame["params"])
        elif "method" in frame:
            assert knows(self.version, frame["method"])
            self.told.append(frame)
        return frame

    def _fold(self, envelope: Object) -> None:
        assert envelope["serverSeq"] >= self.seq, "numbers only grow"
        self.seq = envelope["serverSeq"]
        self.actions.append(envelope)
        action, channel = envelope["action"], envelope["channel"]
        if "rejectionReason" in envelope:
            self.rejected.append(envelope)
            return
        assert knows(self.version, action["type"]), "nothing newer than the version"
        if channel in self.states:
            state = self.states[channel]
            assert channel_kind(action) in ("root", "session", "chat")
            self.states[channel] = reduce(state, action, self.version.rules, now=AT)

    async def check(self) -> None:
        """Every state that was folded is what a snapshot says."""
        for channel in list(self.states):
            folded = self.states[channel]
            shown = (await self.call("subscribe", channel=channel))["snapshot"]["state"]
            # What comes on the way is folded, and is in the snapshot too.
            folded = self.states[channel]
            differs = differing(timeless(folded, self), timeless(shown, self))
            assert not differs, f"{channel}: {differs}"


def differing(folded: Object, shown: Object) -> Object:
    """The members that are not the same: (folded, shown)."""
    names = {*folded, *shown}
    pairs = {name: (folded.get(name), shown.get(name)) for name in sorted(names)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def timeless(state: Object, peer: Peer) -> Object:
    """Versions before 0.9 read their own clocks, so their times are theirs."""
    if not peer.version.rules.reads_clock:
        return state
    return {name: value for name, value in state.items() if name != "modifiedAt"}


@asynccontextmanager
async def daemon_of(
    tmp_path: Path,
    *agents: Agent,
    store: Store | None = None,
    auth: AuthSettings | None = None,
    limits: Limits | None = None,
) -> AsyncIterator[Daemon]:
    """A daemon on a port of the loopback with these agents."""
    names = [agent.info.name for agent in agents]
    settings = Settings(
        port=0,
        data=tmp_path,
        default_agent=names[0],
        agents={name: AgentSettings(kind="echo", options={}) for name in names},
        auth=auth,
        limits=limits or Limits(),
    )
    with guard(60):
        async with running(
            settings, store=store, agents={agent.info.name: agent for agent in agents}
        ) as daemon:
            yield daemon


@asynccontextmanager
async def peer_of(
    daemon: Daemon,
    client_id: str = "c1",
    *,
    version: str = "0.9.0",
    query: str = "",
    hello: bool = True,
) -> AsyncIterator[Peer]:
    """A client that has said hello."""
    url = daemon.url.replace("http", "ws", 1) + "/ahp" + query
    async with websockets.connect(url, max_size=None) as socket:
        peer = Peer(socket, version, client_id)
        if hello:
            await peer.initialize(ROOT)
        yield peer


async def is_read_the_same(daemon: Daemon, ann: Peer) -> None:
    """Once nobody follows a session it is read anew."""
    for channel in list(ann.states):
        await ann.notify("unsubscribe", channel=channel)
    await ann.call("ping")
    async with peer_of(daemon, "c9") as late:
        for channel in list(ann.states):
            await late.subscribe(channel)
        assert late.states == ann.states


@asynccontextmanager
async def native_of(daemon: Daemon) -> AsyncIterator[Any]:
    """A native client, bare."""
    url = daemon.url.replace("http", "ws", 1) + "/ws"
    async with websockets.connect(url, subprotocols=["dispatch.v1"]) as socket:  # type: ignore[list-item]
        yield socket


async def native_until(socket: Any, mark: str) -> Object:
    """The first native frame that has a mark in it."""
    with guard():
        while True:
            text = await socket.recv()
            if mark in text:
                frame: Object = msgspec.json.decode(text)
                return frame
