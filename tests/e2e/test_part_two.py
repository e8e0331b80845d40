"""Part 2, `dispatch.v1`, over real sockets and a real process."""

from __future__ import annotations

from pathlib import Path

import anyio

from tests.e2e.agents import config
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess
from tests.e2e.wire import Frame, Wire, events, old_wire, text, v1_wire
from tests.protocol.replies import http_client


def positions(frames: list[Frame]) -> list[int]:
    """The offsets of the frames that have one."""
    return [int(f["position"].split(":")[1]) for f in frames if "position" in f]


async def subscribe(wire: Wire, conversation: str, **more: object) -> Frame:
    await wire.send(type="chat.subscribe", conversationId=conversation, **more)
    return await wire.until_type("chat.subscribed")


async def test_hello_comes_first_and_says_who_and_what(daemon: DaemonProcess) -> None:
    async with v1_wire(daemon.url) as wire:
        hello = wire.seen[0]
    assert hello["protocol"] == "dispatch.v1"
    assert (hello["account"], hello["user"]) == ("local", "local")
    assert hello["limits"]["frameBytesMax"] == 1024 * 1024
    assert [agent["name"] for agent in hello["agents"]] == ["echo"]


async def test_a_send_is_acknowledged_before_its_first_event(daemon: DaemonProcess) -> None:
    async with v1_wire(daemon.url) as wire:
        await wire.send(
            type="chat.send", conversationId="c", message="hi", clientMessageId="m1", ref="r1"
        )
        seen = await wire.until_event("turn-sealed")
    assert seen[0]["type"] == "chat.accepted"
    assert (seen[0]["clientMessageId"], seen[0]["ref"]) == ("m1", "r1")
    assert seen[0]["turnId"] == seen[1]["event"]["turnId"]
    offsets = positions(seen)
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))


async def test_the_same_send_again_is_the_same_acknowledgement_also_after_a_restart(
    daemon: DaemonProcess,
) -> None:
    send = {"type": "chat.send", "message": "once", "clientMessageId": "m1"}
    async with v1_wire(daemon.url) as wire:
        await wire.send(**send)
        first = (await wire.until_event("turn-sealed"))[0]
        await wire.send(**send)
        second = await wire.until_type("chat.accepted")
    await daemon.kill()
    await daemon.start()
    async with v1_wire(daemon.url) as wire:
        await wire.send(**send)
        third = await wire.until_type("chat.accepted")
        await wire.send(**{**send, "message": "other"})
        conflict = await wire.until_type("chat.error")
    assert "duplicate" not in first
    assert second == third == {**first, "duplicate": True}
    assert conflict["code"] == "conflict"
    async with http_client(daemon.url) as http:
        history = (await http.get(f"/conversations/{first['conversationId']}")).json()
    assert len(history["chunks"]) == 2


