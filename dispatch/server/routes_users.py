"""Routes about a person of the account: everything of theirs as NDJSON, and their end.

Neighbours: `runtime.people` finds and forgets, and checks the right; `routes_history` writes each
conversation as its own export does. Source: `protocol/native.md`, 2.5.
Invariant: an export that has its last line is whole; one that broke off has none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from dispatch.core.identity import ADMIN, UserId, require
from dispatch.errors import NotFound, PeerError
from dispatch.protocol.sessions.frames import message_object, session_object
from dispatch.protocol.sse import ndjson
from dispatch.runtime.admission import decode_body
from dispatch.runtime.chats.standing import fetch_standing, session_view
from dispatch.runtime.people.belongings import Belongings
from dispatch.runtime.shape import decode_details
from dispatch.server.call import Call, Site, route
from dispatch.server.responses import NDJSON, Json, stream
from dispatch.server.routes_history import exported
from dispatch.storage.people import SpokenRow, SpokenTurn
from dispatch.storage.port import ConversationRecord

_ENCODER: Final = msgspec.json.Encoder()
_STATES: Final = {
    "queued": "waiting",
    "steering": "waiting",
    "running": "running",
    "cancelled": "cancelled",
}


def routes(site: Site) -> list[Route]:
    """See the module. A name may have slashes in it: whoever signs tokens chooses names."""
    return [
        route(site, "/users/{user:path}/export", GET=_export),
        route(site, "/users/{user:path}", DELETE=_forget),
    ]


def _user(call: Call) -> UserId:
    """Whom the path names. Raises `NotFound` where the query names another account than ours."""
    principal = call.principal
    require(principal, ADMIN)
    if call.query.get("account", principal.account) != principal.account:
        raise NotFound("no such account for this credential")
    name = call.part("user")
    if not name:
        raise PeerError("the path names no user")
    return UserId(name)


async def _forget(call: Call) -> Response:
    user, principal = _user(call), call.principal
    forgotten = await call.site.hub.people.forget(principal, user)
    removed, stayed = forgotten.removed, forgotten.stayed
    return Json(
        {
            "account": principal.account,
            "user": user,
            "turnsEnded": forgotten.turns_ended,
            "removed": {
                "conversations": removed.conversations,
                "chatSessions": removed.chat_sessions,
                "readCursors": removed.read_cursors,
                "waitingMessages": removed.waiting_messages,
            },
            "stayed": {
                "conversations": stayed.conversations,
                "groups": stayed.groups,
                "messages": stayed.messages,
            },
        }
    )


async def _export(call: Call) -> Response:
    person = call.site.hub.people.belongings(call.principal, _user(call))
    name = {"content-disposition": 'attachment; filename="user.ndjson"'}
    return stream(call, _Export(call.site, person).parts(), NDJSON, name)


class _Export:
    """One export while it is written: what was told so far is counted for its last line."""

    def __init__(self, site: Site, person: Belongings) -> None:
        self._site = site
        self._person = person
        self._counts: Counter[str] = Counter()
        self._own: set[int] = set()
        # What they said, by group.
        self._groups: Counter[str] = Counter()

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """Who it is, what they began, how far they read, what else they said, their groups."""
        person = self._person
        now_ms = self._site.services.clock.now_ms()
        yield _line("user", account=person.account, user=person.user, exportedAt=now_ms)
        async with aclosing(person.begun()) as found:
            async for begun in found:
                if begun.kind != "group":
                    async with aclosing(self._begun(begun.record)) as parts:
                        async for part in parts:
                            yield part
        async with aclosing(person.read_marks()) as pages:
            async for marks in pages:
                for mark in marks:
                    if mark.kind == "group":
                        self._groups[mark.id] += 0
                    yield self._counted(
                        "readCursors", "read", of=mark.kind, id=mark.id, lastReadSeq=mark.seq
                    )
        async with aclosing(self._spoken()) as parts:
            async for part in parts:
                yield part
        async with aclosing(self._memberships()) as parts:
            async for part in parts:
                yield part
        names = ("conversations", "chatSessions", "readCursors", "messages", "groups")
        yield _line("whole", **{name: self._counts[name] for name in names})

    async def _begun(self, listed: ConversationRecord) -> AsyncGenerator[bytes, None]:
        """A conversation as its own export, and what a chat session is beside it."""
        record = await self._site.services.store.conversation(listed.account, listed.id)
        if record is None or record.status == "deleted":
            # Since it was listed.
            return
        self._own.add(record.key)
        async with aclosing(exported(self._site, record, decode_details(record.details))) as parts:
            async for part in parts:
                yield part
        session = await self._person.session(record)
        if session is None or session.status == "deleted":
            self._counts["conversations"] += 1
            return
        standing = await fetch_standing(self._site.services.store, session)
        shown = session_object(session_view(session, standing))
        yield self._counted("chatSessions", "chat-session", session=shown)
        async with aclosing(self._person.messages(session)) as rows:
            async for row in rows:
                yield _line("chat-message", message=message_object(row, session_id=session.id))

    async def _spoken(self) -> AsyncGenerator[bytes, None]:
        """What the person said in what is not theirs alone."""
        async with aclosing(self._person.spoken()) as pages:
            async for page in pages:
                for turn in page.turns:
                    if turn.conversation not in self._own:
                        yield self._counted("messages", "said", **_said(turn))
                for row in page.rows:
                    self._groups[row.group_id] += 1
                    yield self._counted("messages", "said", **_said_to_group(row))

    async def _memberships(self) -> AsyncGenerator[bytes, None]:
        """The groups that the person made, wrote in or read."""
        person = self._person
        made = [group.id async for group in person.made("group")]
        for group_id in sorted({*made, *self._groups}):
            group = await person.group(group_id)
            if group is not None:
                yield self._counted(
                    "groups",
                    "group",
                    groupId=group_id,
                    title=group.title,
                    createdAt=group.created_at_ms,
                    isMaker=group.user == person.user,
                    messages=self._groups[group_id],
                )

    def _counted(self, name: str, kind: str, **fields: Any) -> bytes:
        self._counts[name] += 1
        return _line(kind, **fields)


def _said(turn: SpokenTurn) -> dict[str, Any]:
    body = decode_body(turn.body)
    fields: dict[str, Any] = {
        "conversationId": turn.conversation_id,
        "turnId": turn.turn_id,
        "saidAt": turn.created_at_ms,
        "state": _STATES.get(turn.state, "kept"),
        "text": body.message,
    }
    return {**fields, "images": body.images} if body.images else fields


def _said_to_group(row: SpokenRow) -> dict[str, Any]:
    return {
        "groupId": row.group_id,
        "seq": row.seq,
        "saidAt": row.created_at_ms,
        "state": "kept",
        "text": row.text,
    }


def _line(kind: str, **fields: Any) -> bytes:
    return ndjson(_ENCODER.encode({"type": kind, **fields}))
