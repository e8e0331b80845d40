"""What an operator writes for an agent, read as a person means it."""

from pathlib import Path

import pytest

from dispatch.agents.command import CommandOptions
from dispatch.agents.options import decode_options
from dispatch.errors import ConfigError


def test_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options: dict[str, object] = {"command": "true", "cwd": "~", "cwd_roots": ["~/src", "/srv"]}
    decoded = decode_options("shell", options, CommandOptions)
    assert decoded.cwd == tmp_path
    assert decoded.cwd_roots == (tmp_path / "src", Path("/srv"))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"cwd": 3}, "cwd: Expected `str`, got `int`"),
        ({"cwd_roots": ["/", 3]}, "cwd_roots[1]: Expected `str`, got `int`"),
    ],
)
def test_what_is_no_path_is_a_complaint(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        decode_options("shell", {"command": "true", **wrong}, CommandOptions)
    assert refused.value.message == f"agents.shell.{told}"


def test_a_home_of_nobody_is_a_path_like_another() -> None:
    options: dict[str, object] = {"command": "true", "cwd": "~nobody-at-all/src"}
    assert decode_options("shell", options, CommandOptions).cwd == Path("~nobody-at-all/src")
