"""The client: `async with Client("http://127.0.0.1:8765") as client`.

Neighbours: `link` is its socket; `conversation`, `group` and `chats` are what it follows.
Invariant: only what the server does once, however often it comes, is asked again.
"""

import asyncio

import httpx

from dispatch_client.chats import Chats
from dispatch_client.conversation import Conversation
from dispatch_client.errors import Lost, Refused
from dispatch_client.group import Group
from dispatch_client.link import Link

TRIES = 6


class Client:
    def __init__(self, url, token=None):
        self.url = url.rstrip("/")
        self.link = Link(self.url, token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # A send may wait a minute for its answer.
        self._http = httpx.AsyncClient(headers=headers, timeout=75)
        self._followed = {}

    async def __aenter__(self):
        self.link.start()
        return self

    async def __aexit__(self, *_):
        await self.link.close()
        await self._http.aclose()

    async def conversation(self, conversation_id):
        """Followed from its first word on, and through every break of the connection."""
        key = ("chat", conversation_id)
        if key not in self._followed:
            await self._follow(key, Conversation(self, conversation_id))
        return self._followed[key]

    async def group(self, group_id):
        key = ("group", group_id)
        if key not in self._followed:
            group = Group(self, group_id)
            await group.load()
            await self._follow(key, group)
        return self._followed[key]

    async def create_group(self, members, title=None):
        body = {"memberFamiliarIds": members, "title": title}
        return await self.group((await self.http("POST", "/api/groups", body))["id"])

    async def chats(self):
        if "chats" not in self._followed:
            await self._follow("chats", Chats(self))
        return self._followed["chats"]

    async def _follow(self, key, follower):
        self._followed[key] = follower
        await self.link.follow(key, follower)

    def forget(self, follower):
        for key in [key for key, one in self._followed.items() if one is follower]:
            del self._followed[key]
            self.link.unfollow(key)

    async def http(self, method, path, body=None, repeat=False):
        """The JSON of the answer. Reads are repeated where the way there failed, and so is what
        the server does once however often it comes."""
        repeat = repeat or method == "GET"
        for attempt in range(TRIES):
            try:
                answer = await self._http.request(method, self.url + path, json=body)
                break
            except httpx.TransportError as wrong:
                if not repeat or attempt == TRIES - 1:
                    raise Lost(f"{method} {path}: {wrong!r}") from None
                await asyncio.sleep(0.25 * 2**attempt)
        if answer.is_success:
            return answer.json()
        try:
            said = answer.json()
        except ValueError:
            said = {}
        after = answer.headers.get("Retry-After")
        raise Refused(
            said.get("code", str(answer.status_code)),
            said.get("error", answer.reason_phrase),
            answer.status_code in (429, 503),
            float(after) if after and after.isdigit() else None,
        )