async def test_resume_after_a_position_gives_exactly_the_rest(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(config("counter"))
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="200")
        whole = await wire.until_event("turn-sealed")
    deltas = [frame for frame in whole if frame["type"] == "chat.delta"]
    async with v1_wire(daemon.url) as late:
        for cut in (1, 2, len(deltas) // 2, len(deltas) - 1):
            after = deltas[cut - 1]["position"]
            reply = await subscribe(late, "c", after=after)
            assert reply["recovered"] is True
            assert reply["position"] == deltas[-1]["position"]
            rest = await late.until_event("turn-sealed")
            assert text(rest) == text(deltas[cut:])
            assert positions(rest)[-1] == positions(deltas)[-1]
            await late.send(type="chat.unsubscribe", conversationId="c")


async def test_a_position_that_cannot_be_served_gets_a_snapshot_then_live(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("counter"))
    async with v1_wire(daemon.url) as sender:
        await sender.send(type="chat.send", conversationId="c", message="300")
        await sender.until_event("text-delta")
        for position in ("zzzzzzzz:4", "{}:999999"):
            async with v1_wire(daemon.url) as wire:
                generation = sender.seen[1]["position"].split(":")[0]
                reply = await subscribe(wire, "c", after=position.format(generation))
                assert reply["recovered"] is False
                snapshot = await wire.until_type("chat.snapshot")
                live = await wire.until_event("turn-sealed")
                shown = snapshot["turn"]["chunks"][-1]["chunk"]["text"]
                assert snapshot["position"] == reply["position"]
                assert shown + text(live) == "".join(f"{n} " for n in range(300))
                assert positions(live)[0] > int(snapshot["position"].split(":")[1])
                break
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.subscribe", conversationId="c", after="nonsense", ref=7)
        error = await wire.until_type("chat.error")
        assert (error["ref"], error["code"]) == (7, "invalid")


async def test_history_and_live_come_in_one_stream(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(config("counter"))
    async with v1_wire(daemon.url) as sender, v1_wire(daemon.url) as wire:
        for count in ("5", "6", "300"):
            await sender.send(type="chat.send", conversationId="c", message=count)
            if count != "300":
                await sender.until_event("turn-sealed")
        await sender.until_event("text-delta")
        await subscribe(wire, "c", sinceSeq=2)
        seen = await wire.until_event("turn-sealed")
    assert seen[0]["type"] == "chat.history"
    assert [chunk["seq"] for chunk in seen[0]["chunks"]] == [3, 4]
    assert seen[0]["more"] is False
    assert text(seen[1:]) == "".join(f"{n} " for n in range(300))


async def test_a_seq_beyond_the_end_is_answered_with_a_snapshot(daemon: DaemonProcess) -> None:
    async with v1_wire(daemon.url) as sender:
        await sender.send(type="chat.send", conversationId="c", message="hi")
        await sender.until_event("turn-sealed")
        async with v1_wire(daemon.url) as wire:
            reply = await subscribe(wire, "c", sinceSeq=3)
            assert (reply["recovered"], reply["lastSeq"]) == (False, 2)
            snapshot = await wire.until_type("chat.snapshot")
            assert (snapshot["position"], snapshot["lastSeq"]) == (reply["position"], 2)
            await sender.send(type="chat.send", conversationId="c", message="again")
            live = await wire.until_event("turn-sealed")
            assert events(live)[0]["type"] == "user-message"
        async with v1_wire(daemon.url) as wire:
            assert (await subscribe(wire, "c", sinceSeq=4))["recovered"] is True
            history = await wire.until_type("chat.history")
            assert (history["chunks"], history["latestSeq"]) == ([], 4)


async def test_a_repeated_subscribe_is_answered_and_replays_nothing(
    daemon: DaemonProcess,
) -> None:
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="hi")
        sealed = (await wire.until_event("turn-sealed"))[-1]
        first = next(f for f in wire.seen if f["type"] == "chat.delta")
        reply = await subscribe(wire, "c", after=first["position"])
        assert reply["position"] == sealed["position"]
        await wire.send(type="ping")
        assert (await wire.next())["type"] == "pong"


async def test_queue_steer_and_interrupt_say_what_became_of_a_message(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("endless", "steered"))
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="one")
        await wire.until_event("text-delta")
        await wire.send(type="chat.send", conversationId="c", message="two", onBusy="queue")
        queued = await wire.until_type("chat.accepted")
        assert "queueId" in queued
        assert "turnId" not in queued
        await wire.send(type="chat.send", conversationId="c", message="no", onBusy="steer")
        assert "queueId" in await wire.until_type("chat.accepted")
        await wire.send(type="chat.send", conversationId="c", message="now", onBusy="interrupt")
        seen = await wire.until_type("chat.accepted")
        assert "turnId" in seen
        started = events(await wire.until_event("turn-start"))
        assert [e["text"] for e in started if e["type"] == "user-message"] == ["now"]
        await wire.send(type="chat.stop", conversationId="c")
        started = events(await wire.until_event("turn-start"))
        texts = [e["text"] for e in started if e["type"] == "user-message"]
        assert texts == ["two"]
        steered = {"conversationId": "d", "model": "steered"}
        await wire.send(type="chat.send", message="go", **steered)
        await wire.until(lambda f: f.get("event", {}).get("delta") == "waiting;")
        await wire.send(type="chat.send", message="left", onBusy="steer", **steered)
        seen_steered = await wire.until(
            lambda f: (
                f.get("event", {}).get("type") == "turn-sealed"
                and f["event"]["conversationId"] == "d"
            )
        )
    frames = [f for f in seen_steered if f.get("event", f).get("conversationId") == "d"]
    assert next(f for f in frames if f["type"] == "chat.accepted")["steered"] is True
    assert [e["type"] for e in events(frames)][:2] == ["steering", "text-delta"]


