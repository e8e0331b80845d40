"""From nothing to an answer: `dispatch init`, and the two commands that it ends with."""

from __future__ import annotations

import json
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from dispatch.cli.init import AGENTS
from tests.cli.fake_ollama import fake_ollama
from tests.e2e.commands import GUARD_SECONDS, environment, lines, run, said
from tests.e2e.process import DaemonProcess
from tests.e2e.terminal import terminal

pytestmark = pytest.mark.timeout(120)


async def begun(folder: Path, *words: str, **environment: str) -> DaemonProcess:
    """A daemon that runs with what `dispatch init` wrote."""
    daemon = DaemonProcess(folder)
    daemon.config.unlink()
    made = await run("", "init", "--path", str(daemon.config), *words, **environment)
    assert made.returncode == 0, made.stderr
    [told] = lines(made)
    serve, send = told["next"]
    assert serve == f"dispatch serve --config {daemon.config}"
    assert send == 'dispatch send "hello"'
    await daemon.start()
    return daemon


ANSWERS = {
    "demo": "hello",
    "command": "hello ",
    "python": "You said 'hello', and I remember 0 chunks.",
    "ollama": "hello",
}


@pytest.mark.parametrize("agent", ANSWERS)
async def test_a_daemon_answers_with_what_init_wrote(agent: str, tmp_path: Path) -> None:
    with fake_ollama("llama3.2:latest", "qwen3:8b") as url:
        daemon = await begun(tmp_path, "--agent", agent, OLLAMA_HOST=url)
        try:
            sent = await run(daemon.url, "send", "hello")
        finally:
            await daemon.end()
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert said(lines(sent)) == ANSWERS[agent]


async def test_an_endpoint_on_this_machine_answers(tmp_path: Path) -> None:
    with fake_ollama("large") as url:
        words = ["--agent", "openai", "--url", f"{url}/v1", "--model", "large"]
        daemon = await begun(tmp_path, *words)
        try:
            sent = await run(daemon.url, "send", "hello")
        finally:
            await daemon.end()
    assert said(lines(sent)) == "hello", sent.stderr


async def test_a_daemon_starts_with_an_acp_agent_before_anybody_asks_it(tmp_path: Path) -> None:
    command = f"{sys.executable} {tmp_path / 'no-such-agent.py'}"
    daemon = await begun(tmp_path, "--agent", "acp", "--command", command)
    try:
        [standing] = lines(await run(daemon.url, "agents"))
    finally:
        await daemon.end()
    assert "acp" in json.dumps(standing)


async def test_a_person_on_a_terminal_is_asked_and_told_how_to_go_on(tmp_path: Path) -> None:
    variables = environment("", OLLAMA_HOST="http://127.0.0.1:1")
    command = shlex.join([sys.executable, "-m", "dispatch", "init"])
    async with terminal(command, tmp_path, variables) as session:
        await session.until(lambda shown: "Which agent answers? [demo]" in shown, GUARD_SECONDS)
        session.type("parrot\n")
        await session.until(lambda shown: "is not one of" in shown, GUARD_SECONDS)
        session.type("python\n")
        await session.until(lambda shown: "module:function" in shown, GUARD_SECONDS)
        session.type("\n")
        shown = await session.until(lambda s: 'dispatch send "hello"' in s, GUARD_SECONDS)
    assert "dispatch serve --config dispatch.toml" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"dispatch.toml", "my_agent.py"}
    written = tomllib.loads((tmp_path / "dispatch.toml").read_text())
    assert written["agents"]["mine"]["path"] == str(tmp_path)


def test_every_choice_of_init_is_run_here() -> None:
    assert {*ANSWERS, "openai", "acp"} == AGENTS.keys()
