"""The agent's side of the library at the other end, and what happens without the library."""

import subprocess
import sys
from pathlib import Path

import pytest

from dispatch.agents.acp import build_acp_agent
from dispatch.agents.ledger import ProcessLedger
from dispatch.agents.port import AgentFailure, Respond
from dispatch.compose import build_agent
from dispatch.core.events import (
    Done,
    ReasoningDelta,
    Request,
    Response,
    TextDelta,
    ToolCall,
    ToolResult,
)
from dispatch.errors import ConfigError
from dispatch.settings import AgentSettings, Settings
from tests.agents.acp_hosting import BY_PACKAGE, Conversation, build, hosted, is_alive, until_gone
from tests.agents.test_acp import stopped
from tests.contract.agent import Letterbox, Listener


@pytest.fixture
async def talk(tmp_path: Path):
    command = [sys.executable, str(BY_PACKAGE), str(tmp_path)]
    async with hosted(build(tmp_path, command=command)) as agent:
        yield Conversation(agent)


async def test_a_turn_is_streamed(talk: Conversation) -> None:
    heard = await talk.run("hello big world")
    words = [TextDelta(f"{word} ") for word in ("hello", "big", "world")]
    assert heard.events == [ReasoningDelta("hm"), *words, Done("stop")]


async def test_a_permission_is_asked_and_answered(talk: Conversation) -> None:
    inbox = Letterbox()

    async def answer(event: object) -> None:
        if isinstance(event, Request):
            inbox.put(Respond(Response(event.request_id, option_id="once")))

    heard = await talk.run("ask", Listener(answer), inbox=inbox)
    kinds = [type(event) for event in heard.events]
    assert kinds == [ToolCall, Request, ToolResult, TextDelta, Done]
    assert heard.text == "answer: once"


async def test_a_stopped_prompt_leaves_the_process_for_the_next(talk: Conversation) -> None:
    pid = (await stopped(talk)).text.split()[1]
    assert (await talk.say("pid")).strip() == pid


async def test_a_crash_ends_the_turn_and_the_session_is_loaded_again(talk: Conversation) -> None:
    await talk.say("one")
    with pytest.raises(AgentFailure, match="exited with status 7: came apart"):
        await talk.say("crash")
    assert await talk.say("recall") == '["one"]'


async def test_a_reaped_process_is_resumed(tmp_path: Path) -> None:
    command = [sys.executable, str(BY_PACKAGE), str(tmp_path)]
    async with hosted(build(tmp_path, command=command, idle_seconds=0.1)) as agent:
        talk = Conversation(agent)
        pid = int(await talk.say("pid"))
        await until_gone(pid)
        assert await talk.say("recall") == '["pid"]'
        assert not is_alive(pid)


# ---------------------------------------------------------------- without it


def test_nothing_of_it_is_imported_without_such_an_agent() -> None:
    code = "import sys, dispatch.compose; sys.exit('acp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_library_is_told_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = [name for name in sys.modules if name.startswith("dispatch.agents.acp.")]
    for name in [*loaded, "acp"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "acp", None)
    with pytest.raises(ConfigError) as refused:
        build_acp_agent(
            "claude",
            {"command": "sh"},
            ledger=ProcessLedger(tmp_path),
            sessions=tmp_path,
            line_bytes_max=1000,
        )
    assert refused.value.message.startswith("agents.claude: kind acp needs a library")
    assert "pip install 'dispatch-broker[acp]'" in refused.value.message


def test_it_is_built_by_its_kind(tmp_path: Path) -> None:
    given = AgentSettings(kind="acp", options={"command": "sh", "idle_seconds": 5, "turns_max": 2})
    agent = build_agent("claude", given, Settings(), ProcessLedger(tmp_path))
    assert (agent.info.name, agent.info.kind, agent.info.turns_max) == ("claude", "acp", 2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "command: required"),
        ({"command": "sh", "idle_seconds": -1}, "idle_seconds: Expected"),
        ({"command": "sh", "processes_max": 0}, "processes_max: Expected"),
        ({"command": "sh", "start_seconds": "soon"}, "start_seconds: Expected"),
        ({"command": "sh", "mcp_servers": []}, "mcp_servers: no such setting"),
        ({"command": "sh", "cwd": "/no/such"}, "cwd: /no/such is not a directory"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, options, complaint: str) -> None:
    with pytest.raises(ConfigError, match=rf"^agents\.claude\.{complaint}"):
        build_agent(
            "claude",
            AgentSettings(kind="acp", options=options),
            Settings(),
            ProcessLedger(tmp_path),
        )
