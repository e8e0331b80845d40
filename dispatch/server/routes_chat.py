"""Routes that start turns and answer agents: `POST /chat`, the queue, requests.

Neighbours: `protocol.chat.requests` reads the fields of a send, `runtime.broker` carries it out,
`turn_stream` shows the turn.
Invariant: a client that leaves ends its own stream, never a turn.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from dispatch.core.commands import Accepted, Send
from dispatch.core.identity import WATCH, ConversationId, TurnId, may
from dispatch.errors import Busy, PeerError
from dispatch.protocol.chat.frames import queue_messages
from dispatch.protocol.chat.requests import read_order, read_response, send_of
from dispatch.protocol.codec import Object
from dispatch.server.bodies import check_strings, text_field
from dispatch.server.call import Call, Site, route
from dispatch.server.responses import NDJSON, Json, stream
from dispatch.server.turn_stream import TurnStream, error_line

_STRINGS: Final = (
    "conversationId",
    "model",
    "cwd",
    "reasoningEffort",
    "workspaceId",
    "computerId",
    "clientMessageId",
    "onBusy",
)


def routes(site: Site) -> list[Route]:
    """See the module."""
    one = "/conversations/{id}"
    return [
        route(site, "/chat", POST=_chat),
        route(site, f"{one}/queue", POST=_queue, PUT=_reorder),
        route(site, f"{one}/queue/{{message}}", DELETE=_unqueue),
        route(site, f"{one}/requests/{{request}}", POST=_respond),
    ]


async def _chat(call: Call) -> Response:
    # The reply is a turn: who may not read may still use the queue.
    site, principal = call.site, call.reader()
    send = _read_chat(await call.fields())
    accepted: list[tuple[Accepted, TurnId | None]] = []

    def accept(told: Accepted) -> None:
        beside = None
        if told.place == "steered":
            # What the text goes into is what its sender wants to see.
            live = site.hub.conversations.peek(principal, told.conversation)
            if live is not None and live.current is not None:
                beside = live.current.id
        accepted.append((told, beside))

    try:
        await site.hub.broker.send(principal, send, accept)
    except Busy as error:
        assert send.conversation is not None, "a new conversation is not busy"
        # Its turn never was: the line gets an id of its own, so that the running one is not blamed.
        never = TurnId(site.services.ids.new("t"))
        line = error_line(send.conversation, never, error.message, error.code)
        return _stream(call, send.conversation, _one(line))
    ((told, beside),) = accepted
    return _stream(call, told.conversation, TurnStream(site, principal, told, beside).parts())


def _stream(
    call: Call, conversation: ConversationId, parts: AsyncGenerator[bytes, None]
) -> Response:
    return stream(call, parts, NDJSON, {"x-conversation-id": conversation})


async def _one(line: bytes) -> AsyncGenerator[bytes, None]:
    yield line


def _read_chat(fields: Object) -> Send:
    """The body of `POST /chat`, which is `chat.send` with a trimmed message."""
    message = text_field(fields, "message").strip()
    return _read_send(fields, message, "POST /chat")


def _read_send(fields: Object, message: str, where: str) -> Send:
    check_strings(fields, _STRINGS)
    if not isinstance(fields.get("images"), list | None):
        raise PeerError("Field 'images' must be an array")
    return send_of(fields, message, where=where)


async def _queue(call: Call) -> Response:
    conversation = call.conversation
    fields = await call.fields()
    text = text_field(fields, "text")
    named = {**fields, "conversationId": conversation}
    send = _read_send(named, text, "POST /conversations/:id/queue")
    accepted: list[Accepted] = []
    await call.site.hub.broker.send(
        call.principal, msgspec.structs.replace(send, on_busy="queue"), accepted.append
    )
    (told,) = accepted
    started = told.place == "started"
    reply: dict[str, Any] = {
        "conversationId": conversation,
        "startedTurn": started,
        "turnId" if started else "queueId": told.turn,
        "queue": await _waiting(call, conversation),
    }
    return Json({**reply, "duplicate": True} if told.duplicate else reply)


async def _reorder(call: Call) -> Response:
    conversation = call.conversation
    wanted = read_order(await call.fields(), "PUT /conversations/:id/queue")
    await call.site.hub.broker.reorder(call.principal, conversation, wanted)
    return Json({"conversationId": conversation, "queue": await _waiting(call, conversation)})


async def _unqueue(call: Call) -> Response:
    conversation = call.conversation
    cancelled = await call.site.hub.broker.cancel(
        call.principal, conversation, TurnId(call.part("message"))
    )
    queue = await _waiting(call, conversation)
    return Json({"conversationId": conversation, "cancelled": cancelled, "queue": queue})


async def _waiting(call: Call, conversation: ConversationId) -> list[dict[str, Any]]:
    """The queue as the caller may see it: without the right to watch, what it queued itself."""
    principal = call.principal
    async with call.site.hub.conversations.using(principal, conversation) as live:
        waiting = live.state.queue
        if not may(principal, WATCH):
            waiting = tuple(w for w in waiting if live.queued[w.turn].user == principal.user)
        return queue_messages(waiting)


async def _respond(call: Call) -> Response:
    conversation, request = call.conversation, call.part("request")
    fields = {**await call.fields(), "requestId": request}
    response = read_response(fields, "POST /conversations/:id/requests/:requestId")
    await call.site.hub.broker.respond(call.principal, conversation, response)
    return Json({"conversationId": conversation, "requestId": request, "outcome": "answered"})
