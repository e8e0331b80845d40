"""Attacks 24 to 28: whoever asks for too much gets a typed error, and nobody else pays.

On the default limits unless a test says otherwise. 24 itself, ten readers that never read a turn,
is in `test_slow_readers.py`; here are the other ways to make the daemon hold what nobody reads.
"""

from __future__ import annotations

import time
from collections import Counter

import anyio
import anyio.abc
import httpx

from tests.e2e.agents import config
from tests.e2e.attackers import (
    GUARD_SECONDS,
    MEBIBYTE,
    auth,
    bearer,
    bystander,
    figures,
    forget_peak,
    http_of,
    peak_mebibytes,
    pong,
    resident_mebibytes,
    wire_of,
)
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import POLL_SECONDS, DaemonProcess
from tests.e2e.wire import Frame, Wire, v1_wire

PEOPLE = auth(("a", "ann", "watch send"), ("b", "bob", "watch send"))
ECHO = '[agents.echo]\nkind = "echo"\ndelay_ms = 0\n'
TURN_MEBIBYTES = 64
# Commands that one connection may have waiting; more and it is closed.
WINDOW = 200


async def test_a_turn_without_end_ends_with_a_typed_error_in_bounded_memory(
    start_daemon: StartDaemon,
) -> None:
    """25: at 64 MiB; what was said until then is kept, and nobody else waited meanwhile."""
    daemon = await start_daemon(config("flood"))
    size, tail = 0, []
    before = forget_peak(daemon)
    async with v1_wire(daemon.url) as wire, bystander(daemon.url) as watch:
        await wire.send(
            type="chat.send", conversationId="c", message=str(TURN_MEBIBYTES + 10), ref="r"
        )
        with anyio.fail_after(3 * GUARD_SECONDS):
            while not tail or tail[-1]["type"] != "turn-sealed":
                event = (await wire.passing()).get("event", {"type": ""})
                size += len(event.get("delta", ""))
                tail = [*tail, event][-3:]
    assert [event["type"] for event in tail] == ["error", "done", "turn-sealed"]
    assert (tail[0]["code"], tail[1]["reason"]) == ("turn_too_large", "error")
    assert TURN_MEBIBYTES - 1 < size / MEBIBYTE <= TURN_MEBIBYTES
    # What runs is kept in the ring, 8 MiB, and in what is on its way to the disk.
    assert peak_mebibytes(daemon) - before < 2 * TURN_MEBIBYTES
    assert watch.median < 0.1
    async with http_of(daemon.url) as http:
        for _ in range(3):
            newest = (await http.get("/conversations/c?limit=1")).json()
            assert [chunk["chunk"]["code"] for chunk in newest["chunks"]] == ["turn_too_large"]


async def test_two_thousand_idle_conversations_cost_little(start_daemon: StartDaemon) -> None:
    """25: those kept warm hold their last turn's events, the others nothing."""
    daemon = await start_daemon(ECHO)
    before = resident_mebibytes(daemon)
    async with v1_wire(daemon.url) as wire, http_of(daemon.url) as http:
        await burst(wire, 1_000)

        async def name(first: int) -> None:
            for number in range(first, first + 100):
                await http.put(
                    f"/conversations/c{number}/title", json={"title": f"number {number}"}
                )

        async with anyio.create_task_group() as tasks:
            for first in range(1_000, 2_000, 100):
                tasks.start_soon(name, first)
    async with v1_wire(daemon.url) as wire:
        # A watcher that comes and goes, as an attacker's would.
        for number in range(2_000):
            await wire.send(type="chat.subscribe", conversationId=f"c{number}")
            await wire.send(type="chat.unsubscribe", conversationId=f"c{number}")
            if number % 100 == 99:
                await pong(wire)
    counted = await figures(daemon)
    assert counted["conversations_live"] <= 1_000
    assert counted["subscriptions"] == 0
    assert resident_mebibytes(daemon) - before < 40


