"""The reducers of our client against the published fixtures of 0.7.0.

The fixtures are not of this tree: without them this says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.ahp.ahp_client.folding import folded
from tests.clients.ahp.ahp_client.words import Moment, stripped

FIXTURES = Path(__file__).resolve().parents[4] / "shared" / "ahp" / "0.7.0" / "reducers"
CHANNELS = ("root", "session", "chat")
PATHS = sorted(path for name in CHANNELS for path in (FIXTURES / name).glob("*.json"))
# The fixtures' own clock.
MOMENT = Moment((0, 7, 0), "1970-01-01T00:00:09.999Z")


@pytest.mark.skipif(not PATHS, reason="no ../shared/ahp: the reducers are NOT held to the fixtures")
@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_fixture_folds_to_what_it_expects(path: Path) -> None:
    fixture: dict[str, Any] = json.loads(path.read_text("utf-8"))
    state = stripped(fixture["initial"])
    for action in fixture["actions"]:
        state = folded(path.parent.name, state, stripped(action), MOMENT)
    assert stripped(state) == stripped(fixture["expected"])
