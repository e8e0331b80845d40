"""A wall clock that jumps, forward and back, under the whole daemon: nothing that is ordered,
counted or kept depends on it.

The daemon runs in this process, with a clock whose wall time is set by hand; its monotonic time is
the machine's, as on a machine whose clock is corrected.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dispatch.compose import Daemon, running
from dispatch.runtime.retention import forget_conversations, prune_events
from dispatch.settings import Settings, load_settings
from tests.e2e.agents import config
from tests.e2e.attackers import http_of
from tests.e2e.conftest import FAST_ECHO
from tests.e2e.wire import events, text, v1_wire

DAY = 86_400.0
YEAR = 365 * DAY


class CorrectedClock:
    """The machine's clock, with a wall time that somebody sets."""

    def __init__(self) -> None:
        self._offset_s = 0.0

    def now_ms(self) -> int:
        return round((time.time() + self._offset_s) * 1000)

    def monotonic(self) -> float:
        return time.monotonic()

    def jump(self, seconds: float) -> None:
        self._offset_s += seconds


@pytest.fixture
def clock() -> CorrectedClock:
    return CorrectedClock()


@asynccontextmanager
async def daemon_on(
    clock: CorrectedClock, folder: Path, more: str = ""
) -> AsyncIterator[tuple[Daemon, Settings]]:
    """A daemon whose wall clock can be set."""
    path = folder / "dispatch.toml"
    path.write_text(config("counter", "endless", more=more) + FAST_ECHO)
    flags = {"data": folder / "data", "port": 0}
    settings = load_settings(config=path, flags=flags, environment={})
    async with running(settings, clock=clock) as daemon:
        yield daemon, settings
        await daemon.drain(0)


@pytest.mark.parametrize("jump", [YEAR, -YEAR, 10 * YEAR, -60.0])
async def test_a_turn_over_which_the_clock_jumps_is_whole_and_in_order(
    clock: CorrectedClock, tmp_path: Path, jump: float
) -> None:
    """Offsets, seqs and the text; and how long it took is what it took."""
    async with daemon_on(clock, tmp_path) as (daemon, _), http_of(daemon.url) as http:
        async with v1_wire(daemon.url) as wire:
            for _ in range(3):
                await wire.send(type="chat.send", conversationId="c", message="100")
                await wire.until_event("text-delta")
                clock.jump(jump)
                seen = await wire.until_event("turn-sealed")
                assert 0 <= events(seen)[-2]["durationMs"] < 60_000
        offsets = [int(f["position"].split(":")[1]) for f in wire.seen if f["type"] == "chat.delta"]
        assert offsets == sorted(set(offsets))
        assert text(wire.seen) == "".join(f"{n} " for n in range(100)) * 3
        chunks = (await http.get("/conversations/c")).json()["chunks"]
        assert [chunk["seq"] for chunk in chunks] == [1, 2, 3, 4, 5, 6]
        async with v1_wire(daemon.url) as late:
            after = wire.seen[1]["position"]
            await late.send(type="chat.subscribe", conversationId="c", after=after)
            assert (await late.until_type("chat.subscribed"))["recovered"] is True


async def test_a_clock_set_forward_gives_nobody_more_sends(
    clock: CorrectedClock, tmp_path: Path
) -> None:
    """Nor does one set back take any: rates are told by the monotonic clock."""
    more = "[limits]\nsends_per_second_max = 1\nsends_burst_max = 5\n"
    async with daemon_on(clock, tmp_path, more) as (daemon, _), http_of(daemon.url) as http:
        answers = []
        for jump in (0, YEAR, -2 * YEAR, DAY, 0, YEAR, -YEAR, 0):
            clock.jump(jump)
            response = await http.post("/chat", json={"message": "1"})
            answers.append(response.status_code)
            if response.status_code == 429:
                assert 1 <= int(response.headers["retry-after"]) <= 2
    assert answers[:5] == [200] * 5
    assert 429 in answers[5:7]


