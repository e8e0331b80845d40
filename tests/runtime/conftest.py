"""What the tests of the runtime share: quiet logs that can be looked at."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import structlog

Logs = list[MutableMapping[str, Any]]


@pytest.fixture(autouse=True)
def logs() -> Iterator[Logs]:
    """What was logged, instead of printing it."""
    with structlog.testing.capture_logs() as captured:
        yield captured