async def test_a_connection_subscribes_to_a_thousand_conversations_and_no_more(
    daemon: DaemonProcess,
) -> None:
    """26: the next is refused by its code, and one that is given up makes room."""
    async with v1_wire(daemon.url) as wire, v1_wire(daemon.url) as other:
        before = resident_mebibytes(daemon)
        for number in range(3_000):
            await wire.send(type="chat.subscribe", conversationId=f"c{number}")
            if number % WINDOW == WINDOW - 1:
                await pong(wire)
        told = Counter(f.get("code", f["type"]) for f in wire.seen)
        assert told["chat.subscribed"] == 1_000
        assert told["too_many"] == 2_000
        assert (await figures(daemon))["subscriptions"] == 1_000
        await wire.send(type="chat.send", message="of a conversation that is not watched yet")
        assert (await pong(wire))[0]["code"] == "too_many"
        await wire.send(type="chat.unsubscribe", conversationId="c7")
        await wire.send(type="chat.subscribe", conversationId="late")
        assert (await pong(wire))[0]["type"] == "chat.subscribed"
        await other.send(type="chat.subscribe", conversationId="c2999")
        assert (await pong(other))[0]["type"] == "chat.subscribed"
        assert resident_mebibytes(daemon) - before < 20


async def test_a_connection_shows_a_thousand_queues_and_no_more(daemon: DaemonProcess) -> None:
    """26: a surface holds its conversation in memory just as a subscription does."""
    async with v1_wire(daemon.url) as wire:
        for number in range(2_000):
            await wire.send(
                type="subscribe", surfaceId="message-queue", conversationId=f"c{number}"
            )
            if number % WINDOW == WINDOW - 1:
                await pong(wire)
        told = Counter(f.get("code", f["type"]) for f in wire.seen)
        assert told["surface"] == 1_000
        assert told["too_many"] == 1_000
        assert (await figures(daemon))["conversations_live"] == 1_000
    with anyio.fail_after(GUARD_SECONDS):
        while (await figures(daemon))["conversations_live"]:
            await anyio.sleep(POLL_SECONDS)


async def burst(wire: Wire, count: int, **send: str) -> list[Frame]:
    """So many sends as fast as the answers allow; the answers.

    In turn to as many conversations as one connection may watch.
    """
    answers: list[Frame] = []
    for start in range(0, count, WINDOW):
        for number in range(start, min(start + WINDOW, count)):
            await wire.send(
                type="chat.send", message="x", conversationId=f"c{number % 1_000}", **send
            )
        answers += [f for f in await pong(wire) if f["type"] in ("chat.accepted", "chat.error")]
    return answers


async def test_a_burst_of_sends_is_rate_limited_for_its_account_alone(
    start_daemon: StartDaemon,
) -> None:
    """27: a thousand at once and 200 a second; then a code, and when to come back."""
    daemon = await start_daemon(ECHO + PEOPLE)
    async with (
        wire_of(daemon.url, "a", "ann") as ann,
        http_of(daemon.url, "a", "ann") as ann_http,
        http_of(daemon.url, "b", "bob") as bob,
        bystander(daemon.url, additional_headers=bearer("b", "bob")) as watch,
    ):
        began, answers, refused = time.monotonic(), [], []
        with anyio.fail_after(GUARD_SECONDS):
            while len(refused) < 100:
                answers += await burst(ann, 1_000)
                refused = [f for f in answers if f["type"] == "chat.error"]
        seconds = time.monotonic() - began
        assert 1_000 <= len(answers) - len(refused) <= 1_000 + 200 * seconds + 1
        assert {f["code"] for f in refused} == {"rate_limited"}
        assert all(f["retryable"] and 1 <= f["retryAfterMs"] <= 5_000 for f in refused)
        # The same account over HTTP, on both of its routes.
        limited: list[httpx.Response] = []
        with anyio.fail_after(GUARD_SECONDS):
            while len(limited) < 3:
                for path, body in (
                    ("/chat", {"message": "x"}),
                    ("/conversations/q/queue", {"text": "x"}),
                ):
                    response = await ann_http.post(path, json=body)
                    limited += [response] if response.status_code == 429 else []
                    await burst(ann, 20)
        assert {r.json()["code"] for r in limited} == {"rate_limited"}
        assert all(int(r.headers["retry-after"]) >= 1 for r in limited)
        # Another account was not even slower.
        response = await bob.post("/chat", json={"message": "mine"})
        assert response.text.count("turn-sealed") == 1
    assert watch.median < 0.1
    assert watch.worst < 1.0


