"""Everything on one session at once: VS Code in 0.9, 0.7 and 0.5.1, and our client in 1.0.

They list, create, stream, steer, queue, cancel, fork, reload, and come back after kill -9; after
every step each of them is held against the host.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.clients.ahp.ahp_client.client import ROOT, client
from tests.clients.ahp.ahp_client.copies import Copy
from tests.e2e.ahp import Seat, message, new_id, seated, serving
from tests.e2e.process import DaemonProcess
from tests.e2e.test_ahp_vscode import WINDOWS, Desk, new_desk, window

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    async with serving(tmp_path_factory.mktemp("daemon")) as one:
        yield one


class Table:
    """Everybody at one session."""

    def __init__(self, desks: list[Desk], seat: Seat) -> None:
        self.desks = desks
        self.seat = seat

    def chats(self) -> list[Copy]:
        return [self.seat.chat, *(desk.folded() for desk in self.desks)]

    async def check(self) -> None:
        await self.seat.client.check()
        for desk in self.desks:
            await desk.check()

    async def said(self, turn_id: str, pieces: int = 1) -> None:
        await self.seat.said(turn_id, pieces)
        for desk in self.desks:
            await desk.said(turn_id, pieces)
        await self.check()

    async def ended(self, turn_id: str, kind: str) -> None:
        await self.seat.ended(turn_id)
        for desk in self.desks:
            assert (await desk.ended(turn_id))["type"] == kind
        await self.check()

    async def running(self, text: str) -> str:
        """The turn of a message that waited."""

        def found(copy: Copy) -> bool:
            return copy.confirmed.get("activeTurn", {}).get("message") == message(text)

        await self.seat.client.until(lambda: found(self.seat.chat))
        turn_id: str = self.seat.chat.confirmed["activeTurn"]["id"]
        await self.said(turn_id)
        return turn_id


async def test_four_windows_do_everything_in_one_session(daemon: DaemonProcess) -> None:
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(client(daemon.url, "1.0.0"))
        windows = [
            await stack.enter_async_context(window(daemon.url, made_for, version))
            for made_for, version in WINDOWS
        ]
        versions = [version for _, version in WINDOWS]
        # Made by the oldest, found in everybody's list.
        oldest = await new_desk(windows[2], versions[2], "listener")
        desks = [Desk(windows[0], versions[0], oldest.session)]
        desks += [Desk(windows[1], versions[1], oldest.session), oldest]
        for desk in desks[:2]:
            listed = await desk.window.do("listSessions")
            assert desk.session in [row["session"] for row in listed]
            await desk.sit()
        listed = (await ours.request("listSessions", ROOT))["items"]
        assert oldest.session in [row["resource"] for row in listed]
        table = Table(desks, await seated(ours, oldest.session))
        newest, older = desks[0], desks[1]
        await table.check()

        first = await older.start("streamed")
        await table.said(first)
        steering = {"kind": "steering", "id": new_id("s"), "message": message("left")}
        await newest.act("pendingMessageSet", **steering)
        await table.ended(first, "chat/turnComplete")
        assert {copy.text(first) for copy in table.chats()} == {"listening left"}

        second = await table.seat.start("to be cancelled")
        await table.said(second)
        queued = {"kind": "queued", "id": new_id("q"), "message": message("waited")}
        await oldest.act("pendingMessageSet", **queued)
        await oldest.window.until(lambda: "queuedMessages" in oldest.folded().confirmed)
        await table.check()
        await newest.act("turnCancelled", turnId=second, duration=2)
        await table.ended(second, "chat/turnCancelled")
        third = await table.running("waited")
        await oldest.act("turnCancelled", turnId=third)
        await table.ended(third, "chat/turnCancelled")

        fork = f"ahp-chat://{uuid.uuid4()}/{oldest.chat.rpartition('/')[2]}"
        source = {"chat": older.chat, "turnId": first}
        await older.window.do("createChat", session=older.session, chat=fork, fork=source)
        forked = await ours.subscribe(fork)
        assert [turn["message"]["text"] for turn in forked.confirmed["turns"]] == ["streamed"]
        await table.check()

        # A reload is a new window: it sees what those see that were there all along.
        again = await stack.enter_async_context(window(daemon.url, *WINDOWS[0]))
        table.desks.append(Desk(again, versions[0], oldest.session))
        await table.desks[-1].sit()
        await table.check()

        fourth = await table.desks[-1].start("cut short")
        await table.said(fourth)
        await daemon.kill()
        await daemon.start()
        assert await ours.reconnect() == "replay"
        for desk in table.desks:
            states = desk.window.states
            await desk.window.until(
                lambda states=states: "reconnecting" in states and states[-1] == "connected"
            )
        await table.ended(fourth, "chat/error")
        fifth = await oldest.start("and on")
        await table.said(fifth)
        await newest.act("turnCancelled", turnId=fifth, duration=2)
        await table.ended(fifth, "chat/turnCancelled")
        for copy in table.chats():
            turn_ids = [turn["id"] for turn in copy.confirmed["turns"]]
            assert turn_ids == [first, second, third, fourth, fifth]
