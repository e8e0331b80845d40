"""One turn, three dialects: AHP, the native WebSocket and the stream of a group say the same.

And whoever stops it, in whichever dialect, stops it for all.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import anyio
import httpx
import pytest

from tests.clients.ahp.ahp_client.client import ROOT, Client, client
from tests.clients.ahp.ahp_client.words import Json
from tests.e2e.ahp import created, message, seated, serving, turn_of
from tests.e2e.process import DaemonProcess
from tests.e2e.wire import Wire, events, text, v1_wire
from tests.protocol.replies import http_client

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    async with serving(tmp_path_factory.mktemp("daemon")) as one:
        yield one


GUARD_SECONDS = 20.0


async def newest_conversation(http: httpx.AsyncClient) -> Json:
    row: Json = (await http.get("/conversations")).json()["conversations"][0]
    return row


async def followed(wire: Wire, conversation_id: str) -> None:
    await wire.send(type="chat.subscribe", conversationId=conversation_id)
    await wire.until_type("chat.subscribed")


async def test_a_turn_of_an_ahp_client_is_streamed_to_a_browser(
    daemon: DaemonProcess,
) -> None:
    async with client(daemon.url) as window, http_client(daemon.url) as http:
        seat = await created(window, "counter")
        await seat.ask("count to 3")
        row = await newest_conversation(http)
        async with v1_wire(daemon.url) as wire:
            await followed(wire, row["id"])
            turn_id = await seat.start("count to 50")
            frames = await wire.until_event("turn-sealed")
            await seat.ended(turn_id)
            await window.check()
        assert text(frames) == seat.chat.text(turn_id)
        assert seat.chat.text(turn_id).split() == [str(number) for number in range(50)]


async def test_a_turn_of_a_browser_is_streamed_to_every_version(
    daemon: DaemonProcess,
) -> None:
    async with (
        client(daemon.url, "0.9.0") as window,
        client(daemon.url, "0.5.1") as older,
        http_client(daemon.url) as http,
        v1_wire(daemon.url) as wire,
    ):
        seat = await created(window, "counter")
        watcher = await seated(older, seat.session.uri)
        await seat.ask("count to 3")
        row = await newest_conversation(http)
        await followed(wire, row["id"])
        await wire.send(
            type="chat.send", conversationId=row["id"], message="count to 50", clientMessageId="m1"
        )
        frames = await wire.until_event("turn-sealed")
        for one in (seat, watcher):
            await one.client.until(lambda one=one: len(one.chat.confirmed["turns"]) == 2)
            await one.client.check()
            turn = one.chat.confirmed["turns"][-1]
            assert turn["message"] == message("count to 50")
            assert one.chat.text(turn["id"]) == text(frames)


@pytest.mark.parametrize("side", ["ahp", "native"])
async def test_a_stop_from_either_side_stops_for_both(daemon: DaemonProcess, side: str) -> None:
    async with client(daemon.url) as window, http_client(daemon.url) as http:
        seat = await created(window, "numbers")
        turn_id = await seat.start("go")
        await seat.said(turn_id, 5)
        row = await newest_conversation(http)
        async with v1_wire(daemon.url) as wire:
            await followed(wire, row["id"])
            if side == "ahp":
                await seat.act("turnCancelled", turnId=turn_id, duration=1)
            else:
                await wire.send(type="chat.stop", conversationId=row["id"])
            frames = await wire.until_event("turn-sealed")
            turn = await seat.ended(turn_id)
            await window.check()
        assert turn["state"] == "cancelled"
        (done,) = [one for one in events(frames) if one["type"] == "done"]
        assert done["reason"] == "aborted"
        # A late piece of the answer is nobody's.
        assert seat.chat.text(turn_id) == await kept_text(daemon, row["id"])


async def kept_text(daemon: DaemonProcess, conversation_id: str) -> str:
    async with http_client(daemon.url) as http:
        chunks = (await http.get(f"/conversations/{quote(conversation_id)}")).json()["chunks"]
    kept = [one["chunk"] for one in chunks if one["role"] == "assistant"]
    return "".join(chunk["text"] for chunk in kept if chunk["type"] == "text")


async def group_text(http: httpx.AsyncClient, url: str, into: list[str]) -> None:
    async with http.stream("GET", url) as reply:
        async for line in reply.aiter_lines():
            if not line.startswith("data: "):
                continue
            frame = json.loads(line.removeprefix("data: "))
            if frame["kind"] == "assistant_chunk":
                into.append(frame["text"])
            if frame.get("scope") == "group":
                return


async def session_with(window: Client, title: str) -> str:
    """The session whose title has this word."""
    with anyio.fail_after(GUARD_SECONDS):
        while True:
            listed = (await window.request("listSessions", ROOT))["items"]
            for one in listed:
                if title in one["title"]:
                    return str(one["resource"])
            await window.rpc.came.wait()


async def test_a_turn_of_a_group_is_the_same_in_three_dialects(
    daemon: DaemonProcess,
) -> None:
    pieces: list[str] = []
    async with (
        client(daemon.url, "0.7.0") as window,
        http_client(daemon.url, timeout=GUARD_SECONDS) as http,
        v1_wire(daemon.url) as wire,
    ):
        made = (
            await http.post(
                "/api/groups", json={"memberFamiliarIds": ["counter"], "title": "Counters"}
            )
        ).json()
        child = made["memberSessionIds"]["counter"]
        await followed(wire, child)
        seat = await seated(window, await session_with(window, "Counters"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(group_text, http, f"/api/groups/{made['id']}/stream?cursor=0", pieces)
            body = {"text": "count to 50", "clientMessageId": "m1"}
            async with http.stream("POST", f"/api/groups/{made['id']}/send", json=body) as reply:
                await reply.aread()
            frames = await wire.until_event("turn-sealed")
        await window.until(lambda: len(seat.chat.confirmed["turns"]) == 1)
        await window.check()
        turn = turn_of(seat.chat, seat.chat.confirmed["turns"][0]["id"])
        assert turn is not None
        assert seat.chat.text(turn["id"]) == text(frames) == "".join(pieces)
        assert len(text(frames).split()) == 50
