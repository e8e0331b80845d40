"""The page when something is gone for a while: the network, the daemon, the way between them.

Neighbours: `tests/e2e/faults.py` is the way that fails; `conftest` opens the devices.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import anyio
import pytest
from playwright.async_api import expect

from tests.e2e.conftest import StartDaemon
from tests.e2e.faults import FaultProxy
from tests.e2e.process import DaemonProcess
from tests.web.conftest import Gate, OpenDevice
from tests.web.device import GUARD_MS, OUTAGE
from tests.web.speakers import BEGINNING, END, POLL_SECONDS, config

pytestmark = pytest.mark.timeout(240)


async def test_an_answer_is_whole_after_being_offline_in_its_middle(
    open_device: OpenDevice, gate: Gate
) -> None:
    device = await open_device("#/c/outage-offline")
    device.allow(OUTAGE)
    await device.ask("storyteller", f"Tell me until {gate}")
    await expect(device.answers).to_contain_text(BEGINNING)
    bar = device.page.locator("[data-role=connection]")
    await expect(bar).to_be_hidden()
    await device.context.set_offline(True)
    await expect(bar).to_be_visible()
    await expect(device.answers).to_contain_text(BEGINNING)
    gate.open()
    other = await open_device("#/c/outage-offline")
    await expect(other.sealed).to_contain_text(END)
    await device.context.set_offline(False)
    await expect(device.sealed).to_contain_text(f"{BEGINNING} {END}")
    await expect(bar).to_be_hidden()
    assert await device.transcript() == await other.transcript()


async def test_a_message_written_offline_is_sent_once_when_the_network_is_back(
    open_device: OpenDevice,
) -> None:
    device = await open_device("#/c/outage-write")
    device.allow(OUTAGE)
    await device.say("before")
    await expect(device.sealed).to_have_count(1)
    await device.context.set_offline(True)
    await device.say("written in a tunnel")
    await expect(device.messages.last).to_have_attribute("data-state", "sending")
    await device.context.set_offline(False)
    await expect(device.sealed).to_have_count(2)
    await expect(device.messages).to_have_count(2)
    other = await open_device("#/c/outage-write")
    await expect(other.sealed).to_have_count(2)
    assert await device.transcript() == await other.transcript()


async def test_a_cut_connection_heals_by_itself_and_doubles_nothing(
    open_device: OpenDevice, daemon: DaemonProcess, gate: Gate
) -> None:
    async with FaultProxy(daemon.url) as way:
        device = await open_device("#/c/outage-cut", home=way.url)
        device.allow(OUTAGE)
        await device.ask("storyteller", f"Tell me until {gate}")
        await expect(device.answers).to_contain_text(BEGINNING)
        for _ in range(3):
            before = way.accepted
            way.cut()
            with anyio.fail_after(GUARD_MS / 1_000):
                while way.accepted == before:
                    await anyio.sleep(POLL_SECONDS)
            await expect(device.page.locator("body")).to_have_attribute("data-connection", "online")
        gate.open()
        await expect(device.sealed).to_contain_text(f"{BEGINNING} {END}")
        assert len(await device.transcript()) == 2
        await device.close()


async def test_a_killed_daemon_leaves_no_spinner_and_keeps_what_was_said(
    open_device: OpenDevice, start_daemon: StartDaemon, gate: Gate
) -> None:
    daemon = await start_daemon(config())
    # A page finds its daemon where it was.
    daemon.arguments = ("--port", str(urlsplit(daemon.url).port))
    desk, phone = [await open_device("#/c/outage-killed", home=daemon.url) for _ in range(2)]
    for device in (desk, phone):
        device.allow(OUTAGE)
    await desk.ask("storyteller", f"Tell me until {gate}")
    for device in (desk, phone):
        await expect(device.answers).to_contain_text(BEGINNING)
    await daemon.kill()
    for device in (desk, phone):
        await expect(device.page.locator("[data-role=connection]")).to_be_visible()
    await phone.choose("echo")
    await phone.say("said while it was down")
    await daemon.start()
    for device in (desk, phone):
        await expect(device.sealed).to_have_count(2)
        await expect(device.sealed.first).to_contain_text(BEGINNING)
        await expect(device.sealed.last).to_contain_text("said while it was down")
        await expect(device.page.locator("[data-state=streaming]")).to_have_count(0)
        await expect(device.page.locator("[data-role=connection]")).to_be_hidden()
    told = await desk.transcript()
    assert len(told) == 4
    assert told == await phone.transcript()
    for device in (desk, phone):
        await device.page.reload()
        await expect(device.sealed).to_have_count(2)
