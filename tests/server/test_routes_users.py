"""Routes about a person: who may ask, what is handed out, what is forgotten and what stays."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from dispatch.core.identity import AccountId, ConversationId
from dispatch.errors import Gone, StorageFull
from dispatch.runtime.shape import Details
from dispatch.server.call import Site
from dispatch.server.routes_history import exported
from dispatch.storage.memory import MemoryStore
from dispatch.storage.port import Batch
from dispatch.testing import StoreWrapper
from tests.server.acting import GUARD_SECONDS, Reading, types
from tests.server.people import People, counts, gathered, of_type, texts_of

NOTHING = {"conversations": 0, "chatSessions": 0, "readCursors": 0, "messages": 0, "groups": 0}


@pytest.fixture
async def people(tmp_path: Path) -> AsyncIterator[People]:
    async with gathered(tmp_path) as people:
        yield people


# -- who may ask


async def test_only_who_administers_the_account_may_ask(people: People) -> None:
    await people.say("ann", "hers", "hello")
    for user in ("ann", "bob"):
        for reply in (
            await people[user].get("/users/ann/export"),
            await people[user].delete("/users/ann"),
            await people[user].delete("/users/ann", params={"account": "two"}),
        ):
            assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    assert await people.status("ann", "/conversations/hers/status") == 200


async def test_another_accounts_administrator_finds_a_person_of_whom_there_is_nothing(
    people: People,
) -> None:
    await people.say("ann", "hers", "hello")
    await people.chat("ann", "private")
    told = await people.forget("ann", by="eve")
    assert (told["account"], counts(told)) == ("two", ({}, {}))
    found = await people.export("ann", by="eve")
    assert types(found) == ["user", "whole"]
    assert of_type(found, "whole") == [NOTHING]
    assert await people.status("ann", "/conversations/hers/status") == 200


async def test_naming_an_account_that_is_not_ones_own_is_refused_and_changes_nothing(
    people: People,
) -> None:
    await people.say("ann", "hers", "hello")
    for account in ("two", "never-was", ""):
        for reply in (
            await people["admin"].get("/users/ann/export", params={"account": account}),
            await people["admin"].delete("/users/ann", params={"account": account}),
        ):
            assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
    assert await people.status("ann", "/conversations/hers/status") == 200
    reply = await people["admin"].delete("/users/ann", params={"account": "one"})
    assert reply.json()["removed"]["conversations"] == 1


async def test_a_name_may_have_slashes_and_blanks_in_it(people: People) -> None:
    name = "https://id.example/users/ann smith/export"
    reply = await people["admin"].delete(f"/users/{name.replace(' ', '%20')}")
    assert reply.json()["user"] == name
    export = await people["admin"].get(f"/users/{name.replace(' ', '%20')}/export")
    assert export.text.startswith(f'{{"type":"user","account":"one","user":"{name}"')
    assert (await people["admin"].delete("/users/")).status_code == 400


# -- what is forgotten


async def test_everything_that_is_a_persons_alone_is_gone_and_its_ids_with_it(
    people: People,
) -> None:
    await people.say("ann", "hers", "hello")
    await people.say("bob", "his", "hello")
    session = await people.chat("ann", "private")
    await people["ann"].post("/conversations/his/read", json={"upToSeq": 1})
    told = await people.forget()
    assert told == {
        "account": "one",
        "user": "ann",
        "turnsEnded": 0,
        "removed": {
            "conversations": 1,
            "chatSessions": 1,
            "readCursors": 1,
            "waitingMessages": 0,
        },
        "stayed": {"conversations": 0, "groups": 0, "messages": 0},
    }
    assert await people.status("ann", "/conversations/hers") == 410
    assert await people.status("ann", f"/conversations/{session}") == 410
    assert await people.status("ann", f"/v1/chat/{session}") == 404
    read = await people["ann"].post("/conversations/his/read", json={"upToSeq": 0})
    assert read.json()["lastReadSeq"] == 0
    assert await people.status("bob", "/conversations/his/status") == 200


async def test_forgetting_twice_finds_nothing_more_and_counts_what_stays_again(
    people: People,
) -> None:
    await people.say("bob", "his", "from bob")
    await people.say("ann", "his", "from ann")
    await people.say("ann", "hers", "hello")
    assert counts(await people.forget()) == ({"conversations": 1}, {"messages": 1})
    assert counts(await people.forget()) == ({}, {"messages": 1})


async def test_what_was_said_in_conversations_of_others_stays_as_it_is(people: People) -> None:
    await people.say("bob", "his", "from bob")
    await people.say("ann", "his", "from ann")
    before = (await people["bob"].get("/conversations/his")).json()
    assert counts(await people.forget()) == ({}, {"messages": 1})
    assert (await people["bob"].get("/conversations/his")).json() == before


async def test_a_fork_belongs_to_who_made_it_and_stays_whole(people: People) -> None:
    turn = await people.say("ann", "hers", "from ann")
    forked = await people["bob"].post("/conversations/hers/fork", json={"turnId": turn})
    await people.forget()
    kept = (await people["bob"].get(f"/conversations/{forked.json()['conversationId']}")).json()
    assert [chunk["chunk"]["text"] for chunk in kept["chunks"]] == ["from ann"] * 2


async def test_a_group_stays_with_its_conversations_whoever_made_it(people: People) -> None:
    group = await people.group("ann")
    await people.say_to("ann", group, "to all")
    shown = (await people["bob"].get(f"/api/groups/{group}")).json()
    told = await people.forget()
    assert counts(told) == ({}, {"conversations": 2, "groups": 1, "messages": 1})
    again = (await people["bob"].get(f"/api/groups/{group}")).json()
    assert (again["events"], again["cursor"]) == (shown["events"], shown["cursor"])
    await people.say_to("bob", group, "still there")


async def test_an_adopted_conversation_is_the_groups_until_the_group_lets_it_go(
    people: People,
) -> None:
    await people.say("ann", "hers", "hello")
    adopted = {"sessionIds": {"actor": "hers"}}
    group = (await people["bob"].post("/api/groups/adopt", json=adopted)).json()["id"]
    assert counts(await people.forget())[1]["conversations"] == 1
    assert await people.status("bob", "/conversations/hers/status") == 200
    await people["bob"].delete(f"/api/groups/{group}")
    assert counts(await people.forget()) == ({"conversations": 1}, {})
    assert await people.status("bob", "/conversations/hers") == 410


async def test_a_read_mark_of_a_group_goes_and_the_others_keep_theirs(people: People) -> None:
    group = await people.group("bob")
    await people.say_to("bob", group, "to all")
    path = f"/api/groups/{group}/read"
    for user in ("ann", "bob"):
        await people[user].post(path, json={"upToSeq": 3})
    assert counts(await people.forget()) == ({"readCursors": 1}, {})
    reads = [(await people[user].post(path, json={"upToSeq": 0})).json() for user in ("ann", "bob")]
    assert [read["lastReadSeq"] for read in reads] == [0, 3]


async def test_turns_of_theirs_in_conversations_of_others_end_and_those_of_others_go_on(
    people: People,
) -> None:
    await people.say("bob", "lent", "hello")
    async with (
        people.held("bob", "his", "hold bob") as his,
        people.held("ann", "lent", "hold ann") as lent,
    ):
        for user in ("ann", "bob"):
            body = {"text": f"{user} waits"}
            reply = await people[user].post("/conversations/his/queue", json=body)
            assert reply.json()["startedTurn"] is False
        told = await people.forget()
        assert told["turnsEnded"] == 2
        # What had begun is part of a log; what waited never was.
        assert counts(told) == ({"waitingMessages": 1}, {"messages": 1})
        (done,) = of_type(await lent.rest(), "done")
        assert done["reason"] == "aborted"
        queued = await people["bob"].post("/conversations/his/queue", json={"text": "more"})
        assert [waiting["text"] for waiting in queued.json()["queue"]] == ["bob waits", "more"]
        people.stage.actor.release("hold bob")
        assert types(await his.rest())[-1] == "turn-sealed"


async def test_a_text_of_theirs_that_a_turn_of_somebody_else_has_not_taken_is_taken_back(
    people: People,
) -> None:
    async with people.held("bob", "his", "hold bob") as his:
        body = {"conversationId": "his", "message": "listen to ann", "onBusy": "steer"}
        async with people["ann"].stream("POST", "/chat", json=body) as steering:
            told = await people.forget()
            assert (told["turnsEnded"], counts(told)) == (1, ({"waitingMessages": 1}, {}))
            people.stage.actor.release("hold bob")
            await his.rest()
            assert "listen" not in texts_of(await Reading(steering).rest())
    kept = (await people["bob"].get("/conversations/his")).json()
    assert "listen" not in texts_of([kept])


async def test_a_run_of_theirs_in_a_group_is_cancelled_and_the_group_goes_on(
    people: People,
) -> None:
    group = await people.group("bob")
    path = f"/api/groups/{group}/send"
    async with people["ann"].stream("POST", path, json={"text": "hold on"}) as reply:
        told = await people.forget()
        with anyio.fail_after(GUARD_SECONDS):
            await reply.aread()
    assert told["turnsEnded"] == 2
    rows = (await people["bob"].get(f"/api/groups/{group}")).json()["events"]
    assert [row.get("outcome") for row in rows] == [None, "cancelled", "cancelled"]
    await people.say_to("bob", group, "still there")


async def test_a_message_that_was_taken_back_long_ago_is_forgotten_too(people: People) -> None:
    async with people.held("bob", "his", "hold bob"):
        body = {"text": "regretted", "clientMessageId": "m1"}
        queued = (await people["ann"].post("/conversations/his/queue", json=body)).json()
        await people["ann"].delete(f"/conversations/his/queue/{queued['queueId']}")
        assert [line["state"] for line in of_type(await people.export(), "said")] == ["cancelled"]
        assert counts(await people.forget()) == ({"waitingMessages": 1}, {})
        assert of_type(await people.export(), "said") == []
        people.stage.actor.release("hold bob")


async def test_who_watches_a_forgotten_conversation_is_told_that_it_is_gone(
    people: People,
) -> None:
    async with people.held("ann", "hers", "hold ann") as hers:
        assert counts(await people.forget()) == ({"conversations": 1}, {})
        assert types(await hers.rest())[-1] in ("turn-sealed", "error")


class FullAtTheSecond(StoreWrapper):
    """Takes one deletion, and has no room for the next."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.deletions = 0

    async def commit(self, batch: Batch) -> None:
        self.deletions += len(batch.deletions)
        if batch.deletions and self.deletions == 2:
            raise StorageFull("no room")
        await super().commit(batch)


