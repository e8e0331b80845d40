"""A real browser, devices in it, and a daemon whose agents have something to show.

Neighbours: `device.py` is one device, `speakers.py` are the agents, `tests/e2e` has the processes.
Invariant: a device that a test opened is asked for its faults afterwards: whatever else the test
is about, a page that logs an error, meets its own policy or asks another host fails it.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, async_playwright, expect

from tests.e2e.conftest import StartDaemon, start_daemon
from tests.e2e.process import DaemonProcess
from tests.e2e.programs import needed
from tests.web import speakers
from tests.web.device import GUARD_MS, Device

__all__ = ["StartDaemon", "start_daemon"]

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
ARTEFACTS = Path(__file__).resolve().parent.parent.parent / "artefacts" / "page"

OpenDevice = Callable[..., Awaitable[Device]]


# Of a module and not of the session: while asynchronous fixtures are held, their event loop is too,
# and a command line that is tested in the same process could not start its own.
@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium, one process for all tests of a file."""
    path = needed("chromium")
    expect.set_options(timeout=GUARD_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        yield browser
        await browser.close()


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    """The daemon of a file's tests that do not hurt theirs; each has conversations of its own."""
    daemon = DaemonProcess(tmp_path_factory.mktemp("page"), speakers.config())
    await daemon.start()
    yield daemon
    await daemon.end()


@pytest.fixture
async def open_device(
    browser: Browser, daemon: DaemonProcess, start_daemon: StartDaemon
) -> AsyncIterator[OpenDevice]:
    """Opens devices of the shared daemon, or with `home=` of another; none may have a fault.

    They are closed before any daemon of the test is.
    """
    devices: list[Device] = []

    async def open_one(fragment: str | None = "#/", home: str = "", **options: Any) -> Device:
        device = await Device.start(browser, home or daemon.url, **options)
        devices.append(device)
        if fragment is not None:
            await device.go(fragment)
        return device

    yield open_one
    faults = [await device.faults() for device in devices]
    for device in devices:
        await device.close()
    assert faults == [[] for _ in devices]


@pytest.fixture
async def device(open_device: OpenDevice) -> Device:
    """One device, at a new chat."""
    return await open_device()


@pytest.fixture(scope="session")
def artefacts() -> Path:
    """Where pictures of the page are put, for people to look at."""
    shutil.rmtree(ARTEFACTS, ignore_errors=True)
    ARTEFACTS.mkdir(parents=True)
    return ARTEFACTS


class Gate:
    """What a speaker waits for; `path` goes last into the message."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> None:
        self.path.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A closed one."""
    return Gate(tmp_path / "open")
