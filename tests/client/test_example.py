"""A stranger's program: its types hold under mypy --strict, and it does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from dispatch.agents.port import TurnRequest
from dispatch.client import Client
from dispatch.errors import Gone
from dispatch.testing import FOR_EVER, MEMORY_URL, ScriptedAgent, guard, in_memory
from dispatch.testing.scripted import Step
from tests.client.example import chat, converse, meet

EXAMPLE = Path(__file__).with_name("example.py")


def acting(request: TurnRequest) -> list[Step]:
    return ["wait", FOR_EVER] if request.message == "hold" else [f"<{request.message}>"]


@pytest.mark.timeout(240)
async def test_a_program_that_uses_everything_passes_the_strict_type_checker() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", str(EXAMPLE)]
    with anyio.fail_after(200):
        checked = await anyio.run_process(command, check=False, stderr=subprocess.STDOUT)
    assert checked.returncode == 0, checked.stdout.decode()


@pytest.mark.timeout(240)
async def test_the_type_checker_sees_a_mistake_in_such_a_program(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(EXAMPLE.read_text().replace('on_busy="queue"', 'on_busy="quue"'))
    command = [sys.executable, "-m", "mypy", "--strict", str(wrong)]
    with anyio.fail_after(200):
        checked = await anyio.run_process(command, check=False, stderr=subprocess.STDOUT)
    assert b"on_busy" in checked.stdout


async def test_a_conversation_goes_as_the_program_reads() -> None:
    with guard():
        async with (
            in_memory(ScriptedAgent(script=acting)) as line,
            Client(MEMORY_URL, transport=line) as client,
        ):
            said = await converse(client)
            with pytest.raises(Gone):
                await client.send("hi", conversation_id="diary")
    assert said[0] == "<hello>"
    assert said[2] == "<go on>"
    assert "already" in said[3]
    # Held, then the one that interrupted it, then the one that waited.
    assert said[5:8] == ["wait", "wait<now>", "wait<now><later>"]
    assert said[8:11] == ["stopped True", "1", "2"]
    assert said[11].endswith(" unread")
    assert said[12] == "My diary"


async def test_a_group_and_a_chat_go_as_the_program_reads() -> None:
    agents = ScriptedAgent("here", name="ann"), ScriptedAgent("present", name="bob")
    with guard():
        async with in_memory(*agents) as line, Client(MEMORY_URL, transport=line) as client:
            heard = [text async for text in meet(client, ["ann", "bob"])]
            assert await chat(client, "ann") == [(1, "hello"), (2, "here")]
    assert heard[0] == "Round table"
    assert sorted(heard[1:]) == ["ann: here", "bob: present"]
