"""A conversation: what was said before, and what is said from then on, without a gap.

Neighbours: `turn` folds what is said; `link` brings the frames.
Invariant: the position moves with what was received, and what was received is kept.
"""

import uuid

from dispatch_client.errors import Refused
from dispatch_client.follower import Follower
from dispatch_client.turn import Turn


class Conversation(Follower):
    """`history` are chunks of turns that were over when following began; `turns` came since."""

    def __init__(self, client, conversation_id):
        super().__init__()
        self.id = conversation_id
        self.history = []
        self.turns = {}
        self._client = client
        self._position = None
        self._latest_seq = 0
        self._head = None

    @property
    def text(self):
        """The text of the newest turn."""
        return next(reversed(self.turns.values())).text if self.turns else ""

    def opening(self):
        frame = {"type": "chat.subscribe", "conversationId": self.id}
        if self._position is None:
            # Nothing came that could be gone on from: history first, behind what there is of it.
            return {**frame, "sinceSeq": self._latest_seq}
        return {**frame, "after": self._position}

    def receive(self, frame):
        kind = frame["type"]
        if self.refused(frame):
            return
        if kind == "conversation.deleted":
            self.stopped(Refused("gone", "the conversation was deleted"))
        elif kind == "chat.subscribed":
            # With a turn in flight the head lies behind events that are still to come, and would
            # lose them if the connection broke now.
            self._head = None if "turnId" in frame else frame["position"]
        elif kind == "chat.history":
            self._latest_seq = max(self._latest_seq, frame["latestSeq"])
            if not frame["more"]:
                self._position = self._head
        elif kind in ("chat.delta", "chat.request", "chat.request.closed", "chat.snapshot"):
            # An answer to a request without watching has no position.
            self._position = frame.get("position", self._position)
        self._frames.put_nowait(frame)

    async def changes(self):
        """Every change once, folded already: events, requests, history and snapshots."""
        while True:
            frame = await self._next()
            if frame["type"] == "chat.delta":
                self._turn(frame["event"]["turnId"]).take(frame["event"])
                yield frame["event"]
            elif frame["type"] in ("chat.request", "chat.request.closed"):
                if "turnId" in frame:
                    self._turn(frame["turnId"]).take(frame)
                yield frame
            elif frame["type"] == "chat.history":
                self.history += frame["chunks"]
                yield frame
            elif frame["type"] == "chat.snapshot":
                await self._replace(frame)
                yield frame

    async def send(self, message, client_message_id=None, **fields):
        """Accepted once, however often the connection breaks. `fields`: model, onBusy, ..."""
        return await self._client.link.call(
            {
                "type": "chat.send",
                "conversationId": self.id,
                "message": message,
                "clientMessageId": client_message_id or uuid.uuid4().hex,
                **fields,
            },
            repeat=True,
        )

    async def ask(self, message, **fields):
        """Sends, and reads on until that message's turn is over. A message that waits and is taken
        back by somebody has no turn, and nothing says so: a caller that may wait sets a time."""
        accepted = await self.send(message, **fields)
        turn_id = accepted.get("turnId") or accepted.get("queueId")
        async for change in self.changes():
            if turn_id is None and change["type"] in ("steering", "user-message"):
                # It was steered: only its text tells which turn took it.
                turn_id = change["turnId"] if change["text"] == message else None
            if turn_id in self.turns and self.turns[turn_id].sealed:
                return self.turns[turn_id]
        raise AssertionError("changes end with an error only")

    async def stop(self, turn_id=None):
        # Without a turn a repeat could stop the next one.
        frame = {"type": "chat.stop", "conversationId": self.id}
        if turn_id:
            frame["turnId"] = turn_id
        return await self._client.link.call(frame, repeat=turn_id is not None)

    async def respond(self, request_id, **answer):
        """`optionId` or `approved`, or `action` and `answers`. Over HTTP, because a watcher's
        answer has no reply of its own on the socket."""
        path = f"/conversations/{self.id}/requests/{request_id}"
        return await self._client.http("POST", path, answer)

    async def close(self):
        self._client.forget(self)
        await self._client.link.tell({"type": "chat.unsubscribe", "conversationId": self.id})

    def _turn(self, turn_id):
        return self.turns.setdefault(turn_id, Turn(turn_id))

    async def _replace(self, snapshot):
        page = await self._client.http("GET", f"/conversations/{self.id}")
        # Turns that were sealed since come as events as well.
        self.history = [c for c in page["chunks"] if c["seq"] <= snapshot["lastSeq"]]
        self.turns = {}
        if "turn" in snapshot:
            turn = Turn.of_snapshot(snapshot["turn"])
            self.turns[turn.id] = turn
