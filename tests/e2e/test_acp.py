"""ACP agents behind a real daemon: asked and answered from two devices, stopped, crashed, resumed.

Each test runs against two agents that share no code: one made of plain lines, one of the library.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.agents.acp_hosting import BY_HAND, BY_PACKAGE, is_alive, until_gone
from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess
from tests.e2e.wire import Frame, Wire, events, text, v1_wire
from tests.protocol.replies import http_client

PROGRAMS = {"by hand": BY_HAND, "by the library": BY_PACKAGE}


@pytest.fixture(params=PROGRAMS.values(), ids=PROGRAMS.keys())
async def start(request: pytest.FixtureRequest, start_daemon: StartDaemon, tmp_path: Path):
    """Starts daemons with one ACP agent."""

    async def start(more: str = "") -> DaemonProcess:
        command = json.dumps([sys.executable, str(request.param), str(tmp_path)])
        echo = '[agents.echo]\nkind = "echo"\ndelay_ms = 0\n'
        table = f'[agents.acp]\nkind = "acp"\ncommand = {command}\n{more}\n'
        return await start_daemon(f'default_agent = "acp"\n{table}{echo}')

    return start


async def say(wire: Wire, message: str, conversation: str = "c", **fields: str) -> list[Frame]:
    """One whole turn, as its sender saw it."""
    await wire.send(type="chat.send", conversationId=conversation, message=message, **fields)
    return await wire.until_event("turn-sealed")


def ends(frames: list[Frame]) -> list[str]:
    return [event["type"] for event in events(frames)][-3:]


async def test_a_permission_is_asked_on_one_device_and_answered_from_another(start) -> None:
    daemon = await start()
    async with (
        v1_wire(daemon.url) as asking,
        v1_wire(daemon.url) as answering,
        http_client(daemon.url) as http,
    ):
        await asking.send(type="chat.send", conversationId="c", message="ask")
        asked = await asking.until_type("chat.request")
        await answering.send(type="chat.subscribe", conversationId="c")
        late = await answering.until_type("chat.request")
        assert late["requestId"] == asked["requestId"]
        assert asked["toolCallId"] == "call-1"
        assert {"id": "once", "label": "Yes", "effect": "allow"} in asked["options"]
        await answering.send(
            type="chat.respond",
            conversationId="c",
            requestId=asked["requestId"],
            optionId="once",
        )
        seen = [await wire.until_event("turn-sealed") for wire in (asking, answering)]
        assert [text(frames) for frames in seen] == ["answer: once"] * 2
        again = await http.post(
            f"/conversations/c/requests/{asked['requestId']}", json={"approved": True}
        )
        assert (again.status_code, again.json()["code"]) == (409, "closed")
        chunks = (await http.get("/conversations/c")).json()["chunks"]
    kinds = [chunk["chunk"]["type"] for chunk in chunks]
    assert kinds == ["text", "tool-call", "tool-result", "text"]
    assert chunks[1]["chunk"]["input"] == {"path": "x"}


async def test_an_answer_over_http_reaches_the_agent(start) -> None:
    daemon = await start()
    async with v1_wire(daemon.url) as wire, http_client(daemon.url) as http:
        await wire.send(type="chat.send", conversationId="c", message="ask")
        asked = await wire.until_type("chat.request")
        path = f"/conversations/c/requests/{asked['requestId']}"
        answer = await http.post(path, json={"approved": False})
        assert answer.is_success
        assert text(await wire.until_event("turn-sealed")) == "answer: never"


async def test_a_stopped_turn_leaves_the_process_and_the_next_goes_on_with_it(start) -> None:
    daemon = await start()
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="wait")
        await wire.until_event("text-delta")
        await wire.send(type="chat.stop", conversationId="c")
        await wire.until_event("turn-sealed")
        pid = text(wire.seen).split()[1]
        assert [e["reason"] for e in events(wire.seen) if e["type"] == "done"] == ["aborted"]
        assert text(await say(wire, "pid")).strip() == pid


async def test_a_stop_closes_the_permission_and_the_agent_is_told(start) -> None:
    daemon = await start()
    async with v1_wire(daemon.url) as wire:
        await wire.send(type="chat.send", conversationId="c", message="ask")
        await wire.until_type("chat.request")
        await wire.send(type="chat.stop", conversationId="c")
        closed = await wire.until_type("chat.request.closed")
        assert closed["outcome"] == "cancelled"
        frames = await wire.until_event("turn-sealed")
        assert "answer" not in text(frames)
        assert json.loads(text(await say(wire, "recall"))) == ["ask"]


async def test_a_crash_ends_the_turn_and_the_next_is_resumed(start) -> None:
    daemon = await start()
    async with v1_wire(daemon.url) as wire:
        await say(wire, "one")
        crashed = await say(wire, "crash")
        (error,) = (event for event in events(crashed) if event["type"] == "error")
        assert error["message"] == "acp exited with status 7: came apart"
        assert ends(crashed) == ["error", "done", "turn-sealed"]
        assert json.loads(text(await say(wire, "recall"))) == ["one"]
    assert "came apart" not in daemon.log


async def test_a_reaped_process_is_resumed(start) -> None:
    daemon = await start("idle_seconds = 0.2")
    async with v1_wire(daemon.url) as wire:
        pid = int(text(await say(wire, "pid")))
        await until_gone(pid)
        resumed = await say(wire, "recall")
    assert json.loads(text(resumed)) == ["pid"], "and nothing that was replayed"


async def test_a_turn_that_was_refused_costs_no_session(start) -> None:
    daemon = await start("idle_seconds = 0")
    async with v1_wire(daemon.url) as wire:
        await say(wire, "one")
        refused = await say(wire, "two", model="acp/none")
        assert "has no model" in next(e["message"] for e in events(refused) if e["type"] == "error")
        assert json.loads(text(await say(wire, "recall", model="acp"))) == ["one"]


async def test_a_turn_with_another_agent_is_not_missed(start) -> None:
    """The session of before knows nothing of it, so a new one is given the transcript."""
    daemon = await start()
    async with v1_wire(daemon.url) as wire:
        await say(wire, "one")
        await say(wire, "between", model="echo")
        assert json.loads(text(await say(wire, "recall", model="acp"))) == []


async def test_a_killed_daemon_leaves_no_process_and_the_next_resumes(start) -> None:
    daemon = await start()
    async with v1_wire(daemon.url) as wire:
        idle = int(text(await say(wire, "pid", "idle")))
        await wire.send(type="chat.send", conversationId="busy", message="wait")
        await wire.until(lambda frame: "waiting" in text([frame]))
        busy = int(text(wire.seen).split()[-1])
        assert is_alive(idle)
        assert is_alive(busy)
    await daemon.kill()
    for pid in (idle, busy):
        await until_gone(pid)
    await daemon.start()
    assert list((daemon.data / "processes").iterdir()) == []
    async with v1_wire(daemon.url) as wire:
        assert json.loads(text(await say(wire, "recall", "idle"))) == ["pid"]


async def test_a_daemon_that_ends_in_good_order_leaves_no_process(start) -> None:
    daemon = await start()
    async with v1_wire(daemon.url) as wire:
        pid = int(text(await say(wire, "pid")))
        assert is_alive(pid)
    assert await daemon.stop() == 0
    assert not is_alive(pid)
    assert list((daemon.data / "processes").iterdir()) == []
