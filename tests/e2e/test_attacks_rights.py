"""Attack 16: inside an account a right that is missing is missing on every way in.

`wes` may only watch and `sid` only send; `ann` may both. Routes and frames are those that
`test_attacks_accounts` tries from outside.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.e2e.attackers import http_of, old_wire_of, pong, wire_of
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess
from tests.e2e.test_attacks_accounts import (
    CANARY,
    FRAMES,
    ROUTES,
    STARTING,
    WALLS,
    ask_and_queue,
    state_of,
)
from tests.e2e.wire import Frame


@pytest.fixture
async def walls(start_daemon: StartDaemon) -> DaemonProcess:
    return await start_daemon(WALLS)


def forbidden(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame.get("code") == "forbidden"]


async def test_who_may_only_watch_changes_nothing(walls: DaemonProcess) -> None:
    """16: without `send` every verb is refused by its code, over frames and routes alike."""
    async with (
        wire_of(walls.url, "a", "ann") as owner,
        wire_of(walls.url, "a", "wes") as wes,
        http_of(walls.url, "a", "ann") as ann,
        http_of(walls.url, "a", "wes") as http,
    ):
        target = await ask_and_queue(owner, "there")
        before = await state_of(ann, "there")
        changing = [f for f in (*FRAMES, *STARTING) if f["type"].startswith("chat.")]
        reading = ("chat.subscribe", "chat.unsubscribe", "chat.read")
        for template in changing:
            if template["type"] in reading:
                continue
            await wes.send(**target.fill(template), conversationId="there", ref="r")
            assert forbidden([f for f in await pong(wes) if f.get("ref") == "r"]), template
        for method, path, body in ROUTES:
            if method == "GET" or path == "/read":
                continue
            filled = re.sub(r"\{(\w+)\}", lambda m: getattr(target, m[1]), path)
            response = await http.request(
                method, f"/conversations/there{filled}", json=target.fill(body)
            )
            assert (response.status_code, response.json()["code"]) == (403, "forbidden"), path
        response = await http.post("/chat", json={"message": "hi"})
        assert (response.status_code, response.json()["code"]) == (403, "forbidden")
        assert await state_of(ann, "there") == before
        # And what it may do, it may.
        async with wire_of(walls.url, "a", "wes") as late:
            await late.send(type="chat.subscribe", conversationId="there")
            assert CANARY in str(await pong(late))


async def test_who_may_only_send_reads_nothing(walls: DaemonProcess) -> None:
    """16: without `watch` nothing of anybody's comes back, whatever way is tried."""
    async with (
        wire_of(walls.url, "a", "ann") as owner,
        http_of(walls.url, "a", "sid") as http,
    ):
        target = await ask_and_queue(owner, "there")
        for template in FRAMES:
            if template["type"] not in ("chat.subscribe", "subscribe", "chat.read"):
                continue
            async with wire_of(walls.url, "a", "sid") as sid:
                await sid.send(**target.fill(template), conversationId="there")
                assert forbidden(await pong(sid)), template
        for method, path, _ in ROUTES:
            if method == "GET":
                response = await http.get(f"/conversations/there{path}")
                assert (response.status_code, response.json()["code"]) == (403, "forbidden"), path
        for path in ("/conversations", "/models"):
            assert (await http.get(path)).status_code == 403
        response = await http.post("/chat", json={"message": "hi", "model": "echo"})
        assert (response.status_code, response.json()["code"]) == (403, "forbidden")
        response = await http.post("/conversations/there/queue", json={"text": "mine"})
        assert response.status_code == 200
        assert CANARY not in response.text
        response = await http.delete("/conversations/there/queue/nobody")
        assert CANARY not in response.text


SENDS_OF_A_STRANGER: tuple[dict[str, Any], ...] = (
    {"type": "chat.send", "message": "mine", "model": "echo"},
    {"type": "chat.send", "message": "mine", "model": "echo", "conversationId": "there"},
    {"type": "chat.send", "message": "mine", "conversationId": "there", "onBusy": "queue"},
    {"type": "chat.send", "message": "mine", "conversationId": "fresh"},
    {"type": "chat.queue", "text": "mine", "conversationId": "there"},
    {"type": "chat.queue", "text": "mine", "conversationId": "fresh-too"},
)


@pytest.mark.parametrize("named", [False, True])
async def test_a_send_does_not_subscribe_who_may_only_send(
    walls: DaemonProcess, named: bool
) -> None:
    """16: the sender of a turn is subscribed to it, unless that would show what it may not see."""
    async with wire_of(walls.url, "a", "ann") as owner:
        await ask_and_queue(owner, "there")
        for number, send in enumerate(SENDS_OF_A_STRANGER):
            async with wire_of(walls.url, "a", "sid") as sid:
                identity = {"clientMessageId": f"m{number}"} if named else {}
                await sid.send(**send, **identity)
                seen = await pong(sid)
                if named:
                    await sid.send(**send, **identity)
                    seen += await pong(sid)
                # Whatever the broker would tell it comes before its connection is closed.
                await owner.send(
                    type="chat.send",
                    conversationId="there",
                    message=CANARY,
                    onBusy="interrupt",
                    model="asking",
                )
                await owner.until_type("chat.request")
                seen += await pong(sid)
            assert {frame["type"] for frame in seen} <= {"chat.accepted", "chat.error"}, send
            assert CANARY not in str(seen), send


async def test_who_may_only_send_is_told_no_broadcasts(walls: DaemonProcess) -> None:
    """16: titles and what is going on are the account's to watch."""
    async with (
        wire_of(walls.url, "a", "sid") as asked,
        old_wire_of(walls.url, "a", "sid") as old,
        http_of(walls.url, "a", "ann") as http,
    ):
        await asked.send(type="conversations.watch", ref=1)
        assert forbidden(await pong(asked))
        await http.put("/conversations/c/title", json={"title": CANARY})
        await http.post("/conversations/c/open")
        wish = {"memberFamiliarIds": ["echo"], "title": CANARY}
        assert (await http.post("/api/groups", json=wish)).status_code == 201
        assert await pong(asked) == []
        assert await pong(old) == []
