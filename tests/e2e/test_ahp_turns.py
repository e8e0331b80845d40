"""What clients do to turns over AHP: start, stop, answer, truncate, resume, and all at once.

What waits for a turn is in `test_ahp_waiting`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio
import pytest

from tests.clients.ahp.ahp_client.client import client
from tests.clients.ahp.ahp_client.copies import Copy
from tests.e2e.ahp import (
    VERSIONS,
    Seat,
    created,
    ids_of,
    message,
    new_id,
    now,
    seated,
    serving,
    texts_of,
    turn_started,
)
from tests.e2e.process import DaemonProcess

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    async with serving(tmp_path_factory.mktemp("daemon")) as one:
        yield one


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_turn_is_cancelled(daemon: DaemonProcess, version: str) -> None:
    async with client(daemon.url, version) as window:
        seat = await created(window, "endless")
        turn_id = await seat.start("go")
        await seat.said(turn_id, 1)
        await seat.act("turnCancelled", turnId=turn_id, duration=5)
        turn = await seat.ended(turn_id)
        await window.check()
        assert turn["state"] == "cancelled"
        assert seat.chat.text(turn_id) == "on "


async def test_a_cancel_is_answered_whenever_it_comes(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "alice")
        for _ in range(30):
            turn_id = await seat.start("hello")
            # The turn is ending meanwhile: it was in time, or it is told that it was not.
            await seat.act("turnCancelled", turnId=turn_id, duration=1)
            turn = await seat.ended(turn_id)
            is_late = any(e["action"].get("turnId") == turn_id for e in seat.chat.rejections)
            assert turn["state"] == ("complete" if is_late else "cancelled")
        await window.check()


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_approval_and_a_question_are_answered(daemon: DaemonProcess, version: str) -> None:
    async with client(daemon.url, version) as window:
        seat = await created(window, "asker")
        turn_id = await seat.start("go")
        await answered(seat, "word of mouth")
        await seat.ended(turn_id)
        await window.check()
        assert seat.chat.text(turn_id) == "yes, word of mouth"
        assert "inputNeeded" not in seat.session.confirmed


async def answered(seat: Seat, word: str) -> None:
    """Answer both requests of the agent `asker`, as questions, whichever shape they have."""
    done: set[str] = set()
    for _ in range(2):
        await seat.client.until(
            lambda: any(one["id"] not in done for one in asked(seat)) or waits(seat)
        )
        await seat.client.check()
        if waits(seat):
            (entry,) = seat.session.confirmed["inputNeeded"]
            call = entry["toolCall"]
            (option,) = [one for one in call["options"] if one["kind"] == "approve"]
            await seat.act(
                "toolCallConfirmed",
                turnId=entry["turnId"],
                toolCallId=call["toolCallId"],
                approved=True,
                confirmed="user-action",
                selectedOptionId=option["id"],
            )
            await seat.client.settled()
            continue
        (request,) = [one for one in asked(seat) if one["id"] not in done]
        done.add(request["id"])
        answers = {}
        for question in request.get("questions", []):
            value = {"kind": "text", "value": word}
            if question["kind"] == "single-select":
                value = {"kind": "selected", "value": question["options"][0]["id"]}
            answers[question["id"]] = {"state": "submitted", "value": value}
        await seat.act(
            "inputCompleted", requestId=request["id"], response="accept", answers=answers
        )
        await seat.client.settled()


def asked(seat: Seat) -> list[dict[str, object]]:
    entries = seat.session.confirmed.get("inputNeeded", [])
    return [one["request"] for one in entries if one["kind"] == "chatInput"]


def waits(seat: Seat) -> bool:
    entries = seat.session.confirmed.get("inputNeeded", [])
    return any(one["kind"] == "toolConfirmation" for one in entries)


async def test_a_start_that_is_sent_twice_runs_once(
    daemon: DaemonProcess, tmp_path: object
) -> None:
    ran = anyio.Path(str(tmp_path)) / "ran"
    async with client(daemon.url) as window:
        seat = await created(window, "marking")
        turn_id = new_id("turn")
        action = turn_started(turn_id, str(ran))
        client_seq = await window.dispatch(seat.chat.uri, action)
        await window.send_action(seat.chat.uri, client_seq, action)
        await seat.ended(turn_id)
        await window.send_action(seat.chat.uri, client_seq, action)
        # Whatever comes of it comes before the answer.
        await window.check()
        await seat.ask(str(ran))
        await window.check()
        assert len(seat.chat.actions("chat/turnStarted")) == 2
        assert len(ids_of(seat.chat)) == 2
    assert await ran.read_text() == "ran\n" * 2


async def test_of_two_starts_at_once_nobody_is_lost(daemon: DaemonProcess) -> None:
    async with client(daemon.url, "0.9.0") as one, client(daemon.url, "0.7.0") as other:
        first = await created(one, "counter")
        seats = [first, await seated(other, first.session.uri)]
        async with anyio.create_task_group() as tasks:
            for number, seat in enumerate(seats):
                tasks.start_soon(seat.start, f"window {number} counts to 30")
        for seat in seats:
            await seat.client.settled()
            await seat.client.until(lambda chat=seat.chat: "activeTurn" not in chat.confirmed)
        # Each was run, waits, or was told to its sender with a reason: nobody's is just gone.
        for number, seat in enumerate(seats):
            mine = f"window {number} counts to 30"
            refused = [e["action"]["message"]["text"] for e in seat.chat.rejections]
            assert Counter(texts_of(seat.chat) + refused)[mine] == 1
            await seat.client.check()
        assert texts_of(seats[0].chat) == texts_of(seats[1].chat)


async def test_of_ten_windows_that_start_at_once_one_begins(daemon: DaemonProcess) -> None:
    async with AsyncExitStack() as stack:
        windows = [
            await stack.enter_async_context(client(daemon.url, VERSIONS[number % len(VERSIONS)]))
            for number in range(10)
        ]
        first = await created(windows[0], "endless")
        seats = [first, *[await seated(one, first.session.uri) for one in windows[1:]]]
        async with anyio.create_task_group() as tasks:
            for number, seat in enumerate(seats):
                tasks.start_soon(seat.start, f"window {number}")
        for seat in seats:
            await seat.client.settled()
            await seat.client.check()
        begun = {seat.chat.confirmed["activeTurn"]["message"]["text"] for seat in seats}
        assert len(begun) == 1
        for number, seat in enumerate(seats):
            mine = [
                e for e in seat.chat.rejections if e["origin"]["clientId"] == seat.chat.client_id
            ]
            assert len(mine) == (f"window {number}" not in begun)


async def test_a_refused_action_changes_nothing_and_says_why(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "alice")
        turn = await seat.ask("hello")
        refused = [
            {"type": "chat/bogus"},
            {"type": "chat/turnComplete", "turnId": turn["id"], "duration": 1},
            {"type": "chat/turnCancelled", "turnId": "none", "duration": 1},
            {"type": "chat/pendingMessageRemoved", "kind": "queued", "id": "none"},
            {"type": "chat/turnResume", "turnId": turn["id"]},
            {"type": "chat/truncated", "turnId": "none"},
            {"type": "chat/inputCompleted", "requestId": "none", "response": "accept"},
            turn_started(turn["id"], "used"),
            turn_started("fresh", ""),
            {**turn_started("fresh", "x"), "message": {"text": "x", "origin": {"kind": "agent"}}},
        ]
        before = seat.chat.confirmed
        for action in refused:
            await window.send_action(seat.chat.uri, 1000, action)
            await window.until(lambda action=action: seen(seat.chat, action))
        await window.check()
        assert seat.chat.confirmed == before
        assert [one["action"] for one in seat.chat.rejections] == refused
        assert all(one["rejectionReason"] for one in seat.chat.rejections)


def seen(chat: Copy, action: object) -> bool:
    return any(one["action"] == action for one in chat.rejections)


async def test_a_chat_is_truncated_and_goes_on(daemon: DaemonProcess) -> None:
    async with client(daemon.url, "0.9.0") as window, client(daemon.url, "0.5.1") as other:
        seat = await created(window, "alice")
        watcher = await seated(other, seat.session.uri)
        first = await seat.ask("one")
        await seat.ask("two")
        await seat.act("truncated", turnId=first["id"])
        await window.settled()
        third = await seat.ask("three")
        await watcher.ended(third["id"])
        for one in (seat, watcher):
            await one.client.check()
            assert ids_of(one.chat) == [first["id"], third["id"]]


async def test_everybody_who_cancels_is_answered(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as one, client(daemon.url, "0.7.0") as other:
        first = await created(one, "endless")
        seats = [first, await seated(other, first.session.uri)]
        for _ in range(5):
            turn_id = await seats[0].start("go")
            for seat in seats:
                await seat.said(turn_id, 1)
            async with anyio.create_task_group() as tasks:
                for seat in seats:
                    cancel = {"type": "chat/turnCancelled", "turnId": turn_id, "duration": 1}
                    tasks.start_soon(seat.client.dispatch, seat.chat.uri, cancel)
            for seat in seats:
                assert (await seat.ended(turn_id))["state"] == "cancelled"
                await seat.client.check()


async def test_everybody_who_truncates_gets_an_echo(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as one, client(daemon.url, "0.7.0") as other:
        first = await created(one, "endless")
        seats = [first, await seated(other, first.session.uri)]
        for _ in range(5):
            await seats[0].start("go")
            async with anyio.create_task_group() as tasks:
                for seat in seats:
                    tasks.start_soon(seat.act, "truncated")
            for seat in seats:
                await seat.act("draftChanged", draft=message("and on"))
                await seat.client.settled()
                await seat.client.check()


async def test_a_failed_turn_is_resumed(daemon: DaemonProcess) -> None:
    async with client(daemon.url, "0.9.0") as window, client(daemon.url, "0.7.0") as other:
        seat = await created(window, "broken")
        watcher = await seated(other, seat.session.uri)
        turn = await seat.ask("go")
        assert turn["responseParts"][-1]["resumable"] is True
        await seat.act("turnResume", turnId=turn["id"])
        await window.settled()
        await window.until(
            lambda: len(seat.chat.actions("chat/error")) == 2 or seat.chat.rejections != []
        )
        assert seat.chat.rejections == []
        await other.until(lambda: "activeTurn" not in watcher.chat.confirmed)
        for one in (seat, watcher):
            await one.client.check()
            assert ids_of(one.chat) == [turn["id"]]


async def test_flags_and_titles_are_everybodys(daemon: DaemonProcess) -> None:
    async with client(daemon.url, "0.9.0") as one, client(daemon.url, "0.5.1") as other:
        seat = await created(one, "alice")
        watcher = await seated(other, seat.session.uri)
        for action in (
            {"type": "session/titleChanged", "title": "Cellar"},
            {"type": "session/isReadChanged", "isRead": True},
            {"type": "session/isArchivedChanged", "isArchived": True},
        ):
            await one.dispatch(seat.session.uri, action)
        await one.settled()
        await other.until(lambda: watcher.session.confirmed["status"] & 96 == 96)
        for window in (one, other):
            await window.check()
            assert window.copies[seat.session.uri].confirmed["title"] == "Cellar"


async def test_an_active_client_speaks_for_itself_alone(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        seat = await created(window, "alice")
        for client_id in (window.client_id, "somebody-else"):
            active = {"clientId": client_id, "tools": []}
            await window.send_action(
                seat.session.uri,
                0,
                {"type": "session/activeClientSet", "activeClient": active},
            )
        await window.until(lambda: seat.session.rejections != [])
        (refused,) = seat.session.rejections
        assert refused["action"]["activeClient"]["clientId"] == "somebody-else"
        await window.check()
        rows = [one["clientId"] for one in seat.session.confirmed["activeClients"]]
        assert rows == [window.client_id]


async def test_a_burst_of_settings_is_taken_and_changes_nothing(daemon: DaemonProcess) -> None:
    async with client(daemon.url) as window:
        root = window.copies["ahp-root://"]
        before = root.confirmed
        for number in range(5):
            action = {"type": "root/configChanged", "config": {f"key{number}": now()}}
            await window.send_action("ahp-root://", 0, action)
        await window.check("ahp-root://")
        assert root.confirmed == before
