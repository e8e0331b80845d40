"""Resuming over the wire: the frame, the route, and how history and snapshots show it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.wire import old_wire, v1_wire
from tests.server.acting import Stage, lines, settings, staged, types


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(settings(tmp_path)) as stage:
        yield stage


async def failed(stage: Stage) -> str:
    """A turn that failed; its id."""
    turn: str = (await stage.say("c", "fail"))[0]["turnId"]
    return turn


async def test_the_route_says_which_turn_goes_on_with_which(stage: Stage) -> None:
    turn = await failed(stage)
    body = {"turnId": turn, "clientMessageId": "r-1"}
    reply = await stage.http.post("/conversations/c/resume", json=body)
    assert reply.status_code == 200, reply.text
    new = reply.json()["turnId"]
    assert new != turn
    assert reply.json() == {"conversationId": "c", "turnId": new, "resumes": turn}
    await stage.http.get("/conversations/c/last")
    again = await stage.http.post("/conversations/c/resume", json=body)
    assert again.json() == {**reply.json(), "duplicate": True}


async def test_watchers_see_a_turn_without_a_message(stage: Stage) -> None:
    turn = await failed(stage)
    async with v1_wire(stage.daemon.url) as device, old_wire(stage.daemon.url) as old:
        await old.send(type="chat.subscribe", conversationId="c")
        await device.send(
            type="chat.resume", conversationId="c", turnId=turn, clientMessageId="r-1", ref=1
        )
        accepted = await device.until_type("chat.accepted")
        assert (accepted["clientMessageId"], accepted["ref"]) == ("r-1", 1)
        new = accepted["turnId"]
        shown = await device.until_event("turn-sealed", new)
        assert shown[0]["event"] == {
            "type": "turn-start",
            "resumes": turn,
            "conversationId": "c",
            "turnId": new,
        }
        kinds = types([frame["event"] for frame in shown if frame["type"] == "chat.delta"])
        assert "user-message" not in kinds
        # An old connection knows all of it but the field.
        await old.until_event("turn-sealed", new)
        await device.send(
            type="chat.resume", conversationId="c", turnId=turn, clientMessageId="r-1"
        )
        assert (await device.until_type("chat.accepted"))["duplicate"] is True


async def test_history_and_export_show_it_as_a_turn_of_its_own(stage: Stage) -> None:
    turn = await failed(stage)
    body = {"turnId": turn}
    new = (await stage.http.post("/conversations/c/resume", json=body)).json()["turnId"]
    await stage.http.get("/conversations/c/last")
    page = await stage.chunks("c")
    shown = [(chunk["role"], chunk["chunk"]["type"]) for chunk in page["chunks"]]
    assert shown == [
        ("user", "text"),
        ("assistant", "error"),
        ("system", "system"),
        ("assistant", "error"),
    ]
    exported = lines((await stage.http.get("/conversations/c/export")).text)
    heads = [line for line in exported if line["type"] == "turn"]
    assert [(head["turnId"], head.get("resumes")) for head in heads] == [(turn, None), (new, turn)]


async def test_a_snapshot_says_what_the_running_turn_resumes(stage: Stage) -> None:
    (stumbled,) = {event["turnId"] for event in await stage.say("c", "stumble")}
    async with v1_wire(stage.daemon.url) as wire:
        await wire.send(type="chat.resume", conversationId="c", turnId=stumbled)
        accepted = await wire.until_type("chat.accepted")
        await wire.until_event("text-delta", accepted["turnId"])
        async with v1_wire(stage.daemon.url) as late:
            await late.send(type="chat.subscribe", conversationId="c", after="other:1")
            snapshot = await late.until_type("chat.snapshot")
            assert snapshot["turn"]["resumes"] == stumbled
            assert snapshot["turn"]["chunks"][0]["role"] == "system"
        await wire.send(type="chat.stop", conversationId="c")
        await wire.until_type("chat.stopped")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid"),
        ({"turnId": None}, 400, "invalid"),
        ({"turnId": "t-none"}, 404, "not_found"),
        ({"turnId": "t", "clientMessageId": ""}, 400, "invalid"),
    ],
)
async def test_what_cannot_be_resumed_is_refused(
    stage: Stage, body: dict[str, Any], status: int, code: str
) -> None:
    await failed(stage)
    reply = await stage.http.post("/conversations/c/resume", json=body)
    assert (reply.status_code, reply.json()["code"]) == (status, code)


async def test_a_turn_that_did_not_fail_or_runs_is_not_resumed(stage: Stage) -> None:
    turn = (await stage.say("c", "one"))[0]["turnId"]
    reply = await stage.http.post("/conversations/c/resume", json={"turnId": turn})
    assert (reply.status_code, reply.json()["code"]) == (409, "not_resumable")
    turn = await failed(stage)
    async with stage.held("c"):
        reply = await stage.http.post("/conversations/c/resume", json={"turnId": turn})
        assert (reply.status_code, reply.json()["code"]) == (409, "busy")


async def test_what_is_not_there_or_no_more_is_not_resumed(stage: Stage) -> None:
    reply = await stage.http.post("/conversations/never/resume", json={"turnId": "t"})
    assert reply.status_code == 404
    assert (await stage.http.get("/conversations")).json()["conversations"] == []
    await failed(stage)
    await stage.http.delete("/conversations/c")
    reply = await stage.http.post("/conversations/c/resume", json={"turnId": "t"})
    assert (reply.status_code, reply.json()["code"]) == (410, "gone")
