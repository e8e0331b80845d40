"""Groups over HTTP: what each route answers, and what becomes of a message."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.server.groups.grouping import Band, Told, is_group_end, kinds, playing, rebuilt, settings


@pytest.fixture
async def band(tmp_path: Path) -> AsyncIterator[Band]:
    async with playing(settings(tmp_path)) as band:
        yield band


def plan(**steps: list[str]) -> str:
    return json.dumps(steps)


async def refused(band: Band, method: str, path: str, **kwargs: Any) -> tuple[int, str]:
    """Status and code of an error, which must be in the dialect's form."""
    reply = await band.http.request(method, path, **kwargs)
    body = reply.json()
    assert body.keys() == {"ok", "error", "code"}, body
    assert body["ok"] is False
    assert body["error"]
    assert reply.headers["content-type"] == "application/json"
    return reply.status_code, body["code"]


def dones(events: list[Told]) -> dict[str, dict[str, Any]]:
    """The last word of each member."""
    return {
        e.data["familiarId"]: e.data
        for e in events
        if e.data["kind"] == "done" and "familiarId" in e.data
    }


# -- the group itself


async def test_a_group_is_made_with_a_conversation_for_each_member(band: Band) -> None:
    reply = await band.http.post(
        "/api/groups", json={"memberFamiliarIds": ["bob", "ann", "bob"], "unknown": 1}
    )
    assert reply.status_code == 201
    group = reply.json()
    assert group["memberFamiliarIds"] == ["bob", "ann"]
    assert group["title"] == "bob & ann"
    assert group["lastSeq"] == 0
    assert group["activeRun"] is None
    assert group["activeRuns"] == group["archivedMembers"] == []
    assert group["createdAt"] == group["updatedAt"]
    assert group["createdAt"].endswith("Z")
    assert group["memberSessionIds"].keys() == {"ann", "bob"}
    for session in group["memberSessionIds"].values():
        status = await band.http.get(f"/conversations/{session}/status")
        assert status.json()["isActive"] is False
    shown = await band.show(group["id"])
    assert shown == {
        "group": group,
        "events": [],
        "lastSeq": 0,
        "settledSeq": 0,
        "hasMore": False,
        "cursor": 0,
    }
    listed = (await band.http.get("/api/groups")).json()
    assert listed == {"ok": True, "groups": [group]}


async def test_the_newest_activity_is_listed_first(band: Band) -> None:
    first, second = await band.group("ann"), await band.group("bob", title="Two")
    await band.send(first, "hi")
    listed = (await band.http.get("/api/groups")).json()["groups"]
    assert [group["id"] for group in listed] == [first, second]
    assert listed[1]["title"] == "Two"


async def test_errors_are_json_in_the_dialects_form(band: Band) -> None:
    group = await band.group("ann")
    one = f"/api/groups/{group}"
    answers = {
        ("POST", "/api/groups", "{}"): (400, "invalid_members"),
        ("POST", "/api/groups", '{"memberFamiliarIds":[]}'): (400, "invalid_members"),
        ("POST", "/api/groups", '{"memberFamiliarIds":["zoe"]}'): (404, "familiar_not_found"),
        ("POST", "/api/groups", "[1]"): (400, "invalid_json_body"),
        ("POST", "/api/groups", "{"): (400, "invalid_json_body"),
        ("POST", f"{one}/send", '"x"'): (400, "invalid_json_body"),
        ("POST", f"{one}/send", "{}"): (400, "text_required"),
        ("POST", f"{one}/send", '{"text":" "}'): (400, "text_required"),
        ("POST", f"{one}/send", '{"text":"x","targetFamiliarIds":[]}'): (400, "invalid_targets"),
        ("POST", f"{one}/send", '{"text":"x","targetFamiliarIds":["bob"]}'): (
            400,
            "invalid_targets",
        ),
        ("GET", f"{one}/stream?cursor=x", ""): (400, "invalid_cursor"),
        ("GET", f"{one}/stream?cursor=-1", ""): (400, "invalid_cursor"),
        ("GET", f"{one}?limit=0", ""): (400, "invalid_request"),
        ("PATCH", one, "{}"): (400, "nothing_to_patch"),
        ("PATCH", one, '{"memberFamiliarIds":[]}'): (400, "last_member"),
        ("PATCH", one, '{"removeMemberFamiliarIds":["ann"]}'): (400, "last_member"),
        ("PATCH", one, '{"memberFamiliarIds":["ann"],"addMemberFamiliarIds":["bob"]}'): (
            400,
            "invalid_members",
        ),
        ("PATCH", one, '{"addMemberFamiliarIds":["zoe"]}'): (404, "familiar_not_found"),
        ("DELETE", f"{one}?sessions=x", ""): (400, "invalid_request"),
        ("POST", f"{one}/read", "{}"): (400, "invalid_request"),
        ("GET", "/api/groups/none", ""): (404, "group_not_found"),
        ("GET", "/api/groups/none/stream", ""): (404, "group_not_found"),
        ("POST", "/api/groups/none/send", '{"text":"x"}'): (404, "group_not_found"),
        ("POST", "/api/groups/none/stop", ""): (404, "group_not_found"),
        ("PATCH", "/api/groups/none", '{"title":"x"}'): (404, "group_not_found"),
        ("DELETE", "/api/groups/none", ""): (404, "group_not_found"),
        ("POST", "/api/groups/none/read", '{"upToSeq":1}'): (404, "group_not_found"),
        ("GET", f"{one}/nothing", ""): (404, "not_found"),
        ("PUT", one, ""): (405, "invalid"),
        ("POST", "/api/groups/adopt", '{"sessionIds":{"ann":"none"}}'): (404, "session_not_found"),
        ("GET", "/api/chat/conversation/none", ""): (404, "session_not_found"),
    }
    found = {asked: await refused(band, *asked[:2], content=asked[2]) for asked in answers}
    assert found == answers
    text = (await band.http.post(f"{one}/send", content="nope")).json()["error"]
    assert text == "invalid json body"
    assert (await band.show(group))["events"] == []


