"""Sessions and chats over AHP on a real daemon, in every version that is served.

What a client folded is held against the host's snapshot after every step, and in the middle of an
answer too: the snapshot's place is among the envelopes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.clients.ahp.ahp_client.client import ROOT, client
from tests.clients.ahp.ahp_client.rpc import RpcError
from tests.e2e.ahp import VERSIONS, created, ids_of, message, new_id, seated, serving
from tests.e2e.process import DaemonProcess

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    async with serving(tmp_path_factory.mktemp("daemon")) as one:
        yield one


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_turn_is_folded_as_the_host_has_it(daemon: DaemonProcess, version: str) -> None:
    async with client(daemon.url, version) as window:
        seat = await created(window, "alice")
        turn_id = await seat.start("hello there")
        await window.check()
        turn = await seat.ended(turn_id)
        await window.check()
        assert seat.chat.text(turn_id) == "hello there "
        assert turn["state"] == "complete"
        assert turn["message"] == message("hello there")
        assert len(seat.chat.actions("chat/turnStarted")) == 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_agents_do_is_folded_as_the_host_has_it(
    daemon: DaemonProcess, version: str
) -> None:
    async with client(daemon.url, version) as window:
        for agent in ("thinker", "handy", "mute", "broken"):
            seat = await created(window, agent)
            turn_id = await seat.start("go")
            await window.check()
            turn = await seat.ended(turn_id)
            await window.check()
            assert turn["state"] == ("error" if agent == "broken" else "complete")


async def test_a_failed_turn_tells_its_error_in_the_words_of_each_version(
    daemon: DaemonProcess,
) -> None:
    for version in VERSIONS:
        async with client(daemon.url, version) as window:
            turn = await (await created(window, "broken")).ask("go")
        is_part = [part["kind"] for part in turn["responseParts"]][-1:] == ["error"]
        assert is_part == (version in ("0.9.0", "1.0.0"))
        assert ("error" in turn) == (version in ("0.5.1", "0.7.0"))


async def test_four_versions_watch_one_session_alike(daemon: DaemonProcess) -> None:
    async with AsyncExitStack() as stack:
        windows = [await stack.enter_async_context(client(daemon.url, one)) for one in VERSIONS]
        first = await created(windows[0], "counter")
        seats = [await seated(window, first.session.uri) for window in windows]
        turn_ids = []
        for seat in seats:
            turn_ids.append(await seat.start("count to 40"))
            for other in seats:
                await other.said(turn_ids[-1], 3)
                await other.client.check()
            for other in seats:
                await other.ended(turn_ids[-1])
                await other.client.check()
        expected = "".join(f"{number} " for number in range(40))
        for seat in seats:
            assert ids_of(seat.chat) == turn_ids
            assert [seat.chat.text(turn_id) for turn_id in turn_ids] == [expected] * len(turn_ids)


async def test_a_new_session_is_told_and_listed(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as watcher, client(daemon.url) as window:
        seat = await created(window, "alice")
        await seat.ask("hello")
        await watcher.until(
            lambda: any(
                method == "root/sessionAdded" and params["summary"]["resource"] == seat.session.uri
                for method, params in watcher.notifications
            )
        )
        listed = (await watcher.request("listSessions", ROOT))["items"]
        (summary,) = [one for one in listed if one["resource"] == seat.session.uri]
        assert summary["provider"] == "alice"
        assert [one["resource"] for one in summary["chats"]] == [seat.chat.uri]


async def test_sessions_are_listed_in_pages_newest_first(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        made = []
        for _ in range(5):
            seat = await created(window, "alice")
            await seat.ask("hello")
            made.append(seat.session.uri)
        found, cursor = [], None
        while True:
            more = {} if cursor is None else {"cursor": cursor}
            page = await window.request("listSessions", ROOT, limit=2, **more)
            assert len(page["items"]) <= 2
            found += [one["resource"] for one in page["items"]]
            cursor = page.get("nextCursor")
            if cursor is None:
                break
        assert [one for one in found if one in made] == made[::-1]
        assert len(set(found)) == len(found)
        with pytest.raises(RpcError) as caught:
            await window.request("listSessions", ROOT, cursor="nonsense")
        assert caught.value.code == -32602


async def test_a_session_that_exists_is_not_made_again(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "alice")
        with pytest.raises(RpcError) as caught:
            await window.request("createSession", seat.session.uri, provider="alice")
        assert caught.value.code == -32003
        with pytest.raises(RpcError) as caught:
            await window.request("createSession", "nobody:/1", provider="nobody")
        assert caught.value.code == -32002
        await window.check()


async def test_a_disposed_session_is_gone_for_everybody(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as watcher, client(daemon.url) as window:
        seat = await created(window, "alice")
        await seated(watcher, seat.session.uri)
        await window.request("disposeSession", seat.session.uri)
        told = ("root/sessionRemoved", {"channel": ROOT, "session": seat.session.uri})
        await watcher.until(lambda: told in watcher.notifications)
        with pytest.raises(RpcError) as caught:
            await window.request("subscribe", seat.session.uri)
        assert caught.value.code == -32001


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_fork_has_what_was_said_until_there(daemon: DaemonProcess, version: str) -> None:
    async with client(daemon.url, version) as window:
        seat = await created(window, "alice")
        first, second = await seat.ask("one"), await seat.ask("two")
        kind = {} if version == "0.5.1" else {"kind": "fork"}
        fork_uri = f"ahp-chat:/{new_id('fork')}"
        await window.request(
            "createChat",
            seat.session.uri,
            chat=fork_uri,
            source={**kind, "chat": seat.chat.uri, "turnId": first["id"]},
        )
        # The catalogue had it before the request was answered.
        assert [one["resource"] for one in seat.session.confirmed["chats"]] == [
            seat.chat.uri,
            fork_uri,
        ]
        fork = await window.subscribe(fork_uri)
        assert [turn["message"]["text"] for turn in fork.confirmed["turns"]] == ["one"]
        told = seat._replace(chat=fork)
        await told.ask("three")
        await window.check()
        assert [turn["message"]["text"] for turn in fork.confirmed["turns"]] == ["one", "three"]
        assert ids_of(seat.chat) == [first["id"], second["id"]]


async def test_a_chat_is_made_and_disposed(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "alice")
        chat_uri = f"ahp-chat:/{new_id('chat')}"
        await window.request("createChat", seat.session.uri, chat=chat_uri)
        beside = seat._replace(chat=await window.subscribe(chat_uri))
        await beside.ask("beside")
        await window.check()
        assert ids_of(seat.chat) == []
        await window.request("disposeChat", chat_uri)
        await window.until(lambda: len(seat.session.confirmed["chats"]) == 1)
        with pytest.raises(RpcError) as caught:
            await window.request("subscribe", chat_uri)
        assert caught.value.code == -32001
        await window.check(seat.session.uri, seat.chat.uri)


async def test_a_session_gathers_what_its_chats_do(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "asker")
        await seat.start("go")
        await window.until(lambda: seat.session.confirmed.get("inputNeeded") is not None)
        await window.check()
        assert seat.session.confirmed["status"] & 31 == 24
        (entry,) = seat.session.confirmed["inputNeeded"]
        assert entry["chat"] == seat.chat.uri
        (summary,) = seat.session.confirmed["chats"]
        assert summary["status"] & 31 == 24


async def test_a_reload_shows_what_was_there(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "alice")
        await seat.ask("one")
        await seat.act("draftChanged", draft=message("half a thou"))
        await window.settled()
        before = seat.chat.confirmed
    async with client(daemon.url) as again:
        after = await seated(again, seat.session.uri)
        assert after.chat.confirmed == before
        assert after.chat.confirmed["draft"] == message("half a thou")


async def test_only_so_many_turns_are_shown_as_were_asked_for(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "alice")
        turns = [await seat.ask(word) for word in ("one", "two", "three")]
    async with client(daemon.url) as again:
        chat = await again.subscribe(seat.chat.uri, view={"turns": 1})
        assert ids_of(chat) == [turns[-1]["id"]]
        while (cursor := chat.confirmed.get("turnsNextCursor")) is not None:
            assert await again.request("fetchTurns", chat.uri, cursor=cursor) == {}
        assert ids_of(chat) == [turn["id"] for turn in turns]
        with pytest.raises(RpcError) as caught:
            await again.request("fetchTurns", chat.uri, cursor="nonsense")
        assert caught.value.code == -32602
