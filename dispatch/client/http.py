"""What is asked once and answered once: history, lists, export, answers to an agent's questions.

Neighbours: `session` reads history through it after a gap; `cli` uses it without a WebSocket.
`exchange` says what a request is, `network` carries it, `replies` are the types of the answers.
Invariant: every failure is a `DispatchError`, and only reads are tried again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final, TypedDict, TypeVar, Unpack
from urllib.parse import quote, urlencode

import anyio
import msgspec

from dispatch.client.commands import camel
from dispatch.client.dial import Address, Options, jittered
from dispatch.client.exchange import Carrier, Method, Reply, Request, read_all
from dispatch.client.failures import CannotConnect, failure_from_status, failure_from_wire
from dispatch.client.line_http import LineHttp
from dispatch.client.network import NetworkHttp
from dispatch.client.replies import (
    Agents,
    AgentStanding,
    ConversationList,
    ConversationSummary,
    HistoryPage,
    Metrics,
    Models,
    QueueReply,
    ReadState,
    StopReply,
)
from dispatch.client.transport import Transport
from dispatch.core.events import Response
from dispatch.errors import DispatchError, PeerError

T = TypeVar("T")

# A refusal is a sentence; more is something in between that has a page of its own to show.
REFUSAL_BYTES_MAX: Final = 64 * 1024


class HistoryQuery(TypedDict, total=False):
    """Which chunks: after a seq, before a seq, the newest so many of them."""

    since_seq: int | None
    before_seq: int | None
    limit: int | None


class ListQuery(TypedDict, total=False):
    """Which conversations: by status, id prefix, workspace, or words in title and text."""

    status: str | None
    q: str | None
    workspace_id: str | None
    search: str | None
    limit: int | None


class _Resumed(msgspec.Struct, frozen=True, rename="camel"):
    turn_id: str


class _Failure(msgspec.Struct, rename="camel"):
    error: str
    code: str | None = None
    retry_after_ms: int | None = None


class _ExportedTurn(msgspec.Struct, rename="camel"):
    outcome: str
    first_seq: int
    chunk_count: int


_TURN_OPENING: Final = b'{"type":"turn",'


class HttpApi:
    """The HTTP routes of a daemon."""

    def __init__(
        self,
        address: Address,
        options: Options | None = None,
        *,
        read_attempts: int = 1,
        transport: Transport | None = None,
    ) -> None:
        """Nothing is opened until something is asked. `read_attempts`: how often if it fails."""
        self._read_attempts = read_attempts
        self._address = address
        self.options = options or Options()
        self._carrier: Carrier = (
            NetworkHttp(address) if transport is None else LineHttp(address, transport)
        )

    async def history(self, conversation_id: str, **query: Unpack[HistoryQuery]) -> HistoryPage:
        """Sealed chunks; all of them without a query."""
        return await self.fetch(HistoryPage, f"/conversations/{path_part(conversation_id)}", query)

    async def metrics(self, conversation_id: str) -> Metrics:
        """Of the sealed turns."""
        return await self.fetch(Metrics, f"/conversations/{path_part(conversation_id)}/metrics")

    async def conversations(self, **query: Unpack[ListQuery]) -> tuple[ConversationSummary, ...]:
        """Newest activity first."""
        return (await self.fetch(ConversationList, "/conversations", query)).conversations

    async def models(self) -> tuple[str, ...]:
        """What `model` accepts."""
        return (await self.fetch(Models, "/models")).models

    async def agents(self) -> tuple[AgentStanding, ...]:
        """How the configured agents are, the default one first."""
        return (await self.fetch(Agents, "/agents")).agents

    async def stop(self, conversation_id: str) -> StopReply:
        """Stop whatever turn runs now."""
        return await self.ask(
            StopReply, "POST", f"/conversations/{path_part(conversation_id)}/stop"
        )

    async def queue(self, conversation_id: str, text: str) -> QueueReply:
        """Start a turn, or queue the message if one runs."""
        path = f"/conversations/{path_part(conversation_id)}/queue"
        return await self.ask(QueueReply, "POST", path, {"text": text})

    async def read(self, conversation_id: str, up_to_seq: int) -> ReadState:
        """Move the user's read cursor; forward alone, so that a repeat does no harm."""
        path = f"/conversations/{path_part(conversation_id)}/read"
        return await self.ask(ReadState, "POST", path, {"upToSeq": up_to_seq})

    async def rename(self, conversation_id: str, title: str) -> None:
        """Name a conversation."""
        path = f"/conversations/{path_part(conversation_id)}/title"
        await self.ask(object, "PUT", path, {"title": title})

    async def truncate(
        self, conversation_id: str, after_turn: str | None, *, client_message_id: str | None = None
    ) -> None:
        """Let what is behind a sealed turn (None: all of it) not count; what runs is ended.

        Under the same `client_message_id` it may be asked for again.
        """
        path = f"/conversations/{path_part(conversation_id)}/truncate"
        body = {"afterTurn": after_turn, "clientMessageId": client_message_id}
        await self.ask(object, "POST", path, body)

    async def resume(
        self, conversation_id: str, turn_id: str, *, client_message_id: str | None = None
    ) -> str:
        """Let the last turn go on, which failed or was interrupted; the new turn's id."""
        path = f"/conversations/{path_part(conversation_id)}/resume"
        body = {"turnId": turn_id, "clientMessageId": client_message_id}
        return (await self.ask(_Resumed, "POST", path, body)).turn_id

    async def close(self, conversation_id: str) -> StopReply:
        """Stop what runs, drop what waits; a later message opens the conversation again."""
        path = f"/conversations/{path_part(conversation_id)}/close"
        return await self.ask(StopReply, "POST", path)

    async def delete(self, conversation_id: str) -> None:
        """Remove a conversation for ever; its id is `Gone` from then on."""
        await self.ask(object, "DELETE", f"/conversations/{path_part(conversation_id)}")

    async def respond(self, conversation_id: str, response: Response) -> None:
        """Answer an agent's question; `RequestClosed` if somebody was faster."""
        path = (
            f"/conversations/{path_part(conversation_id)}/requests/{path_part(response.request_id)}"
        )
        await self.ask(object, "POST", path, response)

    async def export(self, conversation_id: str) -> AsyncGenerator[bytes, None]:
        """Everything about a conversation, as NDJSON, in pieces as they come."""
        path = f"/conversations/{path_part(conversation_id)}/export"
        async with await self.open("GET", path) as reply:
            while piece := await reply.piece():
                yield piece

    async def outcomes(self, conversation_id: str) -> dict[int, str]:
        """How each sealed turn ended, by the seq of its last chunk; reads a whole export."""
        found, rest = {}, b""
        async with aclosing(self.export(conversation_id)) as pieces:
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    # Chunks are most of it, and of no interest here.
                    if line.startswith(_TURN_OPENING):
                        turn = msgspec.json.decode(line, type=_ExportedTurn)
                        found[turn.first_seq + turn.chunk_count - 1] = turn.outcome
        return found

    async def fetch(self, kind: type[T], path: str, query: Mapping[str, object] | None = None) -> T:
        """A GET, again after a pause if the daemon cannot be reached just now."""
        path = with_query(path, {camel(name): value for name, value in (query or {}).items()})
        for attempt in range(self._read_attempts - 1):
            try:
                return await self.ask(kind, "GET", path)
            except CannotConnect:
                await anyio.sleep(jittered(self.options, attempt))
        return await self.ask(kind, "GET", path)

    async def ask(
        self,
        kind: type[T],
        method: Method,
        path: str,
        body: object = None,
        *,
        wait_seconds: float = 0,
    ) -> T:
        """One exchange, never repeated; `wait_seconds`: how long the daemon itself may wait."""
        patience = self.options.reply_seconds + wait_seconds
        async with await self.open(method, path, body, patience_seconds=patience) as reply:
            text = await read_all(reply)
        try:
            return msgspec.json.decode(text, type=kind)
        except msgspec.DecodeError as error:
            raise PeerError(f"the reply to {method} {path} makes no sense: {error}") from error

    async def open(
        self,
        method: Method,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        patience_seconds: float | None = None,
    ) -> Reply:
        """Send a request and wait for the head of its reply; leave that with `async with`."""
        content = None if body is None else msgspec.json.encode(body)
        sent = {**(headers or {}), **self._address.headers()}
        if content is not None:
            sent["Content-Type"] = "application/json"
        patience = self.options.reply_seconds if patience_seconds is None else patience_seconds
        reply = await self._carrier.open(Request(method, path, sent, content, patience))
        if 200 <= reply.status < 300:
            return reply
        async with reply:
            raise await self._refusal(reply)

    async def _refusal(self, reply: Reply) -> DispatchError:
        """What the daemon refused, or something in between that answers for it."""
        words = f"{self._address.http} answers HTTP {reply.status}"
        try:
            failure = msgspec.json.decode(await read_all(reply, REFUSAL_BYTES_MAX), type=_Failure)
        except (msgspec.DecodeError, CannotConnect):
            return failure_from_status(reply.status, words)
        if failure.code is None:
            return failure_from_status(reply.status, failure.error)
        return failure_from_wire(
            failure.error,
            failure.code,
            status=reply.status,
            retryable=reply.status in {429, 503},
            retry_after_ms=failure.retry_after_ms or _retry_after_ms(reply.header("Retry-After")),
        )


def _retry_after_ms(text: str | None) -> int | None:
    # Bounded, so that a confused proxy cannot send a client away for a year.
    return min(int(text), 60) * 1000 if text and text.isdecimal() else None


def path_part(text: str) -> str:
    """An id as one part of a path."""
    return quote(text, safe="")


def with_query(path: str, query: Mapping[str, object]) -> str:
    """A path with what is not None behind it."""
    words = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(words)}" if words else path
