"""A client of the native dialect, written from `protocol/native.md` and without the package.

Neighbours: `talk` shows what it does, `replay` holds a server against the golden transcripts.
Every command has a connection of its own, and so has every follower: a send that was acknowledged
says the position behind which its turn begins, and a follower goes on from any position.
Invariant: no event is given twice or left out, however often a connection is lost.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import uuid
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Frame = dict[str, Any]

BACKOFF_SECONDS = 0.1
BACKOFF_SECONDS_MAX = 5.0
# A lost connection, or a daemon that starts again; who waits longer is told.
ATTEMPTS_MAX = 20
# native.md, Errors: codes from here on mean stop, everything below reconnect and resume.
STOP_CODE_MIN = 4500


class Refused(Exception):
    """What the server refused, with its published code."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame["message"])
        self.code: str = frame["code"]
        self.retryable: bool = frame["retryable"]


class Lost(Exception):
    """No connection for longer than anybody waits, or one that must not be opened again."""


class Client:
    """One person's device. `token`: for a server with `[auth]`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url.replace("http", "ws", 1).rstrip("/") + "/ws"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def send_once(self, message: str, *, message_id: str = "", **fields: Any) -> Frame:
        """Send `chat.send` until it is acknowledged; however often that takes, it is one turn.

        `fields`: conversationId, model, onBusy and the rest. Returns `chat.accepted`.
        """
        frame = {"type": "chat.send", "message": message, **fields}
        return await self._ask({**frame, "clientMessageId": message_id or uuid.uuid4().hex})

    async def stop(self, conversation: str, turn: str | None = None) -> Frame:
        """Stop the running turn, or only a certain one. Returns `chat.stopped`."""
        which = {} if turn is None else {"turnId": turn}
        return await self._ask({"type": "chat.stop", "conversationId": conversation, **which})

    async def answer(self, conversation: str, request: str, **response: Any) -> Frame:
        """Answer a question; raises `Refused` with `closed` if somebody was faster."""
        who = {"conversationId": conversation, "requestId": request}
        return await self._ask({"type": "chat.respond", **who, **response})

    async def follow(self, conversation: str, after: str | None = None) -> AsyncIterator[Frame]:
        """Everything behind a position (none: from the running turn on), for as long as asked.

        Yields `chat.delta`, `chat.request`, `chat.request.closed`, and `chat.snapshot` where a
        position could not be resumed: what it says replaces what was known of the running turn.
        """
        attempt = itertools.count()
        while True:
            try:
                async for frame in self._follow(conversation, after):
                    after, attempt = frame.get("position", after), itertools.count()
                    yield frame
            except (ConnectionClosed, OSError) as error:
                await pause(error, next(attempt))

    async def _follow(self, conversation: str, after: str | None) -> AsyncIterator[Frame]:
        async with self._connect() as socket:
            wish = {"type": "chat.subscribe", "conversationId": conversation, "ref": 0}
            await socket.send(json.dumps(wish if after is None else {**wish, "after": after}))
            async for text in socket:
                frame = json.loads(text)
                if frame["type"] in {"error", "chat.error"}:
                    raise Refused(frame)
                named = frame.get("event", frame).get("conversationId")
                if named == conversation and frame["type"] != "chat.subscribed":
                    yield frame
        raise ConnectionResetError("the server closed the connection")

    async def _ask(self, wish: Frame) -> Frame:
        for attempt in itertools.count():
            try:
                async with self._connect() as socket:
                    await socket.send(json.dumps({**wish, "ref": 0}))
                    return await reply_of(socket)
            except (ConnectionClosed, OSError) as error:
                await pause(error, attempt)
        raise AssertionError("count() ends with an exception alone")

    def _connect(self) -> connect:
        return connect(
            self._url,
            subprotocols=["dispatch.v1"],
            additional_headers=self._headers,
            compression=None,
            max_size=None,
        )


async def reply_of(socket: ClientConnection) -> Frame:
    """The frame with our `ref`, whatever else comes before it."""
    while True:
        frame: Frame = json.loads(await socket.recv())
        if frame.get("ref") == 0:
            if frame["type"] in {"error", "chat.error"}:
                raise Refused(frame)
            return frame


async def pause(error: Exception, attempt: int) -> None:
    """Wait before the next attempt, with full jitter, unless there is to be none."""
    code = error.rcvd.code if isinstance(error, ConnectionClosed) and error.rcvd else 1006
    if code >= STOP_CODE_MIN or attempt >= ATTEMPTS_MAX:
        raise Lost(str(error)) from error
    bound = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS * 2.0**attempt)
    await asyncio.sleep(random.random() * bound)


class Reading:
    """What a follower has read of one turn: its text, and whether it is over."""

    def __init__(self) -> None:
        self.text = ""
        self.reason: str | None = None
        self.is_sealed = False

    def add(self, frame: Frame) -> None:
        """Fold one frame."""
        if frame["type"] == "chat.snapshot":
            chunks = frame.get("turn", {}).get("chunks", [])
            said = [chunk["chunk"] for chunk in chunks if chunk["role"] == "assistant"]
            self.text = "".join(chunk["text"] for chunk in said if chunk["type"] == "text")
            self.is_sealed = "turn" not in frame
        elif frame["type"] == "chat.delta":
            match frame["event"]:
                case {"type": "text-delta", "delta": str(text)}:
                    self.text += text
                case {"type": "done", "reason": str(reason)}:
                    self.reason = reason
                case {"type": "turn-sealed"}:
                    self.is_sealed = True
