"""The commands that need no daemon: serve it, check it, back it up, configure it."""

import hashlib
import sys
import tomllib
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from dispatch import cli as command_line
from dispatch.cli import screen
from dispatch.cli.redaction import redacted, toml_lines
from dispatch.errors import ConfigError
from dispatch.settings import load_settings
from tests.client.command import dispatch, lines

pytest_plugins = ("tests.client.fixtures",)
pytestmark = pytest.mark.timeout(60)


CONFIGURATION = """
port = 9000
default_agent = "model"
[agents.model]
kind = "command"
command = ["env", "--api-key=sk-123", "--verbose"]
env = { TOKEN = "sk-789", HOME = "/home/x", PROXY = "https://me:sk-000@proxy.example" }
[auth]
tokens = [{ sha256 = "%s", user = "ann" }]
""" % hashlib.sha256(b"x").hexdigest()  # noqa: UP031


def test_config_check_shows_what_is_in_force_without_its_secrets(tmp_path: Path) -> None:
    path = tmp_path / "dispatch.toml"
    path.write_text(CONFIGURATION)
    result = dispatch("config", "check", "--config", str(path))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "sk-" not in result.output
    [shown] = lines(result)
    assert shown["port"] == 9000
    assert shown["agents"]["model"]["command"] == ["env", "--api-key=***", "--verbose"]
    assert shown["agents"]["model"]["env"] == {"TOKEN": "***", "HOME": "***", "PROXY": "***"}
    assert shown["auth"]["tokens"][0]["user"] == "ann"
    assert shown["limits"]["auth_seconds_max"] == 10


@pytest.mark.usefixtures("terminal")
def test_config_check_writes_toml_for_people(tmp_path: Path) -> None:
    path = tmp_path / "dispatch.toml"
    path.write_text(CONFIGURATION)
    result = dispatch("config", "check", "--config", str(path))
    read = tomllib.loads(result.stdout)
    assert read["agents"]["model"]["command"] == ["env", "--api-key=***", "--verbose"]
    assert read["limits"]["frame_bytes_max"] == 1_048_576
    assert result.stderr == "in order; what differs from the defaults is bold\n"
    assert "sk-" not in result.output


REFUSED = """
default_agent = "program"
[agents.program]
kind = "command"
command = []
[agents.module]
kind = "python"
target = "no_such_module:answer"
[agents.shape]
kind = "parrot"
[agents.echo]
kind = "echo"
[auth.jwt]
algorithm = "HS256"
secret_env = "NO_SUCH_VARIABLE"
audience = "dispatch"
issuer = "https://id.example/"
"""


def test_config_check_refuses_what_serve_would_with_every_reason(tmp_path: Path) -> None:
    path = tmp_path / "dispatch.toml"
    path.write_text(f"data = '{tmp_path / 'data'}'\n{REFUSED}")
    result = dispatch("config", "check", "--config", str(path))
    assert result.exit_code == 1
    told = result.stderr.splitlines()
    assert len(told) == 4
    for line, name in zip(told, ("program", "module", "shape", "secret_env"), strict=True):
        assert line.startswith("dispatch: ")
        assert name in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_config_check_shows_nothing_but_the_reasons_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(screen, "is_text", lambda as_json: is_terminal)
    path = tmp_path / "dispatch.toml"
    # No agent takes an `api_key`, and what it was is not told.
    path.write_text('[agents.a]\nkind = "echo"\napi_key = "sk-1"\n')
    result = dispatch("config", "check", "--config", str(path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("dispatch: ")
    assert result.stderr.endswith("agents.a.api_key: no such setting\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("DISPATCH_PROT", "; is DISPATCH_PORT meant?"),
        ("DISPATCH_LIMIT__FRAME_BYTES_MAX", "; is DISPATCH_LIMITS meant?"),
        ("DISPATCH_COLOUR_OF_THE_PAGE", ""),
    ],
)
def test_a_variable_that_is_no_setting_is_refused_by_name(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings(environment={name: "1"})
    assert refused.value.message == f"{name} in the environment is no setting{hint}"


def test_the_environment_may_hold_what_is_for_clients_agents_and_tests() -> None:
    names = ("DISPATCH_TOKEN", "DISPATCH_URL", "DISPATCH_SIMULATION_SEEDS", "DISPATCH_PROCESS")
    assert load_settings(environment=dict.fromkeys(names, "1")) == load_settings(environment={})


def test_lists_come_out_of_the_environment_with_commas() -> None:
    environment = {"DISPATCH_HOSTS": "chat.example, a.example,", "DISPATCH_ORIGINS": ""}
    settings = load_settings(environment=environment)
    assert settings.hosts == ("chat.example", "a.example")
    assert settings.origins == ()


def test_the_settings_that_are_shown_are_settings_again(tmp_path: Path) -> None:
    path = tmp_path / "shown.toml"
    path.write_text("\n".join(toml_lines(redacted(load_settings(environment={})))))
    assert load_settings(config=path, environment={}) == load_settings(environment={})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("port = 70000", "port"),
        ("colour = 1", "colour"),
        ('[agents.a]\nkind = "echo"\n[agents.b]\nkind = "echo"', "set it to one of these: a, b"),
        ("port = ", "TOML"),
        (None, "cannot read"),
    ],
)
def test_a_configuration_that_cannot_work_is_told_in_one_line(
    tmp_path: Path, content: str | None, problem: str
) -> None:
    path = tmp_path / "dispatch.toml"
    if content is not None:
        path.write_text(content)
    for words in (["config", "check"], ["serve"]):
        result = dispatch(*words, "--config", str(path))
        assert result.exit_code == 1
        assert problem in result.stderr
        assert result.stderr.count("\n") == 1


