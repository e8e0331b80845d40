"""Routes of chat sessions, `/v1/chat`: every reply is JSON with a body, or an event stream.

Neighbours: `protocol.sessions` reads the wishes and words the answers, `runtime.chats` and its
neighbours carry them out and check the rights; `chats.events` has the streams.
Invariant: a reply is written when what it says is durable; an error is in this dialect's form.
"""

from __future__ import annotations

from typing import Any, Final

import structlog
from starlette.responses import Response
from starlette.routing import Route

from dispatch.core.identity import ID_PATTERN, WATCH, require
from dispatch.errors import DispatchError, Fault, PeerError
from dispatch.protocol.codec import Object
from dispatch.protocol.sessions import InvalidRequest, SessionNotFound, refusal
from dispatch.protocol.sessions import requests as wish
from dispatch.protocol.sessions.frames import (
    iso_time,
    list_item,
    message_id,
    message_object,
    session_object,
)
from dispatch.runtime.chats.reading import Detail, Item, Task
from dispatch.runtime.chats.verbs import ChatVerbs
from dispatch.server.call import Call, Endpoint, Site, route
from dispatch.server.chats.events import sse_parts
from dispatch.server.responses import Json, stream

log = structlog.get_logger()

_EVENT_STREAM: Final = "text/event-stream"
_STREAM_HEADERS: Final = {
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


def routes(site: Site) -> list[Route]:
    """See the module."""
    one = "/v1/chat/{id}"
    return [
        _route(site, "/v1/chat", GET=_list, POST=_create),
        _route(site, "/v1/chat/events", GET=_events),
        _route(site, one, GET=_detail, PATCH=_rename, DELETE=_delete),
        _route(site, f"{one}/messages", POST=_send),
        _route(site, f"{one}/restore", POST=_restore),
        _route(site, f"{one}/read", POST=_read),
        _route(site, f"{one}/typing", POST=_typing),
        _route(site, f"{one}/pending-task", GET=_pending_task),
        _route(site, f"{one}/cancel", POST=_cancel),
        _route(site, f"{one}/events", GET=_events_of_one),
    ]


def _route(site: Site, path: str, **methods: Endpoint) -> Route:
    """A route whose errors are told as this dialect does."""
    return route(site, path, **{name: _telling(endpoint) for name, endpoint in methods.items()})


def _telling(endpoint: Endpoint) -> Endpoint:
    async def told(call: Call) -> Response:
        try:
            return await endpoint(call)
        except DispatchError as error:
            return _refused(call, error)

    return told


def _refused(call: Call, error: DispatchError) -> Response:
    if isinstance(error, Fault):
        path = getattr(call.request.scope.get("route"), "path", "")
        log.error("http.fault", code=error.code, route=path, exc_info=error)
    told = refusal(error)
    response = Json(told.body, told.status)
    if told.status in (429, 503):
        # In whole seconds, and never too early.
        response.headers["retry-after"] = str(-(-(told.retry_after_ms or 1000) // 1000))
    return response


def _verbs(call: Call) -> ChatVerbs:
    return call.site.hub.chats


def _session(call: Call) -> str:
    """The session that the path names: what no id can be names none."""
    session = call.part("id")
    if not ID_PATTERN.fullmatch(session):
        raise SessionNotFound
    return session


async def _fields(call: Call, *, may_be_empty: bool = False) -> Object:
    try:
        return await call.fields(may_be_empty=may_be_empty)
    except PeerError as error:
        if error.http_status != InvalidRequest.http_status:
            raise
        raise InvalidRequest(error.message) from error


async def _create(call: Call) -> Response:
    wanted = wish.read_create(await _fields(call))
    view = await _verbs(call).chats.create(call.principal, wanted)
    return Json(session_object(view), 201)


async def _list(call: Call) -> Response:
    query = wish.read_list_query(call.query)
    found = await _verbs(call).reading.listed(call.principal, query)
    return Json(
        {
            "sessions": [_item(item) for item in found.items],
            "unread_total": found.unread_total,
            "next_cursor": None if found.after is None else wish.list_cursor(*found.after),
            "cursor": found.cursor,
        }
    )


def _item(item: Item) -> Object:
    last = item.last
    return list_item(
        item.view,
        unread_count=item.unread,
        last_row=None if last is None else last.row,
        is_typing=item.is_typing,
        last_content=None if last is None else last.content,
    )


async def _detail(call: Call) -> Response:
    session, query = _session(call), wish.read_detail_query(call.query)
    found = await _verbs(call).reading.detail(call.principal, session, query)
    return Json(
        session_object(found.view)
        | {
            "unread_count": found.unread,
            "has_unread": found.unread > 0,
            "agent_typing": bool(found.tasks),
            "messages": _messages(found),
            "pending": _pending(found.tasks) or None,
            "requests": found.requests,
            "has_more": found.has_more,
            "cursor": found.cursor,
        }
    )


def _messages(found: Detail) -> list[Object]:
    session = found.view.id
    return [message_object(m.row, session_id=session, content=m.content) for m in found.messages]


def _pending(tasks: list[Task]) -> Object:
    """The first task that is not over and those behind it; nothing where there is none."""
    if not tasks:
        return {}
    shown = [
        {"task_id": task.id, "status": task.status, "created_at": iso_time(task.created_at_ms)}
        for task in tasks
    ]
    return {**shown[0], "queued_tasks": shown[1:]}


async def _send(call: Call) -> Response:
    session, seconds = _session(call), wish.read_wait(call.query)
    message = wish.read_message(await _fields(call))
    sent = await _verbs(call).sends.send(call.principal, session, message, seconds)
    shown = message_object(sent.message, session_id=session)
    reply: dict[str, Any] = {
        "message_id": message_id(sent.message),
        "task_id": sent.task,
        "queued": sent.queued,
        "created_at": shown["created_at"],
        "message": shown,
    }
    if seconds is not None:
        answer = sent.response
        reply["response"] = None if answer is None else message_object(answer, session_id=session)
    if sent.duplicate:
        return Json({**reply, "duplicate": True})
    return Json(reply, 201)


async def _rename(call: Call) -> Response:
    session = _session(call)
    title = wish.read_patch(await _fields(call)).title
    return Json(session_object(await _verbs(call).chats.rename(call.principal, session, title)))


async def _delete(call: Call) -> Response:
    session, is_for_ever = _session(call), wish.read_purge(call.query)
    wish.read_nothing(await _fields(call, may_be_empty=True))
    chats = _verbs(call).chats
    if is_for_ever:
        await chats.purge(call.principal, session)
        return Json({"id": session, "purged": True})
    return Json(session_object(await chats.archive(call.principal, session)))


async def _restore(call: Call) -> Response:
    session = _session(call)
    wish.read_nothing(await _fields(call, may_be_empty=True))
    return Json(session_object(await _verbs(call).chats.restore(call.principal, session)))


async def _read(call: Call) -> Response:
    session = _session(call)
    up_to_seq = wish.read_read(await _fields(call, may_be_empty=True)).up_to_seq
    found = await _verbs(call).chats.read(call.principal, session, up_to_seq)
    return Json(
        {
            "chat_session_id": session,
            "last_read_seq": found.last_read_seq,
            "unread_count": found.unread,
        }
    )


async def _typing(call: Call) -> Response:
    session = _session(call)
    note = wish.read_typing(await _fields(call))
    await _verbs(call).chats.note_typing(
        call.principal, session, note.device_id, typing=note.typing
    )
    return Json({"chat_session_id": session, "typing": note.typing})


async def _pending_task(call: Call) -> Response:
    return Json(_pending(await _verbs(call).reading.tasks(call.principal, _session(call))))


async def _cancel(call: Call) -> Response:
    session = _session(call)
    task = wish.read_cancel(await _fields(call, may_be_empty=True)).task_id
    cancelled = await _verbs(call).chats.cancel(call.principal, session, task)
    return Json({"task_id": cancelled.task, "status": cancelled.status})


async def _events(call: Call) -> Response:
    require(call.principal, WATCH)
    return _follow(call, None)


async def _events_of_one(call: Call) -> Response:
    session = _session(call)
    async with _verbs(call).chats.own(call.principal, session):
        return _follow(call, session)


def _follow(call: Call, session: str | None) -> Response:
    query = wish.read_events_query(call.query, call.request.headers.get("last-event-id"))
    streams = _verbs(call).streams
    streams.check_room(call.principal)
    parts = sse_parts(streams, call.principal, query, session)
    return stream(call, parts, _EVENT_STREAM, _STREAM_HEADERS)