# -- a message


async def test_a_message_is_answered_by_every_member(band: Band) -> None:
    group = await band.group("ann", "bob")
    sessions = (await band.show(group))["group"]["memberSessionIds"]
    reply = await band.http.post(f"/api/groups/{group}/send", json={"text": "hi"})
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["cache-control"] == "no-cache, no-transform"
    assert reply.headers["x-accel-buffering"] == "no"
    assert "event:" not in reply.text
    async with band.sending(group, "again") as reader:
        events = await reader.rest()
    assert kinds(events)[:3] == ["user", "session", "session"]
    user, first, second = events[:3]
    assert user.data["seq"] == 4
    assert user.data["text"] == "again"
    assert [first.data["familiarId"], second.data["familiarId"]] == ["ann", "bob"]
    assert first.data["sessionId"] == sessions["ann"]
    assert first.data["seq"] is None
    ids = [event.id for event in events]
    assert None not in ids
    assert ids == sorted(set(ids))
    assert {event.data.get("replyTo") for event in events[1:]} == {4}
    assert {event.data["groupId"] for event in events} == {group}
    assert {name: done["text"] for name, done in dones(events).items()} == {
        "ann": "ann: again",
        "bob": "bob: again",
    }
    end = events[-1].data
    assert is_group_end(end)
    assert "familiarId" not in end
    assert end["results"] == {
        "completed": 2,
        "error": 0,
        "cancelled": 0,
        "interrupted": 0,
        "removed": 0,
    }
    assert end["isError"] is False
    assert end["lastSeq"] == 6
    shown = await band.show(group, "?afterSeq=3")
    assert rebuilt(events) == shown["events"]
    for done in dones(events).values():
        told = (await band.http.get(f"/api/chat/conversation/{done['sessionId']}")).json()
        assert told["ok"] is True
        assert told["conversation"]["turns"][-1]["text"] == done["text"]
        assert told["conversation"]["turns"][-2]["text"] == "again"


async def test_members_fail_each_in_its_own_way(band: Band) -> None:
    group = await band.group("ann", "bob", "cy", "dee")
    text = plan(ann=["!fail"], bob=["part", "!fail"], cy=[], dee=["!think", "!work", "fine"])
    events = await band.send(group, text)
    ends = dones(events)
    assert {name: (end["outcome"], end["text"]) for name, end in ends.items()} == {
        "ann": ("error", ""),
        "bob": ("error", "part"),
        "cy": ("completed", ""),
        "dee": ("completed", "fine"),
    }
    assert [ends[name]["isError"] for name in ends] == [
        ends[name]["outcome"] == "error" for name in ends
    ]
    assert ends["bob"]["error"]["code"] == "member_failed"
    assert "secret" not in json.dumps([event.data for event in events])
    errors = [event.data for event in events if event.data["kind"] == "error"]
    assert {error["familiarId"] for error in errors} == {"ann", "bob"}
    for error in errors:
        at = [event.data for event in events].index(error)
        assert events[at + 1].data["familiarId"] == error["familiarId"]
        assert events[at + 1].data["kind"] == "done"
        assert error["message"]
        assert error["code"] == "member_failed"
    assert {"tool_use", "progress"} <= set(kinds(events))
    assert events[-1].data["results"]["error"] == 2
    assert events[-1].data["isError"] is False
    shown = await band.show(group)
    assert [row["seq"] for row in shown["events"]] == [1, 2, 3, 4, 5]
    assert rebuilt(events) == shown["events"]


