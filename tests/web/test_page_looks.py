"""Pictures of the main states, on desk and phone, light and dark, kept for people to look at.

Neighbours: they are written to `artefacts/page`, which is ignored; the other files say what must
be on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.async_api import expect

from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess
from tests.web.conftest import OpenDevice
from tests.web.device import OUTAGE
from tests.web.speakers import config

pytestmark = pytest.mark.timeout(300)

SIZES: dict[str, dict[str, Any]] = {
    "desk": {"viewport": {"width": 1280, "height": 800}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "has_touch": True,
        "is_mobile": True,
        "device_scale_factor": 2,
    },
}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
# Below it a picture is one colour: nothing was drawn.
PICTURE_BYTES_MIN = 8_000


@pytest.fixture
async def used(start_daemon: StartDaemon, open_device: OpenDevice) -> DaemonProcess:
    """A daemon on which somebody has worked for a morning."""
    daemon = await start_daemon(config())
    device = await open_device("#/c/rollout", home=daemon.url)
    await device.ask("worker", "How is a turn sealed? Look at the code before you answer.")
    await expect(device.sealed).to_contain_text("See the page")
    await device.go("#/c/pictures")
    await device.say("A packing list for a weekend by the sea")
    await expect(device.sealed).to_have_count(1)
    await device.new_group("Design review", "echo", "parrot", "mimic")
    await device.say("Which of the two layouts should we ship, and why that one?")
    await expect(device.sealed).to_have_count(3)
    return daemon


@pytest.mark.parametrize("size", SIZES)
async def test_every_main_state_has_its_pictures(
    open_device: OpenDevice, used: DaemonProcess, artefacts: Path, size: str
) -> None:
    device = await open_device(home=used.url, **SIZES[size])
    device.allow(OUTAGE)
    page, taken = device.page, []

    async def shoot(state: str) -> None:
        number = len(taken) // len(SCHEMES)
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme)
            path = artefacts / f"{size}-{number:02}-{state}-{scheme}.png"
            taken.append(path)
            await page.screenshot(path=path, animations="disabled")

    await expect(device.field).to_be_visible()
    await shoot("new")
    await device.go("#/c/rollout")
    await expect(device.sealed).to_contain_text("See the page")
    await shoot("answer")
    for summary in await page.locator("[data-thread] summary").all():
        await summary.click()
    await page.locator("[data-thread]").evaluate("thread => { thread.scrollTop = 0; }")
    await shoot("thinking-and-tools")
    group = page.locator('a[data-entry^="group:"]')
    await page.goto(f"{used.url}/{await group.get_attribute('href')}")
    await expect(device.sealed).to_have_count(3)
    await shoot("group")
    await device.go(f"#/c/ask-{size}")
    await shoot("empty")
    await device.ask("interviewer", "Please prepare the release")
    await expect(page.locator("[data-request]")).to_be_visible()
    await device.say("Then write the notes for it")
    await expect(page.locator("[data-queued]")).to_be_visible()
    await shoot("question-and-queue")
    await device.go(f"#/c/fail-{size}")
    await device.ask("failing", "Try the deployment")
    await expect(page.locator("[data-error]")).to_be_visible()
    await shoot("error")
    await device.go(f"#/c/stream-{size}")
    await device.ask("torrent", "Explain it for 4")
    await expect(device.answers).to_contain_text("Part 160")
    await device.button("What is happening").click()
    await shoot("streaming-and-panel")
    await page.locator("#panel").get_by_role("button", name="Close").click()
    await expect(device.sealed).to_contain_text("That was all.")
    if size == "phone":
        await device.button("Show conversations").click()
        await shoot("conversations")
    await device.button("Settings").click()
    await shoot("settings")
    await page.keyboard.press("Escape")
    await device.button("New group").click()
    await shoot("new-group")
    await page.keyboard.press("Escape")
    await device.go("#/c/rollout")
    await expect(device.sealed).to_contain_text("See the page")
    await device.context.set_offline(True)
    await expect(page.locator("[data-role=connection]")).to_be_visible()
    await shoot("offline")
    assert [path.name for path in taken if path.stat().st_size < PICTURE_BYTES_MIN] == []
