"""One WebSocket that comes back: replies by `ref`, frames to whoever follows, pauses that grow.

Neighbours: `follower` is who gets frames; `client` opens it.
Invariant: a call has one reply, a refusal, or an error that says that it was lost.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import random

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from dispatch_client.errors import Lost, Refused, Stopped

PROTOCOL = "dispatch.v1"
ERRORS = ("error", "chat.error", "group.error")
PAUSE_SECONDS_MAX = 30
# A connection that broke sooner counts as one more failure.
STEADY_SECONDS = 10


class Link:
    def __init__(self, url, token=None):
        self.url = url
        self.hello = None
        self._token = token
        self._socket = None
        self._open = asyncio.Event()
        self._stopped = None
        self._refs = itertools.count(1)
        self._waiting = {}
        self._followers = {}
        self._task = None

    def start(self):
        self._task = asyncio.create_task(self._run())

    async def close(self):
        self._stop(Stopped(1000, "closed here"))
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def drop(self):
        """Breaks the connection, as the network may; the next one goes on. For trials."""
        if self._socket:
            self._socket.transport.abort()

    async def follow(self, key, follower):
        """`follower.opening()` is sent on this connection and every later; it gets its key's."""
        if self._stopped:
            raise self._stopped
        self._followers[key] = follower
        if self._socket:
            # Where it breaks, the next connection sends it.
            with contextlib.suppress(ConnectionClosed):
                await self._send(self._socket, follower.opening())

    def unfollow(self, key):
        self._followers.pop(key, None)

    async def tell(self, frame):
        """For frames that nobody answers; without a connection there is nothing to tell."""
        if self._socket:
            with contextlib.suppress(ConnectionClosed):
                await self._send(self._socket, frame)

    async def call(self, frame, repeat=False):
        """The reply. With `repeat`, which only what is done once however often it comes may ask
        for, the frame is sent again on the next connection; else a break raises Lost."""
        ref = next(self._refs)
        while True:
            await self._open.wait()
            if self._stopped:
                raise self._stopped
            reply = self._waiting[ref] = asyncio.get_running_loop().create_future()
            try:
                await self._send(self._socket, {**frame, "ref": ref})
                answer = await reply
            except (Lost, ConnectionClosed):
                if not repeat:
                    raise Lost(f"no reply to {frame['type']}") from None
                await asyncio.sleep(0)
                continue
            finally:
                self._waiting.pop(ref, None)
                if reply.done() and not reply.cancelled():
                    reply.exception()
            if answer["type"] in ERRORS:
                raise Refused.of_frame(answer)
            return answer

    async def _send(self, socket, frame):
        text = json.dumps(frame, ensure_ascii=False)
        most = self.hello["limits"]["frameBytesMax"]
        if len(text.encode()) > most:
            # The server would close with 1009, and sending it again would do so for ever.
            raise Refused("too_large", f"a frame has at most {most} bytes")
        await socket.send(text)

    async def _run(self):
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._connection()
            except InvalidStatus as wrong:
                status = wrong.response.status_code
                if 400 <= status < 500 and status != 429:
                    self._stop(Stopped(status, "the upgrade was refused"))
            except (OSError, TimeoutError, WebSocketException):
                pass
            finally:
                self._break()
            if self._stopped:
                return
            steady = asyncio.get_running_loop().time() - began > STEADY_SECONDS
            failures = 0 if steady else failures + 1
            await asyncio.sleep(min(PAUSE_SECONDS_MAX, 0.25 * 2**failures) * random.random())

    async def _connection(self):
        protocols = [PROTOCOL]
        if self._token:
            encoded = base64.urlsafe_b64encode(self._token.encode()).decode().rstrip("=")
            protocols.append(f"dispatch.token.{encoded}")
        address = self.url.replace("http", "ws", 1) + "/ws"
        async with connect(address, subprotocols=protocols, max_size=None) as socket:
            try:
                self.hello = json.loads(await socket.recv())
                self._socket = socket
                for follower in list(self._followers.values()):
                    await self._send(socket, follower.opening())
                # Calls wait until everything is followed: their events are for followers.
                self._open.set()
                async for text in socket:
                    self._take(json.loads(text))
            except ConnectionClosed:
                pass
            code = socket.close_code
            if code and code >= 4500:
                self._stop(Stopped(code, socket.close_reason))

    def _take(self, frame):
        key = _key(frame)
        if key in self._followers:
            self._followers[key].receive(frame)
        reply = self._waiting.get(frame.get("ref"))
        if reply and not reply.done():
            reply.set_result(frame)

    def _break(self):
        self._socket = None
        self._open.clear()
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(Lost("the connection broke"))
        if self._stopped:
            self._open.set()

    def _stop(self, why):
        if self._stopped is None:
            self._stopped = why
            for follower in self._followers.values():
                follower.stopped(why)
        self._open.set()


def _key(frame):
    """Whom a frame is for."""
    kind = frame["type"]
    if kind == "chats.event":
        return "chats"
    if kind.startswith("group."):
        return ("group", frame.get("groupId"))
    # A `chat.delta` names its conversation in the event alone.
    return ("chat", frame.get("conversationId") or frame.get("event", {}).get("conversationId"))
