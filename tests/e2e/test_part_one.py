"""Part 1 of the native protocol over real sockets and a real process: its seven promises."""

from __future__ import annotations

import random

import anyio

from tests.e2e.agents import config
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess
from tests.e2e.wire import GUARD_SECONDS, events, old_wire, text
from tests.protocol.replies import http_client


async def test_a_turn_is_streamed_to_its_sender_from_user_message_to_seal(
    daemon: DaemonProcess,
) -> None:
    async with old_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="  hello  big world\n")
        seen = events(await wire.until_event("turn-sealed"))
    kinds = [event["type"] for event in seen]
    assert kinds[:2] == ["user-message", "turn-start"]
    assert kinds[-2:] == ["done", "turn-sealed"]
    assert seen[0]["text"] == "  hello  big world\n"
    assert {event["turnId"] for event in seen} == {seen[0]["turnId"]}
    assert {event["conversationId"] for event in seen} == {"c"}


async def test_a_send_without_an_id_tells_the_minted_one_in_its_events(
    daemon: DaemonProcess,
) -> None:
    async with old_wire(daemon.url) as wire:
        await wire.send(type="chat.send", message="hi")
        seen = events(await wire.until_event("turn-sealed"))
    async with http_client(daemon.url) as http:
        history = (await http.get(f"/conversations/{seen[0]['conversationId']}")).json()
    assert [chunk["chunk"]["text"] for chunk in history["chunks"]] == ["hi", "hi"]


async def test_what_is_not_json_or_not_known_leaves_the_connection_usable(
    daemon: DaemonProcess,
) -> None:
    async with old_wire(daemon.url) as wire:
        await wire.socket.send("{nope")
        assert await wire.next() == {"type": "error", "message": "Invalid JSON"}
        await wire.socket.send("[1]")
        assert (await wire.next())["type"] == "error"
        await wire.send(type="no.such.type")
        assert "no.such.type" in (await wire.next())["message"]
        await wire.send(type="chat.send", message="")
        assert await wire.next() == {
            "type": "chat.error",
            "message": "chat.send requires a non-empty string `message`",
        }
        await wire.send(type="chat.send", conversationId="c", message="still here")
        await wire.until_event("turn-sealed")


async def test_a_second_watcher_joins_a_running_turn_from_its_first_event(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("counter"))
    async with old_wire(daemon.url) as sender, old_wire(daemon.url) as watcher:
        await sender.send(type="chat.send", conversationId="c", message="300")
        await sender.until_event("text-delta")
        await watcher.send(type="chat.subscribe", conversationId="c")
        theirs = await watcher.until_event("turn-sealed")
        await sender.until_event("turn-sealed")
    assert [e["type"] for e in events(theirs)][:2] == ["user-message", "turn-start"]
    assert text(theirs) == text(sender.seen) == "".join(f"{n} " for n in range(300))


