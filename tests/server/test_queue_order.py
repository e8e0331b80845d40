"""The queue over the wire: put in another order, and cancelled with an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.wire import old_wire, v1_wire
from tests.server.acting import Stage, settings, staged


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(settings(tmp_path)) as stage:
        yield stage


async def queued(stage: Stage, *texts: str) -> list[str]:
    ids = []
    for text in texts:
        reply = await stage.http.post("/conversations/c/queue", json={"text": text})
        ids.append(reply.json()["queueId"])
    return ids


async def test_the_route_and_the_frame_put_the_queue_in_another_order(stage: Stage) -> None:
    async with stage.held("c"), v1_wire(stage.daemon.url) as wire:
        one, two, three = await queued(stage, "one", "two", "three")
        body = {"messageIds": [three, "t-none"]}
        reply = await stage.http.put("/conversations/c/queue", json=body)
        assert [message["id"] for message in reply.json()["queue"]] == [three, one, two]
        frame = {"type": "chat.queue.reorder", "conversationId": "c", "ref": 7}
        await wire.send(**frame, messageIds=[two])
        told = await wire.until_type("chat.queue.reordered")
        assert told == {
            "type": "chat.queue.reordered",
            "conversationId": "c",
            "messageIds": [two, three, one],
            "ref": 7,
        }
        for bad in (None, "x", [7], [""], {}):
            await wire.send(**frame, messageIds=bad)
            assert (await wire.until_type("chat.error"))["code"] == "invalid"
            reply = await stage.http.put("/conversations/c/queue", json={"messageIds": bad})
            assert reply.status_code == 400
        await stage.http.post("/conversations/c/close")


async def test_a_cancel_with_a_ref_is_answered(stage: Stage) -> None:
    async with (
        stage.held("c"),
        v1_wire(stage.daemon.url) as wire,
        old_wire(stage.daemon.url) as old,
    ):
        one, two = await queued(stage, "one", "two")
        frame = {"type": "chat.queue.cancel", "conversationId": "c", "messageId": one}
        for expected in (True, False):
            await wire.send(**frame, ref="r")
            told = await wire.until_type("chat.queue.cancelled")
            assert (told["messageId"], told["cancelled"], told["ref"]) == (one, expected, "r")
        # Nobody else is told more than before.
        for silent, fields in ((wire, {}), (old, {"ref": "r"})):
            await silent.send(**{**frame, "messageId": two}, **fields)
            await silent.send(type="ping")
            assert (await silent.until_type("pong"))["type"] == "pong"
        shown = {f["type"] for f in (*wire.seen, *old.seen)} - {"conversation.statusChanged"}
        assert shown == {"hello", "catalog", "chat.queue.cancelled", "pong"}
        await stage.http.post("/conversations/c/close")