DIGEST = hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("port = 70000", ", line 1: port: Expected `int` <= 65535"),
        ("data = 3", ", line 1: data: Expected `str`, got `int`"),
        ('# Who asks.\n\nhosts = [\n  "a",\n  1,\n]', ", line 3: hosts[1]: Expected `str`"),
        ("[limits]\nring = 1", ", line 2: limits.ring: no such setting"),
        ("limits.delta_bytes_max = 9999999", ", line 1: limits.delta_bytes_max (9999999) > "),
        ("[limits]\nframe_bytes_max = 1", ": limits.delta_bytes_max (65536) > "),
        ('host = "0.0.0.0"', ", line 1: host: 0.0.0.0 lets others in"),
        ('default_agent = "a"', ', line 1: default_agent: "a" is not in [agents]'),
        ('[agents.a]\nkind = "echo"\n[agents.b]\nkind = "echo"', ": default_agent: "),
        ("[agents.a]\nmodel = 1", ", line 1: agents.a: needs a kind"),
        ("[agents.a]\nkind = 1", ", line 2: agents.a.kind: Expected `str`, got `int`"),
        ('[agents."a/b"]\nkind = "echo"', ", line 1: agents.a/b: a name has 1 to 64"),
        ('[agents."a.b"]\nkind = "echo"\ncolour = 1', ", line 3: agents.a.b.colour: no such"),
        ('[agents.a]\nkind = "parrot"', ', line 2: agents.a.kind: "parrot" is not one of'),
        ('[agents.a]\nkind = "command"', ": agents.a.command: required"),
        ("[auth]", ", line 1: auth: neither tokens nor jwt"),
        ('[auth.jwt]\nalgorithm = "RS256"', ": auth.jwt.audience: required"),
        (
            f"[[auth.tokens]]\nsha256 = '{DIGEST}'\nuser = 'a'\n"
            "[[auth.tokens]]\nsha256 = 'b'\nuser = 'b'\n",
            ", line 5: auth.tokens[1].sha256: Expected",
        ),
        ("\nport = x\n", " is not TOML: Invalid value (at line 2, column "),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_the_file_and_the_line(
    tmp_path: Path, content: str, told: str
) -> None:
    path = tmp_path / "dispatch.toml"
    path.write_text(content)
    result = dispatch("config", "check", "--config", str(path))
    assert result.stderr.startswith(f"dispatch: {path}{told}")
    assert (result.exit_code, result.stdout) == (1, "")


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"DISPATCH_PORT": "high"}, "port: Expected `int`"),
        ({"DISPATCH_LIMITS__RING": "1"}, "limits.ring: no such setting"),
        ({"DISPATCH_DEFAULT_AGENT": "b"}, 'default_agent: "b" is not in [agents]'),
    ],
)
def test_a_file_is_not_blamed_for_what_stands_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], told: str
) -> None:
    path = tmp_path / "dispatch.toml"
    path.write_text('port = 1\n[limits]\ncommands_waiting_max = 1\n[agents.a]\nkind = "echo"')
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = dispatch("config", "check", "--config", str(path))
    assert result.stderr.startswith(f"dispatch: {told}")
    assert result.exit_code == 1


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """In place of the module that knows the adapters."""
    fake = types.ModuleType("dispatch.compose")
    monkeypatch.setitem(sys.modules, "dispatch.compose", fake)
    monkeypatch.setattr("dispatch.compose", fake, raising=False)
    return fake