async def test_a_turn_goes_on_when_its_sender_is_gone(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(config("counter"))
    async with old_wire(daemon.url) as watcher:
        await watcher.send(type="chat.subscribe", conversationId="c")
        async with old_wire(daemon.url) as sender:
            await sender.send(type="chat.send", conversationId="c", message="200")
            await sender.until_event("text-delta")
            sender.socket.transport.abort()
        seen = await watcher.until_event("turn-sealed")
    assert text(seen) == "".join(f"{n} " for n in range(200))


async def test_a_busy_send_gets_replay_then_the_error_then_live(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("counter"))
    async with old_wire(daemon.url) as sender, old_wire(daemon.url) as late:
        await sender.send(type="chat.send", conversationId="c", message="300")
        await sender.until_event("text-delta")
        await late.send(type="chat.send", conversationId="c", message="me too")
        replay = await late.until(lambda f: f["type"] == "chat.error")
        live = await late.until_event("turn-sealed")
    assert replay[-1] == {
        "type": "chat.error",
        "message": "a turn is already generating for this conversation",
        "conversationId": "c",
    }
    assert [e["type"] for e in events(replay)][:2] == ["user-message", "turn-start"]
    assert text(replay) + text(live) == "".join(f"{n} " for n in range(300))
    async with http_client(daemon.url) as http:
        history = (await http.get("/conversations/c")).json()["chunks"]
    assert [chunk["role"] for chunk in history] == ["user", "assistant"]


async def test_a_seal_means_readable_five_hundred_times(daemon: DaemonProcess) -> None:
    """And a send in reaction to the seal is accepted, each time."""
    async with old_wire(daemon.url) as wire, http_client(daemon.url) as http:
        for turn in range(500):
            await wire.send(type="chat.send", conversationId="c", message=f"m{turn}")
            await wire.until_event("turn-sealed")
            if turn % 5 == 0:
                tail = (await http.get("/conversations/c", params={"limit": 2})).json()
                assert [c["chunk"]["text"] for c in tail["chunks"]] == [f"m{turn}"] * 2
                assert tail["latestSeq"] == 2 * (turn + 1)
    assert not [frame for frame in wire.seen if frame["type"] == "chat.error"]


async def test_chunks_of_a_running_turn_are_not_visible_before_the_seal(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("endless"))
    async with old_wire(daemon.url) as wire, http_client(daemon.url) as http:
        await wire.send(type="chat.send", conversationId="c", message="go")
        await wire.until_event("text-delta")
        assert (await http.get("/conversations/c")).json() == {"chunks": [], "latestSeq": 0}
        assert (await http.post("/conversations/c/stop")).json()["abortedTurn"] is True
        assert len((await http.get("/conversations/c")).json()["chunks"]) == 2


async def test_stop_with_a_silent_agent_seals_within_a_second(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(config("stubborn"))
    async with old_wire(daemon.url) as wire, http_client(daemon.url) as http:
        await wire.send(type="chat.send", conversationId="c", message="go")
        await wire.until_event("tool-call")
        with anyio.fail_after(1.0):
            await http.post("/conversations/c/stop")
            seen = events(await wire.until_event("turn-sealed"))
    assert [event["type"] for event in seen] == ["tool-result", "done", "turn-sealed"]
    assert seen[0]["isError"] is True
    assert seen[0]["toolCallId"] == "call-1"
    assert seen[1]["reason"] == "aborted"


async def test_a_failing_agent_and_an_unknown_one_still_end_in_done_and_seal(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("failing"))
    async with old_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="a", message="go")
        failed = events(await wire.until_event("turn-sealed"))
        await wire.send(type="chat.send", conversationId="b", message="go", model="nobody/x")
        unknown = events(await wire.until_event("turn-sealed"))
    assert [e["type"] for e in failed][-3:] == ["error", "done", "turn-sealed"]
    assert "secret" not in str(failed)
    assert [e["type"] for e in unknown][-3:] == ["error", "done", "turn-sealed"]
    assert unknown[-3]["code"] == "unknown_agent"


async def test_replay_and_live_join_without_gap_or_duplicate_at_a_thousand_random_moments(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("counter"))
    rng = random.Random(4)
    whole = "".join(f"{n} " for n in range(400))
    joined = 0

    async def join_and_check(conversation: str, delay_s: float) -> None:
        nonlocal joined
        await anyio.sleep(delay_s)
        async with old_wire(daemon.url, query="") as wire:
            await wire.send(type="chat.subscribe", conversationId=conversation)
            seen = await wire.until_event("turn-sealed")
        if "repeat" in events(seen)[-1]:
            # It came after the seal: nothing was in flight, so nothing is replayed.
            assert len(events(seen)) == 1
            return
        assert text(seen) == whole
        assert [e["type"] for e in events(seen)].count("user-message") == 1
        joined += 1

    async with old_wire(daemon.url) as sender:
        for round_number in range(40):
            conversation = f"c{round_number}"
            await sender.send(type="chat.send", conversationId=conversation, message="400")
            await sender.until_event("turn-start")
            with anyio.fail_after(GUARD_SECONDS * 6):
                async with anyio.create_task_group() as tasks:
                    for _ in range(50):
                        tasks.start_soon(join_and_check, conversation, rng.random() * 0.35)
            await sender.until_event("turn-sealed")
            if joined >= 1000:
                return
    raise AssertionError(f"only {joined} joined a running turn")


async def test_a_queue_is_kept_in_order_shown_on_its_surface_and_drained_by_itself(
    start_daemon: StartDaemon, tmp_path: object
) -> None:
    daemon = await start_daemon(config("endless"))
    async with old_wire(daemon.url) as wire:
        await wire.send(type="subscribe", surfaceId="message-queue", conversationId="c")
        surface = await wire.next()
        assert surface["type"] == "surface"
        assert surface["spec"]["fields"][0]["payload"] == {"messages": []}
        await wire.send(type="chat.queue", conversationId="c", text="first")
        await wire.until_event("text-delta")
        for message in ("second", "third"):
            await wire.send(type="chat.queue", conversationId="c", text=message)
            update = (await wire.until_type("update"))["update"]
            assert update["surfaceId"] == "message-queue"
        waiting = update["spec"]["fields"][0]["payload"]["messages"]
        assert [entry["text"] for entry in waiting] == ["second", "third"]
        await wire.send(type="chat.queue.cancel", conversationId="c", messageId=waiting[1]["id"])
        update = (await wire.until_type("update"))["update"]
        assert len(update["spec"]["fields"][0]["payload"]["messages"]) == 1
        async with http_client(daemon.url) as http:
            await http.post("/conversations/c/stop")
        seen = await wire.until_event("turn-start")
        assert [e["text"] for e in events(seen) if e["type"] == "user-message"] == ["second"]


async def test_an_unknown_surface_is_an_error_that_names_it(daemon: DaemonProcess) -> None:
    async with old_wire(daemon.url) as wire:
        await wire.send(type="subscribe", surfaceId="weather", conversationId="c")
        assert await wire.next() == {
            "type": "error",
            "surfaceId": "weather",
            "message": "Unknown surface: weather",
        }


async def test_status_changes_reach_every_old_connection_in_order(daemon: DaemonProcess) -> None:
    async with old_wire(daemon.url) as sender, old_wire(daemon.url) as other:
        for turn in range(3):
            await sender.send(type="chat.send", conversationId="c", message=f"m{turn}")
            await sender.until_event("turn-sealed")
        told = await other.until(
            lambda f: [s["type"] for s in other.seen].count("conversation.statusChanged") == 6
        )
    assert [frame["status"] for frame in told] == ["active", "idle"] * 3
    assert {frame["workspaceId"] for frame in told} == {"default"}


async def test_healing_repeats_the_last_seal_on_subscribe_and_a_second_later(
    daemon: DaemonProcess,
) -> None:
    async with old_wire(daemon.url, query="") as wire, old_wire(daemon.url, query="") as late:
        await wire.send(type="chat.send", conversationId="c", message="hi")
        await wire.until_event("turn-sealed")
        await late.send(type="chat.subscribe", conversationId="c")
        healed = events(await late.until_event("turn-sealed"))
        repeated = events(await wire.until_event("turn-sealed"))
    assert healed[-1]["repeat"] is True
    assert repeated[-1]["repeat"] is True
