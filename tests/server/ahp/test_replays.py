"""A replay is what was sent live: the same envelopes, from whatever number one comes back."""

from pathlib import Path
from typing import Any

import pytest

from dispatch.agents.port import TurnRequest
from dispatch.core.events import Steering
from dispatch.protocol.codec import Object
from dispatch.testing.scripted import FOR_EVER, Gate, ScriptedAgent, Step
from tests.protocol.replies import http_client
from tests.server.ahp.peer import Peer, daemon_of, message, peer_of, pending, turn_started
from tests.server.ahp.test_requests import APPROVAL, CALL, QUESTION


class Story:
    """An agent whose turns are told by their messages."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.failures = 1
        self.agent = ScriptedAgent(script=self._script, steer=True)

    def _script(self, request: TurnRequest) -> list[Step]:
        match request.message:
            case "gate":
                return ["a", self.gate, "b"]
            case "steer":
                return ["a", self._take, "b"]
            case "call":
                return [CALL, APPROVAL, self._wait, "done"]
            case "ask":
                return [QUESTION, self._wait, "thanks"]
            case "fail" if self.failures:
                self.failures -= 1
                return ["half ", ValueError("broken")]
            case "long":
                return ["long", FOR_EVER]
            case text:
                return [f"{text} ", "it is"]

    async def _take(self, request: TurnRequest, emit: Any) -> None:
        steer = await request.inbox.receive()
        await emit(Steering(steer.text))  # type: ignore[union-attr]

    async def _wait(self, request: TurnRequest, _emit: Any) -> None:
        await request.inbox.receive()


async def tell(ann: Peer, story: Story, url: str, session: str, chat: str) -> None:
    """Something of everything."""
    client = {"clientId": ann.client_id, "tools": []}
    await ann.accepted(session, {"type": "session/activeClientSet", "activeClient": client})
    await ann.accepted(chat, {"type": "chat/draftChanged", "draft": message("h")})
    await ann.accepted(chat, turn_started("gate", "t1"))
    await ann.accepted(chat, pending("queued", "two", "p2"))
    await ann.accepted(chat, pending("queued", "three", "p3"))
    removed = {"type": "chat/pendingMessageRemoved", "kind": "queued", "id": "p3"}
    await ann.accepted(chat, removed)
    story.gate.open()
    await ann.until_turns(chat, 2)
    await ann.accepted(chat, turn_started("steer", "t3"))
    await ann.accepted(chat, pending("steering", "left", "p4"))
    await ann.until_turns(chat, 3)
    await ann.accepted(chat, {"type": "chat/isReadChanged", "isRead": True})
    await ann.accepted(chat, turn_started("call", "t4"))
    while not ann.states[session].get("inputNeeded"):
        await ann.receive()
    confirmed = {"approved": True, "confirmed": "user-action", "selectedOptionId": "yes"}
    call = {"type": "chat/toolCallConfirmed", "turnId": "t4", "toolCallId": "call"}
    await ann.accepted(chat, call | confirmed)
    await ann.until_turns(chat, 4)
    await ann.accepted(chat, turn_started("ask", "t5"))
    while not ann.states[session].get("inputNeeded"):
        await ann.receive()
    value = {"state": "draft", "value": {"kind": "text", "value": "Rome"}}
    answer = {"requestId": "r1", "questionId": "place", "answer": value}
    await ann.accepted(chat, {"type": "chat/inputAnswerChanged"} | answer)
    done = {"type": "chat/inputCompleted", "requestId": "r1", "response": "accept"}
    await ann.accepted(chat, done)
    await ann.until_turns(chat, 5)
    await ann.accepted(chat, {"type": "chat/isReadChanged", "isRead": True})
    await ann.accepted(chat, {"type": "chat/isArchivedChanged", "isArchived": True})
    await ann.accepted(chat, {"type": "chat/isReadChanged", "isRead": False})
    await ann.accepted(chat, turn_started("fail", "t6"))
    await ann.until_turns(chat, 6)
    first = story.agent.requests[0]
    async with http_client(url) as http:
        of = f"/conversations/{first.conversation_id}"
        failed = story.agent.requests[-1].turn_id
        await http.post(f"{of}/resume", json={"turnId": failed})
    await ann.until_type("chat/turnComplete")
    fork = {"kind": "fork", "chat": chat, "turnId": "t3"}
    await ann.call("createChat", channel=session, chat="ahp-chat:/f", source=fork)
    await ann.accepted(chat, turn_started("long", "t7"))
    stop = {"type": "chat/turnCancelled", "turnId": "t7", "duration": 0}
    await ann.accepted(chat, stop)
    await ann.accepted(chat, {"type": "chat/truncated", "turnId": "t3"})
    await ann.accepted(session, {"type": "session/titleChanged", "title": "Ours"})
    await ann.accepted(chat, turn_started("last", "t8"))
    await ann.until_turns(chat, 4)
    await ann.accepted(chat, {"type": "chat/isReadChanged", "isRead": True})
    await ann.accepted(chat, {"type": "chat/isArchivedChanged", "isArchived": False})
    await ann.call("disposeChat", channel="ahp-chat:/f")
    await ann.call("ping")


@pytest.mark.parametrize("version", ["0.5.1", "0.7.0", "1.0.0"])
async def test_from_any_number_a_replay_is_what_was_sent_after_it(
    tmp_path: Path, version: str
) -> None:
    story = Story()
    async with (
        daemon_of(tmp_path, story.agent) as daemon,
        peer_of(daemon, "tells", version="0.9.0") as ann,
        peer_of(daemon, "hears", version=version) as bob,
    ):
        session, chat = await ann.make_session()
        await bob.subscribe(session)
        await bob.subscribe(chat)
        begin = bob.seq
        await tell(ann, story, daemon.url, session, chat)
        last = ann.seq
        while bob.seq < last:
            await bob.receive()
        live = [one for one in bob.actions if one["serverSeq"] > begin]
        numbers = sorted({begin, *(one["serverSeq"] for one in live)})
        assert len(numbers) > 40
        for number in numbers:
            async with peer_of(daemon, "hears", version=version, hello=False) as back:
                result = await back.reconnect(number, session, chat)
                assert result["type"] == "replay"
                assert result["actions"] == after(live, number), number


def after(live: list[Object], number: int) -> list[Object]:
    """What came behind a number. One without an index is that of the first of a change's actions:
    who has seen no more of it is told all of it again.
    """
    is_of_first = number % 16 == 0
    return [one for one in live if one["serverSeq"] > number - is_of_first]