async def test_an_account_runs_a_thousand_turns_and_no_more(start_daemon: StartDaemon) -> None:
    """27: the next is told to come back, another account's runs, and one that ends makes room."""
    daemon = await start_daemon(config("silent", more=PEOPLE) + ECHO)
    async with (
        wire_of(daemon.url, "a", "ann") as ann,
        wire_of(daemon.url, "a", "ann") as more,
        http_of(daemon.url, "b", "bob") as bob,
    ):
        answers = await burst(ann, 1_000)
        assert {f["type"] for f in answers} == {"chat.accepted"}
        assert (await figures(daemon))["turns_running"] == 1_000
        refused: Frame = {}
        with anyio.fail_after(GUARD_SECONDS):
            while refused.get("code") != "too_many":
                await more.send(type="chat.send", message="x", conversationId="more")
                refused = await more.until_type("chat.error")
                assert refused["code"] in ("too_many", "rate_limited")
        assert refused["retryable"] is True
        assert refused["retryAfterMs"] > 0
        response = await bob.post("/chat", json={"message": "mine", "model": "echo"})
        assert response.text.count("turn-sealed") == 1
        await ann.send(type="chat.stop", conversationId="c0")
        await ann.until_type("chat.stopped")
        await more.send(type="chat.send", message="x", conversationId="more")
        assert (await pong(more))[0]["type"] == "chat.accepted"


async def test_sends_at_the_same_moment_do_not_pass_the_bound_together(
    start_daemon: StartDaemon,
) -> None:
    """27: five running turns instead of a thousand, and sixty connections that race for them."""
    more = "[limits]\nturns_running_max = 5\n"
    daemon = await start_daemon(config("silent", more=more))
    answers: list[str] = []
    begin = anyio.Event()

    async def send(number: int) -> None:
        async with v1_wire(daemon.url) as wire:
            await begin.wait()
            await wire.send(type="chat.send", message="x", conversationId=f"c{number}")
            frames = await pong(wire)
            answers.append(next(f.get("code", f["type"]) for f in frames if "event" not in f))

    async with anyio.create_task_group() as tasks:
        for number in range(60):
            tasks.start_soon(send, number)
        begin.set()
    assert Counter(answers) == {"chat.accepted": 5, "too_many": 55}
    assert (await figures(daemon))["turns_running"] == 5


async def test_a_queue_takes_a_hundred_messages_and_no_more(start_daemon: StartDaemon) -> None:
    """27: over frames and over HTTP, and a message too many leaves the others where they were."""
    daemon = await start_daemon(config("silent"))
    async with v1_wire(daemon.url) as wire, http_of(daemon.url) as http:
        await wire.send(type="chat.send", conversationId="c", message="go")
        for number in range(130):
            await wire.send(
                type="chat.send", conversationId="c", message=f"{number}", onBusy="queue"
            )
        told = [f for f in await pong(wire) if "event" not in f]
        assert Counter(f.get("code", f["type"]) for f in told) == {
            "chat.accepted": 101,
            "too_many": 30,
        }
        response = await http.post("/conversations/c/queue", json={"text": "x"})
        assert (response.status_code, response.json()["code"]) == (429, "too_many")
        assert int(response.headers["retry-after"]) >= 1
        queue = (await http.delete("/conversations/c/queue/nobody")).json()["queue"]
        assert [entry["text"] for entry in queue] == [f"{number}" for number in range(100)]


async def test_what_an_account_has_waiting_is_bounded_in_bytes_too(
    start_daemon: StartDaemon,
) -> None:
    """27: a hundred messages of nearly a mebibyte, in three queues; 16 MiB of them are taken."""
    daemon = await start_daemon(config("silent"))
    told: Counter[str] = Counter()
    async with v1_wire(daemon.url) as wire:
        before = resident_mebibytes(daemon)
        for conversation in ("a", "b", "c"):
            await wire.send(type="chat.send", conversationId=conversation, message="go")
            for _ in range(35):
                await wire.send(type="chat.queue", conversationId=conversation, text="q" * 900_000)
                told.update(f["code"] for f in await pong(wire) if "code" in f)
        assert resident_mebibytes(daemon) - before < 64
    assert told == {"too_many": 105 - 16 * MEBIBYTE // 900_000}