async def test_what_a_jump_forward_makes_old_is_answered_by_snapshot_and_history_stays(
    clock: CorrectedClock, tmp_path: Path
) -> None:
    """Events of sealed turns may go; those of a running one, and everything sealed, may not."""
    async with daemon_on(clock, tmp_path) as (daemon, settings), http_of(daemon.url) as http:
        async with v1_wire(daemon.url) as wire:
            await wire.send(type="chat.send", conversationId="over", message="20")
            over = await wire.until_event("turn-sealed")
            await wire.send(type="chat.send", conversationId="runs", message="go", model="endless")
            await wire.until_event("text-delta")
            clock.jump(3 * DAY)
            assert await prune_events(daemon.services, settings.retention) > 0
            daemon.conversations.forget(daemon.conversations.peek(*name_of(daemon, "over")))
            async with v1_wire(daemon.url) as late:
                after = over[1]["position"]
                await late.send(type="chat.subscribe", conversationId="over", after=after)
                assert (await late.until_type("chat.subscribed"))["recovered"] is False
                snapshot = await late.until_type("chat.snapshot")
                assert snapshot["lastSeq"] == 2
                await late.send(type="chat.subscribe", conversationId="runs")
                running_turn = await late.until_event("text-delta")
                assert events(running_turn)[0]["type"] == "user-message"
            clock.jump(-6 * DAY)
            assert await prune_events(daemon.services, settings.retention) == 0
            await http.post("/conversations/runs/stop")
            await wire.until_event("turn-sealed")
        numbers = text([f for f in wire.seen if f.get("event", {}).get("conversationId") == "runs"])
        assert numbers.split() == [str(n) for n in range(len(numbers.split()))]
        chunks = (await http.get("/conversations/over")).json()["chunks"]
        assert [chunk["seq"] for chunk in chunks] == [1, 2]


def name_of(daemon: Daemon, conversation: str):  # type: ignore[no-untyped-def]
    from dispatch.core.identity import LOCAL, ConversationId

    return LOCAL, ConversationId(conversation)


async def test_by_default_no_jump_deletes_a_conversation(
    clock: CorrectedClock, tmp_path: Path
) -> None:
    async with daemon_on(clock, tmp_path) as (daemon, settings), http_of(daemon.url) as http:
        await http.post("/chat", json={"message": "1", "conversationId": "c"})
        for jump in (100 * YEAR, -200 * YEAR):
            clock.jump(jump)
            catalog = daemon.connections.catalog
            assert await forget_conversations(daemon.services, catalog, settings.retention) == 0
        assert len((await http.get("/conversations/c")).json()["chunks"]) == 2


async def test_a_clock_that_jumps_while_the_daemon_runs_deletes_no_conversation(
    clock: CorrectedClock, tmp_path: Path
) -> None:
    """Where old ones are to be forgotten, an hour is an hour that passed."""
    more = "[retention]\nconversations_seconds = 3600\n"
    async with daemon_on(clock, tmp_path, more) as (daemon, settings), http_of(daemon.url) as http:
        await http.post("/chat", json={"message": "1", "conversationId": "c"})
        clock.jump(YEAR)
        catalog = daemon.connections.catalog
        assert await forget_conversations(daemon.services, catalog, settings.retention) == 0
        assert len((await http.get("/conversations/c")).json()["chunks"]) == 2


async def test_the_list_and_its_pages_stand_a_clock_that_goes_back_and_forth(
    clock: CorrectedClock, tmp_path: Path
) -> None:
    """Each conversation once, whatever its time says; a search finds them all."""
    async with daemon_on(clock, tmp_path) as (daemon, _), http_of(daemon.url) as http:
        jumps = (0, YEAR, -2 * YEAR, 0, DAY, -DAY, 10 * YEAR, -9 * YEAR, 0, 0)
        for number, jump in enumerate(jumps):
            clock.jump(jump)
            await http.post("/chat", json={"message": "1", "conversationId": f"c{number}"})
        whole = [row["id"] for row in (await http.get("/conversations")).json()["conversations"]]
        assert sorted(whole) == sorted(f"c{number}" for number in range(len(jumps)))
        paged: list[str] = []
        query: dict[str, str | int] = {"limit": 3}
        while True:
            reply = (await http.get("/conversations", params=query)).json()
            paged += [row["id"] for row in reply["conversations"]]
            if "next" not in reply:
                break
            query["before"] = reply["next"]
        assert paged == whole
