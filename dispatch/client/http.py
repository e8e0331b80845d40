"""What is asked once and answered once: history, lists, export, answers to an agent's questions.

Neighbours: `session` reads history through it after a gap; `cli` uses it without a WebSocket.
The standard library's HTTP in a worker thread: a few requests a minute need no client of their own.
Redirects are refused, so that a token never follows one to another host.
Invariant: every failure is a `DispatchError`, and only reads are tried again.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from http.client import HTTPException, HTTPResponse
from typing import Final, Literal, TypedDict, TypeVar, Unpack
from urllib.parse import quote, urlencode

import anyio
import anyio.to_thread
import msgspec

from dispatch.client.dial import Address, Options, jittered
from dispatch.client.failures import (
    CannotConnect,
    ConnectionLost,
    failure_from_status,
    failure_from_wire,
    reason_of,
)
from dispatch.client.frames import camel
from dispatch.core.content import StoredChunk
from dispatch.core.events import Response, TokenUsage
from dispatch.errors import DispatchError, PeerError

T = TypeVar("T")

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

PIECE_BYTES: Final = 64 * 1024


class Reply(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The body of a reply."""


class HistoryPage(Reply, frozen=True):
    """Sealed chunks, in order."""

    chunks: tuple[StoredChunk, ...]
    latest_seq: int


class ConversationSummary(Reply, frozen=True):
    """A line of the list. Times in epoch milliseconds."""

    id: str
    created_at: int
    last_activity_at: int
    title: str
    status: str
    workspace_id: str
    compacted_from: str | None = None


class ConversationList(Reply, frozen=True):
    """Newest activity first."""

    conversations: tuple[ConversationSummary, ...]


class Models(Reply, frozen=True):
    """What `model` accepts: `AGENT` or `AGENT/MODEL`."""

    models: tuple[str, ...]


class AgentStanding(Reply, frozen=True):
    """How an agent is: `problem` says why it cannot run now; of its turns `running` and `waiting`
    count those of this moment, and `turns_max` may run at a time (None: as many as there are).
    """

    name: str
    kind: str
    running: int
    waiting: int
    models: tuple[str, ...] = ()
    steer: bool = False
    is_default: bool = False
    turns_max: int | None = None
    problem: str | None = None


class Agents(Reply, frozen=True):
    """The configured agents, the default one first."""

    agents: tuple[AgentStanding, ...]


class TurnMetrics(Reply, frozen=True):
    """What one sealed turn cost."""

    turn_id: str
    usage: TokenUsage | None = None
    duration_ms: float | None = None


class Metrics(Reply, frozen=True):
    """Of the sealed turns of a conversation."""

    turns: tuple[TurnMetrics, ...]


class StopReply(Reply, frozen=True):
    """Whether a turn was running and has been told to stop."""

    conversation_id: str
    aborted_turn: bool


class QueuedMessage(Reply, frozen=True):
    """A message that waits for its turn. `queued_at` in epoch milliseconds."""

    id: str
    text: str
    queued_at: int


class QueueReply(Reply, frozen=True):
    """The queue after a message was added; `started_turn` if nothing was running."""

    conversation_id: str
    started_turn: bool
    queue: tuple[QueuedMessage, ...] = ()


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


class _Failure(msgspec.Struct, rename="camel"):
    error: str
    code: str | None = None
    retry_after_ms: int | None = None


class _ExportedTurn(msgspec.Struct, rename="camel"):
    outcome: str
    first_seq: int
    chunk_count: int


_TURN_OPENING: Final = b'{"type":"turn",'


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        """Answer every redirect as what it is: not the daemon."""


class HttpApi:
    """The HTTP routes of a daemon."""

    def __init__(
        self, address: Address, options: Options | None = None, *, read_attempts: int = 1
    ) -> None:
        """Nothing is opened until something is asked. `read_attempts`: how often if it fails."""
        self._read_attempts = read_attempts
        self._address = address
        self.options = options or Options()
        proxies = urllib.request.ProxyHandler({} if address.is_loopback else None)
        self._opener = urllib.request.build_opener(proxies, _NoRedirects)

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

    async def read(self, conversation_id: str, up_to_seq: int) -> None:
        """Move the user's read cursor."""
        path = f"/conversations/{path_part(conversation_id)}/read"
        await self.ask(object, "POST", path, {"upToSeq": up_to_seq})

    async def respond(self, conversation_id: str, response: Response) -> None:
        """Answer an agent's question; `RequestClosed` if somebody was faster."""
        path = (
            f"/conversations/{path_part(conversation_id)}/requests/{path_part(response.request_id)}"
        )
        await self.ask(object, "POST", path, response)

    async def export(self, conversation_id: str) -> AsyncGenerator[bytes, None]:
        """Everything about a conversation, as NDJSON, in pieces as they come."""
        path = f"/conversations/{path_part(conversation_id)}/export"
        reply = await self.in_thread(lambda: self.open("GET", path, None))
        try:
            while piece := await self.in_thread(lambda: reply.read1(PIECE_BYTES)):
                yield piece
        finally:
            reply.close()

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
        content = None if body is None else msgspec.json.encode(body)

        def exchange() -> bytes:
            patience = self.options.reply_seconds + wait_seconds
            with self.open(method, path, content, patience_seconds=patience) as reply:
                return reply.read()

        text = await self.in_thread(exchange)
        try:
            return msgspec.json.decode(text, type=kind)
        except msgspec.DecodeError as error:
            raise PeerError(f"the reply to {method} {path} makes no sense: {error}") from error

    def open(
        self,
        method: Method,
        path: str,
        content: bytes | None,
        *,
        headers: Mapping[str, str] | None = None,
        patience_seconds: float | None = None,
    ) -> HTTPResponse:
        """Send a request and wait for the head of its reply; blocks."""
        request = urllib.request.Request(
            self._address.http + path,
            data=content,
            method=method,
            headers={**(headers or {}), **self._address.headers()},
        )
        patience = self.options.reply_seconds if patience_seconds is None else patience_seconds
        if content is not None:
            request.add_header("Content-Type", "application/json")
        try:
            reply: HTTPResponse = self._opener.open(request, timeout=patience)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error, self._address) from error
        return reply

    async def in_thread(
        self, call: Callable[[], T], limiter: anyio.CapacityLimiter | None = None
    ) -> T:
        """Run what blocks; a cancelled caller does not wait for it."""
        try:
            return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=limiter)
        except TimeoutError as error:
            raise ConnectionLost(f"no answer from {self._address.http}") from error
        except urllib.error.URLError as error:
            cause = error.reason
            reason = reason_of(cause) if isinstance(cause, OSError) else cause
            raise CannotConnect(f"cannot connect to {self._address.http}: {reason}") from error
        except (OSError, HTTPException) as error:
            raise ConnectionLost(f"the connection to {self._address.http} was lost") from error


def _refusal(error: urllib.error.HTTPError, address: Address) -> DispatchError:
    try:
        failure = msgspec.json.decode(error.read(PIECE_BYTES), type=_Failure)
    except (msgspec.DecodeError, OSError, HTTPException):
        return failure_from_status(error.code, f"{address.http} answers HTTP {error.code}")
    if failure.code is None:
        return failure_from_status(error.code, failure.error)
    return failure_from_wire(
        failure.error,
        failure.code,
        status=error.code,
        retryable=error.code in {429, 503},
        retry_after_ms=failure.retry_after_ms or _retry_after_ms(error.headers["Retry-After"]),
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
