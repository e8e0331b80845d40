"""Members of groups in rare states: too slow, unknown since a restart, with a question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio

from dispatch.settings import Limits
from tests.server.groups.grouping import Band, Told, is_group_end, playing, rebuilt, settings


def done_of(events: list[Told], member: str) -> dict[str, Any]:
    (found,) = (
        event.data
        for event in events
        if event.data["kind"] == "done" and event.data.get("familiarId") == member
    )
    return found


async def test_a_member_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    limits = Limits(turn_seconds_max=0.2)
    async with playing(settings(tmp_path, limits=limits)) as band:
        group = await band.group("ann", "bob")
        events = await band.send(group, json.dumps({"ann": ["!hang"], "bob": ["quick"]}))
        done = done_of(events, "ann")
        assert (done["outcome"], done["error"]["code"]) == ("error", "timeout")
        assert done_of(events, "bob")["outcome"] == "completed"
        assert rebuilt(events) == (await band.show(group))["events"]


async def test_a_member_without_an_agent_fails_alone(tmp_path: Path) -> None:
    chosen = settings(tmp_path, kind="sqlite")
    async with playing(chosen) as band:
        group = await band.group("ann", "bob")
        await band.send(group, "before")
    async with playing(chosen, names=("ann",)) as band:
        events = await band.send(group, "after")
        done = done_of(events, "bob")
        assert (done["outcome"], done["error"]["code"]) == ("error", "spawn_failed")
        assert done_of(events, "ann")["outcome"] == "completed"
        shown = await band.show(group)
        assert [row["seq"] for row in shown["events"]] == [1, 2, 3, 4, 5, 6]
        patched = await band.http.patch(
            f"/api/groups/{group}", json={"removeMemberFamiliarIds": ["bob"]}
        )
        assert patched.json()["memberFamiliarIds"] == ["ann"]


async def test_a_member_asks_and_is_answered_in_its_conversation(tmp_path: Path) -> None:
    async with playing(settings(tmp_path)) as band:
        group = await band.group("ann", "bob")
        async with band.sending(group, json.dumps({"ann": ["!ask"]})) as reader:
            asked = await reader.until(lambda event: event["kind"] == "request")
            assert asked["familiarId"] == "ann"
            assert asked["request"]["requestId"] == "r-1"
            url = f"/conversations/{asked['sessionId']}/requests/r-1"
            reply = await band.http.post(url, json={"approved": False, "optionId": "y"})
            assert (reply.status_code, reply.json()["code"]) == (400, "invalid")
            reply = await band.http.post(url, json={"optionId": "y"})
            assert reply.status_code == 200, reply.text
            events = await reader.rest()
        kinds = [event.data["kind"] for event in events]
        assert kinds.index("request") < kinds.index("request_closed")
        assert done_of(events, "ann")["text"] == "told y"
        assert rebuilt(events) == (await band.show(group))["events"]


async def test_what_was_queued_at_the_end_of_the_daemon_runs_after_it(tmp_path: Path) -> None:
    chosen = settings(tmp_path, kind="sqlite")
    async with playing(chosen) as band:
        group = await band.group("ann")
        async with (
            band.sending(group, json.dumps({"ann": ["a", "!hang"]})) as one,
            band.sending(group, "waits", clientMessageId="m") as two,
        ):
            await one.until(lambda event: event.get("text") == "a")
            await two.until(lambda event: event["kind"] == "user")
            await band.daemon.drain(0)
            await one.rest()
            await two.rest()
        assert is_group_end(one.events[-1].data)
        assert not is_group_end(two.events[-1].data)
    async with playing(chosen) as band:
        events = await band.send(group, "waits", clientMessageId="m")
        assert events[: len(two.events)] == two.events
        assert done_of(events, "ann")["text"] == "ann: waits"
        rows = (await band.show(group))["events"]
        assert [row["seq"] for row in rows] == [1, 2, 3, 4]
        outcomes = {row["replyTo"]: row["outcome"] for row in rows if row["role"] == "familiar"}
        assert outcomes == {1: "interrupted", events[0].data["seq"]: "completed"}


async def test_members_are_reordered_and_a_title_that_was_set_stays(tmp_path: Path) -> None:
    async with playing(settings(tmp_path)) as band:
        group = await band.group("ann", "bob")
        url = f"/api/groups/{group}"
        reply = await band.http.patch(url, json={"memberFamiliarIds": ["bob", "cy", "ann", "bob"]})
        assert reply.json()["memberFamiliarIds"] == ["bob", "cy", "ann"]
        await band.http.patch(url, json={"title": "Ours"})
        async with band.stream(group) as device:
            reply = await band.http.patch(url, json={"memberFamiliarIds": ["ann"]})
            assert reply.json()["title"] == "Ours"
            no_op = await band.http.patch(url, json={"removeMemberFamiliarIds": ["dee"]})
            assert no_op.json() == reply.json()
            await band.send(group, "hi")
            await device.until(is_group_end)
        kinds = [event.data["kind"] for event in device.events]
        assert kinds.count("group_updated") == 1


async def test_many_groups_at_once(tmp_path: Path) -> None:
    async with playing(settings(tmp_path)) as band:
        groups = [await band.group("ann", "bob") for _ in range(10)]

        async def talk(band: Band, group: str) -> None:
            for number in range(3):
                events = await band.send(group, f"{number}")
                assert {event.data["groupId"] for event in events} == {group}

        async with anyio.create_task_group() as tasks:
            for group in groups:
                tasks.start_soon(talk, band, group)
        for group in groups:
            assert (await band.show(group))["lastSeq"] == 9
