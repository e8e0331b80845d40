"""`dispatch conformance`: what is asked, what is shown, and the exit code."""

import tomllib

import pytest

from dispatch.conformance.agents import AGENTS
from dispatch.conformance.suite import Verdict
from tests.client.command import dispatch, lines

pytest_plugins = ("tests.client.fixtures",)

URL = "http://127.0.0.1:9"
VERDICTS = [
    Verdict("chat/001-a", "passed", "A."),
    Verdict("chat/002-b", "skipped", "B.", reason="the server has no agent bob"),
]
FAILED = Verdict("chat/003-c", "failed", "C.", 4, "type: expected \x1b[2J, got 5")


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> list[Verdict]:
    given = list(VERDICTS)

    async def judge(*_: object, **__: object):  # type: ignore[no-untyped-def]
        for verdict in given:
            yield verdict

    monkeypatch.setattr("dispatch.conformance.suite.judge", judge)
    return given


def test_the_agents_are_printed_as_a_configuration_that_serves_them() -> None:
    result = dispatch("conformance", "--agents", url=URL)
    assert result.exit_code == 0
    assert list(tomllib.loads(result.stdout)["agents"]) == [agent.__name__ for agent in AGENTS]


def test_a_name_that_no_transcript_has_is_wrong_usage() -> None:
    result = dispatch("conformance", URL, "--only", "no such name", url=URL)
    assert result.exit_code == 2
    assert "no transcript has such a name" in result.stderr


def test_a_url_is_wanted() -> None:
    assert dispatch("conformance", url=URL).exit_code == 2


def test_in_a_pipe_a_verdict_is_a_line(verdicts: list[Verdict]) -> None:
    result = dispatch("conformance", URL, url=URL)
    assert lines(result) == [
        {"transcript": "chat/001-a", "outcome": "passed", "claim": "A."},
        {
            "transcript": "chat/002-b",
            "outcome": "skipped",
            "claim": "B.",
            "reason": "the server has no agent bob",
        },
    ]
    assert result.exit_code == 0


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_a_failure_says_where_and_why_without_escape_codes(
    verdicts: list[Verdict],
) -> None:
    verdicts.append(FAILED)
    result = dispatch("conformance", URL, url=URL)
    assert "chat/003-c\n         step 4: type: expected ␛[2J, got 5\n" in result.stdout
    assert result.stdout.endswith("1 passed, 1 failed, 1 skipped\n")
    assert result.exit_code == 1


def test_a_run_in_which_nothing_was_replayed_has_not_passed(verdicts: list[Verdict]) -> None:
    del verdicts[0]
    assert dispatch("conformance", URL, url=URL).exit_code == 1
