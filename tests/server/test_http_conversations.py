"""Routes about conversations as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dispatch.core.identity import LOCAL
from dispatch.core.notices import Opened, TitleNotice
from dispatch.errors import StorageFull
from dispatch.runtime.clock import SystemClock
from dispatch.settings import Limits
from dispatch.storage.memory import MemoryStore
from dispatch.storage.port import Batch
from tests.e2e.wire import v1_wire
from tests.server.acting import GUARD_SECONDS, Stage, lines, settings, staged, texts, types


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(settings(tmp_path)) as stage:
        yield stage


async def ids(stage: Stage, query: str = "") -> list[str]:
    reply = await stage.http.get(f"/conversations{query}")
    assert reply.status_code == 200, reply.text
    return [row["id"] for row in reply.json()["conversations"]]


# -- the list


async def test_a_row_of_the_list_has_the_fields_of_the_contract(stage: Stage) -> None:
    await stage.say("c", "x" * 100, workspaceId="w")
    reply = (await stage.http.get("/conversations")).json()
    (row,) = reply["conversations"]
    assert 0 < row.pop("createdAt") <= row.pop("lastActivityAt")
    assert row == {"id": "c", "title": "x" * 80, "status": "idle", "workspaceId": "w"}


async def test_the_list_is_newest_activity_first(stage: Stage) -> None:
    clock = stage.daemon.services.clock
    for name in ("a", "b", "c", "a"):
        before_ms = clock.now_ms()
        while clock.now_ms() == before_ms:
            pass
        await stage.say(name, "hi")
    assert await ids(stage) == ["a", "c", "b"]


async def test_the_list_is_filtered(stage: Stage) -> None:
    await stage.say("alpha", "about Whales", workspaceId="sea")
    await stage.say("album", "about birds", workspaceId="sky")
    await stage.say("beta", "about fish", workspaceId="sea")
    await stage.http.post("/conversations/beta/close")
    for query, found in [
        ("?q=al", {"alpha", "album"}),
        ("?q=al%25", set()),
        ("?q=al_", set()),
        ("?workspaceId=sea", {"alpha", "beta"}),
        ("?status=closed", {"beta"}),
        ("?status=idle,closed", {"alpha", "album", "beta"}),
        ("?status=active", set()),
        ("?status=", {"alpha", "album", "beta"}),
        ("?search=whale", {"alpha"}),
        ("?search=ABOUT&workspaceId=sky", {"album"}),
        ("?search=nothing", set()),
        ("?status=idle&q=alp&workspaceId=sea&search=whales", {"alpha"}),
    ]:
        assert set(await ids(stage, query)) == found, query


async def test_a_running_conversation_is_listed_as_active(stage: Stage) -> None:
    async with stage.held("c"):
        assert await ids(stage, "?status=active") == ["c"]
        stage.actor.release("hold")


async def test_the_list_is_paged_with_a_limit_and_whole_without(tmp_path: Path) -> None:
    async with staged(settings(tmp_path, limits=Limits(list_page_max=2))) as stage:
        names = [f"c{number}" for number in range(5)]
        for name in names:
            await stage.say(name, "hi")
        assert set(await ids(stage)) == set(names)
        seen: list[str] = []
        query = "?limit=2"
        while True:
            reply = (await stage.http.get(f"/conversations{query}")).json()
            seen += [row["id"] for row in reply["conversations"]]
            if "next" not in reply:
                break
            last = reply["conversations"][-1]
            assert reply["next"] == f"{last['lastActivityAt']}:{last['id']}"
            query = f"?limit=2&before={reply['next']}"
        assert sorted(seen) == names
        assert len(await ids(stage, "?limit=4")) == 2


class Stopped(SystemClock):
    """It is always the same millisecond."""

    def now_ms(self) -> int:
        return 1_700_000_000_000


async def test_no_page_of_the_list_splits_what_was_active_in_one_millisecond(
    tmp_path: Path,
) -> None:
    limits = Limits(list_page_max=2)
    async with staged(settings(tmp_path, limits=limits), clock=Stopped()) as stage:
        names = [f"c{number}" for number in range(5)]
        for name in names:
            await stage.say(name, "hi")
        assert await ids(stage) == names[::-1]
        assert await ids(stage, "?before=1700000000000:c3") == ["c2", "c1", "c0"]
        assert await ids(stage, "?before=1700000000000:c2&limit=1") == ["c1"]


async def test_a_bad_query_of_the_list_is_refused_by_name(stage: Stage) -> None:
    before = "before must be the `next` of a list, <lastActivityAt>:<id>"
    for query, text in [
        ("?status=busy", "status must be a comma list of: active, idle, closed"),
        ("?status=idle,deleted", "status must be a comma list of: active, idle, closed"),
        ("?limit=0", "limit must be a positive integer"),
        ("?limit=many", "limit must be a positive integer"),
        ("?before=", before),
        ("?before=12", before),
        ("?before=12:never", before),
        (
            "?before=12:a%20b",
            "malformed conversationId: expected 1 to 128 of A-Z a-z 0-9 . _ : -",
        ),
    ]:
        reply = await stage.http.get(f"/conversations{query}")
        assert reply.status_code == 400, query
        assert reply.json() == {"error": text, "code": "invalid"}


class SealHeld(MemoryStore):
    """The commit of a seal waits until the test lets it go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.let_go = anyio.Event(), anyio.Event()

    async def commit(self, batch: Batch) -> None:
        if batch.seals:
            self.reached.set()
            await self.let_go.wait()
        await super().commit(batch)