async def test_a_steer_nobody_took_becomes_a_turn(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(config("deaf"))
    end = tmp_path / "end"
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message=str(end))
        await wire.until_event("text-delta")
        await wire.send(type="chat.send", conversationId="c", message=f"{end}", onBusy="steer")
        assert (await wire.until_type("chat.accepted"))["steered"] is True
        end.touch()
        await wire.until_event("turn-sealed")
        seen = events(await wire.until_event("turn-sealed"))
    assert [e["type"] for e in seen][:2] == ["user-message", "turn-start"]


async def test_a_request_is_asked_of_every_device_and_answered_once(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("asking"))
    answer = {"type": "chat.respond", "conversationId": "c", "requestId": "ask-1"}
    async with v1_wire(daemon.url) as sender, v1_wire(daemon.url) as other:
        await sender.send(type="chat.send", conversationId="c", message="go")
        asked = await sender.until_type("chat.request")
        await subscribe(other, "c")
        late = await other.until_type("chat.request")
        assert asked == late
        assert asked["options"][0] == {"id": "yes", "label": "Yes", "effect": "allow"}
        await other.send(**answer, approved=True, optionId="yes")
        closed = await sender.until_type("chat.request.closed")
        assert (closed["outcome"], closed["by"]) == ("answered", "local")
        assert text(await sender.until_event("turn-sealed")) == "answer: yes"
        await sender.send(**answer, approved=False)
        assert (await sender.until_type("chat.error"))["code"] == "closed"


async def test_a_denial_that_names_an_allowing_option_is_no_consent(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("asking"))
    answer = {"type": "chat.respond", "conversationId": "c", "requestId": "ask-1"}
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="go")
        await wire.until_type("chat.request")
        await wire.send(**answer, approved=False, optionId="yes", ref="contradiction")
        error = await wire.until_type("chat.error")
        assert (error["code"], error["ref"]) == ("invalid", "contradiction")
        await wire.send(**answer, optionId="perhaps", ref="unknown")
        error = await wire.until_type("chat.error")
        assert (error["code"], error["ref"]) == ("invalid", "unknown")
        await wire.send(**answer, approved=False, optionId="no")
        seen = await wire.until_event("turn-sealed")
    closed = [f["outcome"] for f in wire.seen if f["type"] == "chat.request.closed"]
    assert closed == ["answered"]
    assert text(seen) == "answer: no"


async def test_stop_closes_an_open_request_as_cancelled(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(config("asking"))
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="go")
        await wire.until_type("chat.request")
        await wire.send(type="chat.stop", conversationId="c", ref=1)
        closed = await wire.until_type("chat.request.closed")
        assert closed["outcome"] == "cancelled"
        stopped = await wire.until_type("chat.stopped")
        assert (stopped["abortedTurn"], stopped["ref"]) == (True, 1)
        await wire.send(type="chat.stop", conversationId="c")
        assert (await wire.until_type("chat.stopped"))["abortedTurn"] is False


async def test_a_fork_has_everything_up_to_its_turn_and_goes_its_own_way(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("remembering"))
    async with v1_wire(daemon.url) as wire, http_client(daemon.url) as http:
        turns = []
        for message in ("one", "two", "three"):
            await wire.send(type="chat.send", conversationId="c", message=message)
            turns.append((await wire.until_event("turn-sealed"))[-1]["event"]["turnId"])
        await wire.send(type="chat.fork", conversationId="c", turnId=turns[1], ref="f")
        forked = await wire.until_type("chat.forked")
        fork = forked["conversationId"]
        assert forked["forkedFrom"] == {"conversationId": "c", "turnId": turns[1]}
        source = (await http.get("/conversations/c")).json()["chunks"]
        assert (await http.get(f"/conversations/{fork}")).json()["chunks"] == source[:4]
        await http.delete("/conversations/c")
        await wire.send(type="chat.send", conversationId=fork, message="four")
        assert text(await wire.until_event("turn-sealed")) == "4:2:0:"
        await wire.send(type="chat.fork", conversationId=fork, turnId="t-nobody")
        assert (await wire.until_type("chat.error"))["code"] == "not_found"


