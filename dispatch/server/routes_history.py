"""Routes that read one conversation: its chunks, metrics, state, last answer, and all of it.

Neighbours: `runtime.history` reads, `runtime.catalog` decides what may be seen,
`routes_conversations` has what changes something.
Invariant: chunks are spliced from stored bytes, page by page; a reply is never held as a whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import anyio
import msgspec
from starlette.responses import Response
from starlette.routing import Route

from dispatch.core.identity import ConversationId
from dispatch.core.truncation import (
    Superseded,
    decode_superseded,
    is_superseded,
    last_counting,
)
from dispatch.core.turn import Metrics, StepMetrics
from dispatch.errors import Gone, NotFound
from dispatch.protocol.sse import ndjson
from dispatch.runtime.history import History
from dispatch.runtime.shape import Details
from dispatch.server.call import Call, Site, route
from dispatch.server.responses import NDJSON, Json, stream
from dispatch.storage.keys import ConversationKey
from dispatch.storage.port import ConversationRecord, SealedTurn, TurnMetrics

_METRICS: Final = msgspec.json.Decoder(Metrics)


class _Answered(msgspec.Struct):
    """Of metrics who answered: a page has many turns, and a turn may have many steps."""

    agent: str | None = None


_ANSWERED: Final = msgspec.json.Decoder(_Answered)
_ENCODER: Final = msgspec.json.Encoder()


def routes(site: Site) -> list[Route]:
    """See the module; `/conversations/{id}` itself is in `routes_conversations`."""
    return [
        route(site, "/conversations/{id}/metrics", GET=_metrics),
        route(site, "/conversations/{id}/status", GET=_status),
        route(site, "/conversations/{id}/last", GET=_last),
        route(site, "/conversations/{id}/export", GET=_export),
    ]


async def chunks(call: Call) -> Response:
    """`GET /conversations/:id`."""
    conversation = call.conversation
    since = call.number("sinceSeq", minimum=0) or 0
    before = call.number("beforeSeq", minimum=1)
    limit = call.number("limit", minimum=1)
    record = await call.site.hub.catalog.record(call.principal, conversation)
    last_seq = 0 if record is None else record.last_seq
    ceiling = last_seq + 1 if before is None else min(before, last_seq + 1)
    floor = since
    if limit is not None:
        # Seqs have no holes: the newest so many are known without looking.
        floor = max(since, ceiling - 1 - min(limit, call.site.limits.history_page_max))
    if record is None or ceiling - 1 <= floor:
        superseded = () if record is None else decode_superseded(record.superseded)
        nothing: dict[str, Any] = {"chunks": [], "latestSeq": since}
        if limit is not None:
            nothing["turns"] = []
        return Json({**nothing, "superseded": superseded} if superseded else nothing)
    return stream(call, _page(call.site.hub.history, record, floor, ceiling, limit is not None))


async def _page(
    history: History, record: ConversationRecord, since: int, before: int, has_turns: bool
) -> AsyncGenerator[bytes, None]:
    """With `has_turns`, which is for replies of a bounded length, the turns behind the chunks."""
    superseded = decode_superseded(record.superseded)
    joint = b'{"chunks":['
    turns: list[SealedTurn] = []
    found = history.pages(record.key, since=since, before=before, superseded=superseded)
    async with aclosing(found) as pages:
        async for page in pages:
            if page.chunks:
                yield joint + b",".join(page.chunks)
                joint = b","
            if has_turns:
                turns += page.turns
    opening = b"" if joint == b"," else joint
    tail = b',"turns":%b' % _ENCODER.encode([_wire_turn(turn) for turn in turns])
    tail = (tail if has_turns else b"") + (
        b',"superseded":' + record.superseded if superseded else b""
    )
    yield opening + b'],"latestSeq":%d%b}' % (before - 1, tail)


def _wire_turn(turn: SealedTurn) -> dict[str, Any]:
    wire: dict[str, Any] = {
        "turnId": turn.id,
        "firstSeq": turn.first_seq,
        "lastSeq": turn.first_seq + turn.chunk_count - 1,
        "outcome": turn.outcome,
        "sealedAt": turn.sealed_at_ms,
    }
    if turn.resumes is not None:
        wire["resumes"] = turn.resumes
    if turn.metrics and (agent := _ANSWERED.decode(turn.metrics).agent) is not None:
        wire["agent"] = agent
    return wire


async def _metrics(call: Call) -> Response:
    record = await call.site.hub.catalog.record(call.principal, call.conversation)
    if record is None:
        return Json({"turns": []})
    superseded = decode_superseded(record.superseded)
    stored = await call.site.services.store.metrics(record.key)
    return Json({"turns": [_metered(one, superseded) for one in stored]})


def _metered(turn: TurnMetrics, superseded: Superseded) -> dict[str, Any]:
    wire = {"turnId": turn.turn, **_wire_metrics(turn.metrics)}
    if is_superseded(superseded, turn.first_seq):
        wire["superseded"] = True
    return wire


def _wire_metrics(data: bytes) -> dict[str, Any]:
    """With the fields that the contract always has, which the stored form leaves out if empty."""
    metrics = _METRICS.decode(data)
    wire: dict[str, Any] = {
        "usage": metrics.usage,
        "steps": [_wire_step(step) for step in metrics.steps],
    }
    if metrics.duration_ms is not None:
        wire["durationMs"] = metrics.duration_ms
    if metrics.context_size is not None:
        wire["contextSize"] = metrics.context_size
    if metrics.agent is not None:
        wire["agent"] = metrics.agent
    return wire


def _wire_step(step: StepMetrics) -> dict[str, Any]:
    wire: dict[str, Any] = {"stepId": step.step_id, "usage": step.usage}
    times = {
        "ttftMs": step.ttft_ms,
        "decodeMs": step.decode_ms,
        "genTotalMs": step.gen_total_ms,
    }
    return wire | {name: value for name, value in times.items() if value is not None}


async def _status(call: Call) -> Response:
    conversation, principal = call.conversation, call.principal
    record = await call.site.hub.catalog.record(principal, conversation)
    if record is None:
        raise NotFound("Conversation not found")
    live = call.site.hub.conversations.peek(principal, conversation)
    return Json(
        {
            "conversationId": conversation,
            "isActive": live is not None and live.state.is_busy,
            "status": record.status,
        }
    )


async def _last(call: Call) -> Response:
    conversation, hub = call.conversation, call.site.hub
    async with hub.conversations.using(call.reader(), conversation) as live:
        if live.current is not None:
            with anyio.move_on_after(call.site.limits.wait_seconds_max):
                await live.current.sealed.wait()
        up_to_seq = last_counting(live.past.superseded, live.record.last_seq)
        parts = _answer(hub.history, live.record.key, up_to_seq, conversation)
    return stream(call, parts)


async def _answer(
    history: History, key: ConversationKey, up_to_seq: int, conversation: ConversationId
) -> AsyncGenerator[bytes, None]:
    async with history.held_text(key, up_to_seq) as (content, turn):
        reply = {"conversationId": conversation, "content": content}
        yield _ENCODER.encode(reply if turn is None else {**reply, "turnId": turn})


async def _export(call: Call) -> Response:
    conversation, catalog = call.conversation, call.site.hub.catalog
    record = await catalog.record(call.principal, conversation)
    if record is None:
        raise NotFound("Conversation not found")
    details = await catalog.details(call.principal, conversation)
    parts = exported(call.site, msgspec.structs.replace(record), details)
    name = {"content-disposition": f'attachment; filename="{_file_name(conversation)}.ndjson"'}
    return stream(call, parts, NDJSON, name)


async def exported(
    site: Site, record: ConversationRecord, details: Details
) -> AsyncGenerator[bytes, None]:
    """The conversation, then each turn and behind it its chunks, then a line that says all came.

    Raises `Gone` where it was deleted on the way: what came is not all, and does not say so.
    """
    yield _line(exported_conversation(record, details))
    metrics = {one.turn: one.metrics for one in await site.services.store.metrics(record.key)}
    turns = chunk_count = 0
    superseded = decode_superseded(record.superseded)
    found = site.hub.history.turns(record.key, before=record.last_seq + 1, superseded=superseded)
    async with aclosing(found) as kept:
        async for turn, lines in kept:
            yield _exported_turn(turn, lines, metrics.get(turn.id), superseded)
            turns += 1
            chunk_count += len(lines)
    if chunk_count != record.last_seq:
        raise Gone("the conversation was deleted")
    yield _line({"type": "end", "turns": turns, "chunks": chunk_count})


def _exported_turn(
    turn: SealedTurn, lines: list[bytes], metrics: bytes | None, superseded: Superseded
) -> bytes:
    head: dict[str, Any] = {
        "type": "turn",
        "turnId": turn.id,
        "outcome": turn.outcome,
        "sealedAt": turn.sealed_at_ms,
        "firstSeq": turn.first_seq,
        "chunkCount": turn.chunk_count,
    }
    if is_superseded(superseded, turn.first_seq):
        head["superseded"] = True
    if turn.resumes is not None:
        head["resumes"] = turn.resumes
    if metrics:
        head["metrics"] = _wire_metrics(metrics)
    # Ids are of a restricted alphabet: they need no escaping.
    opening = b'{"type":"chunk","turnId":"%b",' % turn.id.encode()
    return _line(head) + b"".join(ndjson(opening + line[1:]) for line in lines)


def exported_conversation(record: ConversationRecord, details: Details) -> dict[str, Any]:
    """The first line of an export."""
    line: dict[str, Any] = {
        "type": "conversation",
        "id": record.id,
        "createdAt": record.created_at_ms,
        "lastActivityAt": record.active_at_ms,
        "title": record.title,
        "status": record.status,
        "workspaceId": record.workspace,
        "lastSeq": record.last_seq,
    }
    optional = {
        "model": details.model,
        "reasoningEffort": details.reasoning_effort,
        "cwd": details.cwd,
    }
    line |= {name: value for name, value in optional.items() if value is not None}
    origins = {"forkedFrom": details.forked_from, "sideChatOf": details.side_chat_of}
    for name, origin in origins.items():
        if origin is not None:
            line[name] = {"conversationId": origin[0], "turnId": origin[1]}
    return line


def _line(value: dict[str, Any]) -> bytes:
    return ndjson(_ENCODER.encode(value))


def _file_name(conversation: ConversationId) -> str:
    """A name that every file system takes."""
    return conversation.replace(":", "_").lstrip(".") or "conversation"
