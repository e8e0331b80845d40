"""Devices that come and go while a group talks, with rings that hold next to nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path

import anyio
import pytest

from dispatch.settings import Limits
from tests.server.groups.grouping import Band, Told, is_group_end, playing, rebuilt, settings

TINY = Limits(ring_events_max=4, ring_bytes_max=2_000, rings_bytes_max=3_000)
MESSAGES = 12


async def over_http(band: Band, group: str, rng: random.Random, ends: int) -> list[Told]:
    """Follow with one connection after another, each from the last frame, to the last end."""
    found: list[Told] = []
    while sum(is_group_end(event.data) for event in found) < ends:
        headers = {"Last-Event-ID": str(found[-1].id if found else 0)}
        patience = rng.randrange(1, 30)
        async with band.stream(group, headers=headers) as reader:
            while len(reader.events) < patience:
                await reader.more()
                if sum(is_group_end(e.data) for e in found + reader.events) >= ends:
                    break
        found += reader.events
    return found


async def over_websocket(band: Band, group: str, rng: random.Random, ends: int) -> list[Told]:
    found: list[Told] = []
    while sum(is_group_end(event.data) for event in found) < ends:
        patience = rng.randrange(1, 30)
        async with band.socket() as socket:
            cursor = found[-1].id if found else 0
            await socket.ask("group.subscribe", groupId=group, cursor=cursor)
            while len(socket.events) < patience:
                await socket.next()
                if sum(is_group_end(e.data) for e in found + socket.events) >= ends:
                    break
            # A goodbye would wait behind what was not read.
            socket.connection.transport.abort()
        found += socket.events
    return found


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("seed", [1, 2])
async def test_devices_that_come_and_go_see_every_frame_once(
    tmp_path: Path, kind: str, seed: int
) -> None:
    rng = random.Random(seed)
    seen: list[list[Told]] = []
    async with playing(settings(tmp_path, limits=TINY, kind=kind)) as band:
        group = await band.group("ann", "bob", "cy")

        async def device(number: int) -> None:
            follow = over_http if number % 2 else over_websocket
            own = random.Random(f"{seed} {number}")
            seen.append(await follow(band, group, own, MESSAGES))

        async def send(number: int) -> None:
            words = [f"word{n} " for n in range(rng.randrange(6))]
            fails = ["!fail"] if rng.random() < 0.3 else []
            text = json.dumps({"ann": words + fails, "bob": ["!work", *words], "cy": words})
            answers.append(await band.send(group, text))

        answers: list[list[Told]] = []
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(device, number)
            for number in range(MESSAGES):
                await anyio.lowlevel.checkpoint()
                tasks.start_soon(send, number)
        shown = (await band.show(group))["events"]
    first, *others = seen
    assert len(shown) == MESSAGES * 4
    assert rebuilt(first) == shown
    for other in others:
        is_same = other == first
        assert is_same
    for answer in answers:
        topic = answer[0].data["seq"]
        assert answer == [
            event
            for event in first
            if event.data.get("replyTo") == topic or event.data.get("seq") == topic
        ]
