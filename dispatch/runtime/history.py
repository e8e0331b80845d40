"""Reading what is kept: chunks by seq, events by offset, and what an agent is told.

Neighbours: `storage.port` is read, `broker` and the routes ask, `turns` hands an agent its context.
Chunk bytes are spliced, never decoded, on the way to a client.
Invariant: only sealed turns are history. A reader that is given pages holds one of them, and room
for it where it is a large one: a turn is never cut in two.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final, NamedTuple

from dispatch.core.content import (
    ErrorChunk,
    Fold,
    StoredLine,
    Text,
    ToolCallChunk,
    ToolResultChunk,
    decode_line,
    encode_line,
    superseded_with_seq,
    with_seq,
)
from dispatch.core.events import decode_event
from dispatch.core.identity import TurnId
from dispatch.core.replay import Entry
from dispatch.core.truncation import NOTHING, Superseded, is_superseded, last_counting
from dispatch.runtime.live import Live
from dispatch.runtime.room import Room
from dispatch.storage.keys import ConversationKey
from dispatch.storage.port import EventRecord, SealedTurn, Store

# Turns and events read at once: a millisecond of a reader's time, and what each of a thousand
# slow ones may hold.
_TURNS_PAGE: Final = 64
_BYTES_PAGE: Final = 256 * 1024
EVENTS_PAGE: Final = 2_000

_TEXT_PREFIX: Final = b'{"type":"text-delta"'
_REASONING_PREFIX: Final = b'{"type":"reasoning-delta"'


class Page(NamedTuple):
    """Chunks in their wire form, ascending, the seq of the last one, and the turns they are of."""

    chunks: list[bytes]
    last_seq: int
    turns: list[SealedTurn]


class History:
    """What is kept of conversations."""

    def __init__(
        self, store: Store, *, bytes_max: int, held_bytes_max: int = 128 * 1024 * 1024
    ) -> None:
        """`bytes_max` bounds what an agent is told, `held_bytes_max` all large pages together."""
        self._store = store
        self._bytes_max = bytes_max
        self._room = Room(held_bytes_max)

    @asynccontextmanager
    async def holding(self, size: int) -> AsyncIterator[None]:
        """Wait until a page of so many bytes may be held; an ordinary one always may."""
        if size <= _BYTES_PAGE:
            yield
            return
        async with self._room.taken(size):
            yield

    async def pages(
        self,
        conversation: ConversationKey,
        *,
        since: int,
        before: int | None,
        superseded: Superseded = NOTHING,
    ) -> AsyncGenerator[Page, None]:
        """Every chunk with since < seq < before, ascending, page by page; those that `superseded`
        names are marked.

        Between two pages the first one is taken to be held still: whoever stops early closes this.
        """
        while True:
            turns = await self._store.sealed_turns(
                conversation, since_seq=since, before_seq=before, limit=_TURNS_PAGE
            )
            turns = _within(turns, _BYTES_PAGE)
            if not turns:
                return
            async with self.holding(_size(turns)):
                chunks = await self._chunks(turns, since, before, superseded)
                since = turns[-1].first_seq + turns[-1].chunk_count - 1
                last_seq = since if before is None else min(since, before - 1)
                yield Page(chunks, last_seq, turns)
                del chunks

    async def turns(
        self, conversation: ConversationKey, *, before: int, superseded: Superseded = NOTHING
    ) -> AsyncGenerator[tuple[SealedTurn, list[bytes]], None]:
        """Every sealed turn with a chunk before a seq, ascending, with its chunks; as `pages`."""
        since = 0
        while True:
            turns = await self._store.sealed_turns(
                conversation, since_seq=since, before_seq=before, limit=_TURNS_PAGE
            )
            turns = _within(turns, _BYTES_PAGE)
            if not turns:
                return
            async with self.holding(_size(turns)):
                keys = [turn.key for turn in turns]
                for turn, data in zip(turns, await self._store.chunk_bytes(keys), strict=True):
                    lines = data.split(b"\n")[:-1]
                    write = _writer(superseded, turn)
                    yield turn, [write(*one) for one in zip(lines, turn.seqs, strict=True)]
            since = turns[-1].first_seq + turns[-1].chunk_count - 1

    async def context(self, live: Live, resumes: TurnId | None = None) -> list[StoredLine]:
        """What an agent is told: the newest sealed turns that fit, oldest first.

        A turn is never split, one that only failed is left out unless another went on with it, and
        a tool call without a result gets one that says so. What `resumes` names is left out where
        nothing was said in it: its message is given to the agent again.
        """
        return await self._context(live, live.record.last_seq, resumes)

    async def background(
        self, live: Live, *, up_to_seq: int | None = None, with_running: bool = False
    ) -> bytes:
        """What the agent of another conversation is told of this one: its context up to a seq, and
        what was shown of the running turn; as chunks are kept.
        """
        last_seq = live.record.last_seq if up_to_seq is None else up_to_seq
        running = await self._so_far(live) if with_running else []
        lines = [*await self._context(live, last_seq), *_closed_calls(running)]
        kept = [encode_line(line.role, line.chunk) for line in lines]
        return b"".join(_newest(lines, kept, self._bytes_max))

    async def _context(
        self, live: Live, last_seq: int, resumes: TurnId | None = None
    ) -> list[StoredLine]:
        chosen: list[list[StoredLine]] = []
        room = self._bytes_max
        async with aclosing(self._told(live, last_seq, resumes)) as turns:
            async for turn, lines in turns:
                if turn.bytes_total > room:
                    return [line for lines in reversed(chosen) for line in lines]
                room -= turn.bytes_total
                chosen.append(_closed_calls(lines))
        if live.details.background is not None:
            (data,) = await self._store.chunk_bytes([live.details.background.marker])
            kept = data.splitlines(keepends=True)
            known = [decode_line(line) for line in kept]
            chosen.append(known[len(known) - len(_newest(known, kept, room)) :])
        return [line for lines in reversed(chosen) for line in lines]

    async def _so_far(self, live: Live) -> list[StoredLine]:
        """The chunks of what was shown of the running turn."""
        current, fold = live.current, Fold()
        if current is None or current.first_offset is None:
            return []
        for entry in await self.between(live, current.first_offset - 1, live.feed.head):
            fold.add(decode_event(entry.payload), entry.payload)
        fold.finish()
        _, data = fold.take()
        lines = [decode_line(line) for line in data.split(b"\n") if line]
        return lines if current.body.resumes is None else lines[1:]

    async def previous_turn(self, live: Live, resumes: TurnId | None = None) -> TurnId | None:
        """The newest turn that an agent is told of: the last one of `context`, without its bounds
        on size.
        """
        async with aclosing(self._told(live, live.record.last_seq, resumes)) as turns:
            async for turn, _ in turns:
                return turn.id
        return None

    async def said(self, live: Live, resumes: TurnId) -> list[StoredLine]:
        """What the agent said, in words and with tools, in a turn and in those that it resumed."""
        found: list[StoredLine] = []
        wanted: TurnId | None = resumes
        async with aclosing(self._counting(live, live.record.last_seq)) as turns:
            async for turn in turns:
                if turn.id != wanted:
                    break
                found = [*_own_words(await self._lines(turn)), *found]
                wanted = turn.resumes
        return found

    async def last_counting(self, live: Live) -> SealedTurn | None:
        """The newest sealed turn that no truncation left behind."""
        async with aclosing(self._counting(live, live.record.last_seq)) as turns:
            async for turn in turns:
                return turn
        return None

    async def _told(
        self, live: Live, last_seq: int, resumes: TurnId | None
    ) -> AsyncGenerator[tuple[SealedTurn, list[StoredLine]], None]:
        """The turns that an agent is told of up to a seq, newest first, with their lines."""
        is_silent = resumes is not None and not await self.said(live, resumes)
        wanted, left_out = (None, resumes) if is_silent else (resumes, None)
        async with aclosing(self._counting(live, last_seq)) as turns:
            async for turn in turns:
                if turn.id == left_out:
                    left_out = turn.resumes
                    continue
                lines = await self._lines(turn)
                if turn.id == wanted or turn.outcome != "error" or not _only_failed(lines):
                    wanted = turn.resumes
                    yield turn, lines

    async def _counting(self, live: Live, seq: int) -> AsyncGenerator[SealedTurn, None]:
        """The sealed turns up to a seq that no truncation left behind, newest first."""
        superseded = live.past.superseded
        while seq := last_counting(superseded, seq):
            turns = await self._store.sealed_turns(
                live.record.key, before_seq=seq + 1, newest_first=True, limit=_TURNS_PAGE
            )
            if not turns:
                return
            for turn in turns:
                if not is_superseded(superseded, turn.first_seq):
                    yield turn
            seq = turns[-1].first_seq - 1

    async def _lines(self, turn: SealedTurn) -> list[StoredLine]:
        """Without what only says to people that it was resumed."""
        (data,) = await self._store.chunk_bytes([turn.key])
        lines = [decode_line(line) for line in data.split(b"\n") if line]
        return lines if turn.resumes is None else lines[1:]

    @asynccontextmanager
    async def held_text(
        self, conversation: ConversationKey, up_to_seq: int
    ) -> AsyncIterator[tuple[str, TurnId | None]]:
        """The text of the newest turn's answer up to there, and the turn's id; empty if there is
        none. There is room for it during the block.
        """
        turns = await self._store.sealed_turns(
            conversation, before_seq=up_to_seq + 1, newest_first=True, limit=1
        )
        async with self.holding(_size(turns)):
            yield await self._text(turns)

    async def _text(self, turns: list[SealedTurn]) -> tuple[str, TurnId | None]:
        if not turns:
            return "", None
        texts = [
            line.chunk.text
            for line in await self._lines(turns[0])
            if line.role == "assistant" and isinstance(line.chunk, Text)
        ]
        return "".join(texts), turns[0].id

    async def last_sealed(self, conversation: ConversationKey) -> tuple[TurnId, int] | None:
        """The newest sealed turn, and when it was sealed (epoch ms)."""
        turns = await self._store.sealed_turns(conversation, newest_first=True, limit=1)
        return (turns[0].id, turns[0].sealed_at_ms) if turns else None

    async def events(
        self, conversation: ConversationKey, after: int, limit: int = EVENTS_PAGE
    ) -> list[Entry]:
        """Shown entries after an offset from the journal; empty where the next one was pruned."""
        records = await self._store.events(conversation, after, limit, bytes_max=_BYTES_PAGE)
        if not records or records[0].offset != after + 1:
            return []
        turns = {record.turn for record in records}
        ids = await self._store.turn_ids(sorted(turns))
        if len(ids) < len(turns):
            # The conversation was deleted between the two reads.
            return []
        return [
            Entry(record.offset, ids[record.turn], record.payload, delta_kind(record))
            for record in records
        ]

    async def between(self, live: Live, after: int, head: int) -> list[Entry]:
        """What was shown behind an offset up to another, of events that are not pruned yet."""
        entries: list[Entry] = []
        while after < head:
            due = min(EVENTS_PAGE, head - after)
            page = await self.events(live.record.key, after, due)
            if not page:
                break
            entries += page
            after = page[-1].offset
        return entries

    async def _chunks(
        self,
        turns: Sequence[SealedTurn],
        since: int,
        before: int | None,
        superseded: Superseded,
    ) -> list[bytes]:
        chunks = []
        for turn, data in zip(
            turns, await self._store.chunk_bytes([turn.key for turn in turns]), strict=True
        ):
            lines = data.split(b"\n")
            write = _writer(superseded, turn)
            for seq, line in enumerate(lines[:-1], turn.first_seq):
                if seq > since and (before is None or seq < before):
                    chunks.append(write(line, seq))
        return chunks


def delta_kind(record: EventRecord) -> str:
    """Which run a stored event may be merged into, as in `replay.Entry.delta`."""
    if record.payload.startswith(_TEXT_PREFIX):
        return "text-delta"
    if record.payload.startswith(_REASONING_PREFIX):
        return "reasoning-delta"
    return ""


def _writer(superseded: Superseded, turn: SealedTurn) -> Callable[[bytes, int], bytes]:
    return superseded_with_seq if is_superseded(superseded, turn.first_seq) else with_seq


def _size(turns: list[SealedTurn]) -> int:
    return sum(turn.bytes_total for turn in turns)


def _within(turns: list[SealedTurn], bytes_max: int) -> list[SealedTurn]:
    """At least one turn, and no more than fit."""
    size = 0
    for index, turn in enumerate(turns):
        size += turn.bytes_total
        if size > bytes_max and index:
            return turns[:index]
    return turns


def _only_failed(lines: list[StoredLine]) -> bool:
    return all(line.role == "user" or isinstance(line.chunk, ErrorChunk) for line in lines)


def _newest(lines: list[StoredLine], kept: list[bytes], bytes_max: int) -> list[bytes]:
    """As many of the last lines as fit, from a message on; `kept` are the same lines."""
    size = sum(map(len, kept))
    first = 0
    while size > bytes_max and first < len(lines):
        size -= len(kept[first])
        first += 1
        while first < len(lines) and lines[first].role != "user":
            size -= len(kept[first])
            first += 1
    return kept[first:]


def _own_words(lines: list[StoredLine]) -> list[StoredLine]:
    return [
        line for line in lines if line.role != "user" and not isinstance(line.chunk, ErrorChunk)
    ]


def _closed_calls(lines: list[StoredLine]) -> list[StoredLine]:
    calls = {c.chunk.tool_call_id: c.chunk for c in lines if isinstance(c.chunk, ToolCallChunk)}
    for line in lines:
        if isinstance(line.chunk, ToolResultChunk):
            calls.pop(line.chunk.tool_call_id, None)
    missing = [
        StoredLine(
            "tool",
            ToolResultChunk(
                call.tool_call_id, call.tool_name, "no result was kept", True, call.step_id
            ),
        )
        for call in calls.values()
    ]
    return [*lines, *missing]
