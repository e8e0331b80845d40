"""Routes of groups, `/api/groups`: JSON with `ok`, or a stream of the group's frames.

Neighbours: `protocol.groups` reads the wishes and words the answers, `runtime.groups.verbs` carries
them out and checks the rights, `groups.stream` has the streams.
Invariant: a reply is written when what it says is durable; every refusal is JSON, and before a
stream opens.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from dispatch.core.content import StoredChunk, Text
from dispatch.core.identity import ID_PATTERN, WATCH, Principal, require
from dispatch.errors import Gone, NotFound
from dispatch.protocol.codec import Object
from dispatch.protocol.groups import requests as wish
from dispatch.protocol.groups.refusals import (
    GroupDeleted,
    GroupNotFound,
    InvalidRequest,
    SessionNotFound,
    TurnInProgress,
)
from dispatch.protocol.groups.rows import group_event, group_object, iso_ms
from dispatch.runtime.groups.reading import GroupPage
from dispatch.runtime.groups.timeline import GroupTimeline
from dispatch.server import bodies
from dispatch.server.call import Call, Endpoint, Site, route
from dispatch.server.groups.stream import HEADERS, GroupStream, SendStream
from dispatch.server.responses import Json, stream
from dispatch.storage.port import ConversationRecord, SealedTurn

_ENCODER: Final = msgspec.json.Encoder()
_CHUNKS: Final = msgspec.json.Decoder(StoredChunk)


def routes(site: Site) -> list[Route]:
    """See the module."""
    one = "/api/groups/{id}"
    return [
        _route(site, "/api/groups", GET=_list, POST=_create),
        _route(site, "/api/groups/adopt", POST=_adopt),
        _route(site, one, GET=_show, PATCH=_patch, DELETE=_delete),
        _route(site, f"{one}/send", POST=_send),
        _route(site, f"{one}/stream", GET=_stream),
        _route(site, f"{one}/stop", POST=_stop),
        _route(site, f"{one}/read", POST=_read),
        route(site, "/api/chat/conversation/{id}", GET=_conversation),
    ]


def _route(site: Site, path: str, **methods: Endpoint) -> Route:
    """A route that says of a group what others say of anything: that it is not there, or no more.

    A refusal with a code of its own, such as of an agent that is not there, stays what it is.
    """

    def telling(endpoint: Endpoint) -> Endpoint:
        async def told(call: Call) -> Response:
            try:
                return await endpoint(call)
            except (NotFound, Gone) as error:
                if type(error) is NotFound:
                    raise GroupNotFound from error
                if type(error) is Gone:
                    raise GroupDeleted from error
                raise

        return told

    return route(site, path, **{name: telling(endpoint) for name, endpoint in methods.items()})


def _group(call: Call) -> str:
    """The group that the path names: what no id can be names none."""
    group = call.part("id")
    if not ID_PATTERN.fullmatch(group):
        raise GroupNotFound
    return group


async def _fields(call: Call, *, may_be_empty: bool = False) -> Object:
    limits = call.site.limits
    body = await bodies.read_body(call.request, limits)
    if may_be_empty and not body.strip():
        return {}
    return wish.read_body(
        body, depth_max=limits.json_depth_max, containers_max=limits.json_containers_max
    )


async def _list(call: Call) -> Response:
    views = await call.site.groups.groups.list(call.principal)
    return Json({"ok": True, "groups": [group_object(view) for view in views]})


async def _create(call: Call) -> Response:
    wanted = wish.read_create(await _fields(call))
    view = await call.site.groups.groups.create(call.principal, wanted)
    return Json(group_object(view), 201)


async def _adopt(call: Call) -> Response:
    wanted = wish.read_adopt(await _fields(call))
    view, is_new = await call.site.groups.adopting.adopt(call.principal, wanted)
    return Json(group_object(view), 201 if is_new else 200)


async def _show(call: Call) -> Response:
    principal, group, verbs = call.reader(), _group(call), call.site.groups
    asked = wish.read_page(call.query)
    async with verbs.timelines.group(principal.account, group) as timeline:
        page = await verbs.reading.page(principal, timeline, asked.after_seq, asked.limit)
    if asked.resync and page.view.runs:
        raise TurnInProgress
    return Json(_page(page))


def _page(page: GroupPage) -> dict[str, Any]:
    shown = {
        "group": group_object(page.view),
        "events": [group_event(row, text=text) for row, text in page.rows],
        "lastSeq": page.view.last_seq,
        "settledSeq": page.settled_seq,
        "hasMore": page.has_more,
    }
    return shown if page.cursor is None else {**shown, "cursor": page.cursor}


async def _patch(call: Call) -> Response:
    group = _group(call)
    wanted = wish.read_patch(await _fields(call))
    view = await call.site.groups.groups.patch(call.principal, group, wanted)
    return Json(group_object(view))


async def _delete(call: Call) -> Response:
    wanted = wish.read_delete(call.query)
    done = await call.site.groups.groups.delete(call.principal, _group(call), wanted.sessions)
    return Json(
        {
            "ok": True,
            "deleted": done.was_there,
            "sessionsDeleted": done.deleted,
            "sessionsKept": done.kept,
        }
    )


async def _send(call: Call) -> Response:
    # The answer is a stream: who may not read has `group.send`.
    principal, group, verbs = call.reader(), _group(call), call.site.groups
    wanted = wish.read_send(await _fields(call))
    timeline = await _held(call, principal, group)
    is_held = True
    try:
        sent = await verbs.sends.send(principal, group, wanted)
        is_held = False
    finally:
        if is_held:
            verbs.timelines.release(timeline)
    return SendStream(call, verbs, timeline, sent.seq, sent.frame)


async def _stream(call: Call) -> Response:
    principal, group = call.reader(), _group(call)
    header = call.request.headers.get("last-event-id")
    cursor = wish.read_cursor(header, call.query.get("cursor"))
    timeline = await _held(call, principal, group)
    if call.request.method == "HEAD":
        call.site.groups.timelines.release(timeline)
        return Response(headers=HEADERS)
    return GroupStream(call, call.site.groups, timeline, cursor)


async def _held(call: Call, principal: Principal, group: str) -> GroupTimeline:
    """A group's timeline, to be released."""
    timeline = await call.site.groups.timelines.load((principal.account, "group", group))
    assert isinstance(timeline, GroupTimeline), "what a group keeps"
    return timeline