async def test_a_queue_that_is_cancelled_while_the_seal_is_written_leaves_it_idle(
    tmp_path: Path,
) -> None:
    store = SealHeld()
    async with staged(settings(tmp_path), store) as stage:
        with anyio.fail_after(GUARD_SECONDS):
            async with stage.held("c") as reading:
                path = "/conversations/c/queue"
                told = (await stage.http.post(path, json={"text": "never"})).json()
                stage.actor.release("hold")
                await store.reached.wait()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(stage.http.delete, f"{path}/{told['queueId']}")
                    while stage.live("c").state.queue:
                        await anyio.lowlevel.checkpoint()
                    store.let_go.set()
                await reading.rest()
            await stage.live("c").written()
        assert await ids(stage, "?status=idle") == ["c"]
        assert await ids(stage, "?status=active") == []


# -- stop and close


async def test_stop_aborts_the_running_turn_and_keeps_what_it_said(stage: Stage) -> None:
    async with stage.held("c") as reading:
        reply = await stage.http.post("/conversations/c/stop")
        events = await reading.rest()
    turn = events[0]["turnId"]
    assert reply.json() == {"conversationId": "c", "abortedTurn": True, "turnId": turn}
    assert types(events)[-2:] == ["done", "turn-sealed"]
    assert events[-2]["reason"] == "aborted"
    assert texts(await stage.chunks("c")) == ["hold", "so far; "]


async def test_stop_of_an_idle_or_unknown_one_aborts_nothing(stage: Stage) -> None:
    await stage.say("c", "over")
    for name in ("c", "never"):
        reply = await stage.http.post(f"/conversations/{name}/stop")
        assert (reply.status_code, reply.json()) == (
            200,
            {"conversationId": name, "abortedTurn": False},
        )


async def test_stop_of_a_named_turn_leaves_another_alone(stage: Stage) -> None:
    async with stage.held("c") as reading:
        turn = reading.events[0]["turnId"]
        reply = await stage.http.post("/conversations/c/stop", json={"turnId": "t-other"})
        assert reply.json()["abortedTurn"] is False
        reply = await stage.http.post("/conversations/c/stop", json={"turnId": turn})
        assert reply.json()["abortedTurn"] is True
    reply = await stage.http.post("/conversations/c/stop", json={"turnId": 7})
    assert reply.json() == {"error": "Field 'turnId' must be a string", "code": "invalid"}


