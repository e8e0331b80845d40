"""Messages that wait over AHP: steering, in time and too late, and the line of the others.

What is done to turns is in `test_ahp_turns`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clients.ahp.ahp_client.client import client
from tests.e2e.ahp import VERSIONS, created, ids_of, message, new_id, serving, texts_of
from tests.e2e.process import DaemonProcess

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    async with serving(tmp_path_factory.mktemp("daemon")) as one:
        yield one


@pytest.mark.parametrize("version", VERSIONS)
async def test_steering_is_taken_by_the_agent(daemon: DaemonProcess, version: str) -> None:
    async with client(daemon.url, version) as window:
        seat = await created(window, "listener")
        turn_id = await seat.start("go")
        await seat.said(turn_id, 1)
        await seat.act(
            "pendingMessageSet", kind="steering", id=new_id("s"), message=message("left")
        )
        await seat.ended(turn_id)
        await window.check()
        assert seat.chat.text(turn_id) == "listening left"
        assert "steeringMessage" not in seat.chat.confirmed


@pytest.mark.parametrize("version", VERSIONS)
async def test_steering_while_nothing_runs_becomes_a_turn(
    daemon: DaemonProcess, version: str
) -> None:
    async with client(daemon.url, version) as window:
        seat = await created(window, "alice")
        steering = {"kind": "steering", "id": new_id("s"), "message": message("left")}
        await seat.act("pendingMessageSet", **steering)
        await window.until(lambda: texts_of(seat.chat) == ["left"])
        await window.settled()
        await window.check()
        assert "steeringMessage" not in seat.chat.confirmed


async def test_steering_that_comes_too_late_becomes_a_turn(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    end = tmp_path / "end"
    async with client(daemon.url) as window:
        seat = await created(window, "deaf")
        first = await seat.start(str(end))
        await seat.said(first, 2)
        steering = {"kind": "steering", "id": new_id("s"), "message": message(str(end))}
        await seat.act("pendingMessageSet", **steering)
        await window.settled()
        end.touch()
        await window.until(lambda: len(ids_of(seat.chat)) == 2)
        await window.check()
        assert texts_of(seat.chat) == [str(end)] * 2
        assert "steeringMessage" not in seat.chat.confirmed


@pytest.mark.parametrize("version", VERSIONS)
async def test_messages_wait_are_reordered_and_taken_back(
    daemon: DaemonProcess, version: str
) -> None:
    async with client(daemon.url, version) as window:
        seat = await created(window, "endless")
        running = await seat.start("go")
        await seat.said(running, 1)
        ids = [new_id("q") for _ in range(3)]
        for number, one in enumerate(ids):
            await seat.act(
                "pendingMessageSet", kind="queued", id=one, message=message(f"m{number}")
            )
        await seat.act("queuedMessagesReordered", order=[ids[2], ids[0]])
        await seat.act("pendingMessageRemoved", kind="queued", id=ids[0])
        await window.settled()
        await window.check()
        assert [one["id"] for one in seat.chat.confirmed["queuedMessages"]] == [ids[2], ids[1]]
        await seat.act("turnCancelled", turnId=running, duration=1)
        await seat.ended(running)
        await window.until(lambda: seat.chat.confirmed.get("activeTurn") is not None)
        await window.check()
        assert seat.chat.confirmed["activeTurn"]["message"]["text"] == "m2"
        assert [one["id"] for one in seat.chat.confirmed["queuedMessages"]] == [ids[1]]


async def test_a_queued_message_is_taken_at_once_while_nothing_runs(
    daemon: DaemonProcess,
) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "alice")
        await seat.act("pendingMessageSet", kind="queued", id=new_id("q"), message=message("now"))
        await window.until(lambda: texts_of(seat.chat) == ["now"])
        await window.settled()
        await window.check()
        assert "queuedMessages" not in seat.chat.confirmed