async def test_a_disk_that_is_full_half_way_refuses_the_rest_and_the_same_again_goes_on(
    tmp_path: Path,
) -> None:
    async with gathered(tmp_path, FullAtTheSecond()) as people:
        for name in ("a", "b", "c"):
            await people.say("ann", name, "hello")
        refused = await people["admin"].delete("/users/ann")
        assert (refused.status_code, refused.json()["code"]) == (503, "storage_full")
        statuses = [await people.status("ann", f"/conversations/{name}/status") for name in "abc"]
        assert statuses == [410, 200, 200]
        # The journal has found out that there is room again.
        await people.stage.daemon.services.journal.idle()
        assert counts(await people.forget()) == ({"conversations": 2}, {})


# -- what is handed out


async def test_an_export_has_everything_in_one_file_and_says_that_it_is_whole(
    people: People,
) -> None:
    await people.say("ann", "hers", "work")
    session = await people.chat("ann", "private", "more")
    await people.say("bob", "his", "from bob")
    turn = await people.say("ann", "his", "from ann", images=[{"url": "data:,x"}])
    group = await people.group("ann")
    await people.say_to("ann", group, "to all")
    await people["ann"].post("/conversations/hers/read", json={"upToSeq": 1})
    await people["ann"].post(f"/v1/chat/{session}/read", json={"up_to_seq": 2})
    found = await people.export()
    (first,) = of_type(found, "user")
    assert (first["account"], first["user"]) == ("one", "ann")
    alone = (await people["ann"].get("/conversations/hers/export")).text.splitlines()
    chat = (await people["ann"].get(f"/conversations/{session}/export")).text.splitlines()
    assert found[0]["type"] == "user"
    assert found[1 : 1 + len(alone) + len(chat)] == [json.loads(line) for line in alone + chat]
    (shown,) = of_type(found, "chat-session")
    assert (shown["session"]["id"], shown["session"]["last_read_seq"]) == (session, 2)
    messages = [line["message"] for line in of_type(found, "chat-message")]
    listed = (await people["ann"].get(f"/v1/chat/{session}")).json()["messages"]
    assert messages == listed
    assert of_type(found, "read") == [
        {"of": "conversation", "id": "hers", "lastReadSeq": 1},
        {"of": "chat", "id": session, "lastReadSeq": 2},
    ]
    said = of_type(found, "said")
    assert [one.pop("saidAt") > 0 for one in said] == [True, True]
    assert said == [
        {
            "conversationId": "his",
            "turnId": turn,
            "state": "kept",
            "text": "from ann",
            "images": [{"url": "data:,x"}],
        },
        {"groupId": group, "seq": 1, "state": "kept", "text": "to all"},
    ]
    (member,) = of_type(found, "group")
    assert (member["groupId"], member["isMaker"], member["messages"]) == (group, True, 1)
    whole = {"conversations": 1, "chatSessions": 1, "readCursors": 2, "messages": 2, "groups": 1}
    assert found[-1] == {"type": "whole", **whole}
    assert "from bob" not in texts_of(found)


