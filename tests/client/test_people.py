"""People over HTTP: what is asked, what comes, and what is not taken for a whole."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dispatch.client import ConnectionLost, PeopleApi, UserForgotten, ask
from dispatch.errors import Forbidden
from dispatch.testing import ScriptedAgent, in_memory_client
from tests.client.answering import HttpServer

pytest_plugins = ("tests.client.fixtures",)

FIRST = b'{"type":"user","account":"one","user":"ada","exportedAt":1}\n'
SAID = b'{"type":"said","groupId":"g","seq":1,"saidAt":1,"state":"kept","text":"%b"}\n' % (
    b"x" * 200_000
)
WHOLE = (
    b'{"type":"whole","conversations":0,"chatSessions":0,"readCursors":0,"messages":1,"groups":0}\n'
)
FORGOTTEN: dict[str, Any] = {
    "account": "one",
    "user": "ada",
    "turnsEnded": 1,
    "removed": {
        "conversations": 2,
        "chatSessions": 3,
        "readCursors": 4,
        "waitingMessages": 5,
    },
    "stayed": {"conversations": 6, "groups": 7, "messages": 8},
}


async def test_an_export_comes_line_by_line(http: HttpServer) -> None:
    http.answers = [(200, FIRST + SAID + WHOLE)]
    people = PeopleApi(http.api())
    found = [line async for line in people.export("ada", account="one")]
    assert found == [FIRST, SAID, WHOLE]
    assert http.seen[0][:2] == ("GET", "/users/ada/export?account=one")


@pytest.mark.parametrize("came", [b"", FIRST, FIRST + SAID, FIRST + SAID[:99], FIRST + WHOLE[:-1]])
async def test_an_export_that_broke_off_is_no_export(http: HttpServer, came: bytes) -> None:
    http.answers = [(200, came)]
    with pytest.raises(ConnectionLost, match="not all of it"):
        async for _ in PeopleApi(http.api()).export("ada"):
            pass


async def test_a_client_hands_out_and_forgets_a_person_of_a_whole_daemon() -> None:
    async with in_memory_client(ScriptedAgent("hello")) as client:
        await ask(client, "hi", conversation_id="hers")
        found = [msgspec.json.decode(line) async for line in client.people.export("local")]
        told = await client.people.forget("local")
        again = [msgspec.json.decode(line) async for line in client.people.export("local")]
    kinds = ["user", "conversation", "turn", "chunk", "chunk", "end", "whole"]
    assert [line["type"] for line in found] == kinds
    assert told.removed.conversations == 1
    assert [line["type"] for line in again] == ["user", "whole"]


async def test_a_name_is_asked_for_as_it_is(http: HttpServer) -> None:
    http.answers = [(200, FORGOTTEN)]
    await PeopleApi(http.api()).forget("https://id.example/ada smith?x#y")
    assert http.seen[0][:2] == ("DELETE", "/users/https%3A//id.example/ada%20smith%3Fx%23y")


async def test_what_went_and_what_stayed_is_told(http: HttpServer) -> None:
    http.answers = [(200, FORGOTTEN)]
    told = await PeopleApi(http.api()).forget("ada")
    assert isinstance(told, UserForgotten)
    assert (told.turns_ended, told.removed.chat_sessions, told.stayed.messages) == (1, 3, 8)


async def test_who_may_not_is_refused(http: HttpServer) -> None:
    refusal = {"error": "the right to admin is missing", "code": "forbidden"}
    http.answers = [(403, refusal), (403, refusal)]
    people = PeopleApi(http.api())
    with pytest.raises(Forbidden):
        await people.forget("ada")
    with pytest.raises(Forbidden):
        await anext(people.export("ada"))
