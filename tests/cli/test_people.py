"""`dispatch export` and `dispatch forget`: what is typed, what is shown, and the exit code."""

from __future__ import annotations

import json

import pytest

from dispatch.cli import people as command_line
from tests.client.answering import HttpServer
from tests.client.command import dispatch, lines
from tests.client.test_people import FIRST, FORGOTTEN, SAID, WHOLE

pytest_plugins = ("tests.client.fixtures",)
pytestmark = pytest.mark.timeout(60)

NOTHING = {
    **FORGOTTEN,
    "turnsEnded": 0,
    "removed": dict.fromkeys(FORGOTTEN["removed"], 0),
    "stayed": dict.fromkeys(FORGOTTEN["stayed"], 0),
}


def test_an_export_is_written_as_it_came(http: HttpServer) -> None:
    http.answers = [(200, FIRST + SAID + WHOLE)]
    result = dispatch("export", "--user", "ada", "--account", "one", url=http.url)
    assert (result.exit_code, result.stdout_bytes) == (0, FIRST + SAID + WHOLE)
    assert http.seen[0][1] == "/users/ada/export?account=one"


def test_no_control_character_of_an_export_reaches_a_terminal(http: HttpServer) -> None:
    hidden = SAID.replace(b"xx", "\x9b\u202e".encode())
    http.answers = [(200, FIRST + hidden + WHOLE)]
    result = dispatch("export", "--user", "ada", "--json", url=http.url)
    assert not any(character in result.stdout for character in "\x9b\u202e")
    assert lines(result)[1] == json.loads(hidden)


def test_an_export_that_broke_off_fails_whatever_of_it_came(http: HttpServer) -> None:
    http.answers = [(200, FIRST + SAID)]
    result = dispatch("export", "--user", "ada", url=http.url)
    assert (result.exit_code, result.stdout_bytes) == (3, FIRST + SAID)
    assert "not all of it" in result.stderr


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_an_export_is_counted_and_not_shown(http: HttpServer) -> None:
    http.answers = [(200, FIRST + SAID + SAID + WHOLE), (200, FIRST + WHOLE)]
    result = dispatch("export", "--user", "ada lovelace", url=http.url)
    assert result.stdout.split() == ["what", "how", "many", "said", "elsewhere", "2"]
    assert "--user 'ada lovelace' > FILE" in result.stderr
    assert "nothing is kept" in dispatch("export", "--user", "ada", url=http.url).stderr


def test_nobody_is_forgotten_unasked(http: HttpServer) -> None:
    result = dispatch("forget", "ada", url=http.url)
    assert (result.exit_code, http.seen) == (2, [])
    assert "--yes" in result.stderr


def test_who_is_asked_may_say_no(http: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "is_attended", lambda: True)
    result = dispatch("forget", "ada", url=http.url, stdin="n\n")
    assert (result.exit_code, http.seen) == (1, [])
    assert "of ada, for ever?" in result.stderr
    http.answers = [(200, FORGOTTEN)]
    assert dispatch("forget", "ada", url=http.url, stdin="y\n").exit_code == 0
    assert http.seen[0][:2] == ("DELETE", "/users/ada")


def test_a_program_is_told_the_counts(http: HttpServer) -> None:
    http.answers = [(200, FORGOTTEN)]
    result = dispatch("forget", "ada", "--account", "one", "--yes", url=http.url)
    assert lines(result) == [FORGOTTEN]
    assert http.seen[0][1] == "/users/ada?account=one"


@pytest.mark.usefixtures("terminal")
def test_a_person_is_told_what_went_and_what_stays(http: HttpServer) -> None:
    http.answers = [(200, FORGOTTEN), (200, NOTHING)]
    result = dispatch("forget", "ada", "--yes", url=http.url)
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["ada", "removed", "stays"],
        ["conversations", "2", "6"],
        ["chat", "sessions", "3", "0"],
        ["read", "cursors", "4", "0"],
        ["messages", "5", "8"],
        ["groups", "0", "7"],
    ]
    assert "1 of their turns elsewhere were ended" in result.stderr
    assert "what stays is part of groups" in result.stderr
    assert dispatch("forget", "ada", "--yes", url=http.url).stderr == "nothing is kept of ada\n"


def test_a_daemon_that_ends_in_the_middle_is_told_with_what_to_do(http: HttpServer) -> None:
    http.answers = [(0, None)]
    result = dispatch("forget", "ada", "--yes", url=http.url)
    assert result.exit_code == 3
    assert "the same again does the rest" in result.stderr


@pytest.mark.parametrize("words", [["forget", ""], ["forget", "a\x1b[2J"], ["export"]])
def test_a_name_that_cannot_be_is_wrong_usage(words: list[str]) -> None:
    assert dispatch(*words).exit_code == 2