async def test_a_group_fails_when_every_member_does(band: Band) -> None:
    group = await band.group("ann", "bob")
    events = await band.send(group, plan(ann=["!fail"], bob=["x", "!fail"]))
    assert events[-1].data["isError"] is True
    assert events[-1].data["results"]["error"] == 2


async def test_a_member_that_never_answers_is_stopped(band: Band) -> None:
    group = await band.group("ann", "bob")
    async with band.sending(group, plan(ann=["!hang"], bob=["quick"])) as reader:
        await reader.until(lambda event: event["kind"] == "done")
        shown = await band.show(group)
        assert shown["group"]["activeRun"]["pending"] == ["ann"]
        stopped = await band.http.post(f"/api/groups/{group}/stop", json={"familiarId": "ann"})
        assert stopped.json() == {"ok": True, "stopped": ["ann"], "queued": False}
        events = await reader.rest()
    assert dones(events)["ann"]["outcome"] == "cancelled"
    assert dones(events)["ann"]["seq"] == 3
    assert (await band.show(group))["events"][2]["outcome"] == "cancelled"
    assert events[-1].data["results"]["cancelled"] == 1


async def test_two_messages_are_in_flight_and_answered_in_order(band: Band) -> None:
    group = await band.group("ann", "bob")
    first = plan(ann=["one", "!gate g", "!"], bob=["one"])
    async with band.sending(group, first) as one:
        await one.until(lambda event: event["kind"] == "assistant_chunk")
        reply = await band.http.post(
            f"/api/groups/{group}/send", json={"text": "x", "onBusy": "reject"}
        )
        assert (reply.status_code, reply.json()["code"]) == (409, "busy")
        async with band.sending(group, "two") as two:
            await two.until(lambda event: event.get("familiarId") == "bob")
            runs = (await band.show(group))["group"]["activeRuns"]
            assert runs[0]["userSeq"] == 1
            assert runs[1]["pending"][0] == "ann"
            band.open_gate("g")
            of_two = await two.rest()
        of_one = await one.rest()
    assert {event.data.get("replyTo") for event in of_one[1:]} == {1}
    assert {event.data.get("replyTo") for event in of_two[1:]} == {of_two[0].data["seq"]}
    assert band.members["ann"].asked == [first, "two"]
    rows = (await band.show(group))["events"]
    assert [row["seq"] for row in rows] == list(range(1, 7))


async def test_a_subset_is_addressed(band: Band) -> None:
    group = await band.group("ann", "bob")
    events = await band.send(group, "hi", targetFamiliarIds=["bob", "bob"])
    assert dones(events).keys() == {"bob"}
    assert events[0].data["targetFamiliarIds"] == ["bob"]
    assert (await band.show(group))["lastSeq"] == 2


async def test_a_repeat_is_the_same_message(band: Band) -> None:
    group = await band.group("ann", "bob")
    reply = await band.http.post(
        f"/api/groups/{group}/send", json={"text": "hi", "clientMessageId": "m-1"}
    )
    await band.send(group, "between")
    again = await band.http.post(f"/api/groups/{group}/send", json={"text": "hi", "runId": "m-1"})
    assert again.text == reply.text
    body = {"text": "other", "clientMessageId": "m-1"}
    assert await refused(band, "POST", f"/api/groups/{group}/send", json=body) == (
        409,
        "client_message_conflict",
    )
    body = {"text": "hi", "clientMessageId": "m-1", "targetFamiliarIds": ["ann"]}
    assert (await refused(band, "POST", f"/api/groups/{group}/send", json=body))[0] == 409
    assert (await band.show(group))["lastSeq"] == 6


