"""The routes of chat sessions: what each says, and what each refuses."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import anyio
import anyio.lowlevel
import msgspec
import pytest

from dispatch.settings import AuthSettings, AuthToken, StorageSettings
from dispatch.storage.memory import MemoryStore
from dispatch.storage.port import Batch
from tests.server.acting import GUARD_SECONDS, Stage, settings, staged
from tests.server.chats.chatting import Person


@pytest.fixture(params=["memory", "sqlite"])
async def stage(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    chosen = msgspec.structs.replace(
        settings(tmp_path), storage=StorageSettings(kind=request.param)
    )
    async with staged(chosen) as stage:
        yield stage


@pytest.fixture
def ann(stage: Stage) -> Person:
    return Person(stage.http)


# -- creating


async def test_a_session_is_created(ann: Person) -> None:
    session = await ann.ask(
        "POST", "", {"agent_key": "actor", "title": "Plans", "workspace_id": "w"}, status=201
    )
    assert session == {
        "id": session["id"],
        "workspace_id": "w",
        "agent_key": "actor",
        "creator_id": "local",
        "title": "Plans",
        "status": "active",
        "created_at": session["created_at"],
        "updated_at": session["created_at"],
        "next_seq": 1,
        "last_read_seq": 0,
        "archived_at": None,
    }
    detail = await ann.detail(session["id"])
    assert session.items() <= detail.items()
    assert detail["messages"] == []
    assert detail["pending"] is None
    assert (detail["has_more"], detail["agent_typing"], detail["unread_count"]) == (False, False, 0)


async def test_an_agent_that_is_not_there_makes_no_session(ann: Person) -> None:
    assert await ann.refused("POST", "", {"agent_key": "nobody"}) == (404, "AGENT_NOT_FOUND")
    assert (await ann.listed("?status=all"))["sessions"] == []


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "agent_key: is required"),
        ({"agent_key": " "}, "agent_key: must not be blank"),
        ({"agent_key": "actor", "colour": "red"}, "colour: unknown key"),
        ({"agent_key": "actor", "title": "x" * 201}, "title: must be at most 200 characters"),
        ({"agent_key": "actor", "agentKey": "plain"}, "agent_key: given twice"),
    ],
)
async def test_a_body_that_is_wrong_says_why(
    ann: Person, body: dict[str, str], detail: str
) -> None:
    reply = await ann.ask("POST", "", body, status=400)
    assert reply == {
        "error": "Invalid request body",
        "code": "INVALID_REQUEST",
        "details": [detail],
    }
    assert (await ann.listed("?status=all"))["sessions"] == []


async def test_a_body_that_is_no_json_is_refused(ann: Person) -> None:
    reply = await ann.http.post("/v1/chat", content=b"{")
    assert reply.status_code == 400
    assert reply.json()["error"] == "Invalid request body"


# -- titles


async def test_the_first_message_is_the_title(ann: Person) -> None:
    session = await ann.create()
    await ann.say(session, "what is this")
    await ann.say(session, "and that")
    assert (await ann.in_list(session))["title"] == "what is this"


async def test_a_title_that_was_given_stays(ann: Person) -> None:
    session = await ann.create()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ann.say, session, "automatic")
        tasks.start_soon(ann.ask, "PATCH", f"/{session}", {"title": " mine "})
    assert (await ann.detail(session))["title"] == "mine"
    await ann.say(session, "more")
    assert (await ann.detail(session))["title"] == "mine"


async def test_renaming_is_told_once(ann: Person, stage: Stage) -> None:
    session = await ann.create(title="a")
    async with ann.events() as events:
        renamed = await ann.ask("PATCH", f"/{session}", {"title": "b"})
        assert renamed["title"] == "b"
        await ann.ask("PATCH", f"/{session}", {"title": "b"})
        path = f"/conversations/{session}/title"
        assert (await stage.http.put(path, json={"title": "c"})).status_code == 200
        await ann.ask("DELETE", f"/{session}")
        await events.until("chat_session_archived")
    assert [(f["event"], f["data"]["title"]) for f in events.frames[1:]] == [
        ("chat_session_updated", "b"),
        ("chat_session_updated", "c"),
        ("chat_session_archived", "c"),
    ]


@pytest.mark.parametrize("title", ["", "  ", "x" * 201, None, 7])
async def test_a_title_must_say_something(ann: Person, title: object) -> None:
    session = await ann.create(title="kept")
    assert await ann.refused("PATCH", f"/{session}", {"title": title}) == (400, "INVALID_REQUEST")
    assert (await ann.detail(session))["title"] == "kept"


# -- the list


async def test_the_newest_activity_is_first_and_pages_join(ann: Person) -> None:
    sessions = [await ann.create() for _ in range(5)]
    for session in (sessions[3], sessions[0]):
        await ann.say(session, "hi")
    found, query = [], "?limit=2"
    while True:
        page = await ann.listed(query)
        found += [s["id"] for s in page["sessions"]]
        if page["next_cursor"] is None:
            break
        assert len(page["sessions"]) == 2
        query = f"?limit=2&cursor={page['next_cursor']}"
    assert found[:2] == [sessions[0], sessions[3]]
    assert sorted(found) == sorted(sessions)


async def test_a_list_entry_says_what_one_wants_to_see(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    assert (await ann.in_list(session))["last_message"] is None
    sent = await ann.send(session, "hold")
    item = await ann.in_list(session)
    assert item["agent_typing"] is True
    stage.actor.release("hold")
    await ann.say(session, "fail")
    item = await ann.in_list(session)
    assert item["last_message"]["role"] == "assistant"
    assert item["last_message"]["failure_reason"]
    assert item["last_message"]["created_at"] >= sent["created_at"]
    assert item["unread_count"] == 2
    assert item["agent_typing"] is False


@pytest.mark.parametrize("query", ["?status=new", "?limit=0", "?limit=x", "?cursor=zz"])
async def test_a_query_that_cannot_be_is_refused(ann: Person, query: str) -> None:
    assert await ann.refused("GET", query) == (400, "INVALID_REQUEST")


# -- one session


async def test_messages_come_in_pages(ann: Person) -> None:
    session = await ann.create()
    for number in range(4):
        await ann.say(session, f"text {number}")
    newest = await ann.detail(session, "?limit=3")
    assert [m["seq"] for m in newest["messages"]] == [6, 7, 8]
    assert newest["has_more"] is True
    older = await ann.detail(session, "?limit=5&before_seq=6")
    assert [m["seq"] for m in older["messages"]] == [1, 2, 3, 4, 5]
    assert older["has_more"] is False


@pytest.mark.parametrize("session", ["nobody", "a%20b", "x" * 200])
async def test_what_is_no_session_is_not_found(ann: Person, session: str) -> None:
    assert await ann.refused("GET", f"/{session}") == (404, "SESSION_NOT_FOUND")
    body = {"content": "x"}
    refused = await ann.refused("POST", f"/{session}/messages", body)
    assert refused == (404, "SESSION_NOT_FOUND")


async def test_a_plain_conversation_is_no_session(ann: Person, stage: Stage) -> None:
    await stage.say("c", "hi")
    assert await ann.refused("GET", "/c") == (404, "SESSION_NOT_FOUND")
    assert await ann.refused("DELETE", "/c?purge=1") == (404, "SESSION_NOT_FOUND")
    assert (await stage.http.get("/conversations/c")).status_code == 200


async def test_a_session_is_a_conversation_of_its_user(ann: Person, stage: Stage) -> None:
    session = await ann.create("plain")
    await ann.say(session, "hi")
    reply = await stage.http.get(f"/conversations/{session}")
    assert [c["chunk"]["text"] for c in reply.json()["chunks"]] == ["hi", "hi"]
    assert (await stage.http.get(f"/conversations/{session}/model")).json()["model"] == "plain"


# -- rights, and what goes wrong


async def test_who_may_only_watch_changes_nothing(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"t").hexdigest()
    rights: tuple[Literal["watch"], ...] = ("watch",)
    auth = AuthSettings(tokens=(AuthToken(sha256=digest, user="ann", rights=rights),))
    async with staged(settings(tmp_path, auth=auth)) as stage:
        ann = Person(stage.http, {"authorization": "Bearer t"})
        assert await ann.refused("POST", "", {"agent_key": "actor"}) == (403, "FORBIDDEN")
        assert (await ann.listed())["sessions"] == []
        assert (await stage.http.get("/v1/chat")).status_code == 401


async def test_an_agent_that_is_gone_takes_no_message(tmp_path: Path) -> None:
    async with staged(settings(tmp_path)) as stage:
        ann = Person(stage.http)
        session = await ann.create("plain")
        del stage.daemon.services.agents["plain"]  # type: ignore[attr-defined]
        refused = await ann.refused("POST", f"/{session}/messages", {"content": "x"})
        assert refused == (503, "AGENT_UNAVAILABLE")
        assert await ann.contents(session) == []


async def test_a_daemon_that_goes_takes_no_message(ann: Person, stage: Stage) -> None:
    session = await ann.create()
    stage.daemon.services.is_draining = True
    refused = await ann.refused("POST", f"/{session}/messages", {"content": "x"})
    assert refused == (503, "AGENT_UNAVAILABLE")
    assert await ann.refused("GET", "/events") == (503, "UNAVAILABLE")
    assert await ann.contents(session) == []


TWO = {"content": "two"}


class FullStore(MemoryStore):
    """A store that takes no more when it is told so."""

    is_full = False

    async def commit(self, batch: Batch) -> None:
        if self.is_full:
            from dispatch.errors import StorageFull

            raise StorageFull("the disk is full")
        await super().commit(batch)


async def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    store = FullStore()
    async with staged(settings(tmp_path), store) as stage:
        ann = Person(stage.http)
        session = await ann.create(title="kept")
        await ann.say(session, "one")
        before, listed = await ann.detail(session), await ann.listed("?status=all")
        store.is_full = True
        for method, path, body in (
            ("POST", "", {"agent_key": "actor"}),
            ("POST", f"/{session}/messages", {"content": "two"}),
            ("PATCH", f"/{session}", {"title": "t"}),
            ("DELETE", f"/{session}", None),
            ("DELETE", f"/{session}?purge=true", None),
            ("POST", f"/{session}/read", None),
        ):
            assert await ann.refused(method, path, body) == (503, "STORAGE_FULL"), path
            assert await ann.detail(session) == before
        store.is_full = False
        assert await ann.listed("?status=all") == listed
        with anyio.fail_after(GUARD_SECONDS):
            # Whoever asks first finds out that there is room again.
            while (await ann.http.post(f"/v1/chat/{session}/messages?wait=5", json=TWO)).is_error:
                await anyio.lowlevel.checkpoint()
        assert [m["seq"] for m in (await ann.detail(session))["messages"]] == [1, 2, 3, 4]
