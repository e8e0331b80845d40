"""Routes that read one conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from dispatch.settings import Limits
from tests.server.acting import GUARD_SECONDS, Stage, lines, settings, staged, texts, types


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(settings(tmp_path)) as stage:
        yield stage


@pytest.fixture
async def talked(stage: Stage) -> Stage:
    """Three turns of two chunks each: seqs 1 to 6."""
    for word in ("one", "two", "three"):
        await stage.say("c", word)
    return stage


async def test_an_unknown_id_is_empty_and_not_made(stage: Stage) -> None:
    assert await stage.chunks("never") == {"chunks": [], "latestSeq": 0}
    assert await stage.chunks("never", "?sinceSeq=7") == {"chunks": [], "latestSeq": 7}
    assert (await stage.http.get("/conversations")).json() == {"conversations": []}


async def test_chunks_have_seq_role_and_shape(stage: Stage) -> None:
    await stage.say(
        "c", "work", images=[{"url": "data:image/png;base64,AA", "mimeType": "image/png"}]
    )
    reply = await stage.chunks("c")
    step = reply["chunks"][3]["chunk"]["stepId"]
    assert step.endswith("#0")
    assert reply == {
        "chunks": [
            {"seq": 1, "role": "user", "chunk": {"type": "text", "text": "work"}},
            {
                "seq": 2,
                "role": "user",
                "chunk": {
                    "type": "image",
                    "url": "data:image/png;base64,AA",
                    "mimeType": "image/png",
                },
            },
            {"seq": 3, "role": "assistant", "chunk": {"type": "thinking", "text": "hm"}},
            {
                "seq": 4,
                "role": "assistant",
                "chunk": {
                    "type": "tool-call",
                    "toolCallId": "call-1",
                    "toolName": "dig",
                    "input": {"depth": 3},
                    "stepId": step,
                },
            },
            {
                "seq": 5,
                "role": "tool",
                "chunk": {
                    "type": "tool-result",
                    "toolCallId": "call-1",
                    "toolName": "dig",
                    "content": "a hole",
                    "isError": False,
                    "stepId": step,
                },
            },
            {"seq": 6, "role": "assistant", "chunk": {"type": "text", "text": "dug"}},
        ],
        "latestSeq": 6,
    }


SELECTIONS = [
    ("", [1, 2, 3, 4, 5, 6], 6),
    ("?sinceSeq=0", [1, 2, 3, 4, 5, 6], 6),
    ("?sinceSeq=2", [3, 4, 5, 6], 6),
    ("?sinceSeq=3", [4, 5, 6], 6),
    ("?sinceSeq=6", [], 6),
    ("?sinceSeq=99", [], 99),
    ("?beforeSeq=1", [], 0),
    ("?beforeSeq=4", [1, 2, 3], 3),
    ("?beforeSeq=99", [1, 2, 3, 4, 5, 6], 6),
    ("?limit=1", [6], 6),
    ("?limit=3", [4, 5, 6], 6),
    ("?limit=100", [1, 2, 3, 4, 5, 6], 6),
    ("?sinceSeq=4&limit=4", [5, 6], 6),
    ("?beforeSeq=4&limit=2", [2, 3], 3),
    ("?sinceSeq=1&beforeSeq=6&limit=2", [4, 5], 5),
    ("?sinceSeq=3&beforeSeq=4", [], 3),
    ("?sinceSeq=5&beforeSeq=2", [], 5),
]


async def test_a_page_tells_the_turns_that_its_chunks_are_of(talked: Stage) -> None:
    page = await talked.chunks("c", "?limit=3")
    assert [chunk["seq"] for chunk in page["chunks"]] == [4, 5, 6]
    second, third = page["turns"]
    assert (second["firstSeq"], second["lastSeq"]) == (3, 4)
    assert (third["firstSeq"], third["lastSeq"]) == (5, 6)
    assert {(turn["agent"], turn["outcome"]) for turn in page["turns"]} == {("actor", "completed")}
    assert second["sealedAt"] <= third["sealedAt"]
    assert second["turnId"] != third["turnId"]
    metrics = (await talked.http.get("/conversations/c/metrics")).json()["turns"]
    assert [turn["turnId"] for turn in metrics[1:]] == [second["turnId"], third["turnId"]]
    assert await talked.chunks("never", "?limit=3") == {"chunks": [], "latestSeq": 0, "turns": []}


async def test_what_has_no_limit_is_streamed_and_tells_no_turns(talked: Stage) -> None:
    assert "turns" not in await talked.chunks("c")


@pytest.mark.parametrize(("query", "seqs", "latest"), SELECTIONS)
async def test_a_selection_is_ascending_and_its_limit_takes_the_newest(
    talked: Stage, query: str, seqs: list[int], latest: int
) -> None:
    reply = await talked.chunks("c", query)
    assert [chunk["seq"] for chunk in reply["chunks"]] == seqs
    assert reply["latestSeq"] == latest


@pytest.mark.parametrize(
    ("name", "kind", "bad"),
    [
        ("sinceSeq", "non-negative", ["-1", "x", "1.5", "", "1e3", "%D9%A1", "9" * 16]),
        ("beforeSeq", "positive", ["0", "-1", "x", ""]),
        ("limit", "positive", ["0", "-1", "x", "", "0x10", "+1", "%201"]),
    ],
)
async def test_a_bad_number_is_refused_by_name(
    talked: Stage, name: str, kind: str, bad: list[str]
) -> None:
    for value in bad:
        reply = await talked.http.get(f"/conversations/c?{name}={value}")
        assert reply.status_code == 400
        assert reply.json() == {"error": f"{name} must be a {kind} integer", "code": "invalid"}


async def test_a_page_is_never_larger_than_the_published_bound(tmp_path: Path) -> None:
    async with staged(settings(tmp_path, limits=Limits(history_page_max=3))) as stage:
        for word in ("one", "two"):
            await stage.say("c", word)
        reply = await stage.chunks("c", "?limit=4")
        assert [chunk["seq"] for chunk in reply["chunks"]] == [2, 3, 4]
        assert len((await stage.chunks("c"))["chunks"]) == 4


async def test_a_long_history_comes_whole(stage: Stage) -> None:
    """More turns than are read at once."""
    said = [f"n{number}" for number in range(150)]
    for word in said:
        await stage.say("c", word)
    reply = await stage.chunks("c")
    assert texts(reply) == [word for word in said for _ in range(2)]
    assert [chunk["seq"] for chunk in reply["chunks"]] == list(range(1, 301))
    assert reply["latestSeq"] == 300


async def test_a_running_turn_is_not_history_until_its_seal(stage: Stage) -> None:
    await stage.say("c", "before")
    async with stage.held("c") as reading:
        assert texts(await stage.chunks("c")) == ["before", "before"]
        stage.actor.release("hold")
        await reading.until("turn-sealed")
        assert texts(await stage.chunks("c"))[2:] == ["hold", "so far; released"]


async def test_text_comes_back_as_it_was_said(stage: Stage) -> None:
    said = 'q"\\\n\t \u0085\u2028\u2029 \U0001f600 </script> é\x00'
    await stage.say("c", said)
    assert texts(await stage.chunks("c")) == [said, said]


# -- metrics


async def test_metrics_are_of_sealed_turns_and_whole(stage: Stage) -> None:
    assert (await stage.http.get("/conversations/c/metrics")).json() == {"turns": []}
    await stage.say("c", "work")
    await stage.say("c", "plain words")
    async with stage.held("c"):
        reply = (await stage.http.get("/conversations/c/metrics")).json()
        stage.actor.release("hold")
    first, second = reply["turns"]
    turn = first["turnId"]
    assert first.pop("durationMs") >= 0
    assert first == {
        "turnId": turn,
        "agent": "actor",
        "usage": {"inputTokens": 5, "outputTokens": 7, "cacheReadTokens": 2},
        "steps": [
            {
                "stepId": f"{turn}#0",
                "usage": {"inputTokens": 5, "outputTokens": 7, "cacheReadTokens": 2},
                "ttftMs": 1.5,
                "decodeMs": 2.5,
                "genTotalMs": 4.0,
            }
        ],
    }
    assert second["usage"] == {"inputTokens": 0, "outputTokens": 0}
    assert second["steps"] == []


# -- status and last


async def test_status_says_whether_a_turn_runs(stage: Stage) -> None:
    async def status() -> dict[str, Any]:
        reply = await stage.http.get("/conversations/c/status")
        assert reply.status_code == 200
        value: dict[str, Any] = reply.json()
        return value

    async with stage.held("c") as reading:
        assert await status() == {"conversationId": "c", "isActive": True, "status": "active"}
        stage.actor.release("hold")
        await reading.until("turn-sealed")
        assert await status() == {"conversationId": "c", "isActive": False, "status": "idle"}
    await stage.http.post("/conversations/c/close")
    assert await status() == {"conversationId": "c", "isActive": False, "status": "closed"}


async def test_status_of_an_unknown_id_is_404(stage: Stage) -> None:
    reply = await stage.http.get("/conversations/never/status")
    assert reply.status_code == 404
    assert reply.json() == {"error": "Conversation not found", "code": "not_found"}


async def test_last_is_the_newest_answer(talked: Stage) -> None:
    events = await talked.say("c", "four")
    assert (await talked.http.get("/conversations/c/last")).json() == {
        "conversationId": "c",
        "content": "four",
        "turnId": events[0]["turnId"],
    }


async def test_last_of_an_unknown_id_is_empty(stage: Stage) -> None:
    reply = await stage.http.get("/conversations/never/last")
    assert (reply.status_code, reply.json()) == (200, {"conversationId": "never", "content": ""})


async def test_last_waits_for_the_running_turn(stage: Stage) -> None:
    await stage.say("c", "old")
    replies: list[dict[str, Any]] = []

    async def ask() -> None:
        replies.append((await stage.http.get("/conversations/c/last")).json())

    with anyio.fail_after(GUARD_SECONDS):
        async with stage.held("c") as reading, anyio.create_task_group() as tasks:
            users = stage.live("c").users
            tasks.start_soon(ask)
            while stage.live("c").users == users:
                await anyio.lowlevel.checkpoint()
            assert replies == []
            stage.actor.release("hold")
            sealed = await reading.until("turn-sealed")
    assert replies == [
        {"conversationId": "c", "content": "so far; released", "turnId": sealed["turnId"]}
    ]


async def test_last_waits_no_longer_than_the_published_bound(tmp_path: Path) -> None:
    async with staged(settings(tmp_path, limits=Limits(wait_seconds_max=0.05))) as stage:
        await stage.say("c", "old")
        async with stage.held("c"):
            assert (await stage.http.get("/conversations/c/last")).json()["content"] == "old"
            stage.actor.release("hold")


# -- export


async def test_export_is_the_conversation_its_turns_and_their_chunks(stage: Stage) -> None:
    await stage.http.put("/conversations/c/model", json={"model": "actor/slow"})
    events = await stage.say("c", "work", workspaceId="w")
    await stage.say("c", "line\u2028end")
    reply = await stage.http.get("/conversations/c/export")
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert "\u2028" not in reply.text
    head, *middle, end = lines(reply.text)
    assert {name: head[name] for name in ("type", "id", "title", "status", "model", "lastSeq")} == {
        "type": "conversation",
        "id": "c",
        "title": "work",
        "status": "idle",
        "model": "actor/slow",
        "lastSeq": 7,
    }
    assert types(middle) == ["turn", *["chunk"] * 5, "turn", *["chunk"] * 2]
    turn, *chunks = middle[:6]
    assert turn["turnId"] == events[0]["turnId"]
    assert (turn["outcome"], turn["firstSeq"], turn["chunkCount"]) == ("completed", 1, 5)
    assert turn["metrics"]["usage"]["inputTokens"] == 5
    history = (await stage.chunks("c"))["chunks"]
    assert [
        {name: line[name] for name in ("seq", "role", "chunk")}
        for line in middle
        if line["type"] == "chunk"
    ] == history
    assert {line["turnId"] for line in chunks} == {turn["turnId"]}
    assert end == {"type": "end", "turns": 2, "chunks": 7}


async def test_export_of_an_unknown_id_is_404(stage: Stage) -> None:
    reply = await stage.http.get("/conversations/never/export")
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


async def test_export_of_a_fork_names_its_origin(stage: Stage) -> None:
    events = await stage.say("c", "said")
    turn = events[0]["turnId"]
    fork = (await stage.http.post("/conversations/c/fork", json={"turnId": turn})).json()
    reply = await stage.http.get(f"/conversations/{fork['conversationId']}/export")
    assert lines(reply.text)[0]["forkedFrom"] == {"conversationId": "c", "turnId": turn}


# -- readers that do not read


async def test_a_reader_that_takes_nothing_ends_its_own_stream_alone(tmp_path: Path) -> None:
    limits = Limits(stall_seconds_max=0.1)
    async with staged(settings(tmp_path, limits=limits)) as stage:
        await stage.say("c", "flood 600")
        with capture_logs() as logs, anyio.fail_after(GUARD_SECONDS):
            async with stage.http.stream("GET", "/conversations/c") as reply:
                assert reply.status_code == 200
                while not logs:
                    await anyio.lowlevel.checkpoint()
        assert [entry["event"] for entry in logs] == ["http.stalled"]
        assert len((await stage.chunks("c", "?limit=3"))["chunks"]) == 3