async def test_close_aborts_drops_the_queue_and_can_be_repeated(stage: Stage) -> None:
    async with stage.held("c") as reading:
        await stage.http.post("/conversations/c/queue", json={"text": "never said"})
        reply = await stage.http.post("/conversations/c/close")
        events = await reading.rest()
    assert reply.json() == {
        "conversationId": "c",
        "abortedTurn": True,
        "turnId": events[0]["turnId"],
    }
    reply = await stage.http.post("/conversations/c/close")
    assert reply.json() == {"conversationId": "c", "abortedTurn": False}
    status = (await stage.http.get("/conversations/c/status")).json()
    assert (status["isActive"], status["status"]) == (False, "closed")
    assert texts(await stage.chunks("c")) == ["hold", "so far; "]


async def test_close_of_an_unknown_one_makes_none(stage: Stage) -> None:
    reply = await stage.http.post("/conversations/never/close")
    assert (reply.status_code, reply.json()) == (
        200,
        {"conversationId": "never", "abortedTurn": False},
    )
    assert await ids(stage) == []


async def test_sending_to_a_closed_one_reopens_it(stage: Stage) -> None:
    await stage.say("c", "one")
    await stage.http.post("/conversations/c/close")
    await stage.say("c", "two")
    assert (await stage.http.get("/conversations/c/status")).json()["status"] == "idle"


# -- title, model, reasoning effort, cwd


async def test_a_title_is_automatic_until_somebody_gives_one(stage: Stage) -> None:
    path = "/conversations/c/title"
    assert (await stage.http.get(path)).json() == {"conversationId": "c", "title": None}
    await stage.say("c", "first words")
    assert (await stage.http.get(path)).json()["title"] == "first words"
    reply = await stage.http.put(path, json={"title": " Mine "})
    assert reply.json() == {"conversationId": "c", "title": " Mine "}
    await stage.say("c", "other words")
    assert (await stage.http.get(path)).json() == {"conversationId": "c", "title": " Mine "}


async def test_a_title_may_come_before_anything_else(stage: Stage) -> None:
    await stage.http.put("/conversations/c/title", json={"title": "Plans"})
    assert await ids(stage) == ["c"]
    await stage.say("c", "hello")
    assert (await stage.http.get("/conversations/c/title")).json()["title"] == "Plans"


SETTINGS: list[tuple[str, str, Any]] = [
    ("model", "model", "plain"),
    ("reasoning-effort", "reasoningEffort", "high"),
]


@pytest.mark.parametrize(("path", "field", "value"), SETTINGS)
async def test_a_setting_is_null_until_it_is_put(
    stage: Stage, path: str, field: str, value: Any
) -> None:
    url = f"/conversations/c/{path}"
    assert (await stage.http.get(url)).json() == {"conversationId": "c", field: None}
    reply = await stage.http.put(url, json={field: value})
    assert (reply.status_code, reply.json()) == (200, {"conversationId": "c", field: value})
    assert (await stage.http.get(url)).json() == {"conversationId": "c", field: value}


async def test_a_model_that_is_put_is_that_of_the_next_turn(stage: Stage) -> None:
    await stage.http.put("/conversations/c/model", json={"model": "nobody"})
    events = await stage.say("c", "hi")
    assert 'unknown agent "nobody"' in [event.get("message") for event in events]
    await stage.say("c", "hi", model="plain")
    assert (await stage.http.get("/conversations/c/model")).json()["model"] == "plain"


async def test_a_cwd_is_kept_inside_its_roots_and_can_be_cleared(
    stage: Stage, tmp_path: Path
) -> None:
    url = "/conversations/c/cwd"
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    reply = await stage.http.put(url, json={"cwd": str(inside)})
    assert reply.status_code == 400
    assert reply.json()["error"] == "'cwd' is not allowed: agent \"actor\" has no cwd_roots"
    stage.actor.cwd_roots = (inside,)
    reply = await stage.http.put(url, json={"cwd": f"{outside}/../in"})
    assert reply.json() == {"conversationId": "c", "cwd": str(inside.resolve())}
    for bad in (str(outside), f"{inside}/../out", str(inside / "missing"), "\x00"):
        reply = await stage.http.put(url, json={"cwd": bad})
        assert reply.status_code == 400
    assert (await stage.http.get(url)).json()["cwd"] == str(inside.resolve())
    assert (await stage.http.delete(url)).json() == {"conversationId": "c", "cwd": None}
    assert (await stage.http.get(url)).json() == {"conversationId": "c", "cwd": None}


