"""A person of a real daemon: exported and forgotten by command, also across kill -9."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest

from tests.e2e.attackers import auth, http_of, token, wire_of
from tests.e2e.commands import lines, run
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess
from tests.e2e.wire import Wire

pytestmark = pytest.mark.timeout(90)

ECHO = '[agents.echo]\nkind = "echo"\ndelay_ms = 0\n'
PEOPLE = ECHO + auth(
    ("one", "ann", "watch send"),
    ("one", "bob", "watch send"),
    ("one", "root", "admin"),
    ("two", "eve", "admin"),
)
Object = dict[str, Any]


async def say(http: httpx.AsyncClient, conversation: str, message: str) -> None:
    reply = await http.post("/chat", json={"conversationId": conversation, "message": message})
    assert reply.text.splitlines()[-1].startswith('{"type":"turn-sealed"')


async def fill(url: str, conversations: int) -> list[str]:
    """Hers: conversations and three chat sessions; beside them one of bob's with a word of hers."""
    names = [f"hers-{number}" for number in range(conversations)]
    async with http_of(url, "one", "ann") as ann, http_of(url, "one", "bob") as bob:
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(say, ann, name, f"hello from {name}")
        for _ in range(3):
            made = await ann.post("/v1/chat", json={"agent_key": "echo"})
            session = made.json()["id"]
            await ann.post(f"/v1/chat/{session}/messages?wait=10", json={"content": "private"})
            names.append(session)
        await say(bob, "his", "from bob")
        await say(ann, "his", "from ann")
        await ann.post("/conversations/his/read", json={"upToSeq": 1})
    return names


async def standing(url: str, names: list[str]) -> list[str]:
    """Which are there still, each of them whole; the others are gone."""
    there = []
    async with http_of(url, "one", "ann") as ann:
        for name in names:
            reply = await ann.get(f"/conversations/{name}/export")
            if reply.status_code == 410:
                continue
            assert json.loads(reply.text.splitlines()[-1]) == {
                "type": "end",
                "turns": 1,
                "chunks": 2,
            }
            there.append(name)
    return there


async def kill_after(daemon: DaemonProcess, watcher: Wire, deletions: int) -> None:
    for _ in range(deletions):
        await watcher.until_type("conversation.deleted")
    await daemon.kill()


async def forget(http: httpx.AsyncClient) -> Object | None:
    """What was told, or None where the daemon was killed before."""
    try:
        reply = await http.delete("/users/ann")
    except httpx.TransportError:
        return None
    assert reply.status_code == 200, reply.text
    told: Object = reply.json()
    return told


async def test_a_kill_in_the_middle_leaves_each_conversation_whole_or_gone_and_again_does_the_rest(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(PEOPLE)
    names = await fill(daemon.url, 40)
    there = names
    for deletions in (1, 5):
        async with (
            wire_of(daemon.url, "one", "bob") as watcher,
            http_of(daemon.url, "one", "root") as root,
            anyio.create_task_group() as tasks,
        ):
            await watcher.send(type="conversations.watch")
            await watcher.send(type="ping")
            await watcher.until_type("pong")
            tasks.start_soon(forget, root)
            await kill_after(daemon, watcher, deletions)
        await daemon.start()
        before, there = there, await standing(daemon.url, names)
        assert len(there) <= len(before) - deletions
    async with http_of(daemon.url, "one", "root") as root:
        told = await forget(root)
    assert told is not None
    removed = told["removed"]
    assert removed["conversations"] + removed["chatSessions"] == len(there)
    assert await standing(daemon.url, names) == []
    assert told["stayed"] == {"conversations": 0, "groups": 0, "messages": 1}
    assert await daemon.stop() == 0
    [checked] = lines(await run("", "check", "--data", str(daemon.data)))
    assert checked["ok"] is True


async def test_a_person_is_exported_and_forgotten_by_command(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(PEOPLE)
    names = await fill(daemon.url, 2)
    root = {"DISPATCH_TOKEN": token("one", "root")}
    found = lines(await run(daemon.url, "export", "--user", "ann", "--account", "one", **root))
    assert {line["id"] for line in found if line["type"] == "conversation"} == set(names)
    assert {name: found[-1][name] for name in ("conversations", "chatSessions", "messages")} == {
        "conversations": 2,
        "chatSessions": 3,
        "messages": 1,
    }
    refused = await run(daemon.url, "forget", "ann", **root)
    assert (refused.returncode, await standing(daemon.url, names)) == (2, names)
    [told] = lines(await run(daemon.url, "forget", "ann", "--yes", **root))
    assert told["removed"] == {
        "conversations": 2,
        "chatSessions": 3,
        "readCursors": 1,
        "waitingMessages": 0,
    }
    left = lines(await run(daemon.url, "export", "--user", "ann", **root))
    assert [line["type"] for line in left] == ["user", "said", "whole"]
    # Who forgets whom is for the log; what was said, and who is forgotten, is not.
    assert "people.forgot" in daemon.log
    assert not any(word in daemon.log for word in ("from ann", "/users/", "user=ann"))


async def test_another_accounts_administrator_gets_nothing_and_changes_nothing(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(PEOPLE)
    names = await fill(daemon.url, 2)
    eve = {"DISPATCH_TOKEN": token("two", "eve")}
    found = lines(await run(daemon.url, "export", "--user", "ann", **eve))
    assert [line["type"] for line in found] == ["user", "whole"]
    [told] = lines(await run(daemon.url, "forget", "ann", "--yes", **eve))
    assert (told["account"], set(told["removed"].values())) == ("two", {0})
    named = await run(daemon.url, "forget", "ann", "--yes", "--account", "one", **eve)
    assert (named.returncode, named.stdout) == (1, "")
    assert "no such account" in named.stderr
    assert await standing(daemon.url, names) == names
