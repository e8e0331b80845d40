"""Groups: a message to several agents, their answers as they come, the same on every device.

    group = await client.groups.create(["opus", "codex"])
    async for frame in client.groups.send(group.id, "hello"):
        print(frame)

Neighbours: `http` asks what is asked once, `events` reads streams and resumes them, `mirror` brings
the same over a client's WebSocket; the types are the dialect's own (`protocol.groups.schema`).
Source: `protocol/groups.md`.
Invariant: a send is carried out once or raises, over any number of connections; a watcher has the
frames that follow its snapshot, each once, or another snapshot in their place.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final, Literal

from msgspec import UNSET

from dispatch.client.events import Event, Events, Frame, Place, Wish, follow_events
from dispatch.client.frames import Reconnecting
from dispatch.client.http import HttpApi, path_part, with_query
from dispatch.errors import Gone, PeerError
from dispatch.protocol.groups.schema import (
    GroupConversation,
    GroupDeleted,
    GroupList,
    GroupRead,
    GroupSnapshot,
    GroupStopped,
)

# A second look always has a cursor; a daemon that never says one is none of ours.
_LOOKS_MAX: Final = 3


GroupSource = Callable[[str, Place], Events]
"""A group's frames from behind a place on."""


class GroupApi:
    """The verbs of groups: `client.groups`, or over HTTP alone."""

    def __init__(self, http: HttpApi, source: GroupSource | None = None) -> None:
        """Nothing is opened before something is asked. `source`: else an event stream a watcher."""
        self._http = http
        self._source = source or self._stream

    async def list(self) -> tuple[GroupConversation, ...]:
        """All groups of the account, newest activity first."""
        return (await self._http.fetch(GroupList, "/api/groups")).groups

    async def create(self, members: Sequence[str], title: str | None = None) -> GroupConversation:
        """A group with a new conversation for each member."""
        body = {"memberFamiliarIds": list(members), **_given(title=title)}
        return await self._http.ask(GroupConversation, "POST", "/api/groups", body)

    async def adopt(
        self,
        sessions: Mapping[str, str],
        *,
        members: Sequence[str] | None = None,
        title: str | None = None,
        group_id: str | None = None,
    ) -> GroupConversation:
        """A group of conversations that exist, by agent; the same ones find the same group.

        `members`: their order, else that of their names. `group_id`: what the group is to be named.
        """
        body = _given(
            sessionIds=dict(sessions),
            memberFamiliarIds=None if members is None else list(members),
            title=title,
            clientGroupId=group_id,
        )
        return await self._http.ask(GroupConversation, "POST", "/api/groups/adopt", body)

    async def get(
        self,
        group: str,
        *,
        after_seq: int | None = None,
        limit: int | None = None,
        resync: bool = False,
    ) -> GroupSnapshot:
        """The group and its rows behind a seq, with the text so far of those that are open.

        `resync` insists on a moment in which nobody answers; else `turn_in_progress` is raised.
        """
        query = {"afterSeq": after_seq, "limit": limit, "resync": 1 if resync else None}
        return await self._http.fetch(GroupSnapshot, with_query(_path(group), query))

    async def read(self, group: str, up_to_seq: int) -> GroupRead:
        """Move the user's read cursor; forward alone, so that a repeat does no harm."""
        body = {"upToSeq": up_to_seq}
        return await self._http.ask(GroupRead, "POST", f"{_path(group)}/read", body)

    async def rename(self, group: str, title: str) -> GroupConversation:
        """Name it; until then it has the names of its members."""
        return await self._patch(group, {"title": title})

    async def change_members(
        self, group: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> GroupConversation:
        """Let agents join from the next message on, and end what others were saying."""
        lists = {"addMemberFamiliarIds": add, "removeMemberFamiliarIds": remove}
        return await self._patch(group, {name: list(who) for name, who in lists.items() if who})

    async def set_members(self, group: str, members: Sequence[str]) -> GroupConversation:
        """All members, in their order."""
        return await self._patch(group, {"memberFamiliarIds": list(members)})

    async def send(
        self,
        group: str,
        text: str,
        *,
        to: Sequence[str] | None = None,
        client_message_id: str | None = None,
        on_busy: Literal["queue", "reject"] | None = None,
    ) -> AsyncGenerator[Frame | Reconnecting, None]:
        """Send to all members, or to some; frames of the answers, up to the group's `done`.

        A program that may itself be restarted passes its own `client_message_id`.
        """
        body = {
            "text": text,
            "clientMessageId": client_message_id or str(uuid.uuid4()),
            **_given(targetFamiliarIds=None if to is None else list(to), onBusy=on_busy),
        }
        wish = Wish("POST", f"{_path(group)}/send", body)
        async with aclosing(follow_events(self._http, wish, Place(), _is_group_done)) as events:
            async for event in events:
                yield _shown(event)

    async def watch(
        self, group: str, *, after: int | None = None, history: bool = False
    ) -> AsyncGenerator[GroupSnapshot | Frame | Reconnecting, None]:
        """A snapshot, then frames as they come; or the frames behind a `frameId`.

        The snapshot has the rows that are open, with `history` all of them. Where frames are gone
        another snapshot is in their place: its rows replace those of the same seq. Ends only by
        raising, `Gone` included.
        """
        place, settled = Place(after), 0
        if after is None:
            if not history:
                settled = (await self.get(group, limit=1)).settled_seq
            snapshot = await self._standing(group, settled, place)
            settled = snapshot.settled_seq
            yield snapshot
        async with aclosing(self._source(group, place)) as events:
            async for event in events:
                if isinstance(event, Event) and event.frame.get("id") == "resume-gap":
                    snapshot = await self._standing(group, settled, place)
                    settled = snapshot.settled_seq
                    yield snapshot
                    continue
                yield _shown(event)
                if isinstance(event, Event) and event.frame.get("kind") == "group_deleted":
                    raise Gone(f"group {group} was deleted")

    async def stop(
        self,
        group: str,
        *,
        familiar: str | None = None,
        reply_to: int | None = None,
        run_id: str | None = None,
    ) -> GroupStopped:
        """End runs, waiting ones too: all, or those that match what is given."""
        body = _given(familiarId=familiar, replyTo=reply_to, runId=run_id)
        return await self._http.ask(GroupStopped, "POST", f"{_path(group)}/stop", body)

    async def delete(
        self, group: str, sessions: Literal["delete", "keep"] | None = None
    ) -> GroupDeleted:
        """Delete it; `sessions`: what becomes of the conversations, else as they came to be."""
        path = with_query(_path(group), {"sessions": sessions})
        return await self._http.ask(GroupDeleted, "DELETE", path)

    async def _patch(self, group: str, body: dict[str, object]) -> GroupConversation:
        return await self._http.ask(GroupConversation, "PATCH", _path(group), body)

    def _stream(self, group: str, place: Place) -> Events:
        return follow_events(self._http, Wish("GET", f"{_path(group)}/stream"), place)

    async def _standing(self, group: str, after_seq: int, place: Place) -> GroupSnapshot:
        """A snapshot that says from where to follow, and that place."""
        for _ in range(_LOOKS_MAX):
            snapshot = await self.get(group, after_seq=after_seq)
            if snapshot.cursor is not UNSET:
                place.after = snapshot.cursor
                return snapshot
            # The data was put back: what was settled is not.
            after_seq = snapshot.settled_seq
        raise PeerError("the daemon does not say from where to follow the group")


def _path(group: str) -> str:
    return f"/api/groups/{path_part(group)}"


def _is_group_done(frame: Frame) -> bool:
    return frame.get("kind") == "done" and frame.get("scope") == "group"


def _shown(event: Event | Reconnecting) -> Frame | Reconnecting:
    """A frame with its id, which is where a watcher may go on."""
    if isinstance(event, Reconnecting) or event.id is None:
        return event if isinstance(event, Reconnecting) else event.frame
    return {**event.frame, "frameId": event.id}


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
