"""Chat sessions: a messenger with an agent, with unread counts that all of a user's devices share.

    session = await client.chats.create("opus")
    sent = await client.chats.send(session.id, "hello", wait_seconds=30)

Neighbours: `http` asks what is asked once, `events` reads streams and resumes them, `mirror` brings
the same over a client's WebSocket; the types are the dialect's own (`protocol.sessions.schema`).
Source: `protocol/chat-sessions.md`.
Invariant: a message is sent once or the send raises, over any number of connections; a watcher has
every frame that is kept once and in order, or `resync_required` in their place.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final, Literal

import anyio
from msgspec import convert

from dispatch.client.events import Events, Frame, Place, Wish, follow_events
from dispatch.client.frames import Reconnecting
from dispatch.client.http import HttpApi, path_part, with_query
from dispatch.client.patience import Patience
from dispatch.errors import DispatchError
from dispatch.protocol.sessions.schema import (
    ChatCancelled,
    ChatDetail,
    ChatList,
    ChatMessage,
    ChatPurged,
    ChatRead,
    ChatSent,
    ChatSession,
    ChatTyping,
    PendingTask,
)

# Well below what the daemon allows, so that a lost connection is noticed.
WAIT_SECONDS_MAX: Final = 25.0


ChatSource = Callable[[Place, bool], Events]
"""Events of all sessions from behind a place on; with deltas, or without."""


class ChatApi:
    """The verbs of chat sessions: `client.chats`, or over HTTP alone."""

    def __init__(self, http: HttpApi, source: ChatSource | None = None) -> None:
        """Nothing is opened before something is asked. `source`: else an event stream a watcher."""
        self._http = http
        self._source = source

    async def list(
        self,
        status: Literal["active", "archived", "all"] | None = None,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> ChatList:
        """The user's sessions, newest activity first; `cursor` is a list's `next_cursor`."""
        query = {"status": status, "limit": limit, "cursor": cursor}
        return await self._http.fetch(ChatList, with_query("/v1/chat", query))

    async def create(self, agent_key: str, title: str | None = None) -> ChatSession:
        """A session with an agent."""
        body = {"agent_key": agent_key} | ({} if title is None else {"title": title})
        return await self._http.ask(ChatSession, "POST", "/v1/chat", body)

    async def get(
        self, session: str, *, limit: int | None = None, before_seq: int | None = None
    ) -> ChatDetail:
        """A session with its newest messages, or those before a seq."""
        query = {"limit": limit, "before_seq": before_seq}
        return await self._http.fetch(ChatDetail, with_query(_path(session), query))

    async def send(
        self,
        session: str,
        content: str,
        *,
        client_message_id: str | None = None,
        wait_seconds: float | None = None,
    ) -> ChatSent:
        """Say something; with `wait_seconds`, `response` is the answer if it came in that time.

        A program that may itself be restarted passes its own `client_message_id`.
        """
        key = client_message_id or str(uuid.uuid4())
        body = {"content": content, "client_message_id": key}
        patience = Patience(self._http.options, is_write=True)
        until = anyio.current_time() + (wait_seconds or 0)
        while True:
            rest = max(until - anyio.current_time(), 0)
            wait = None if wait_seconds is None else min(rest, WAIT_SECONDS_MAX)
            asked = None if wait is None else f"{wait:.3f}"
            path = with_query(f"{_path(session)}/messages", {"wait": asked})
            try:
                sent = await self._http.ask(ChatSent, "POST", path, body, wait_seconds=wait or 0)
            except DispatchError as failure:
                await anyio.sleep(patience.pause_after(failure))
                continue
            patience.worked()
            if isinstance(sent.response, ChatMessage) or wait is None or rest <= wait:
                return sent

    async def watch(
        self, session: str | None = None, *, after: int | None = None, deltas: bool = False
    ) -> AsyncGenerator[Frame | Reconnecting, None]:
        """Frames of one session, or of all, as they come; from behind an id, if one is given.

        After `resync_required` the snapshots (`list`, `get`) say what was missed. `deltas` shows
        answers as they are said; those have no id, and the whole row supersedes them.
        Over a client's WebSocket there is one watcher at a time: it may watch all sessions.
        """
        place = Place(after)
        if session is not None and self._source is not None:
            # The WebSocket shows all sessions, and so refuses none.
            await self.get(session, limit=1)
        async with aclosing(self._events(session, place, deltas=deltas)) as events:
            async for event in events:
                if isinstance(event, Reconnecting):
                    yield event
                    continue
                if session is not None and event.frame.get("sessionId", session) != session:
                    continue
                kind = event.frame.get("event")
                if kind == "resync_required" or (kind == "connected" and place.after is None):
                    place.after = event.frame["data"]["cursor"]
                yield event.frame

    async def typing(
        self, session: str, is_typing: bool = True, *, device_id: str | None = None
    ) -> ChatTyping:
        """Tell the user's other devices; it ends by itself after 6 seconds, or with a send."""
        body = {"typing": is_typing} | ({} if device_id is None else {"device_id": device_id})
        return await self._http.ask(ChatTyping, "POST", f"{_path(session)}/typing", body)

    async def pending(self, session: str) -> PendingTask | None:
        """The first task that is not over, with those behind it; None where nothing is due."""
        found = await self._http.fetch(dict[str, Any], f"{_path(session)}/pending-task")
        return convert(found, PendingTask) if found else None

    async def read(self, session: str, up_to_seq: int | None = None) -> ChatRead:
        """Move the user's read cursor; forward alone, so that a repeat does no harm."""
        body = {} if up_to_seq is None else {"up_to_seq": up_to_seq}
        return await self._http.ask(ChatRead, "POST", f"{_path(session)}/read", body)

    async def cancel(self, session: str, task_id: str | None = None) -> ChatCancelled:
        """End a task: the one that is named, else the running, else the oldest that waits."""
        body = {} if task_id is None else {"task_id": task_id}
        return await self._http.ask(ChatCancelled, "POST", f"{_path(session)}/cancel", body)

    async def rename(self, session: str, title: str) -> ChatSession:
        """Name it."""
        return await self._http.ask(ChatSession, "PATCH", _path(session), {"title": title})

    async def archive(self, session: str) -> ChatSession:
        """Put it away; what runs in it goes on."""
        return await self._http.ask(ChatSession, "DELETE", _path(session))

    async def restore(self, session: str) -> ChatSession:
        """Take it back."""
        return await self._http.ask(ChatSession, "POST", f"{_path(session)}/restore")

    async def purge(self, session: str) -> ChatPurged:
        """Remove it and all that was said in it, for ever."""
        return await self._http.ask(ChatPurged, "DELETE", f"{_path(session)}?purge=true")

    def _events(self, session: str | None, place: Place, *, deltas: bool) -> Events:
        if self._source is not None:
            return self._source(place, deltas)
        where = "/v1/chat/events" if session is None else f"{_path(session)}/events"
        wish = Wish("GET", with_query(where, {"deltas": 1 if deltas else None}))
        return follow_events(self._http, wish, place)


def _path(session: str) -> str:
    return f"/v1/chat/{path_part(session)}"
