"""Where the conformance data of AHP is, if this machine has it beside the tree, and how it is read.

The data is not ours to keep in the tree: a test that needs it is skipped, and says so, without it.
"""

import json
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).resolve().parents[4] / "shared" / "ahp" / "0.7.0"

ABSENT = "the conformance data of AHP 0.7.0 is not in ../shared/ahp"

CLOCK = "1970-01-01T00:00:09.999Z"
"""The time at which the fixtures were folded."""


def fixtures(folder: str) -> list[Any]:
    """One parameter a fixture; one that skips where there is no data."""
    if not DATA.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(reason=ABSENT), id="absent")]
    files = sorted((DATA / folder).glob("*.json"))
    assert files, f"no fixtures in {folder}"
    return [pytest.param(json.loads(f.read_text("utf-8")), id=f.stem) for f in files]


def stripped(value: Any) -> Any:
    """The value without nulls: in the fixtures null means absent."""
    match value:
        case dict():
            return {name: stripped(item) for name, item in value.items() if item is not None}
        case list():
            return [stripped(item) for item in value]
    return value
