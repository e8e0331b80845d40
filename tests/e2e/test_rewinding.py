"""Truncating and resuming over real sockets: a kill -9 right behind takes nothing back."""

from __future__ import annotations

from pathlib import Path

from dispatch.storage.check import verify
from tests.e2e.agents import config
from tests.e2e.conftest import StartDaemon
from tests.e2e.wire import Wire, v1_wire
from tests.protocol.replies import http_client

CYCLES = 8


async def said(wire: Wire, message: str) -> str:
    """A turn to its end; its id."""
    await wire.send(type="chat.send", conversationId="c", message=message)
    sealed = (await wire.until_event("turn-sealed"))[-1]
    turn: str = sealed["event"]["turnId"]
    return turn


async def test_what_was_truncated_before_a_kill_stays_so(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(config("marking"))
    async with v1_wire(daemon.url) as wire:
        kept = await said(wire, "/dev/null one")
    for cycle in range(CYCLES):
        cut = {"afterTurn": kept, "clientMessageId": f"cut-{cycle}"}
        async with v1_wire(daemon.url) as wire:
            await said(wire, f"/dev/null {cycle}")
            await wire.send(type="chat.truncate", conversationId="c", **cut)
            told = await wire.until_type("chat.truncated")
            await daemon.kill()
        await daemon.start()
        async with v1_wire(daemon.url) as wire, http_client(daemon.url) as http:
            await wire.send(type="chat.truncate", conversationId="c", **cut)
            again = await wire.until_type("chat.truncated")
            assert again == {**told, "duplicate": True}
            page = (await http.get("/conversations/c")).json()
            counting = {c["seq"] for c in page["chunks"] if "superseded" not in c}
            ((first, last),) = page["superseded"]
            assert counting == set(range(1, first))
            assert last == page["latestSeq"]
            # Who was away hears of it, in its place.
            await wire.send(type="chat.subscribe", conversationId="c", after=before(told))
            assert (await wire.until_type("chat.subscribed"))["recovered"] is True
            shown = await wire.until_type("conversation.truncated")
            assert shown["position"] == told["position"]


def before(told: dict[str, str]) -> str:
    generation, _, offset = told["position"].partition(":")
    return f"{generation}:{int(offset) - 1}"


async def test_a_truncation_cut_off_by_a_kill_is_whole_or_absent(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon(config("endless"))
    for cycle in range(CYCLES):
        async with v1_wire(daemon.url) as wire:
            await wire.send(type="chat.send", conversationId="c", message=f"go {cycle}")
            await wire.until_event("text-delta")
            await wire.send(
                type="chat.truncate",
                conversationId="c",
                afterTurn=None,
                clientMessageId=f"cut-{cycle}",
            )
            # Somewhere between the stop, the seal and the truncation.
            for _ in range(cycle):
                if (await wire.next())["type"] == "chat.truncated":
                    break
            await daemon.kill()
        await daemon.start()
        async with v1_wire(daemon.url) as wire:
            await wire.send(
                type="chat.truncate",
                conversationId="c",
                afterTurn=None,
                clientMessageId=f"cut-{cycle}",
            )
            await wire.until_type("chat.truncated")
    async with http_client(daemon.url) as http:
        page = (await http.get("/conversations/c")).json()
        assert page["superseded"] == [[1, page["latestSeq"]]]
        assert all(chunk["superseded"] for chunk in page["chunks"])
    await daemon.kill()
    assert verify(daemon.data) == []


async def test_a_turn_that_a_kill_interrupted_goes_on_once_through_more_kills(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(config("endless"))
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="go")
        turn = (await wire.until_event("text-delta"))[-1]["event"]["turnId"]
        await daemon.kill()
    for cycle in range(3):
        await daemon.start()
        frame = {"type": "chat.resume", "conversationId": "c", "turnId": turn}
        frame["clientMessageId"] = f"again-{cycle}"
        async with v1_wire(daemon.url) as wire:
            await wire.send(**frame)
            accepted = await wire.until_type("chat.accepted")
            # Right behind the acknowledgement, or with something said already.
            if cycle:
                await wire.until_event("text-delta", accepted["turnId"])
            await daemon.kill()
        await daemon.start()
        async with v1_wire(daemon.url) as wire, http_client(daemon.url) as http:
            await wire.send(**frame)
            again = await wire.until_type("chat.accepted")
            assert (again["turnId"], again["duplicate"]) == (accepted["turnId"], True)
            chunks = (await http.get("/conversations/c")).json()["chunks"]
            assert [chunk["role"] for chunk in chunks].count("user") == 1
            assert [chunk["role"] for chunk in chunks].count("system") == cycle + 1
        turn = accepted["turnId"]
        await daemon.kill()
    assert verify(daemon.data) == []