async def test_concurrent_repeats_are_one_message(band: Band) -> None:
    group = await band.group("ann", "bob")
    texts: list[str] = []

    async def send() -> None:
        body = {"text": plan(ann=["a", "!gate g", "b"]), "clientMessageId": "m"}
        reply = await band.http.post(f"/api/groups/{group}/send", json=body)
        assert reply.status_code == 200
        texts.append(reply.text)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(send)
        async with band.stream(group, "?cursor=0") as reader:
            await reader.until(lambda event: event["kind"] == "assistant_chunk")
        band.open_gate("g")
    assert len(texts) == 8
    assert len(set(texts)) == 1
    assert (await band.show(group))["lastSeq"] == 3


async def test_a_repeat_while_it_runs_replays_and_goes_on(band: Band) -> None:
    group = await band.group("ann")
    text = plan(ann=["a", "!gate g", "b"])
    async with band.sending(group, text, clientMessageId="m") as one:
        await one.until(lambda event: event["kind"] == "assistant_chunk")
        async with band.sending(group, text, clientMessageId="m") as two:
            await two.until(lambda event: event["kind"] == "assistant_chunk")
            band.open_gate("g")
            await two.rest()
        await one.rest()
    assert one.text == two.text


# -- members come and go


async def test_members_are_added_and_removed_in_the_middle(band: Band) -> None:
    group = await band.group("ann", "bob")
    async with band.stream(group) as device:
        async with band.sending(group, plan(ann=["a", "!hang"], bob=["b"])) as reader:
            await reader.until(lambda event: event.get("text") == "a")
            patched = await band.http.patch(
                f"/api/groups/{group}",
                json={"addMemberFamiliarIds": ["cy"], "removeMemberFamiliarIds": ["ann"]},
            )
            assert patched.status_code == 200
            assert patched.json()["memberFamiliarIds"] == ["bob", "cy"]
            assert patched.json()["archivedMembers"][0]["familiarId"] == "ann"
            assert patched.json()["title"] == "bob & cy"
            events = await reader.rest()
        assert dones(events)["ann"]["outcome"] == "removed"
        assert dones(events)["ann"]["text"] == "a"
        assert "cy" not in dones(events)
        changed = await device.until(lambda event: event["kind"] == "group_updated")
        assert changed["seq"] is None
        assert changed["group"]["memberFamiliarIds"] == ["bob", "cy"]
    assert dones(await band.send(group, "next")).keys() == {"bob", "cy"}


async def test_a_group_is_deleted_in_the_middle(band: Band) -> None:
    group = await band.group("ann", "bob")
    sessions = (await band.show(group))["group"]["memberSessionIds"]
    async with (
        band.stream(group) as device,
        band.sending(group, plan(ann=["a", "!hang"], bob=["!hang"])) as reader,
    ):
        await reader.until(lambda event: event.get("text") == "a")
        reply = await band.http.delete(f"/api/groups/{group}")
        assert reply.json()["ok"] is True
        assert reply.json()["deleted"] is True
        assert set(reply.json()["sessionsDeleted"]) == set(sessions.values())
        events, of_device = await reader.rest(), await device.rest()
    assert {end["outcome"] for end in dones(events).values()} == {"cancelled"}
    assert is_group_end(events[-1].data)
    assert of_device[: len(events)] == events
    assert kinds(of_device)[-1] == "group_deleted"
    for method, path, body in (
        ("GET", "", ""),
        ("GET", "/stream", ""),
        ("POST", "/send", '{"text":"x"}'),
        ("POST", "/stop", "{}"),
        ("PATCH", "", '{"title":"x"}'),
        ("POST", "/read", '{"upToSeq":1}'),
    ):
        asked = await refused(band, method, f"/api/groups/{group}{path}", content=body)
        assert asked == (410, "group_deleted"), path
    again = await band.http.delete(f"/api/groups/{group}")
    assert again.json()["deleted"] is False
    assert (await band.http.get("/api/groups")).json()["groups"] == []


async def test_a_child_that_was_deleted_fails_alone_and_is_made_again(band: Band) -> None:
    group = await band.group("ann", "bob")
    session = (await band.show(group))["group"]["memberSessionIds"]["ann"]
    await band.http.delete(f"/conversations/{session}")
    ends = dones(await band.send(group, "hi"))
    assert ends["ann"]["error"]["code"] == "session_missing"
    assert ends["bob"]["outcome"] == "completed"
    assert dones(await band.send(group, "more"))["ann"]["outcome"] == "completed"


