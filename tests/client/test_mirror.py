"""Groups and chats over the client's WebSocket, against a daemon that does what a test says."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from dispatch.client import Client, Options, Reconnecting
from dispatch.client.groups import GroupApi
from dispatch.errors import NotFound, PeerError, TooMany, Unauthorized
from tests.client.eventing import chunk, page, row
from tests.client.scripted import EAGER, Frame, Peer, ScriptedServer


async def follow(peer: Peer, *frames: Frame) -> Frame:
    """Take a subscription to a group, and say something."""
    asked = await peer.heard("group.subscribe")
    told = {"type": "group.subscribed", "groupId": "g-1", "cursor": asked.get("cursor", 80)}
    await peer.say(told | {"ref": asked["ref"]}, *frames)
    return asked


def event(number: int | None, frame: Frame) -> Frame:
    told: Frame = {"type": "group.event", "groupId": "g-1", "event": frame}
    return told if number is None else told | {"frameId": number}


async def heard(groups: GroupApi, count: int, **fields: object) -> list[object]:
    """The first so many items of a watcher: ids, seqs of snapshots, and losses."""
    found: list[object] = []
    async with aclosing(groups.watch("g-1", **fields)) as items:  # type: ignore[arg-type]
        async for item in items:
            if isinstance(item, Reconnecting):
                found.append("reconnecting")
            elif isinstance(item, dict):
                found.append(item.get("frameId"))
            else:
                found.append([one.seq for one in item.events])
            if len(found) == count:
                break
    return found


async def test_a_watcher_goes_on_behind_the_last_frame_that_came() -> None:
    asked: list[Frame] = []

    async def first(peer: Peer) -> None:
        asked.append(await follow(peer, event(96, chunk(2, "opus", "a"))))
        await peer.cut()

    async def second(peer: Peer) -> None:
        repeated = event(96, chunk(2, "opus", "a"))
        asked.append(await follow(peer, repeated, event(112, chunk(2, "opus", "b"))))
        await peer.stay()

    async with ScriptedServer(first, second) as server, Client(server.url, options=EAGER) as client:
        assert await heard(client.groups, 3, after=80) == [96, "reconnecting", 112]
    assert [frame["cursor"] for frame in asked] == [80, 96]


async def test_frames_of_a_subscription_that_was_given_up_are_not_shown() -> None:
    async def script(peer: Peer) -> None:
        await peer.say(event(80, chunk(2, "opus", "of an older subscription")))
        await follow(peer, event(96, chunk(2, "opus", "a")))
        await peer.stay()

    async with ScriptedServer(script) as server, Client(server.url, options=EAGER) as client:
        assert await heard(client.groups, 1, after=64) == [96]


async def test_frames_that_are_gone_are_replaced_by_a_snapshot() -> None:
    gap: Frame = {"kind": "progress", "id": "resume-gap", "groupId": "g-1", "seq": None}

    async def script(peer: Peer) -> None:
        old, new = event(192, chunk(3, "opus", "in it")), event(224, chunk(3, "opus", "new"))
        await follow(peer, event(None, gap | {"cursor": 200}), old, new)
        await peer.stay()

    async with ScriptedServer(script) as server, Client(server.url, options=EAGER) as client:
        shown = page(row(3, "opus", "in it", streaming=True), cursor=208)
        server.pages = {"/api/groups/g-1": shown}
        assert await heard(client.groups, 2, after=48) == [[3], 224]


async def test_a_slow_consumer_loses_its_subscription_and_not_a_frame() -> None:
    asked: list[Frame] = []
    frames = [event(16 * number, chunk(2, "opus", "x" * 500)) for number in range(1, 41)]

    async def script(peer: Peer) -> None:
        while True:
            wish = await peer.heard("group.subscribe")
            asked.append(wish)
            told = {"type": "group.subscribed", "groupId": "g-1", "cursor": wish["cursor"]}
            rest = [frame for frame in frames if frame["frameId"] > wish["cursor"]]
            await peer.say(told | {"ref": wish["ref"]}, *rest)

    narrow = Options(backoff_seconds=0, buffer_bytes_max=4096)
    async with ScriptedServer(script) as server, Client(server.url, options=narrow) as client:
        found = await heard(client.groups, 40, after=0)
    assert found == [16 * number for number in range(1, 41)]
    assert len(asked) > 1


async def test_a_group_that_is_refused_raises_what_the_daemon_says() -> None:
    async def script(peer: Peer) -> None:
        asked = await peer.heard("group.subscribe")
        refusal = {"type": "group.error", "groupId": "g-1", "code": "group_not_found"}
        await peer.say(refusal | {"error": "no such group", "ref": asked["ref"]})
        await peer.stay()

    async with ScriptedServer(script) as server, Client(server.url, options=EAGER) as client:
        with pytest.raises(NotFound, match="no such group") as refused:
            await heard(client.groups, 1, after=0)
    assert refused.value.code == "group_not_found"


async def test_chats_that_are_refused_raise_what_the_daemon_says() -> None:
    async def script(peer: Peer) -> None:
        asked = await peer.heard("chats.subscribe")
        refusal = {"type": "chat.error", "code": "too_many", "message": "too many streams"}
        await peer.say(refusal | {"ref": asked["ref"]})
        await peer.stay()

    async with ScriptedServer(script) as server, Client(server.url, options=EAGER) as client:
        with pytest.raises(TooMany, match="too many streams"):
            await anext(client.chats.watch())


async def test_chats_go_on_behind_what_the_first_frame_said() -> None:
    asked: list[Frame] = []

    async def first(peer: Peer) -> None:
        asked.append(await peer.heard("chats.subscribe"))
        await peer.say({"type": "chats.event", "event": "connected", "data": {"cursor": 7}})
        await peer.cut()

    async def second(peer: Peer) -> None:
        asked.append(await peer.heard("chats.subscribe"))
        told = {"type": "chats.event", "event": "connected", "data": {"cursor": 7}}
        await peer.say(told, {"type": "chats.event", "event": "chat_message", "id": 9, "data": {}})
        await peer.stay()

    found = []
    async with (
        ScriptedServer(first, second) as server,
        Client(server.url, options=EAGER) as client,
        aclosing(client.chats.watch(deltas=True)) as items,
    ):
        async for item in items:
            found.append("lost" if isinstance(item, Reconnecting) else item["event"])
            if found[-1] == "chat_message":
                break
    assert found == ["connected", "lost", "connected", "chat_message"]
    assert [frame.get("lastEventId") for frame in asked] == [None, 7]
    assert {frame["deltas"] for frame in asked} == {True}


async def test_a_final_close_code_ends_every_watcher_with_its_reason() -> None:
    async def script(peer: Peer) -> None:
        await follow(peer, event(96, chunk(2, "opus", "a")))
        await peer.close(4500, "the token was revoked")

    async with (
        ScriptedServer(script) as server,
        Client(server.url, options=EAGER) as client,
        aclosing(client.groups.watch("g-1", after=80)) as items,
    ):
        await anext(items)
        with pytest.raises(Unauthorized, match="revoked"):
            await anext(items)
    assert len(server.heads) == 1


async def test_a_frame_that_makes_no_sense_ends_the_client_with_its_name() -> None:
    async def script(peer: Peer) -> None:
        await follow(peer, {"type": "group.event", "groupId": "g-1", "event": 3})
        await peer.stay()

    async with ScriptedServer(script) as server, Client(server.url, options=EAGER) as client:
        with pytest.raises(PeerError, match=r"group\.event"):
            await heard(client.groups, 1, after=80)
