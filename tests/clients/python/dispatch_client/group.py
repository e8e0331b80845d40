"""A group: its rows by `seq`, as every device has them.

Neighbours: `link` brings the frames; `client` asks the routes.
Invariant: a row is changed by frames behind the cursor it was read at, each once.
"""

import uuid

from dispatch_client.follower import Follower


class Group(Follower):
    def __init__(self, client, group_id):
        super().__init__()
        self.id = group_id
        self.about = None
        self.rows = {}
        self._client = client
        self._received = 0
        self._folded = 0

    async def load(self):
        """The rows as they are; what follows has a larger frame than the cursor."""
        snapshot = await self._client.http("GET", f"/api/groups/{self.id}")
        self.about = snapshot["group"]
        self.rows = {row["seq"]: row for row in snapshot["events"]}
        self._folded = snapshot["cursor"]
        self._received = max(self._received, self._folded)

    def opening(self):
        return {"type": "group.subscribe", "groupId": self.id, "cursor": self._received}

    def receive(self, frame):
        if not self.refused(frame) and frame["type"] == "group.event":
            # A gap has no number of its own: going on from where it leads does not repeat it.
            self._received = frame.get("frameId") or frame["event"].get("cursor", self._received)
            self._frames.put_nowait(frame)

    async def changes(self):
        """Each frame once, folded already. The stream's end is `group_deleted`."""
        while True:
            frame = await self._next()
            event = frame["event"]
            if event.get("id") == "resume-gap":
                await self.load()
            elif frame["frameId"] <= self._folded:
                continue  # the rows that were read have it
            else:
                self._folded = frame["frameId"]
                self._take(event)
            yield event
            if event.get("kind") == "group_deleted":
                return

    def _take(self, event):
        kind = event.get("kind")
        if kind == "group_updated":
            self.about = event["group"]
        elif kind == "assistant_chunk" and event["seq"] in self.rows:
            row = self.rows[event["seq"]]
            row["text"] += event["text"]
        elif kind in ("user", "assistant_chunk", "error", "done") and event["seq"]:
            self.rows[event["seq"]] = dict(event)

    async def send(self, text, client_message_id=None, **fields):
        """Accepted once. `fields`: targetFamiliarIds, onBusy."""
        return await self._client.link.call(
            {
                "type": "group.send",
                "groupId": self.id,
                "text": text,
                "clientMessageId": client_message_id or uuid.uuid4().hex,
                **fields,
            },
            repeat=True,
        )

    async def ask(self, text, **fields):
        """Sends, and reads on until all members are over: the rows that answer."""
        accepted = await self.send(text, **fields)
        seq = accepted["userSeq"]
        async for event in self.changes():
            over = event.get("kind") == "done" and event.get("scope") == "group"
            if over and event["replyTo"] == seq:
                return [row for row in self.rows.values() if row.get("replyTo") == seq]
        return None  # the group was deleted

    async def stop(self, **which):
        """`familiarId`, `replyTo`, `runId`. Only what names a message or a run may be repeated."""
        frame = {"type": "group.stop", "groupId": self.id, **which}
        return await self._client.link.call(frame, repeat=bool({"replyTo", "runId"} & set(which)))

    async def read(self, up_to_seq):
        frame = {"type": "group.read", "groupId": self.id, "upToSeq": up_to_seq}
        return await self._client.link.call(frame, repeat=True)

    async def close(self):
        self._client.forget(self)
        await self._client.link.tell({"type": "group.unsubscribe", "groupId": self.id})