async def _stop(call: Call) -> Response:
    group = _group(call)
    wanted = wish.read_stop(await _fields(call, may_be_empty=True))
    stopped = await call.site.groups.stops.stop(
        call.principal,
        group,
        agent=wanted.familiar,
        reply_to=wanted.reply_to,
        run_id=wanted.run_id,
    )
    return Json({"ok": True, "stopped": stopped.agents, "queued": stopped.is_remembered})


async def _read(call: Call) -> Response:
    group = _group(call)
    seq = (await _fields(call)).get("upToSeq")
    if type(seq) is not int or not 0 <= seq < 2**53:
        raise InvalidRequest("upToSeq must be an integer from 0")
    last, unread = await call.site.groups.groups.read(call.principal, group, seq)
    return Json({"ok": True, "groupId": group, "lastReadSeq": last, "unread": unread})


# ---------------------------------------------------------------- one member's conversation


async def _conversation(call: Call) -> Response:
    """The turns of a conversation that are over, as texts; never held as a whole."""
    principal = call.principal
    require(principal, WATCH)
    record = await call.site.hub.catalog.record(principal, call.conversation)
    if record is None:
        raise SessionNotFound
    return stream(call, _told(call, msgspec.structs.replace(record)))


async def _told(call: Call, record: ConversationRecord) -> AsyncGenerator[bytes, None]:
    shown = {
        "id": record.id,
        "title": record.title,
        "status": record.status,
        "createdAt": iso_ms(record.created_at_ms),
        "updatedAt": iso_ms(record.active_at_ms),
    }
    head = _ENCODER.encode({"ok": True, "conversation": shown})
    joint = head[:-2] + b',"turns":['
    before = record.last_seq + 1
    async with aclosing(call.site.hub.history.turns(record.key, before=before)) as kept:
        async for turn, lines in kept:
            for said in _said(turn, lines):
                yield joint + _ENCODER.encode(said)
                joint = b","
    yield (b"" if joint == b"," else joint) + b"]}}"


def _said(turn: SealedTurn, lines: list[bytes]) -> list[dict[str, Any]]:
    """The texts of one turn, those of the same side that follow each other as one."""
    told: list[dict[str, Any]] = []
    for line in lines:
        stored = _CHUNKS.decode(line)
        if not isinstance(stored.chunk, Text):
            continue
        if told and told[-1]["role"] == stored.role:
            told[-1]["text"] += stored.chunk.text
        else:
            told.append({"turnId": turn.id, "role": stored.role, "text": stored.chunk.text})
    for one in told:
        one["ts"] = iso_ms(turn.sealed_at_ms)
    if told and told[-1]["role"] != "user":
        told[-1]["outcome"] = turn.outcome
    return told