@pytest.mark.parametrize(
    ("path", "field", "longest"),
    [("title", "title", 200), ("model", "model", 200), ("cwd", "cwd", 4096)],
)
async def test_a_text_that_is_put_has_bounds(
    stage: Stage, path: str, field: str, longest: int
) -> None:
    url = f"/conversations/c/{path}"
    for bad in ({}, {field: None}, {field: ""}, {field: "  "}, {field: 7}, {field: ["x"]}):
        reply = await stage.http.put(url, json=bad)
        assert (reply.status_code, reply.json()["error"]) == (
            400,
            f"Field '{field}' is required and must be a non-empty string",
        )
    reply = await stage.http.put(url, json={field: "x" * (longest + 1)})
    assert (reply.status_code, reply.json()["error"]) == (
        400,
        f"Field '{field}' must be at most {longest} characters",
    )


async def test_a_reasoning_effort_is_one_of_five(stage: Stage) -> None:
    url = "/conversations/c/reasoning-effort"
    reply = await stage.http.put(url, json={"reasoningEffort": "extreme"})
    assert (reply.status_code, reply.json()["error"]) == (
        400,
        "Field 'reasoningEffort' must be one of: low, medium, high, xhigh, max",
    )
    for effort in ("low", "medium", "high", "xhigh", "max"):
        reply = await stage.http.put(url, json={"reasoningEffort": effort})
        assert reply.json()["reasoningEffort"] == effort


# -- open, read, fork, delete, and what is not there


