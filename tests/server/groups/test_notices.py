"""The list of groups on every connection that watches it: made, changed and gone, as it happens."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dispatch.settings import AuthSettings, AuthToken
from tests.e2e.wire import old_wire
from tests.server.groups.grouping import Band, Payload, Socket, is_group_end, playing, settings

NOTICES = ("group.changed", "group.deleted")
# What of a group no message moves.
SHOWN = ("title", "memberFamiliarIds", "memberSessionIds", "createdAt", "updatedAt")


@pytest.fixture
async def band(tmp_path: Path) -> AsyncIterator[Band]:
    async with playing(settings(tmp_path)) as band:
        yield band


async def watch_list(socket: Socket) -> None:
    """Ask for notices; they come from here on."""
    await socket.ask("conversations.watch")
    await notices(socket)


async def notices(socket: Socket) -> list[Payload]:
    """Everything about the list that was said up to now and not read yet."""
    known = len(socket.frames)
    await socket.ask("ping")
    await socket.until("pong")
    return [frame for frame in socket.frames[known:] if frame["type"] in NOTICES]


async def listed(band: Band) -> list[Payload]:
    """The notices that would say what the list says."""
    groups = (await band.http.get("/api/groups")).json()["groups"]
    return [changed(group) for group in groups]


def changed(group: Payload) -> Payload:
    told = {"type": "group.changed", "groupId": group["id"]}
    return told | {name: group[name] for name in SHOWN}


async def patched(band: Band, group: str, **fields: Any) -> Payload:
    reply = await band.http.patch(f"/api/groups/{group}", json=fields)
    assert reply.status_code == 200, reply.text
    after: Payload = reply.json()
    return after


async def test_another_device_is_told_of_everything_that_changes_in_the_list(band: Band) -> None:
    async with band.socket() as socket:
        await watch_list(socket)
        group = await band.group("ann", "bob")
        assert await notices(socket) == await listed(band)
        for change in (
            {"title": "Kitchen"},
            {"addMemberFamiliarIds": ["cy"]},
            {"removeMemberFamiliarIds": ["ann"]},
            {"memberFamiliarIds": ["cy", "bob"], "title": "Garden"},
        ):
            after = await patched(band, group, **change)
            assert await notices(socket) == [changed(after)] == await listed(band)
        await band.http.delete(f"/api/groups/{group}")
        assert await notices(socket) == [{"type": "group.deleted", "groupId": group}]
        assert await listed(band) == []


async def test_a_group_of_conversations_that_exist_is_told_once(band: Band) -> None:
    async with band.socket() as socket:
        await watch_list(socket)
        for status in (201, 200):
            for name in ("c-ann", "c-bob"):
                await band.http.post(f"/conversations/{name}/open")
            wish = {"sessionIds": {"ann": "c-ann", "bob": "c-bob"}, "clientGroupId": "g-own"}
            reply = await band.http.post("/api/groups/adopt", json=wish)
            assert reply.status_code == status
        assert await notices(socket) == await listed(band)


async def test_a_member_that_got_a_new_conversation_is_told(band: Band) -> None:
    group = await band.group("ann", "bob")
    lost = (await band.show(group))["group"]["memberSessionIds"]["ann"]
    async with band.socket() as socket:
        await watch_list(socket)
        await band.http.delete(f"/conversations/{lost}")
        assert await notices(socket) == []
        await band.send(group, "hi")
        (told,) = await notices(socket)
    assert [told] == await listed(band)
    assert told["memberSessionIds"]["ann"] != lost


async def test_what_changes_no_group_is_not_told(band: Band) -> None:
    group, gone = await band.group("ann"), await band.group("ann")
    await band.http.delete(f"/api/groups/{gone}")
    async with band.socket() as socket:
        await watch_list(socket)
        await band.send(group, "hi")
        await band.http.post(f"/api/groups/{group}/read", json={"upToSeq": 2})
        await patched(band, group, addMemberFamiliarIds=["ann"])
        await band.http.delete(f"/api/groups/{gone}")
        await band.http.post("/api/groups", json={"memberFamiliarIds": ["nobody"]})
        await band.http.patch(f"/api/groups/{group}", json={"removeMemberFamiliarIds": ["ann"]})
        assert await notices(socket) == []


async def test_only_who_asked_is_told(band: Band) -> None:
    async with band.socket() as idle, old_wire(band.daemon.url) as old, band.socket() as asked:
        await watch_list(asked)
        group = await band.group("ann")
        await idle.ask("group.subscribe", groupId=group)
        await idle.until("group.subscribed")
        await patched(band, group, title="Kitchen")
        await idle.until("group.event", lambda frame: frame["event"]["kind"] == "group_updated")
        assert len(await notices(asked)) == 2
        assert await notices(idle) == []
        await band.http.post("/conversations/c/open")
        told = await old.until(lambda frame: frame["type"] == "conversation.open")
    assert [frame["type"] for frame in told] == ["conversation.open"]


async def test_who_follows_a_group_reads_its_end_before_the_list_does(band: Band) -> None:
    group = await band.group("ann")
    async with band.socket() as socket:
        await watch_list(socket)
        await socket.ask("group.subscribe", groupId=group)
        await socket.until("group.subscribed")
        await band.http.delete(f"/api/groups/{group}")
        await socket.until("group.deleted")
    ends = [frame for frame in socket.frames if frame.get("groupId") == group][1:]
    assert [frame["type"] for frame in ends] == ["group.event", "group.deleted"]
    assert ends[0]["event"]["kind"] == "group_deleted"


async def test_the_account_is_told_and_no_other(tmp_path: Path) -> None:
    def token(user: str, account: str, *rights: Any) -> AuthToken:
        sha256 = hashlib.sha256(user.encode()).hexdigest()
        return AuthToken(sha256=sha256, account=account, user=user, rights=rights)

    tokens = (
        token("ann", "one", "watch", "send"),
        token("reader", "one", "watch"),
        token("writer", "one", "send"),
        token("eve", "two", "watch", "send"),
    )
    async with (
        playing(settings(tmp_path, auth=AuthSettings(tokens=tokens))) as band,
        band.socket("ann") as ann,
        band.socket("reader") as reader,
        band.socket("writer") as writer,
        band.socket("eve") as eve,
    ):
        band.http.headers["authorization"] = "Bearer ann"
        for socket in (ann, reader, writer, eve):
            await watch_list(socket)
        group = await band.group("ann", title="Secret")
        told = [await listed(band), [changed(await patched(band, group, title="Kitchen"))]]
        async with band.sending(group, "hi") as reader_of_turn:
            await reader_of_turn.until(is_group_end)
        await band.http.delete(f"/api/groups/{group}")
        expected = [*told[0], *told[1], {"type": "group.deleted", "groupId": group}]
        assert await notices(ann) == await notices(reader) == expected
        assert await notices(writer) == []
        assert await notices(eve) == []
        assert all("Secret" not in str(frame) for frame in eve.frames + writer.frames)
