"""Groups: a message to several agents, their answers as they come, the same on every device.

    groups = GroupApi(client.http)
    group = await groups.create(["opus", "codex"])
    async for frame in groups.send(group.id, "hello"):
        print(frame)

Neighbours: `http` asks what is asked once, `events` reads streams and resumes them; the types are
the dialect's own (`protocol.groups.schema`). Source: `protocol/groups.md`.
Invariant: a send is carried out once or raises, over any number of connections; a watcher has the
frames that follow its snapshot, each once, or another snapshot in their place.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, Literal

from msgspec import UNSET

from dispatch.client.events import Event, Frame, Place, Wish, follow_events
from dispatch.client.frames import Reconnecting
from dispatch.client.http import HttpApi, path_part, with_query
from dispatch.errors import Gone, PeerError
from dispatch.protocol.groups.schema import (
    GroupConversation,
    GroupDeleted,
    GroupList,
    GroupSnapshot,
    GroupStopped,
)

# A second look always has a cursor; a daemon that never says one is none of ours.
_LOOKS_MAX: Final = 3


class GroupApi:
    """The verbs of groups, over a client's HTTP."""

    def __init__(self, http: HttpApi) -> None:
        """Nothing is opened before something is asked."""
        self._http = http

    async def list(self) -> tuple[GroupConversation, ...]:
        """All groups of the account, newest activity first."""
        return (await self._http.fetch(GroupList, "/api/groups")).groups

    async def create(self, members: Sequence[str], title: str | None = None) -> GroupConversation:
        """A group with a new conversation for each member."""
        body = {"memberFamiliarIds": list(members), **_given(title=title)}
        return await self._http.ask(GroupConversation, "POST", "/api/groups", body)

    async def get(
        self, group: str, *, after_seq: int | None = None, limit: int | None = None
    ) -> GroupSnapshot:
        """The group and its rows behind a seq, with the text so far of those that are open."""
        path = with_query(_path(group), {"afterSeq": after_seq, "limit": limit})
        return await self._http.fetch(GroupSnapshot, path)

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
        wish = Wish("GET", f"{_path(group)}/stream")
        async with aclosing(follow_events(self._http, wish, place)) as events:
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
