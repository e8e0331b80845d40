"""Every test of the client is over in seconds or is broken."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/client/" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(30))
