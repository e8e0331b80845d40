"""A WebSocket of a transcript: broadcasts are kept apart, everything else is in order.

Neighbours: `transcript` opens it; `frames` takes what comes.
Invariant: no frame is dropped before somebody has asked for it.
"""

import asyncio
import contextlib
import json

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from replay.compare import Mismatch

OF_GROUPS = {"group.changed", "group.deleted"}


class Socket:
    def __init__(self, connection):
        self.connection = connection
        self.frames = asyncio.Queue()
        self.broadcasts = asyncio.Queue()
        self.reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, url, subprotocols):
        return cls(await connect(url, subprotocols=subprotocols or None, max_size=None))

    async def _read(self):
        try:
            async for text in self.connection:
                frame = json.loads(text)
                kind = str(frame.get("type"))
                apart = kind.startswith("conversation.") or kind in OF_GROUPS
                (self.broadcasts if apart else self.frames).put_nowait(frame)
        except ConnectionClosed:
            pass
        for queue in (self.frames, self.broadcasts):
            queue.put_nowait(None)

    async def next(self, queue):
        frame = await queue.get()
        if frame is None:
            queue.put_nowait(None)
            raise Mismatch(f"the connection closed with {self.connection.close_code}")
        return frame

    async def send(self, message):
        # The server may refuse a message before it has all of it: `closed` asks for the code.
        with contextlib.suppress(ConnectionClosed):
            await self.connection.send(message)

    async def closed(self, code):
        await self.connection.wait_closed()
        await self.reading
        if (frame := self.frames.get_nowait()) is not None:
            raise Mismatch(f"before the close came {frame}")
        if self.connection.close_code != code:
            raise Mismatch(f"closed with {self.connection.close_code} instead of {code}")

    async def close(self, code=1000):
        await self.connection.close(code)
        await self.reading
