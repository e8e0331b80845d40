"""The first minutes with dispatch, typed as the README has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.checkout import Checkout
from tests.e2e.readme import claim

pytestmark = pytest.mark.timeout(180)

SERVE = claim("Start", "sh", "./scripts/serve")
SECOND_TERMINAL = claim("Start", "sh", "export PATH")
DEMO = claim("Start", "sh", "./scripts/demo-crash")
INIT = claim("Start", "sh", "dispatch init")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


async def test_a_daemon_and_a_second_terminal_are_all_it_takes(checkout: Checkout) -> None:
    async with checkout.serving(SERVE.code):
        printed = await checkout.typed(SECOND_TERMINAL.code)
    frames = [json.loads(line) for line in printed.splitlines()]
    assert frames[-1]["event"]["type"] == "turn-sealed"
    assert (checkout.folder / "dispatch-data" / "dispatch.db").exists()


async def test_the_demonstration_proves_what_it_says(checkout: Checkout) -> None:
    printed = await checkout.typed(DEMO.code)
    assert printed.endswith("Nothing was lost and nothing came twice.\n")


async def test_a_configuration_is_made_and_served(checkout: Checkout) -> None:
    nobody = "http://127.0.0.1:1"
    [told] = (await checkout.typed(INIT.code, OLLAMA_HOST=nobody)).splitlines()
    serve, send = json.loads(told)["next"]
    async with checkout.serving(serve):
        assert '"hello"' in await checkout.typed(send)
