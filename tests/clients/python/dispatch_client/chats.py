"""A person's chat sessions: the routes, and their events over the WebSocket.

Neighbours: `link` brings the events; `client` asks the routes.
Invariant: what is shown is by session and `seq`, so an event that comes again changes nothing.
"""

import uuid

from dispatch_client.follower import Follower


def utf16(text):
    """`offset` counts as JavaScript does; Python counts code points."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


class Chats(Follower):
    """`messages` holds, by session and seq, what came; `live` the text of answers being said."""

    def __init__(self, client):
        super().__init__()
        self.messages = {}
        self.live = {}
        self._client = client
        self._last = None

    def opening(self):
        frame = {"type": "chats.subscribe", "deltas": True}
        return frame if self._last is None else {**frame, "lastEventId": self._last}

    def receive(self, frame):
        # Typing of people and deltas have no id; `connected` and a resync have a cursor.
        if frame["event"] in ("connected", "resync_required"):
            self._last = frame["data"]["cursor"]
        else:
            self._last = frame.get("id", self._last)
        self._frames.put_nowait(frame)

    async def changes(self):
        """Each event once. After `resync_required` what is shown has to be read again: `show`."""
        while True:
            frame = await self._next()
            data = frame.get("data", {})
            if frame["event"] == "chat_message":
                self.live.pop(data["id"], None)
                self._keep(data)
            elif frame["event"] == "chat_message_delta":
                await self._append(data)
            elif frame["event"] == "resync_required":
                self.messages.clear()
                self.live.clear()
            yield frame

    async def _append(self, delta):
        text = self.live.get(delta["message_id"], "")
        if delta["offset"] > utf16(text):
            # Deltas are not sent again, so whoever joins in the middle reads what there is.
            await self.show(delta["chat_session_id"])
            text = self.live.get(delta["message_id"], "")
        behind = utf16(text) - delta["offset"]
        if behind >= 0:
            more = delta["text"].encode("utf-16-le", "surrogatepass")[2 * behind :]
            text += more.decode("utf-16-le", "surrogatepass")
            self.live[delta["message_id"]] = text

    def _keep(self, message):
        rows = self.messages.setdefault(message["chat_session_id"], {})
        rows[message["seq"]] = message

    async def create(self, agent, title=None):
        return await self._client.http("POST", "/v1/chat", {"agent_key": agent, "title": title})

    async def list(self, status="active"):
        return await self._client.http("GET", f"/v1/chat?status={status}")

    async def show(self, session_id):
        session = await self._client.http("GET", f"/v1/chat/{session_id}")
        for message in session["messages"]:
            self._keep(message)
            if message["status"] == "streaming":
                self.live[message["id"]] = message["content"]
        return session

    async def send(self, session_id, content, client_message_id=None, wait=None):
        """Accepted once, however often the request fails on its way."""
        body = {"content": content, "client_message_id": client_message_id or uuid.uuid4().hex}
        query = "" if wait is None else f"?wait={wait}"
        path = f"/v1/chat/{session_id}/messages{query}"
        return await self._client.http("POST", path, body, repeat=True)

    async def read(self, session_id, up_to_seq=None):
        path = f"/v1/chat/{session_id}/read"
        return await self._client.http("POST", path, {"up_to_seq": up_to_seq})

    async def cancel(self, session_id, task_id=None):
        path = f"/v1/chat/{session_id}/cancel"
        return await self._client.http("POST", path, {"task_id": task_id})

    async def close(self):
        self._client.forget(self)
        await self._client.link.tell({"type": "chats.unsubscribe"})
