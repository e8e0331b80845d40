"""Routes about conversations as a whole: list, name, set up, stop, close, fork, forget.

Neighbours: `runtime.catalog` and `runtime.broker` carry the verbs out and check the rights,
`routes_history` reads what was said, `routes_chat` has what starts turns.
Invariant: a reply is written when what it says is durable.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Any, Final, cast, get_args

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from dispatch.core.commands import Accepted, ReasoningEffort, TurnBody
from dispatch.core.conversation import Status
from dispatch.core.identity import Position, Principal, TurnId, parse_conversation_id
from dispatch.errors import PeerError
from dispatch.protocol.chat.requests import (
    EFFORTS,
    LABEL_CHARACTERS_MAX,
    read_resume,
    read_side_chat,
    read_truncate,
)
from dispatch.runtime.catalog import check_title
from dispatch.runtime.shape import Details
from dispatch.server import routes_history
from dispatch.server.bodies import check_strings, number_field, text_field
from dispatch.server.branches import branched
from dispatch.server.call import Call, Endpoint, Site, route
from dispatch.server.responses import Json, stream
from dispatch.storage.port import ConversationQuery, ConversationRecord

_STATUSES: Final = get_args(Status)
_PATH_CHARACTERS_MAX: Final = 4096
_BEFORE: Final = re.compile(r"([0-9]{1,15}):(.+)", re.ASCII)
_ENCODER: Final = msgspec.json.Encoder()


def routes(site: Site) -> list[Route]:
    """See the module."""
    one = "/conversations/{id}"
    return [
        route(site, "/conversations", GET=_list),
        route(site, one, GET=routes_history.chunks, DELETE=_delete),
        route(site, f"{one}/stop", POST=_stop),
        route(site, f"{one}/close", POST=_close),
        route(site, f"{one}/open", POST=_open),
        route(site, f"{one}/read", POST=_read),
        route(site, f"{one}/truncate", POST=_truncate),
        route(site, f"{one}/resume", POST=_resume),
        route(site, f"{one}/fork", POST=_fork),
        route(site, f"{one}/title", GET=_title, PUT=_set_title),
        route(site, f"{one}/model", GET=_setting("model"), PUT=_set_model),
        route(
            site,
            f"{one}/reasoning-effort",
            GET=_setting("reasoningEffort"),
            PUT=_set_reasoning_effort,
        ),
        route(site, f"{one}/cwd", GET=_setting("cwd"), PUT=_set_cwd, DELETE=_clear_cwd),
        route(site, f"{one}/lsp", GET=_no_servers),
        route(site, f"{one}/mcp", GET=_no_servers),
    ]


async def _list(call: Call) -> Response:
    principal = call.reader()
    limit = call.number("limit", minimum=1)
    query = await _query(call, principal, limit)
    if limit is None:
        return stream(call, _listed(call, principal, query))
    records = await call.site.hub.catalog.list(principal, query)
    reply: dict[str, Any] = {"conversations": [_row(record) for record in records]}
    if len(records) == query.limit:
        last = records[-1]
        reply["next"] = f"{last.active_at_ms}:{last.id}"
    return Json(reply)


async def _query(call: Call, principal: Principal, limit: int | None) -> ConversationQuery:
    given = call.query
    statuses = tuple(name for name in given.get("status", "").split(",") if name)
    if not all(name in _STATUSES for name in statuses):
        raise PeerError(f"status must be a comma list of: {', '.join(_STATUSES)}")
    before = given.get("before")
    page_max = call.site.limits.list_page_max
    return ConversationQuery(
        account=principal.account,
        user=principal.user,
        statuses=cast("tuple[Status, ...]", statuses),
        id_prefix=given.get("q", ""),
        workspace=given.get("workspaceId"),
        search=given.get("search", ""),
        before=None if before is None else await _place(call, principal, before),
        limit=page_max if limit is None else min(limit, page_max),
    )


async def _place(call: Call, principal: Principal, text: str) -> tuple[int, int]:
    """Where a list goes on: behind a conversation, as it stood when it was listed."""
    match = _BEFORE.fullmatch(text)
    record = None
    if match is not None:
        conversation = parse_conversation_id(match[2])
        record = await call.site.services.store.conversation(principal.account, conversation)
    if match is None or record is None:
        raise PeerError("before must be the `next` of a list, <lastActivityAt>:<id>")
    return int(match[1]), record.key


async def _listed(
    call: Call, principal: Principal, query: ConversationQuery
) -> AsyncGenerator[bytes, None]:
    """The whole list, a page at a time: what becomes active meanwhile is told by broadcast."""
    joint = b'{"conversations":['
    while True:
        records = await call.site.hub.catalog.list(principal, query)
        if records:
            yield joint + b",".join(_ENCODER.encode(_row(record)) for record in records)
            joint = b","
        if len(records) < query.limit:
            break
        last = records[-1]
        query = msgspec.structs.replace(query, before=(last.active_at_ms, last.key))
    yield (b"" if joint == b"," else joint) + b"]}"


def _row(record: ConversationRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "createdAt": record.created_at_ms,
        "lastActivityAt": record.active_at_ms,
        "title": record.title,
        "status": record.status,
        "workspaceId": record.workspace,
    }


async def _delete(call: Call) -> Response:
    conversation = call.conversation
    await call.site.hub.catalog.delete(call.principal, conversation)
    return Json({"conversationId": conversation, "deleted": True})


async def _stop(call: Call) -> Response:
    conversation = call.conversation
    fields = await call.fields(may_be_empty=True)
    check_strings(fields, ("turnId",))
    wanted = fields.get("turnId")
    turn = None if wanted is None else TurnId(wanted)
    # A deleted conversation says so, though nothing of it could run.
    async with call.site.hub.conversations.using(call.principal, conversation):
        stopped = await call.site.hub.broker.stop(call.principal, conversation, turn)
    return _stopped(call, stopped)


async def _close(call: Call) -> Response:
    stopped = await call.site.hub.broker.close(call.principal, call.conversation)
    return _stopped(call, stopped)


def _stopped(call: Call, turn: TurnId | None) -> Response:
    reply: dict[str, Any] = {"conversationId": call.conversation, "abortedTurn": turn is not None}
    return Json(reply if turn is None else {**reply, "turnId": turn})


async def _open(call: Call) -> Response:
    conversation = call.conversation
    fields = await call.fields(may_be_empty=True)
    workspace = None
    if fields.get("workspaceId") is not None:
        check_strings(fields, ("workspaceId",))
        workspace = text_field(fields, "workspaceId", characters_max=LABEL_CHARACTERS_MAX)
    await call.site.hub.catalog.open(call.principal, conversation, workspace)
    return Json({"conversationId": conversation})


async def _read(call: Call) -> Response:
    conversation = call.conversation
    up_to_seq = number_field(await call.fields(), "upToSeq")
    seq, unread = await call.site.hub.catalog.read(call.principal, conversation, up_to_seq)
    return Json({"conversationId": conversation, "lastReadSeq": seq, "unread": unread})


async def _truncate(call: Call) -> Response:
    hub, conversation = call.site.hub, call.conversation
    wish = read_truncate(await call.fields(), conversation, "truncate")
    cut = await hub.broker.truncate(call.principal, wish)
    position = str(Position(hub.generation, cut.offset))
    reply: dict[str, Any] = {"conversationId": conversation, "position": position}
    if cut.after_turn is not None:
        reply["afterTurn"] = cut.after_turn
    return Json(reply | ({"duplicate": True} if cut.duplicate else {}))


async def _resume(call: Call) -> Response:
    conversation, told = call.conversation, list[Accepted]()
    send = read_resume(await call.fields(), conversation, "resume")
    await call.site.hub.broker.send(call.principal, send, told.append)
    reply: dict[str, Any] = {
        "conversationId": conversation,
        "turnId": told[0].turn,
        "resumes": send.body.resumes,
    }
    return Json(reply | ({"duplicate": True} if told[0].duplicate else {}))


async def _fork(call: Call) -> Response:
    conversation = call.conversation
    fields = await call.fields()
    turn = TurnId(text_field(fields, "turnId"))
    is_side_chat = read_side_chat(fields, "fork")
    catalog = call.site.hub.catalog
    return Json(
        await branched(catalog, call.principal, conversation, turn, is_side_chat=is_side_chat)
    )


async def _title(call: Call) -> Response:
    conversation = call.conversation
    record = await call.site.hub.catalog.record(call.principal, conversation)
    return Json({"conversationId": conversation, "title": None if record is None else record.title})


async def _set_title(call: Call) -> Response:
    conversation = call.conversation
    fields = await call.fields()
    title = check_title(fields.get("title"), call.site.limits.title_characters_max)
    await call.site.hub.catalog.set_title(call.principal, conversation, title)
    return Json({"conversationId": conversation, "title": title})


def _setting(field: str) -> Endpoint:
    """The route that reads one of the details, which is called `field` on the wire."""

    async def get(call: Call) -> Response:
        details = await call.site.hub.catalog.details(call.principal, call.conversation)
        return _told_setting(call, field, details)

    return get


def _told_setting(call: Call, field: str, details: Details) -> Response:
    values = {
        "model": details.model,
        "reasoningEffort": details.reasoning_effort,
        "cwd": details.cwd,
    }
    return Json({"conversationId": call.conversation, field: values[field]})


async def _set_model(call: Call) -> Response:
    model = text_field(await call.fields(), "model", characters_max=LABEL_CHARACTERS_MAX)
    return await _keep_setting(call, "model", TurnBody(message="", model=model))


async def _set_reasoning_effort(call: Call) -> Response:
    effort = text_field(await call.fields(), "reasoningEffort")
    if effort not in EFFORTS:
        raise PeerError(f"Field 'reasoningEffort' must be one of: {', '.join(EFFORTS)}")
    body = TurnBody(message="", reasoning_effort=cast("ReasoningEffort", effort))
    return await _keep_setting(call, "reasoningEffort", body)


async def _set_cwd(call: Call) -> Response:
    cwd = text_field(await call.fields(), "cwd", characters_max=_PATH_CHARACTERS_MAX)
    return await _keep_setting(call, "cwd", TurnBody(message="", cwd=cwd))


async def _keep_setting(call: Call, field: str, body: TurnBody) -> Response:
    principal, conversation = call.principal, call.conversation
    await call.site.hub.catalog.set_details(principal, conversation, body)
    # What was kept, told to who may write it even if not read it: a `cwd` was resolved.
    async with call.site.hub.conversations.using(principal, conversation) as live:
        return _told_setting(call, field, live.details)


async def _clear_cwd(call: Call) -> Response:
    await call.site.hub.catalog.clear_cwd(call.principal, call.conversation)
    return Json({"conversationId": call.conversation, "cwd": None})


async def _no_servers(call: Call) -> Response:
    """Language and tool servers belong to the agents: the broker knows of none."""
    conversation = call.conversation
    await call.site.hub.catalog.record(call.principal, conversation)
    return Json({"conversationId": conversation, "cwd": None, "servers": []})