async def test_open_makes_it_and_tells_the_account(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(
        type(stage.daemon.services.feeds), "notify", lambda _, notice, **__: told.append(notice)
    )
    reply = await stage.http.post("/conversations/c/open", json={"workspaceId": "w"})
    assert (reply.status_code, reply.json()) == (200, {"conversationId": "c"})
    notice = Opened(account=LOCAL.account, conversation=stage.live("c").record.id, workspace="w")
    assert notice in told
    assert await ids(stage, "?workspaceId=w") == ["c"]
    await stage.http.post("/conversations/c/close")
    assert (await stage.http.post("/conversations/c/open")).status_code == 200
    assert (await stage.http.get("/conversations/c/status")).json()["status"] == "idle"
    await stage.http.put("/conversations/c/title", json={"title": "New"})
    assert any(isinstance(notice, TitleNotice) for notice in told)


async def test_open_takes_a_workspace_that_is_text(stage: Stage) -> None:
    for bad, text in [
        (7, "Field 'workspaceId' must be a string"),
        ("", "Field 'workspaceId' is required and must be a non-empty string"),
        ("x" * 201, "Field 'workspaceId' must be at most 200 characters"),
    ]:
        reply = await stage.http.post("/conversations/c/open", json={"workspaceId": bad})
        assert (reply.status_code, reply.json()["error"]) == (400, text)


async def test_a_read_cursor_only_moves_forward(stage: Stage) -> None:
    await stage.say("c", "one")
    await stage.say("c", "two")
    for up_to, last, unread in [(3, 3, 1), (1, 3, 1), (99, 4, 0)]:
        reply = await stage.http.post("/conversations/c/read", json={"upToSeq": up_to})
        assert reply.json() == {"conversationId": "c", "lastReadSeq": last, "unread": unread}


async def test_a_read_cursor_is_a_count_in_a_conversation(stage: Stage) -> None:
    for bad in (-1, 1.5, "1", None, True, 2**60):
        reply = await stage.http.post("/conversations/c/read", json={"upToSeq": bad})
        assert (reply.status_code, reply.json()["error"]) == (
            400,
            "Field 'upToSeq' must be a non-negative integer",
        )
    reply = await stage.http.post("/conversations/c/read", json={"upToSeq": 1})
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


async def test_a_fork_has_everything_up_to_its_turn_and_lives_on(stage: Stage) -> None:
    first = await stage.say("c", "one")
    await stage.say("c", "two")
    turn = first[0]["turnId"]
    reply = await stage.http.post("/conversations/c/fork", json={"turnId": turn})
    fork = reply.json()["conversationId"]
    assert reply.json() == {
        "conversationId": fork,
        "forkedFrom": {"conversationId": "c", "turnId": turn},
    }
    await stage.http.delete("/conversations/c")
    await stage.say(fork, "three")
    assert texts(await stage.chunks(fork)) == ["one", "one", "three", "three"]


async def test_a_side_chat_begins_empty_and_says_what_it_came_out_of(stage: Stage) -> None:
    turn = (await stage.say("c", "one"))[0]["turnId"]
    body = {"turnId": turn, "sideChat": True}
    reply = (await stage.http.post("/conversations/c/fork", json=body)).json()
    side = reply["conversationId"]
    origin = {"conversationId": "c", "turnId": turn}
    assert reply == {"conversationId": side, "sideChatOf": origin}
    assert await stage.chunks(side) == {"chunks": [], "latestSeq": 0}
    exported = lines((await stage.http.get(f"/conversations/{side}/export")).text)
    assert exported[0]["sideChatOf"] == origin
    assert "forkedFrom" not in exported[0]
    async with v1_wire(stage.daemon.url) as wire:
        frame = {"type": "chat.fork", "conversationId": "c", **body}
        await wire.send(**frame)
        forked = await wire.until_type("chat.forked")
        assert (forked["sideChatOf"], "forkedFrom" in forked) == (origin, False)
        await wire.send(**{**frame, "sideChat": "yes"})
        assert (await wire.until_type("chat.error"))["code"] == "invalid"


async def test_a_side_chat_may_come_out_of_the_running_turn(stage: Stage) -> None:
    async with stage.held("c") as running:
        turn = running.events[0]["turnId"]
        body = {"turnId": turn, "sideChat": True}
        reply = await stage.http.post("/conversations/c/fork", json=body)
        assert reply.status_code == 200, reply.text
        body["sideChat"] = False
        reply = await stage.http.post("/conversations/c/fork", json=body)
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
        stage.actor.release("hold")


async def test_a_fork_needs_a_sealed_turn(stage: Stage) -> None:
    await stage.say("c", "one")
    for name, turn in [("c", "t-none"), ("never", "t-none")]:
        reply = await stage.http.post(f"/conversations/{name}/fork", json={"turnId": turn})
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
    reply = await stage.http.post("/conversations/c/fork", json={})
    assert reply.json()["error"] == "Field 'turnId' is required and must be a non-empty string"


async def test_delete_ends_the_running_turn_and_leaves_nothing(stage: Stage) -> None:
    async with stage.held("c") as reading:
        reply = await stage.http.delete("/conversations/c")
        assert reply.json() == {"conversationId": "c", "deleted": True}
        events = await reading.rest()
    assert types(events)[-2:] == ["done", "turn-sealed"]
    assert await ids(stage) == []
    reply = await stage.http.post("/chat", json={"conversationId": "c", "message": "back?"})
    assert (reply.status_code, reply.json()["code"]) == (410, "gone")


async def test_a_delete_that_the_disk_refuses_leaves_it_and_its_queue(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = stage.daemon.services.store.commit

    async def full(batch: Batch) -> None:
        if batch.deletions:
            raise StorageFull("no space left")
        await commit(batch)

    monkeypatch.setattr(stage.daemon.services.store, "commit", full)
    async with stage.held("c") as reading:
        await stage.http.post("/conversations/c/queue", json={"text": "next"})
        reply = await stage.http.delete("/conversations/c")
        await reading.rest()
    assert (reply.status_code, reply.json()["code"]) == (503, "storage_full")
    assert (await stage.http.get("/conversations/c/last")).json()["content"] == "next"


async def test_delete_of_an_unknown_one_is_404(stage: Stage) -> None:
    reply = await stage.http.delete("/conversations/never")
    assert (reply.status_code, reply.json()["error"]) == (404, "Conversation not found")


async def test_language_and_tool_servers_are_none(stage: Stage) -> None:
    for path in ("lsp", "mcp"):
        reply = await stage.http.get(f"/conversations/c/{path}")
        assert reply.json() == {"conversationId": "c", "cwd": None, "servers": []}