async def test_what_is_said_directly_to_a_child_is_not_in_the_group(band: Band) -> None:
    group = await band.group("ann")
    session = (await band.show(group))["group"]["memberSessionIds"]["ann"]
    reply = await band.http.post("/chat", json={"conversationId": session, "message": "direct"})
    assert "turn-sealed" in reply.text
    assert (await band.show(group))["events"] == []
    assert len(await band.send(group, "hi")) > 0
    assert (await band.show(group))["lastSeq"] == 2


# -- stop, read, pages


async def test_a_stop_ends_queued_runs_too_and_one_ahead_is_remembered(band: Band) -> None:
    group = await band.group("ann")
    ahead = await band.http.post(f"/api/groups/{group}/stop", json={"runId": "m-9"})
    assert ahead.json() == {"ok": True, "stopped": [], "queued": True}
    async with band.sending(group, plan(ann=["a", "!hang"])) as one:
        await one.until(lambda event: event.get("text") == "a")
        async with band.sending(group, "waits") as two:
            await two.until(lambda event: event["kind"] == "user")
            stopped = await band.http.post(f"/api/groups/{group}/stop")
            assert stopped.json() == {"ok": True, "stopped": ["ann", "ann"], "queued": False}
            assert [row["seq"] for row in (await band.show(group))["events"]] == [1, 2, 3, 4]
            assert dones(await two.rest())["ann"]["outcome"] == "cancelled"
        assert dones(await one.rest())["ann"]["outcome"] == "cancelled"
    events = await band.send(group, "stopped before", clientMessageId="m-9")
    assert dones(events)["ann"]["outcome"] == "cancelled"


async def test_reading_moves_the_users_cursor(band: Band) -> None:
    group = await band.group("ann", "bob")
    await band.send(group, "hi")
    url = f"/api/groups/{group}/read"
    reply = await band.http.post(url, json={"upToSeq": 2})
    assert reply.json() == {"ok": True, "groupId": group, "lastReadSeq": 2, "unread": 1}
    reply = await band.http.post(url, json={"upToSeq": 99})
    assert reply.json()["lastReadSeq"] == 3
    assert reply.json()["unread"] == 0


async def test_pages_of_events(band: Band) -> None:
    group = await band.group("ann", "bob")
    await band.send(group, "hi")
    await band.send(group, "ho")
    page = await band.show(group, "?limit=2")
    assert [row["seq"] for row in page["events"]] == [1, 2]
    assert page["hasMore"] is True
    assert "cursor" not in page
    page = await band.show(group, "?afterSeq=4&limit=2")
    assert [row["seq"] for row in page["events"]] == [5, 6]
    assert page["hasMore"] is False
    assert page["cursor"] > 0
    page = await band.show(group, "?afterSeq=99")
    assert (page["events"], page["lastSeq"], page["settledSeq"]) == ([], 6, 6)


async def test_a_live_reply_is_shown_with_its_text_so_far(band: Band) -> None:
    group = await band.group("ann", "bob")
    async with band.sending(group, plan(ann=["so far", "!gate g", " done"], bob=["b"])) as reader:
        await reader.until(lambda event: event.get("text") == "so far")
        await reader.until(lambda event: event["kind"] == "done")
        page = await band.show(group)
        live = next(row for row in page["events"] if row.get("familiarId") == "ann")
        assert (live["streaming"], live["text"]) == (True, "so far")
        assert page["settledSeq"] == live["seq"] - 1
        asked = await refused(band, "GET", f"/api/groups/{group}?resync=1")
        assert asked == (409, "turn_in_progress")
        async with band.stream(group, f"?cursor={page['cursor']}") as device:
            band.open_gate("g")
            await device.until(is_group_end)
            rows = rebuilt(device.events, page["events"])
        await reader.rest()
    assert rows == (await band.show(group, "?resync=1"))["events"]


async def test_conversations_are_adopted(band: Band) -> None:
    for name in ("ann", "bob"):
        await band.http.post(
            "/chat", json={"conversationId": f"old-{name}", "message": "hi", "model": name}
        )
    body = {"sessionIds": {"bob": "old-bob", "ann": "old-ann"}}
    reply = await band.http.post("/api/groups/adopt", json=body)
    assert reply.status_code == 201, reply.text
    again = await band.http.post("/api/groups/adopt", json=body)
    assert again.status_code == 200
    assert again.json() == reply.json()
    group = reply.json()["id"]
    rows = (await band.show(group))["events"]
    assert [row["text"] for row in rows] == ["hi", "ann: hi", "bob: hi"]
    deleted = (await band.http.delete(f"/api/groups/{group}")).json()
    assert sorted(deleted["sessionsKept"]) == ["old-ann", "old-bob"]
