"""Questions of agents over AHP: confirmed, answered, drafted, from either side, once."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatch.agents.port import Respond
from dispatch.core.events import (
    Request,
    RequestOption,
    RequestQuestion,
    ToolCall,
    ToolResult,
)
from dispatch.testing.scripted import ScriptedAgent
from tests.server.ahp.peer import Peer, daemon_of, native_of, peer_of, turn_started

CALL = ToolCall("call", "shell", msgspec.Raw(b'{"command":"ls"}'))
APPROVAL = Request(
    "r1",
    "approval",
    "Run it?",
    tool_call_id="call",
    options=(RequestOption("yes", "Yes", "allow"), RequestOption("no", "No", "deny")),
)
QUESTION = Request(
    "r1",
    "input",
    "Where to?",
    questions=(
        RequestQuestion("place", "Place", "text", required=True),
        RequestQuestion("fast", "Fast", "boolean"),
    ),
)


def asking(*steps: Any) -> tuple[ScriptedAgent, list[Respond]]:
    """An agent that waits for an answer behind these steps, and what it was answered."""
    answers: list[Respond] = []

    async def wait(request: Any, _emit: Any) -> None:
        answers.append(await request.inbox.receive())

    done = ToolResult("call", "shell", "done", False)
    last = (done,) if steps[0] is CALL else ()
    return ScriptedAgent(*steps, wait, *last, "ok"), answers


async def call_of(peer: Peer, chat: str) -> dict[str, Any]:
    parts = peer.states[chat]["activeTurn"]["responseParts"]
    return next(part["toolCall"] for part in parts if part["kind"] == "toolCall")


@pytest.mark.parametrize("version", ["0.5.1", "0.7.0", "0.9.0"])
async def test_a_tool_call_is_confirmed_and_the_session_shows_that_it_waits(
    tmp_path: Path, version: str
) -> None:
    agent, answers = asking(CALL, APPROVAL)
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon, version=version) as ann:
        session, chat = await ann.make_session()
        await ann.dispatch(chat, turn_started("hello"))
        while not ann.states[session].get("inputNeeded"):
            await ann.receive()
        assert (await call_of(ann, chat))["status"] == "pending-confirmation"
        assert ann.states[session]["status"] & 24 == 24
        await ann.check()
        echo = await ann.accepted(
            chat,
            {
                "type": "chat/toolCallConfirmed",
                "turnId": "t1",
                "toolCallId": "call",
                "approved": True,
                "confirmed": "user-action",
                "selectedOptionId": "yes",
            },
        )
        assert echo["action"]["approved"] is True
        await ann.until_turns(chat)
        while "inputNeeded" in ann.states[session]:
            await ann.receive()
        (answer,) = answers
        assert (answer.response.option_id, answer.response.approved) == ("yes", True)
        await ann.check()


async def test_a_denial_is_told_to_the_agent_and_shown(tmp_path: Path) -> None:
    agent, answers = asking(CALL, APPROVAL)
    async with daemon_of(tmp_path, agent) as daemon, peer_of(daemon) as ann:
        _, chat = await ann.make_session()
        await ann.dispatch(chat, turn_started("hello"))
        await ann.until_type("chat/toolCallReady")
        while (await call_of(ann, chat))["status"] != "pending-confirmation":
            await ann.receive()
        denial = {
            "type": "chat/toolCallConfirmed",
            "turnId": "t1",
            "toolCallId": "call",
            "approved": False,
            "reason": "denied",
        }
        await ann.accepted(chat, denial)
        assert (await call_of(ann, chat))["status"] == "cancelled"
        assert "not waiting" in await ann.refused(chat, denial)
        await ann.until_turns(chat)
        assert answers[0].response.approved is False
        await ann.check()


async def test_a_question_is_drafted_and_answered(tmp_path: Path) -> None:
    agent, answers = asking("hm ", QUESTION)
    async with (
        daemon_of(tmp_path, agent) as daemon,
        peer_of(daemon, "c1") as ann,
        peer_of(daemon, "c2", version="0.5.1") as bob,
    ):
        _, chat = await ann.make_session()
        await bob.subscribe(chat)
        await ann.dispatch(chat, turn_started("hello"))
        for one in (ann, bob):
            await one.until_type("chat/inputRequested")
        value = {"state": "draft", "value": {"kind": "text", "value": "Rome"}}
        drafted = {
            "type": "chat/inputAnswerChanged",
            "requestId": "r1",
            "questionId": "place",
            "answer": value,
        }
        await ann.accepted(chat, drafted)
        await bob.until_type("chat/inputAnswerChanged")
        completed = {"type": "chat/inputCompleted", "requestId": "r1", "response": "accept"}
        echo = await bob.accepted(chat, completed)
        assert echo["action"]["response"] == "accept"
        assert echo["action"]["answers"]["place"]["value"]["value"] == "Rome"
        await ann.until_turns(chat)
        await bob.until_turns(chat)
        assert msgspec.json.decode(answers[0].response.answers["place"]) == "Rome"
        await ann.check()
        await bob.check()


async def test_the_first_answer_wins_whoever_gives_it(tmp_path: Path) -> None:
    agent, answers = asking(CALL, APPROVAL)
    async with (
        daemon_of(tmp_path, agent) as daemon,
        peer_of(daemon) as ann,
        native_of(daemon) as native,
    ):
        _, chat = await ann.make_session()
        await ann.dispatch(chat, turn_started("hello"))
        while (
            "activeTurn" not in ann.states[chat]
            or len(ann.states[chat]["activeTurn"]["responseParts"]) < 1
        ):
            await ann.receive()
        while (await call_of(ann, chat))["status"] != "pending-confirmation":
            await ann.receive()
        conversation = (await agent.asked()).conversation_id
        frame = {
            "type": "chat.respond",
            "conversationId": conversation,
            "requestId": "r1",
            "approved": True,
        }
        await native.send(msgspec.json.encode(frame).decode())
        confirmed = await ann.until_type("chat/toolCallConfirmed")
        assert "origin" not in confirmed
        await ann.until_turns(chat)
        assert len(answers) == 1
        await ann.check()