async def test_a_read_cursor_moves_forward_and_the_users_other_devices_are_told(
    daemon: DaemonProcess,
) -> None:
    async with v1_wire(daemon.url) as one, v1_wire(daemon.url) as other:
        await one.send(type="chat.send", conversationId="c", message="hi")
        await one.until_event("turn-sealed")
        await one.send(type="chat.read", conversationId="c", upToSeq=1, ref=1)
        reply = await one.until_type("chat.read")
        assert (reply["lastReadSeq"], reply["unread"], reply["ref"]) == (1, 1, 1)
        told = await other.until_type("chat.read")
        assert (told["lastReadSeq"], told["unread"]) == (1, 1)
        await other.send(type="chat.read", conversationId="c", upToSeq=99)
        assert (await other.until_type("chat.read"))["lastReadSeq"] == 2
        await one.until_type("chat.read")
        await one.send(type="chat.read", conversationId="c", upToSeq=0)
        assert (await one.until_type("chat.read"))["lastReadSeq"] == 2


async def test_a_deleted_conversation_is_gone_for_its_watchers_and_for_ever(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("endless"))
    async with v1_wire(daemon.url) as wire, http_client(daemon.url) as http:
        await wire.send(type="chat.send", conversationId="c", message="go")
        await wire.until_event("text-delta")
        assert (await http.delete("/conversations/c")).status_code == 200
        assert (await wire.until_type("conversation.deleted"))["conversationId"] == "c"
        gone = await http.get("/conversations/c")
        assert (gone.status_code, gone.json()["code"]) == (410, "gone")
        await wire.send(type="chat.send", conversationId="c", message="again")
        assert (await wire.until_type("chat.error"))["code"] == "gone"
        await daemon.kill()
        await daemon.start()
        async with http_client(daemon.url) as again:
            assert (await again.get("/conversations/c")).status_code == 410


async def test_broadcasts_reach_only_those_that_asked(daemon: DaemonProcess) -> None:
    async with v1_wire(daemon.url) as asked, v1_wire(daemon.url) as silent:
        await asked.send(type="conversations.watch")
        async with http_client(daemon.url) as http:
            await http.put("/conversations/c/title", json={"title": "A name"})
        told = await asked.until_type("conversation.titleChanged")
        assert told["title"] == "A name"
        await silent.send(type="ping")
        assert (await silent.next())["type"] == "pong"


async def test_a_daemon_that_drains_still_answers_and_starts_nothing(
    start_daemon: StartDaemon,
) -> None:
    """A probe sees that it is not ready, and a late device how the running turn ends."""
    daemon = await start_daemon(config("endless", more="drain_seconds = 60"))
    codes: list[int] = []

    async def stop() -> None:
        codes.append(await daemon.stop())

    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="go")
        await wire.until_event("text-delta")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop)
            status = 200
            with anyio.fail_after(10):
                while status == 200:
                    async with http_client(daemon.url) as probe:
                        status = (await probe.get("/ready")).status_code
            assert status == 503
            async with (
                v1_wire(daemon.url) as late,
                old_wire(daemon.url) as old,
                http_client(daemon.url) as http,
            ):
                refused = await http.post("/chat", json={"message": "no", "conversationId": "d"})
                assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
                await subscribe(late, "c")
                await late.send(type="chat.send", conversationId="d", message="no", ref="r")
                error = await late.until_type("chat.error")
                assert (error["code"], error["retryable"]) == ("unavailable", True)
                await late.send(type="chat.stop", conversationId="c")
                seen = events(await late.until_event("turn-sealed"))
                await late.socket.wait_closed()
                await old.socket.wait_closed()
            assert (late.socket.close_code, old.socket.close_code) == (4001, 1001)
    assert seen[-2]["reason"] == "aborted"
    assert codes == [0]


async def test_sigterm_drains_seals_and_says_that_it_goes_away(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(config("endless", more="drain_seconds = 0.2"))
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="go")
        await wire.until_event("text-delta")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(daemon.stop)
            seen = events(await wire.until_event("turn-sealed"))
        await wire.socket.wait_closed()
        assert wire.socket.close_code == 4001
    assert [e["type"] for e in seen][-3:] == ["error", "done", "turn-sealed"]
    assert seen[-2]["reason"] == "interrupted"
