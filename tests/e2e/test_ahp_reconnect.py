"""Coming back over AHP: after a cut, after kill -9, with what had no echo, with a wrong position.

Nothing that happened is lost, comes twice or in another order: what a client folded over all its
connections is the host's snapshot.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from tests.clients.ahp.ahp_client.client import client
from tests.clients.ahp.ahp_client.copies import Pending
from tests.clients.ahp.ahp_client.rpc import RpcError
from tests.e2e.ahp import VERSIONS, created, ids_of, message, new_id, seated, serving
from tests.e2e.process import DaemonProcess

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    async with serving(tmp_path_factory.mktemp("daemon")) as one:
        yield one


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_was_missed_is_replayed(daemon: DaemonProcess, version: str) -> None:
    async with client(daemon.url, version) as window, client(daemon.url) as other:
        seat = await created(window, "counter")
        beside = await seated(other, seat.session.uri)
        turn_id = await seat.start("count to 300")
        await seat.said(turn_id, 10)
        await window.break_off()
        await beside.said(turn_id, 100)
        assert await window.reconnect() == "replay"
        await window.check()
        await seat.ended(turn_id)
        await window.check()
        assert seat.chat.text(turn_id) == beside.chat.text(turn_id)
        assert seat.chat.text(turn_id).split() == [str(number) for number in range(300)]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_kill_loses_nothing_that_was_shown(daemon: DaemonProcess, version: str) -> None:
    async with client(daemon.url, version) as window:
        seat = await created(window, "numbers")
        turn_id = await seat.start("go")
        await seat.said(turn_id, 20)
        shown = seat.chat.text(turn_id)
        await daemon.kill()
        await daemon.start()
        assert await window.reconnect() == "replay"
        turn = await seat.ended(turn_id)
        await window.check()
        assert seat.chat.text(turn_id).startswith(shown)
        assert turn["state"] == "error"
        numbers = [envelope["serverSeq"] for envelope in seat.chat.envelopes]
        assert numbers == sorted(numbers)
        assert len(seat.chat.actions("chat/turnStarted")) == 1


async def test_what_comes_late_is_what_came_in_time(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window, client(daemon.url) as other:
        seat = await created(window, "numbers")
        beside = await seated(other, seat.session.uri)
        for is_killed in (False, True):
            turn_id = await seat.start("go")
            await beside.said(turn_id, 10)
            await window.break_off()
            await beside.said(turn_id, 50)
            if is_killed:
                await daemon.kill()
                await daemon.start()
                await other.reconnect()
            assert await window.reconnect() == "replay"
            if not is_killed:
                await beside.act("turnCancelled", turnId=turn_id, duration=1)
            for one in (seat, beside):
                await one.ended(turn_id)
                await one.client.check()
        # Not one lost, doubled or in another place: the same envelopes with the same numbers.
        assert seat.chat.envelopes == beside.chat.envelopes
        assert seat.session.envelopes == beside.session.envelopes


async def test_numbers_never_go_back_over_a_restart(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        await (await created(window, "alice")).ask("hello")
        before = window.server_seq
    await daemon.kill()
    await daemon.start()
    async with client(daemon.url) as again:
        assert again.initialized["serverSeq"] >= before


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_had_no_echo_is_sent_again_and_done_once(
    daemon: DaemonProcess, version: str
) -> None:
    async with client(daemon.url, version) as window:
        seat = await created(window, "alice")
        turn_id = await seat.start("hello there")
        # Whether the host had it when the connection went, the client cannot know.
        await window.break_off()
        await daemon.kill()
        await daemon.start()
        await window.reconnect()
        await seat.ended(turn_id)
        await window.check()
        assert ids_of(seat.chat) == [turn_id]
        starts = [e for e in seat.chat.envelopes if e["action"]["type"] == "chat/turnStarted"]
        assert len([e for e in starts if "rejectionReason" not in e]) <= 1


async def test_what_the_host_had_already_is_not_done_again(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "alice")
        turn_id = await seat.start("hello there")
        await seat.ended(turn_id)
        action = seat.chat.actions("chat/turnStarted")[0]
        for restart in (False, True):
            if restart:
                await daemon.kill()
                await daemon.start()
            else:
                await window.break_off()
            # As a client does whose echo went with the connection.
            seat.chat.pending = [Pending(1, action)]
            await window.reconnect()
            await window.check()
            await seat.ask("again")
            seat.chat.pending = []
        assert ids_of(seat.chat)[0] == turn_id
        texts = [turn["message"]["text"] for turn in seat.chat.confirmed["turns"]]
        assert texts == ["hello there", "again", "again"]


async def test_a_cancel_is_answered_as_itself_whatever_was_sent_again(
    daemon: DaemonProcess,
) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "endless")
        acted = []
        for _ in range(3):
            turn_id = await seat.start("go")
            await seat.said(turn_id, 1)
            cancel = {"type": "chat/turnCancelled", "turnId": turn_id, "duration": 1}
            acted.append(await window.dispatch(seat.chat.uri, cancel))
            # As a client does that came back before the host had carried it out.
            await window.send_action(seat.chat.uri, acted[-1], cancel)
            await seat.ended(turn_id)
            await window.check()
        cancels = [e for e in seat.chat.envelopes if e["action"]["type"] == "chat/turnCancelled"]
        done = [e["origin"]["clientSeq"] for e in cancels if "rejectionReason" not in e]
        assert done == acted


@pytest.mark.parametrize("agent", ["alice", "endless"])
async def test_a_cancel_over_a_cut_is_answered_once(daemon: DaemonProcess, agent: str) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, agent)
        for _ in range(12):
            turn_id = await seat.start("hello")
            await window.settled()
            await seat.act("turnCancelled", turnId=turn_id, duration=1)
            await window.break_off()
            await window.reconnect()
            await seat.act("draftChanged", draft=message("and on"))
            await seat.ended(turn_id)
        await window.check()


async def test_a_refusal_that_was_lost_with_the_connection_is_said_again(
    daemon: DaemonProcess,
) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "alice")
        turn = await seat.ask("hello")
        cancel = {"type": "chat/turnCancelled", "turnId": turn["id"], "duration": 1}
        client_seq = await window.dispatch(seat.chat.uri, cancel)
        await window.settled()
        await window.break_off()
        seat.chat.pending = [Pending(client_seq, cancel)]
        await window.reconnect()
        await window.settled()
        await window.check()
        assert [one["action"] for one in seat.chat.rejections] == [cancel, cancel]


async def test_drafts_queues_and_flags_outlive_a_kill(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "endless")
        turn_id = await seat.start("go")
        await seat.said(turn_id, 1)
        await seat.act("draftChanged", draft=message("half a thou"))
        await seat.act("pendingMessageSet", kind="queued", id=new_id("q"), message=message("next"))
        await window.dispatch(seat.session.uri, {"type": "session/isReadChanged", "isRead": True})
        await window.settled()
        await daemon.kill()
        await daemon.start()
        await window.reconnect()
        await seat.ended(turn_id)
        await window.until(lambda: seat.chat.confirmed.get("activeTurn") is not None)
        await window.check()
        assert seat.chat.confirmed["activeTurn"]["message"]["text"] == "next"
        assert seat.chat.confirmed["draft"] == message("half a thou")


async def test_a_position_ahead_of_the_host_is_a_snapshot(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "alice")
        await seat.ask("hello")
        await window.break_off()
        assert await window.reconnect(last_seen=window.server_seq + 10_000) in (
            "snapshot",
            "initialize",
        )
        await seat.ask("again")
        await window.check()


async def test_a_stranger_does_not_come_back(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        await window.break_off()
        known, window.client_id = window.client_id, "never-seen"
        await window.open()
        params = {"clientId": "never-seen", "lastSeenServerSeq": 0, "subscriptions": []}
        with pytest.raises(RpcError) as caught:
            await window.rpc.request("reconnect", params)
        assert caught.value.code == -32008
        # What is said next on the same connection is an ordinary beginning.
        await window.initialize()
        assert window.initialized["protocolVersion"] == "0.9.0"
        window.client_id = known


async def test_a_channel_that_went_meanwhile_is_missing(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window, client(daemon.url) as other:
        kept, gone = await created(window, "alice"), await created(window, "alice")
        await window.break_off()
        await other.request("disposeSession", gone.session.uri)
        await window.reconnect()
        assert gone.session.uri not in window.copies
        assert gone.chat.uri not in window.copies
        await kept.ask("hello")
        await window.check()


async def test_the_version_of_before_is_spoken_after(daemon: DaemonProcess) -> None:
    async with client(daemon.url, "0.5.1") as window:
        seat = await created(window, "broken")
        await window.break_off()
        await window.reconnect()
        assert "error" in await seat.ask("go")
        await daemon.kill()
        await daemon.start()
        await window.reconnect()
        assert "error" in await seat.ask("go")
        await window.check()


async def test_two_windows_go_on_over_many_cuts(daemon: DaemonProcess) -> None:
    async with client(daemon.url, "0.9.0") as one, client(daemon.url, "0.5.1") as other:
        first = await created(one, "counter")
        seats = [first, await seated(other, first.session.uri)]
        asked: list[str] = []
        for number in range(6):
            seat, watcher = seats if number % 2 == 0 else seats[::-1]
            asked.append(await seat.start("count to 60"))
            await watcher.said(asked[-1], 5)
            if number % 3 == 2:
                await daemon.kill()
                await daemon.start()
                for late in seats:
                    await late.client.reconnect()
            else:
                await watcher.client.break_off()
                await watcher.client.reconnect()
            for both in seats:
                await both.ended(asked[-1])
                await both.client.check()
        for seat in seats:
            assert ids_of(seat.chat) == asked
            numbers = [e["serverSeq"] for e in seat.chat.envelopes]
            assert all(a <= b for a, b in itertools.pairwise(numbers))
