"""The reducers of our client against fixtures: those that are published for 0.7.0, and ours.

The published ones are not of this tree: without them this says so. Ours are of the versions before
and after (`protocol/fixtures/ahp/folds`); the host folds them too, and so does VS Code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dispatch.conformance.transcripts import FIXTURES
from dispatch.protocol.ahp.reduce import reduce
from dispatch.protocol.ahp.versions import parse_number, version_of
from tests.clients.ahp.ahp_client.folding import folded
from tests.clients.ahp.ahp_client.words import Moment, stripped, version_number
from tests.clients.ahp.vscode.fold import VscodeFold

PUBLISHED = Path(__file__).resolve().parents[4] / "shared" / "ahp" / "0.7.0" / "reducers"
CHANNELS = ("root", "session", "chat")
PATHS = sorted(path for name in CHANNELS for path in (PUBLISHED / name).glob("*.json"))
OURS = sorted((FIXTURES / "ahp" / "folds").glob("*/*.json"))
# The fixtures' own clock.
NOW = "1970-01-01T00:00:09.999Z"


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.skipif(not PATHS, reason="no ../shared/ahp: the reducers are NOT held to the fixtures")
@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_a_published_fixture_folds_to_what_it_expects(path: Path) -> None:
    fixture: dict[str, Any] = json.loads(path.read_text("utf-8"))
    state = stripped(fixture["initial"])
    for action in fixture["actions"]:
        state = folded(path.parent.name, state, stripped(action), Moment((0, 7, 0), NOW))
    assert stripped(state) == stripped(fixture["expected"])


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_a_fixture_of_ours_folds_alike_here_and_in_the_host(path: Path) -> None:
    fixture: dict[str, Any] = json.loads(path.read_text("utf-8"))
    number = path.parent.name
    version = version_of(parse_number(number) or (0, 0, 0))
    assert version is not None
    ours = theirs = fixture["initial"]
    for action in fixture["actions"]:
        moment = Moment(version_number(number), NOW)
        ours = folded(fixture["reducer"], ours, action, moment)
        theirs = reduce(theirs, action, version.rules, now=NOW)
    assert ours == fixture["expected"]
    assert theirs == fixture["expected"]


@pytest.mark.parametrize(("number", "made_for"), [("0.9.0", "0.9"), ("0.5.1", "0.5.1")])
def test_the_fixtures_of_ours_fold_alike_in_vscode(number: str, made_for: str) -> None:
    fold = VscodeFold(made_for)
    for path in (path for path in OURS if path.parent.name == number):
        fixture: dict[str, Any] = json.loads(path.read_text("utf-8"))
        sent = [(action, NOW) for action in fixture["actions"]]
        if fold.knows(*(action["type"] for action, _ in sent)):
            states = fold.states(fixture["reducer"], fixture["initial"], sent)
            assert states[-1] == fixture["expected"], path
    fold.end()
