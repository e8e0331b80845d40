"""A page of one's own, as the README has it: served by another server, open in two windows.

Neighbours: `tests/e2e/readme` has the blocks of the README, `conftest` the browser and the daemon.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.e2e.process import DaemonProcess
from tests.e2e.readme import claim

PAGE = claim("From a browser", "html", "createClient")
NAME = "chat.html"

pytestmark = pytest.mark.timeout(240)


class Quiet(SimpleHTTPRequestHandler):
    """What `python3 -m http.server` serves with, without its log."""

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path, daemon: DaemonProcess) -> Iterator[str]:
    """Of the page, on a server of its own."""
    assert PAGE.code.startswith(f"<!-- {NAME} -->")
    (tmp_path / NAME).write_text(PAGE.at(daemon.url))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/{NAME}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_two_windows_of_a_page_of_ones_own_show_the_same(
    browser: Browser, address: str
) -> None:
    windows = [await (await browser.new_context()).new_page() for _ in range(2)]
    faults: list[str] = []
    for window in windows:
        window.on("pageerror", lambda error: faults.append(str(error)))
        await window.goto(address)
    here, there = windows
    await here.get_by_placeholder("Say something").fill("hello from a page")
    await here.keyboard.press("Enter")
    told = ["user: hello from a page", "assistant: hello from a page"]
    for window in windows:
        await expect(window.get_by_role("listitem")).to_have_text(told)
    await there.reload()
    await expect(there.get_by_role("listitem")).to_have_text(told)
    await expect(here.get_by_placeholder("Say something")).to_be_empty()
    assert faults == []
    for window in windows:
        await window.context.close()
