"""Three windows on one session of several chats, and somebody beside them over HTTP, by seeds.

Neighbours: `test_ahp_machine` looks for short orders of two windows in one chat and shrinks them;
these are long ones, with forks, side chats, disposals and everything that the native dialect does.
Each seed says what is done in which order; what arrives when is the machine's.
DISPATCH_TEST_AHP_SEEDS=300 takes three minutes; nobody diverged in it on 2026-11-21.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.clients.ahp.ahp_client.client import ROOT, Client, client
from tests.clients.ahp.ahp_client.copies import Copy
from tests.clients.ahp.ahp_client.rpc import RpcError
from tests.clients.ahp.ahp_client.words import Json
from tests.e2e.ahp import VERSIONS, Seat, created, message, new_id, seated, serving
from tests.e2e.process import DaemonProcess
from tests.e2e.test_ahp_machine import answer_to
from tests.protocol.replies import http_client

SEEDS = int(os.environ.get("DISPATCH_TEST_AHP_SEEDS", "8"))
STEPS = 60
CHATS_MAX = 4
AGENTS = ("broken", "alice", "endless", "handy", "listener", "asker", "deaf", "mute")


class Window:
    """A client in a session; it acts in one chat of it, and may go to another."""

    def __init__(self, seat: Seat, rng: random.Random) -> None:
        self.client: Client = seat.client
        self.session: Copy = seat.session
        self.chat: Copy = seat.chat
        self.rng = rng
        self.acts: list[Callable[[], Awaitable[object]]] = [
            *[self.start] * 3,
            *[self.go_elsewhere] * 2,
            *(self.queue, self.steer, self.take_back, self.reorder, self.cancel, self.answer),
            *(self.truncate, self.resume, self.draft, self.rename, self.flag, self.default),
            *(self.new_chat, self.fork, self.begin_beside, self.dispose),
            *(self.check, self.lose_the_connection),
        ]

    async def act(self) -> None:
        """Anything; what the host refuses is refused."""
        if self.session.uri not in self.client.copies:
            # It was disposed of.
            return
        if self.chat.uri not in self.client.copies:
            await self.go_elsewhere()
        elif self.chat.uri in self.chats:
            try:
                await self.rng.choice(self.acts)()
            except RpcError:
                return
        else:
            await self.forget_what_is_gone()

    @property
    def chats(self) -> list[str]:
        return [one["resource"] for one in self.session.confirmed["chats"]]

    @property
    def turns(self) -> list[Json]:
        turns: list[Json] = self.chat.confirmed["turns"]
        return turns

    async def tell(self, kind: str, /, **members: object) -> None:
        action = {"type": f"chat/{kind}", **members}
        await self.client.dispatch(self.chat.uri, action)

    async def tell_session(self, kind: str, /, **members: object) -> None:
        action = {"type": f"session/{kind}", **members}
        await self.client.dispatch(self.session.uri, action)

    async def start(self) -> None:
        await Seat(self.client, self.session, self.chat).start(new_id("start"))

    async def wait(self, kind: str) -> None:
        name = new_id("waits")
        await self.tell("pendingMessageSet", kind=kind, id=name, message=message(name))

    async def queue(self) -> None:
        await self.wait("queued")

    async def steer(self) -> None:
        await self.wait("steering")

    async def take_back(self) -> None:
        for row in self.chat.shown.get("queuedMessages", [])[:1]:
            await self.tell("pendingMessageRemoved", kind="queued", id=row["id"])

    async def reorder(self) -> None:
        rows = self.chat.shown.get("queuedMessages", [])
        await self.tell("queuedMessagesReordered", order=[row["id"] for row in rows][::-1])

    async def cancel(self) -> None:
        turn = self.chat.shown.get("activeTurn")
        if turn is not None:
            await self.tell("turnCancelled", turnId=turn["id"], duration=1)

    async def answer(self) -> None:
        entries = self.session.confirmed.get("inputNeeded", [])
        mine = [one for one in entries if one["chat"] == self.chat.uri]
        for request in [one["request"] for one in mine if one["kind"] == "chatInput"][:1]:
            answers = {one["id"]: answer_to(one) for one in request["questions"]}
            response = self.rng.choice(["accept", "decline", "cancel"])
            told = {"requestId": request["id"], "response": response, "answers": answers}
            await self.tell("inputCompleted", **told)

    async def truncate(self) -> None:
        kept = {"turnId": self.rng.choice(self.turns)["id"]} if self.turns else {}
        await self.tell("truncated", **kept)

    async def resume(self) -> None:
        if self.turns and self.client.version in ("0.9.0", "1.0.0"):
            await self.tell("turnResume", turnId=self.turns[-1]["id"])

    async def draft(self) -> None:
        await self.tell("draftChanged", draft=message("half a"))

    async def rename(self) -> None:
        await self.tell_session("titleChanged", title=new_id("title"))

    async def flag(self) -> None:
        await self.rng.choice([self.tell, self.tell_session])(
            "isReadChanged", isRead=self.rng.random() < 0.5
        )

    async def default(self) -> None:
        await self.tell_session("defaultChatChanged", defaultChat=self.rng.choice(self.chats))

    async def make_chat(self, **more: object) -> None:
        if len(self.chats) < CHATS_MAX:
            uri = f"ahp-chat:/{new_id('chat')}"
            await self.client.request("createChat", self.session.uri, chat=uri, **more)

    async def new_chat(self) -> None:
        await self.make_chat()

    async def branch(self, kind: str) -> None:
        # The oldest version has forks only, and no word for them.
        if self.turns and self.client.version != "0.5.1":
            turn = self.rng.choice(self.turns)["id"]
            await self.make_chat(source={"kind": kind, "chat": self.chat.uri, "turnId": turn})

    async def fork(self) -> None:
        await self.branch("fork")

    async def begin_beside(self) -> None:
        await self.branch("sideChat")

    async def dispose(self) -> None:
        if len(self.chats) > 1:
            await self.client.request("disposeChat", self.rng.choice(self.chats))

    async def go_elsewhere(self) -> None:
        uri = self.rng.choice(self.chats)
        followed = self.client.copies.get(uri)
        self.chat = await self.client.subscribe(uri) if followed is None else followed

    async def check(self) -> None:
        await self.client.check(*self.alive)

    async def lose_the_connection(self) -> None:
        await self.client.break_off()
        await self.client.reconnect()

    @property
    def alive(self) -> list[str]:
        """What it follows, and is there as far as it knows."""
        there = {ROOT, self.session.uri, *self.chats}
        return [uri for uri in self.client.copies if uri in there]

    async def forget_what_is_gone(self) -> None:
        """Nothing comes of a chat that was disposed of, not even an echo."""
        for uri in set(self.client.copies) - set(self.alive):
            await self.client.unsubscribe(uri)

    async def come_to_rest(self) -> None:
        if self.session.uri in self.client.copies:
            await self.forget_what_is_gone()
            await self.client.settled()
            await self.client.check()


async def act_beside(http: httpx.AsyncClient, known: set[str], rng: random.Random) -> None:
    """Something over HTTP to a conversation of this session, which may be gone by then."""
    ids = [one for one in await conversations(http) if one not in known]
    if not ids:
        return
    at = f"/conversations/{rng.choice(ids)}"
    match rng.choice(["queue"] * 4 + ["stop"] * 3 + ["cancel", "reorder"] * 3 + ["cut", "delete"]):
        case "queue":
            await http.post(f"{at}/queue", json={"text": new_id("beside")})
        case "stop":
            await http.post(f"{at}/stop", json={})
        case "cut":
            await http.post(f"{at}/truncate", json={"afterTurn": None})
        case "delete" if len(ids) > 1:
            await http.delete(at)
        case what:
            queue = (await http.get(f"{at}/queue")).json().get("queue", [])
            if queue and what == "cancel":
                await http.delete(f"{at}/queue/{queue[0]['id']}")
            elif queue and what == "reorder":
                await http.put(f"{at}/queue", json={"order": [one["id"] for one in queue][::-1]})


async def conversations(http: httpx.AsyncClient) -> list[str]:
    rows = (await http.get("/conversations")).json()["conversations"]
    return [row["id"] for row in rows]


async def crowd(daemon: DaemonProcess, http: httpx.AsyncClient, seed: int) -> None:
    """A session's life with three windows."""
    rng = random.Random(seed)
    known = set(await conversations(http))
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(client(daemon.url, rng.choice(VERSIONS)))
            for _ in range(3)
        ]
        first = await created(clients[0], rng.choice(AGENTS))
        seats = [first, *[await seated(one, first.session.uri) for one in clients[1:]]]
        windows = [Window(seat, rng) for seat in seats]
        killed_at = rng.choice([None, rng.randrange(STEPS)])
        for step in range(STEPS):
            who = rng.randrange(len(windows) + 1)
            if who == len(windows):
                await act_beside(http, known, rng)
            else:
                await windows[who].act()
            if step == killed_at:
                await daemon.kill()
                await daemon.start()
                for one in clients:
                    await one.reconnect()
        for window in windows:
            await window.come_to_rest()


@pytest.mark.timeout(120 + 5 * SEEDS)
async def test_three_windows_and_somebody_beside_them_never_diverge(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as daemon,
        http_client(daemon.url) as http,
    ):
        for seed in range(SEEDS):
            try:
                await crowd(daemon, http, seed)
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise
