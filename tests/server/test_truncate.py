"""Truncating over the wire: the frame, the route, and what every reader is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatch.client.replies import Metrics
from tests.e2e.wire import old_wire, v1_wire
from tests.protocol.published import check
from tests.server.acting import Stage, lines, settings, staged


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(settings(tmp_path)) as stage:
        yield stage


async def turns(stage: Stage, *messages: str) -> list[str]:
    """Turns of two chunks each; their ids."""
    return [(await stage.say("c", message))[0]["turnId"] for message in messages]


async def cut(stage: Stage, **fields: Any) -> dict[str, Any]:
    reply = await stage.http.post("/conversations/c/truncate", json=fields)
    assert reply.status_code == 200, reply.text
    value: dict[str, Any] = reply.json()
    return value


async def test_the_route_says_what_stays_and_where_the_log_says_so(stage: Stage) -> None:
    one, _ = await turns(stage, "one", "two")
    generation, head = stage.daemon.services.opened.generation, stage.live("c").feed.head
    first = await cut(stage, afterTurn=one, clientMessageId="cut-1")
    position = f"{generation}:{head + 1}"
    assert first == {"conversationId": "c", "afterTurn": one, "position": position}
    again = await cut(stage, afterTurn=one, clientMessageId="cut-1")
    assert again == {**first, "duplicate": True}
    assert await cut(stage, afterTurn=None) == {
        "conversationId": "c",
        "position": f"{generation}:{head + 2}",
    }


@pytest.mark.parametrize("query", ["", "?limit=99", "?sinceSeq=1", "?beforeSeq=99"])
async def test_chunks_behind_the_kept_turn_are_marked_in_every_page(
    stage: Stage, query: str
) -> None:
    one, *_ = await turns(stage, "one", "two", "three")
    await cut(stage, afterTurn=one)
    await turns(stage, "four")
    page = await stage.chunks("c", query)
    marked = [chunk["seq"] for chunk in page["chunks"] if chunk.get("superseded")]
    assert marked == [3, 4, 5, 6]
    assert page["chunks"][-1]["seq"] == page["latestSeq"] == 8
    assert page["superseded"] == [[3, 6]]


async def test_who_has_every_chunk_is_told_what_counts_no_longer(stage: Stage) -> None:
    one, _ = await turns(stage, "one", "two")
    assert "superseded" not in await stage.chunks("c", "?sinceSeq=4")
    await cut(stage, afterTurn=one)
    assert await stage.chunks("c", "?sinceSeq=4") == {
        "chunks": [],
        "latestSeq": 4,
        "superseded": [[3, 4]],
    }


async def test_the_last_answer_is_one_that_counts(stage: Stage) -> None:
    one, _ = await turns(stage, "one", "two")
    await cut(stage, afterTurn=one)
    assert (await stage.http.get("/conversations/c/last")).json()["content"] == "one"
    await cut(stage, afterTurn=None)
    reply = (await stage.http.get("/conversations/c/last")).json()
    assert reply == {"conversationId": "c", "content": ""}


async def test_an_export_has_everything_and_says_what_does_not_count(stage: Stage) -> None:
    one, two = await turns(stage, "one", "two")
    await cut(stage, afterTurn=one)
    exported = lines((await stage.http.get("/conversations/c/export")).text)
    kinds = [(line["type"], line.get("turnId"), line.get("superseded")) for line in exported]
    assert kinds == [
        ("conversation", None, None),
        *[("turn", one, None), ("chunk", one, None), ("chunk", one, None)],
        *[("turn", two, True), ("chunk", two, True), ("chunk", two, True)],
        ("end", None, None),
    ]


async def test_metrics_have_every_turn_and_say_which_do_not_count(stage: Stage) -> None:
    one, two = await turns(stage, "one", "two")
    await cut(stage, afterTurn=one)
    [three] = await turns(stage, "three")
    found = (await stage.http.get("/conversations/c/metrics")).json()
    check("ConversationMetrics", found)
    told = [(turn["turnId"], turn.get("superseded")) for turn in found["turns"]]
    assert told == [(one, None), (two, True), (three, None)]
    read = msgspec.convert(found, Metrics)
    assert [turn.turn_id for turn in read.turns if not turn.superseded] == [one, three]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid"),
        ({"afterturn": None}, 400, "invalid"),
        ({"afterTurn": ""}, 400, "invalid"),
        ({"afterTurn": 7}, 400, "invalid"),
        ({"afterTurn": None, "clientMessageId": "x" * 129}, 400, "invalid"),
        ({"afterTurn": "t-none"}, 404, "not_found"),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(
    stage: Stage, body: dict[str, Any], status: int, code: str
) -> None:
    await turns(stage, "one")
    reply = await stage.http.post("/conversations/c/truncate", json=body)
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert "superseded" not in await stage.chunks("c")


async def test_a_conversation_that_is_not_there_or_no_more_is_not_truncated(stage: Stage) -> None:
    reply = await stage.http.post("/conversations/never/truncate", json={"afterTurn": None})
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
    await turns(stage, "one")
    await stage.http.delete("/conversations/c")
    reply = await stage.http.post("/conversations/c/truncate", json={"afterTurn": None})
    assert (reply.status_code, reply.json()["code"]) == (410, "gone")


async def test_a_group_keeps_its_members_past(stage: Stage) -> None:
    made = await stage.http.post("/api/groups", json={"memberFamiliarIds": ["actor"]})
    assert made.status_code in {200, 201}, made.text
    member = made.json()["memberSessionIds"]["actor"]
    reply = await stage.http.post(f"/conversations/{member}/truncate", json={"afterTurn": None})
    assert (reply.status_code, reply.json()["code"]) == (409, "in_timeline")


async def test_watchers_are_told_in_order_and_who_comes_back_too(stage: Stage) -> None:
    one, _ = await turns(stage, "one", "two")
    url = stage.daemon.url
    async with v1_wire(url) as watcher, v1_wire(url) as device, old_wire(url) as old:
        for wire in (watcher, old):
            await wire.send(type="chat.subscribe", conversationId="c")
        before = (await watcher.until_type("chat.subscribed"))["position"]
        await device.send(
            type="chat.truncate", conversationId="c", afterTurn=one, clientMessageId="m", ref="r"
        )
        reply = await device.until_type("chat.truncated")
        shown = await watcher.until_type("conversation.truncated")
        assert reply == {
            "type": "chat.truncated",
            "conversationId": "c",
            "position": shown["position"],
            "afterTurn": one,
            "clientMessageId": "m",
            "ref": "r",
        }
        assert shown == {
            "type": "conversation.truncated",
            "conversationId": "c",
            "position": shown["position"],
            "afterSeq": 2,
            "lastSeq": 4,
            "afterTurn": one,
        }
        await stage.say("c", "three")
        await watcher.until_event("turn-sealed")
        # Part 1 has no word for it.
        await old.until_event("turn-sealed")
        assert {frame["type"] for frame in old.seen} <= {
            "catalog",
            "chat.delta",
            "conversation.statusChanged",
        }
        await device.send(type="chat.subscribe", conversationId="c", after=before)
        assert (await device.until_type("chat.subscribed"))["recovered"] is True
        missed = await device.until_event("turn-sealed")
        assert missed[0] == shown


async def test_who_subscribes_is_told_what_counts_no_longer(stage: Stage) -> None:
    one, _ = await turns(stage, "one", "two")
    await cut(stage, afterTurn=one)
    async with v1_wire(stage.daemon.url) as wire:
        await wire.send(type="chat.subscribe", conversationId="c", sinceSeq=3)
        assert (await wire.until_type("chat.subscribed"))["superseded"] == [[3, 4]]
        history = await wire.until_type("chat.history")
        assert [(c["seq"], c.get("superseded")) for c in history["chunks"]] == [(4, True)]
    async with v1_wire(stage.daemon.url) as wire:
        await wire.send(type="chat.subscribe", conversationId="c", after="other:7")
        await wire.until_type("chat.subscribed")
        assert (await wire.until_type("chat.snapshot"))["superseded"] == [[3, 4]]


async def test_a_turn_is_ended_for_it_and_the_queue_goes_on(stage: Stage) -> None:
    (one,) = await turns(stage, "one")
    async with stage.held("c") as running:
        body = {"text": "three"}
        assert (await stage.http.post("/conversations/c/queue", json=body)).status_code == 200
        await cut(stage, afterTurn=one)
        assert (await running.rest())[-2]["reason"] == "aborted"
    assert (await stage.http.get("/conversations/c/last")).json()["content"] == "three"
    page = await stage.chunks("c")
    assert [chunk["seq"] for chunk in page["chunks"] if chunk.get("superseded")] == [3, 4]


async def test_a_bad_frame_is_a_chat_error(stage: Stage) -> None:
    async with v1_wire(stage.daemon.url) as wire:
        await wire.send(type="chat.truncate", conversationId="c", ref=1)
        refusal = await wire.until_type("chat.error")
    assert refusal["code"] == "invalid"
    assert refusal["message"].startswith("chat.truncate requires `afterTurn`")
