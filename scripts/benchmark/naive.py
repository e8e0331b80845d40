"""A broker as one writes it on the first day with `websockets`: `await ws.send` per subscriber.

Neighbours: `rivals` starts it, `generator` speaks its words: `S NAME` subscribes and replays,
`P NAME PAYLOAD` publishes, `T NAME COUNT BYTES PAUSE_US` has it speak a whole turn itself. It keeps
nothing on disk. Compression is off, as everywhere here.
Invariant: none of dispatch's code is in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import defaultdict

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

FILLER = "lorem ipsum dolor sit amet "


class Conversation:
    """Its log, and who watches it."""

    def __init__(self) -> None:
        """Begin empty."""
        self.log: list[str] = []
        self.watchers: list[ServerConnection] = []

    async def publish(self, delta: str) -> None:
        """Append, and tell one after the other."""
        self.log.append(delta)
        for watcher in list(self.watchers):
            with contextlib.suppress(ConnectionClosed):
                await watcher.send(delta)

    async def join(self, watcher: ServerConnection) -> None:
        """Replay, then live."""
        await watcher.send("A")
        sent = 0
        while sent < len(self.log):
            await watcher.send(self.log[sent])
            sent += 1
        self.watchers.append(watcher)

    async def speak(self, name: str, count: int, size: int, pause_us: int) -> None:
        """A turn of the server's own."""
        self.log.clear()
        head = f'{{"type":"delta","conv":"{name}","turn":"t1","seq":"'
        room = max(0, size - len(head) - len('00000000","ts":"0000000000000000","text":""}'))
        tail = f'","text":"{(FILLER * (room // len(FILLER) + 1))[:room]}"}}'
        for number in range(count):
            await self.publish(f'{head}{number:08d}","ts":"{time.monotonic_ns():016d}{tail}')
            if pause_us:
                await asyncio.sleep(pause_us / 1e6)


CONVERSATIONS: defaultdict[str, Conversation] = defaultdict(Conversation)


async def handle(connection: ServerConnection) -> None:
    """One connection's words, in order."""
    joined: list[Conversation] = []
    speaking: set[asyncio.Task[None]] = set()
    try:
        async for message in connection:
            assert isinstance(message, str)
            name = message[2:8]
            conversation = CONVERSATIONS[name]
            match message[0]:
                case "S":
                    await conversation.join(connection)
                    joined.append(conversation)
                case "P":
                    await conversation.publish(message[9:])
                case "T":
                    count, size, pause_us = (int(word) for word in message[9:].split())
                    turn = conversation.speak(name, count, size, pause_us)
                    speaking.add(task := asyncio.create_task(turn))
                    task.add_done_callback(speaking.discard)
                case _:
                    await connection.close(1008)
    finally:
        for conversation in joined:
            conversation.watchers.remove(connection)


async def main(port: int) -> None:
    """Serve until killed."""
    async with serve(handle, "127.0.0.1", port, compression=None, backlog=4096) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
