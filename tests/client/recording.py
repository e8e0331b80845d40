"""A conversation as a daemon keeps it, shown at any moment and from any place: the model.

What the cursor and the transcript are held against, without a socket. It merges adjacent deltas or
not as it likes, prunes events, and answers a subscription as `protocol/native.md` says.
"""

import json
from collections.abc import Iterable, Sequence

import msgspec

from dispatch.client.decoding import ServerFrame, decode_frame
from dispatch.core.content import Fold, StoredChunk, decode_line
from dispatch.core.events import AnyEvent, TextDelta, TurnSealed, UserMessage, encode_event

GENERATION = "g"


class Recording:
    """Events with their turns; the offset of an event is its index and one."""

    def __init__(self, turns: Sequence[Sequence[AnyEvent]]) -> None:
        self.events = [(f"t{n}", event) for n, events in enumerate(turns) for event in events]

    def text(self, head: int) -> str:
        shown = (event for _, event in self.events[:head])
        return "".join(event.delta for event in shown if isinstance(event, TextDelta))

    def history(self, head: int) -> list[StoredChunk]:
        """What is sealed at a head."""
        sealed, _ = self._chunks(head)
        return sealed

    def in_flight(self, head: int) -> int | None:
        """The offset before the running turn's first event, if one runs."""
        for offset in range(head, 0, -1):
            match self.events[offset - 1][1]:
                case TurnSealed():
                    return None
                case UserMessage():
                    return offset - 1
        return None

    def subscribe(
        self, asked: dict[str, object], head: int, *, kept_after: int, is_merged: bool
    ) -> list[ServerFrame]:
        """The reply and everything up to the head. `kept_after`: older events are pruned."""
        reply = {
            "type": "chat.subscribed",
            "conversationId": "c",
            "recovered": True,
            "position": f"{GENERATION}:{head}",
            "lastSeq": len(self.history(head)),
            "status": "idle",
        }
        running = self.in_flight(head)
        if running is not None:
            reply |= {"status": "active", "turnId": self.events[running][0]}
        if "after" in asked:
            after = int(str(asked["after"]).partition(":")[2])
            if after < kept_after:
                return self._decode([reply | {"recovered": False}, self._snapshot(head)])
            return self._decode([reply]) + self.frames(after, head, is_merged=is_merged)
        frames: list[dict[str, object]] = [reply]
        if "sinceSeq" in asked:
            chunks = [
                chunk for chunk in self.history(head) if chunk.seq > int(str(asked["sinceSeq"]))
            ]
            # One chunk a page, so that a cut may fall between any two.
            for index, chunk in enumerate(chunks):
                frames.append(self._page([chunk], more=index + 1 < len(chunks)))
        first = head if running is None else running
        return self._decode(frames) + self.frames(first, head, is_merged=is_merged)

    def frames(self, after: int, head: int, *, is_merged: bool) -> list[ServerFrame]:
        """The events after an offset, up to and including the head's."""
        shown: list[tuple[int, str, AnyEvent]] = []
        for offset, (turn, event) in enumerate(self.events[after:head], after + 1):
            if is_merged and shown and isinstance(event, TextDelta):
                _, last_turn, last = shown[-1]
                if isinstance(last, TextDelta) and last_turn == turn:
                    shown[-1] = (offset, turn, TextDelta(last.delta + event.delta))
                    continue
            shown.append((offset, turn, event))
        return self._decode(
            {
                "type": "chat.delta",
                "position": f"{GENERATION}:{offset}",
                "event": json.loads(encode_event(event)) | {"conversationId": "c", "turnId": turn},
            }
            for offset, turn, event in shown
        )

    def _snapshot(self, head: int) -> dict[str, object]:
        sealed, running = self._chunks(head)
        snapshot: dict[str, object] = {
            "type": "chat.snapshot",
            "conversationId": "c",
            "position": f"{GENERATION}:{head}",
            "lastSeq": len(sealed),
        }
        if (first := self.in_flight(head)) is not None:
            turn = self.events[first][0]
            snapshot["turn"] = {"turnId": turn, "startedAt": 0, "requests": [], "chunks": running}
        return snapshot

    def _chunks(self, head: int) -> tuple[list[StoredChunk], list[object]]:
        sealed: list[StoredChunk] = []
        fold = Fold()
        for _, event in self.events[:head]:
            if isinstance(event, UserMessage):
                fold = Fold()
            fold.add(event, encode_event(event))
            if isinstance(event, TurnSealed):
                fold.finish()
                for line in fold.take()[1].splitlines():
                    kept = decode_line(line)
                    sealed.append(StoredChunk(len(sealed) + 1, kept.role, kept.chunk))
        fold.finish()
        return sealed, [json.loads(b"{%b}" % line) for line in fold.take()[1].splitlines()]

    @staticmethod
    def _page(chunks: list[StoredChunk], *, more: bool) -> dict[str, object]:
        return {
            "type": "chat.history",
            "conversationId": "c",
            "chunks": msgspec.json.decode(msgspec.json.encode(chunks)),
            "latestSeq": chunks[-1].seq,
            "more": more,
        }

    @staticmethod
    def _decode(frames: Iterable[dict[str, object]]) -> list[ServerFrame]:
        decoded = [decode_frame(json.dumps(frame).encode()) for frame in frames]
        return [frame for frame in decoded if frame is not None]
