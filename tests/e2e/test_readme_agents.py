"""The agents of the README, configured and written as it has them, each answering for real."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.agents.answers import serving
from tests.cli.fake_ollama import fake_ollama
from tests.e2e.checkout import Checkout
from tests.e2e.readme import ROOT, Block, claim
from tests.e2e.wire import events, text

pytestmark = pytest.mark.timeout(120)

AGENTS = "Your agent"
OLLAMA = claim(AGENTS, "toml", "[agents.ollama]")
OPENAI = claim(AGENTS, "toml", "[agents.openai]")
ACP = claim(AGENTS, "toml", 'kind = "acp"')
PYTHON = claim(AGENTS, "toml", 'kind = "python"')
MODULE = claim(AGENTS, "python", "TurnRequest")
COMMAND = claim(AGENTS, "toml", 'kind = "command"')
PROGRAM = claim(AGENTS, "python", "sys.stdin")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


async def answer(
    checkout: Checkout, configuration: str, agent: str | None = None, **environment: str
) -> str:
    """What an agent, or the default one, says to `hello there`, with this configuration."""
    (checkout.folder / "dispatch.toml").write_text(configuration)
    await checkout.typed("dispatch config check --config dispatch.toml", **environment)
    served = checkout.serving("./scripts/serve --config dispatch.toml", **environment)
    async with served:
        which = f" --agent {agent}" if agent else ""
        printed = await checkout.typed(f'dispatch send "hello there"{which}')
    frames = [json.loads(line) for line in printed.splitlines()]
    assert events(frames)[-1]["type"] == "turn-sealed"
    return text(frames)


def replaced(block: Block, usual: str, ours: str) -> str:
    """The block with another address or program, as a test has to have."""
    assert block.code.count(usual) == 1
    return block.code.replace(usual, ours)


async def test_ollama_answers(checkout: Checkout) -> None:
    with fake_ollama("llama3.2") as url:
        configuration = replaced(OLLAMA, "http://127.0.0.1:11434", url)
        assert await answer(checkout, configuration) == "hello there"


async def test_an_endpoint_is_sent_the_key_the_model_and_the_system_prompt(
    checkout: Checkout,
) -> None:
    with serving() as endpoint:
        url = endpoint.url("repeats")
        configuration = replaced(OPENAI, "https://api.openai.com/v1", url)
        told = json.loads(await answer(checkout, configuration, OPENAI_API_KEY="sk-of-a-test"))
    # It was sent, for the endpoint said it; and it is not shown, even so.
    assert told["headers"]["authorization"] == "Bearer [redacted]"
    assert told["body"]["model"] == "gpt-5-mini"
    assert told["body"]["messages"][0]["content"] == "Answer in one paragraph."
    assert told["body"]["messages"][-1]["content"] == "hello there"


@pytest.mark.parametrize("agent", ["claude", "gemini"])
async def test_a_coding_agent_answers(agent: str, checkout: Checkout) -> None:
    program = [sys.executable, str(ROOT / "tests" / "agents" / "acp_by_hand.py")]
    ours = f"command = {json.dumps(program)}"
    configuration, replaced_total = re.subn("(?m)^command = .*$", ours, ACP.code)
    assert replaced_total == ACP.code.count("[agents.") == 2
    assert "hello there" in await answer(checkout, configuration, agent=agent)


async def test_a_generator_answers(checkout: Checkout) -> None:
    (checkout.folder / MODULE.file_name).write_text(MODULE.code)
    said = await answer(checkout, PYTHON.code)
    assert said == "You said 'hello there', and I remember 0 chunks."


async def test_a_program_answers(checkout: Checkout) -> None:
    (checkout.folder / PROGRAM.file_name).write_text(PROGRAM.code)
    assert await answer(checkout, COMMAND.code) == "hello there "


async def test_a_question_of_an_agent_is_answered_from_another_device(checkout: Checkout) -> None:
    asking = """import json, sys
json.loads(sys.stdin.readline())
print(json.dumps({"type": "request", "requestId": "r1", "kind": "approval", "title": "May I?",
    "options": [{"id": "y", "label": "Yes", "effect": "allow"}]}), flush=True)
told = json.loads(sys.stdin.readline())
print(json.dumps({"type": "text-delta", "delta": str(told["approved"])}), flush=True)
"""
    (checkout.folder / PROGRAM.file_name).write_text(asking)
    (checkout.folder / "dispatch.toml").write_text(COMMAND.code)
    async with checkout.serving("./scripts/serve --config dispatch.toml"):
        words = shlex.join(["dispatch", "send", "go", "--conversation", "kitchen"])
        printed = await checkout.typed(
            f"{words} > said.txt &\n"
            "until grep -q chat.request said.txt; do sleep 0.1; done\n"
            "dispatch respond kitchen r1 --approve\nwait\ncat said.txt\n"
        )
    assert '"delta":"True"' in printed