async def test_what_still_waits_or_runs_elsewhere_is_handed_out_with_its_state(
    people: People,
) -> None:
    async with people.held("bob", "his", "hold bob"):
        await people["ann"].post("/conversations/his/queue", json={"text": "later"})
        found = await people.export()
    assert [(one["text"], one["state"]) for one in of_type(found, "said")] == [("later", "waiting")]


async def test_after_forgetting_an_export_has_only_what_stayed(people: People) -> None:
    await people.say("ann", "hers", "mine alone")
    await people.say("bob", "his", "from bob")
    await people.say("ann", "his", "from ann")
    await people.forget()
    found = await people.export()
    assert types(found) == ["user", "said", "whole"]
    assert found[1]["text"] == "from ann"


async def test_a_conversation_that_goes_while_it_is_written_down_leaves_no_whole_export(
    people: People,
) -> None:
    await people.say("ann", "hers", "hello")
    store = people.stage.daemon.services.store
    record = await store.conversation(AccountId("one"), ConversationId("hers"))
    assert record is not None
    daemon = people.stage.daemon
    site = Site(daemon.services, daemon.connections, daemon.authenticator, bytes, lambda: True)
    parts = exported(site, record, Details())
    assert b'"type":"conversation"' in await anext(parts)
    await people["ann"].delete("/conversations/hers")
    with pytest.raises(Gone):
        await anext(parts)
