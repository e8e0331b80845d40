"""`dispatch init`: what it writes, what it asks, and what it refuses to do."""

from __future__ import annotations

import re
import socket
import sys
import threading
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from dispatch import cli as command_line
from dispatch import compose
from dispatch.cli import init as init_module
from dispatch.cli import ollama, screen, starter
from dispatch.settings import Settings, load_settings
from tests.cli.fake_ollama import fake_ollama
from tests.client.command import dispatch, lines

pytest_plugins = ("tests.client.fixtures",)
pytestmark = pytest.mark.timeout(60)

# Nobody listens on port 1 of the loopback.
NOBODY = "http://127.0.0.1:1"
# Of headers that come one by one; nothing is synchronised by it.
PACE_SECONDS = 0.2


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command is typed; no Ollama of this machine is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_HOST", NOBODY)
    return tmp_path


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody can be asked."""
    monkeypatch.setattr(init_module, "_is_person", lambda: True)
    monkeypatch.setattr(screen, "is_text", lambda as_json: not as_json)


def settings(path: Path) -> Settings:
    return load_settings(config=path, environment={})


CHOICES = {
    "demo": [],
    "ollama": ["--model", "llama3.2"],
    "openai": ["--url", "https://api.example/v1", "--model", "large", "--key-env", "SOME_KEY"],
    "acp": ["--command", "python3 agent.py --acp"],
    "command": [],
    "python": [],
}


def test_every_choice_is_written_in_these_tests() -> None:
    assert CHOICES.keys() == init_module.AGENTS.keys()


@pytest.mark.parametrize("agent", CHOICES)
def test_what_is_written_is_what_serve_would_take(agent: str, folder: Path) -> None:
    result = dispatch("init", "--agent", agent, *CHOICES[agent])
    assert result.exit_code == 0, result.stderr
    [told] = lines(result)
    checked = dispatch("config", "check", "--config", "dispatch.toml")
    assert checked.exit_code == 0, checked.stderr
    in_force = settings(folder / "dispatch.toml")
    assert [in_force.default_agent] == list(in_force.agents) == [told["agent"]]
    assert compose.problems(in_force) == []
    assert told["next"] == ["dispatch serve --config dispatch.toml", 'dispatch send "hello"']


def test_the_options_of_an_agent_are_those_that_were_named(folder: Path) -> None:
    for agent, flags in CHOICES.items():
        dispatch("init", "--agent", agent, *flags, "--path", f"{agent}.toml")
    assert settings(folder / "openai.toml").agents["openai"].options == {
        "base_url": "https://api.example/v1",
        "model": "large",
        "api_key_env": "SOME_KEY",
    }
    assert settings(folder / "ollama.toml").agents["ollama"].options == {
        "base_url": f"{NOBODY}/v1",
        "model": "llama3.2",
        "api_key_env": "",
    }
    command = ["python3", "agent.py", "--acp"]
    assert settings(folder / "acp.toml").agents["acp"].options == {"command": command}


def test_a_setting_behind_a_comment_has_that_value_by_default(folder: Path) -> None:
    dispatch("init", "--agent", "demo")
    text = (folder / "dispatch.toml").read_text()
    shown = re.sub(r"^# (?=\w+ = |\[(?!auth))", "", text, flags=re.MULTILINE)
    shown = shown.replace("secure_cookies = false", "#")
    assert shown != text
    bare = msgspec.structs.replace(settings(folder / "dispatch.toml"))
    (folder / "shown.toml").write_text(shown)
    assert settings(folder / "shown.toml") == bare
    assert len(tomllib.loads(shown)) == len(tomllib.loads(text)) + 7


@pytest.mark.parametrize(("agent", "program"), [("command", "agent.py"), ("python", "my_agent.py")])
def test_an_agent_that_is_there_already_is_left_as_it_is(
    agent: str, program: str, folder: Path
) -> None:
    [told] = lines(dispatch("init", "--agent", agent))
    assert told["written"] == ["dispatch.toml", program]
    own = (folder / program).read_text() + "\n# mine\n"
    (folder / program).write_text(own)
    [told] = lines(dispatch("init", "--agent", agent, "--path", "second.toml"))
    assert told["written"] == ["second.toml"]
    assert (folder / program).read_text() == own


def test_a_file_is_replaced_only_if_told_to(folder: Path) -> None:
    path = folder / "dispatch.toml"
    path.write_text("# mine\n")
    result = dispatch("init", "--agent", "demo")
    assert (result.exit_code, path.read_text()) == (1, "# mine\n")
    assert result.stderr == "dispatch: dispatch.toml exists; --force replaces it\n"
    assert dispatch("init", "--agent", "demo", "--force").exit_code == 0
    assert settings(path).default_agent == "echo"


@pytest.mark.usefixtures("person")
@pytest.mark.parametrize(("answer", "is_replaced"), [("n", False), ("y", True)])
def test_a_person_is_asked_before_a_file_is_replaced(
    answer: str, is_replaced: bool, folder: Path
) -> None:
    path = folder / "dispatch.toml"
    path.write_text("# mine\n")
    result = dispatch("init", "--agent", "demo", stdin=f"{answer}\n")
    assert "dispatch.toml exists. Replace it?" in result.stderr
    assert (result.exit_code == 0) is is_replaced
    assert (path.read_text() != "# mine\n") is is_replaced


def test_who_cannot_be_asked_has_to_say_it() -> None:
    result = dispatch("init")
    assert result.exit_code == 2
    assert "--agent" in result.stderr
    result = dispatch("init", "--agent", "openai")
    assert result.exit_code == 2
    assert "Error: --model is wanted: the name of the model\n" in result.stderr
    assert list(Path().iterdir()) == []


def test_with_yes_it_is_ollama_if_one_answers_and_the_demo_if_not(folder: Path) -> None:
    with fake_ollama("qwen3:8b", "llama3.2:latest") as url:
        result = CliRunner(env={"OLLAMA_HOST": url}).invoke(command_line.cli, ["init", "--yes"])
    assert result.exit_code == 0, result.stderr
    options = settings(folder / "dispatch.toml").agents["ollama"].options
    assert (options["base_url"], options["model"]) == (f"{url}/v1", "qwen3:8b")
    assert dispatch("init", "--yes", "--force").exit_code == 0
    assert settings(folder / "dispatch.toml").default_agent == "echo"


@pytest.mark.usefixtures("person")
def test_a_person_is_shown_the_models_and_the_two_next_commands(folder: Path) -> None:
    with fake_ollama("qwen3:8b", "llama3.2:latest") as url:
        result = dispatch("init", "--url", url, stdin="ollama\nllama3.2\n")
    assert f"it answers at {url}" in result.stderr
    assert "has qwen3:8b, llama3.2:latest" in result.stderr
    assert "ollama pull" not in result.stderr
    assert settings(folder / "dispatch.toml").agents["ollama"].options["model"] == "llama3.2"
    commands = [line.strip() for line in result.stdout.splitlines() if line.startswith("  ")]
    assert commands == ["dispatch serve --config dispatch.toml", 'dispatch send "hello"']


@pytest.mark.usefixtures("person")
def test_a_person_is_told_which_key_the_daemon_will_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    result = dispatch("init", "--agent", "openai", stdin="\nlarge\n\n")
    assert result.exit_code == 0, result.stderr
    assert "export OPENAI_API_KEY=" in result.stdout


@pytest.mark.parametrize("agent", ["acp", "command"])
def test_a_program_that_is_not_installed_yet_is_told_of(agent: str, folder: Path) -> None:
    result = dispatch("init", "--agent", agent, "--command", "no-such-program --acp")
    assert (result.exit_code, result.stderr) == (0, "no-such-program is not found here yet\n")
    [name] = settings(folder / "dispatch.toml").agents
    result = dispatch("init", "--agent", agent, "--command", sys.executable, "--force")
    assert (result.exit_code, result.stderr) == (0, "")
    assert settings(folder / "dispatch.toml").default_agent == name


@pytest.mark.usefixtures("person")
def test_an_empty_answer_is_not_shown_as_a_default() -> None:
    result = dispatch("init", "--agent", "command", stdin="\n")
    assert result.exit_code == 0
    assert "agent.py is written for you)? " in result.stderr
    assert "[]" not in result.stderr


def test_an_endpoint_on_this_machine_is_taken_to_need_no_key(folder: Path) -> None:
    words = ["--url", "http://localhost:8000/v1/", "--model", "m"]
    assert dispatch("init", "--agent", "openai", *words).exit_code == 0
    options = settings(folder / "dispatch.toml").agents["openai"].options
    assert (options["api_key_env"], options["base_url"]) == ("", "http://localhost:8000/v1")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["openai", "--model", "m", "--key-env", "sk-SECRET"], "agents.openai.api_key_env"),
        (["openai", "--model", "m", "--url", "https://SECRET@api.example"], "openai.base_url"),
        (["openai", "--model", "m", "--url", "https://a.example/?k=SECRET"], "openai.base_url"),
        (["openai", "--model", "m", "--url", "api.example"], "agents.openai.base_url"),
        (["openai", "--model", "m", "--url", "http://a:b/"], "agents.openai.base_url"),
        (["acp", "--command", "unclosed 'quote"], "--command"),
        (["command", "--command", "  "], "--command is empty"),
        (["python", "--target", "no_such_module_here:answer"], "no_such_module_here"),
        (["ollama"], "no Ollama answers"),
        (["ollama", "--url", "ftp://x"], "--url"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_written(
    words: list[str], complaint: str, folder: Path
) -> None:
    result = dispatch("init", "--agent", *words)
    assert result.exit_code == 1
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1
    assert "SECRET" not in result.output
    assert list(folder.iterdir()) == []


def test_a_flag_of_another_agent_is_wrong_usage() -> None:
    result = dispatch("init", "--agent", "demo", "--model", "large")
    assert result.exit_code == 2
    assert "--model says nothing about demo" in result.stderr


def test_a_folder_that_is_not_there_is_one_line(folder: Path) -> None:
    result = dispatch("init", "--agent", "python", "--path", "no/such/dispatch.toml")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (None, ollama.USUAL_URL),
        ("", ollama.USUAL_URL),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("box.example:80", "http://box.example:80"),
        ("https://box.example/ollama/", "https://box.example:443/ollama"),
        ("[::1]:5", "http://[::1]:5"),
    ],
)
def test_the_address_of_ollama_is_read_as_ollama_reads_it(text: str | None, url: str) -> None:
    assert ollama.address(text) == url


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"models": 1}', b"x" * 2_000_000])
def test_what_answers_there_and_is_no_ollama_is_none(body: bytes) -> None:
    with fake_ollama(body=body) as url:
        assert ollama.models(url) is None


def test_a_look_takes_seconds_at_most_and_is_given_up_for_good() -> None:
    def trickle(listening: socket.socket, ended: threading.Event) -> None:
        """Headers without end, each long before anybody's patience is over."""
        peer, _ = listening.accept()
        with peer, suppress(OSError):
            peer.sendall(b"HTTP/1.1 200 OK\r\n")
            while not ended.wait(PACE_SECONDS):
                peer.sendall(b"X: y\r\n")

    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=trickle, args=[listening, ended])
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        began = time.monotonic()
        assert ollama.models(url) is None
        took = time.monotonic() - began
        left = [one.name for one in threading.enumerate() if "anyio" in one.name.lower()]
        ended.set()
        thread.join()
    assert ollama.LOOK_SECONDS_MAX <= took < 10
    assert left == []


def test_the_token_for_a_daemon_is_not_sent_to_ollama(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCH_TOKEN", "a-secret")
    heads: list[str] = []
    with fake_ollama("m", heads=heads) as url:
        assert ollama.models(url) == ("m",)
    assert len(heads) == 1
    assert "a-secret" not in heads[0]


def test_an_ollama_without_a_model_is_told_from_none() -> None:
    with fake_ollama() as url:
        assert ollama.models(url) == ()
        result = dispatch("init", "--agent", "ollama", "--url", url)
    assert "has no model" in result.stderr


def test_the_programs_that_are_written_are_as_short_as_they_can_be() -> None:
    for text in (starter.PROGRAM, starter.MODULE):
        compile(text, "agent", "exec")
        assert len(text.splitlines()) < 15