def test_check_prints_what_it_finds_and_fails(
    composed: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings: list[str] = []
    composed.verify = lambda data: findings  # type: ignore[attr-defined]
    result = dispatch("check", "--data", str(tmp_path))
    assert result.exit_code == 0
    assert lines(result) == [{"data": str(tmp_path), "ok": True, "findings": 0}]
    findings.append("conversation c: seq 4 is missing")
    result = dispatch("check", "--data", str(tmp_path))
    assert result.exit_code == 1
    assert lines(result)[0] == {"finding": "conversation c: seq 4 is missing"}
    monkeypatch.setattr(screen, "is_text", lambda as_json: not as_json)
    result = dispatch("check", "--data", str(tmp_path))
    assert result.stdout == f"! conversation c: seq 4 is missing\n{tmp_path}: 1 finding\n"


def test_backup_replaces_a_file_only_if_told_to(composed: types.ModuleType, tmp_path: Path) -> None:
    composed.backup = lambda data, target: target.write_text("copy")  # type: ignore[attr-defined]
    target = tmp_path / "copy.db"
    words = ["backup", str(target), "--data", str(tmp_path)]
    assert lines(dispatch(*words)) == [{"file": str(target), "bytes": 4}]
    target.write_text("older")
    result = dispatch(*words)
    assert (result.exit_code, target.read_text()) == (1, "older")
    assert "--force" in result.stderr
    assert dispatch(*words, "--force").exit_code == 0
    assert target.read_text() == "copy"


@pytest.mark.parametrize("words", [["check"], ["backup", "x"]])
def test_a_data_directory_that_is_not_there_is_named(words: list[str], tmp_path: Path) -> None:
    result = dispatch(*words, "--data", str(tmp_path / "nowhere"))
    assert result.exit_code == 1
    assert result.stderr == f"dispatch: no data directory at {tmp_path / 'nowhere'}\n"


def test_serve_hands_flags_over_the_environment_to_the_daemon(
    composed: types.ModuleType, tmp_path: Path
) -> None:
    given_settings: list[object] = []

    async def serve(settings: object, read_again: Callable[[], object]) -> int:
        assert read_again() == settings
        given_settings.append(settings)
        return 7

    composed.serve = serve  # type: ignore[attr-defined]
    environment = {"DISPATCH_PORT": "1", "DISPATCH_HOST": "localhost", "DISPATCH_CONFIG": None}
    words = ["serve", "--port", "0", "--data", str(tmp_path), "--ready-file", "r"]
    result = CliRunner(env=environment).invoke(command_line.cli, words)
    assert result.exit_code == 7
    expected = load_settings(
        environment={}, flags={"port": 0, "host": "localhost", "data": tmp_path, "ready_file": "r"}
    )
    assert given_settings == [expected]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("agents.a.colour: no such setting", "{path}, line 3: agents.a.colour: no such setting"),
        ("port 1 is in use", "port 1 is in use"),
    ],
)
def test_serve_tells_where_it_is_written_what_it_refuses(
    composed: types.ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    said: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "dispatch.toml"
    path.write_text('[agents.a]\nkind = "echo"\ncolour = 1\n')

    async def serve(*_: object) -> int:
        raise ExceptionGroup("tasks", [ConfigError(said)])

    composed.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "argv", ["dispatch", "serve", "--config", str(path)])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"dispatch: {told.format(path=path)}\n"


def test_a_token_is_accepted_by_the_configuration_that_comes_with_it(tmp_path: Path) -> None:
    [made] = lines(dispatch("token", "--user", "ann", "--account", "acme", "--rights", "watch"))
    secret = made.pop("token")
    assert len(secret) == 43
    assert made["sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    assert lines(dispatch("token"))[0]["token"] != secret


@pytest.mark.usefixtures("terminal")
def test_a_token_is_shown_once_with_toml_to_paste(tmp_path: Path) -> None:
    shown = dispatch("token", "--user", 'a"nn').stdout
    path = tmp_path / "dispatch.toml"
    path.write_text(shown[shown.index("[[auth") :])
    auth = load_settings(config=path, environment={}).auth
    assert auth is not None
    assert auth.tokens[0].user == 'a"nn'
    assert shown.count(auth.tokens[0].sha256) == 1


def test_an_agent_that_is_alone_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "dispatch.toml"
    one = '[agents.parrot]\nkind = "echo"\n'
    path.write_text(one)
    assert load_settings(config=path, environment={}).default_agent == "parrot"
    path.write_text(one + '[agents.raven]\nkind = "echo"\n')
    with pytest.raises(ConfigError, match="parrot, raven"):
        load_settings(config=path, environment={})
