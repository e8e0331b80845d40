"""Groups and chats on the page, and the list of everything: unread marks, running marks, search.

Neighbours: `test_page_talk` is about one conversation; `conftest` opens the devices.
"""

from __future__ import annotations

import re

import pytest
from playwright.async_api import expect

from tests.e2e.conftest import StartDaemon
from tests.e2e.process import DaemonProcess
from tests.protocol.replies import http_client
from tests.web.conftest import Gate, OpenDevice
from tests.web.device import Device
from tests.web.speakers import BEGINNING, config

pytestmark = pytest.mark.timeout(240)


async def _new_chat(device: Device, agent: str, text: str) -> str:
    """Begin a chat on the page; its entry in the sidebar."""
    await device.go("#/")
    await device.page.get_by_role("radio", name=agent, exact=True).check(force=True)
    await device.say(text)
    await expect(device.page).to_have_url(re.compile("#/c/."))
    return "chat:" + device.page.url.split("#/c/")[1]


async def test_three_agents_of_a_group_answer_one_message(device: Device) -> None:
    entry = await device.new_group("Three birds", "echo", "parrot", "mimic")
    await device.say("good morning, all of you")
    await expect(device.sealed).to_have_count(3)
    authors = {await one.get_attribute("data-author") for one in await device.answers.all()}
    assert authors == {"echo", "parrot", "mimic"}
    for one in await device.answers.all():
        await expect(one).to_contain_text("good morning, all of you")
    await expect(device.row(entry)).to_contain_text("Three birds")
    told = await device.transcript()
    await device.page.reload()
    await expect(device.sealed).to_have_count(3)
    assert await device.transcript() == told


async def test_a_group_is_the_same_on_two_devices(open_device: OpenDevice) -> None:
    desk, phone = [await open_device() for _ in range(2)]
    entry = await desk.new_group("On two devices", "echo", "parrot", "mimic")
    await desk.say("from the desk")
    await phone.row(entry).click()
    for device in (desk, phone):
        await expect(device.sealed).to_have_count(3)
    await phone.say("from the phone")
    for device in (desk, phone):
        await expect(device.sealed).to_have_count(6)
    told = await desk.transcript()
    assert len(told) == 8
    assert told == await phone.transcript()


async def test_another_device_sees_a_group_come_change_and_go_without_a_message(
    open_device: OpenDevice, daemon: DaemonProcess
) -> None:
    desk, phone = [await open_device() for _ in range(2)]
    # Both have read their list by then.
    marker = await _new_chat(desk, "echo", "before the group")
    await expect(phone.row(marker)).to_contain_text("before the group")
    entry = await desk.new_group("Band", "echo", "parrot")
    await expect(phone.row(entry)).to_contain_text("Band")
    await expect(phone.row(entry)).to_contain_text("echo, parrot")
    async with http_client(daemon.url) as http:
        path = f"/api/groups/{entry.removeprefix('group:')}"
        await http.patch(path, json={"title": "Orchestra"})
        for device in (desk, phone):
            await expect(device.row(entry)).to_contain_text("Orchestra")
        await http.patch(path, json={"addMemberFamiliarIds": ["mimic"]})
        for device in (desk, phone):
            await expect(device.row(entry)).to_contain_text("echo, parrot, mimic")
        members = (await http.get(path)).json()["group"]["memberSessionIds"].values()
        await http.patch(path, json={"removeMemberFamiliarIds": ["parrot"]})
        await expect(phone.row(entry)).to_contain_text("echo, mimic")
        await http.delete(path)
    for device in (desk, phone):
        await expect(device.row(entry)).to_have_count(0)
        for member in members:
            await expect(device.row(f"conversation:{member}")).to_have_count(0)


async def test_a_new_chat_begins_with_the_agent_that_was_chosen(device: Device) -> None:
    entry = await _new_chat(device, "parrot", "hello parrot")
    await expect(device.sealed).to_contain_text("hello parrot")
    await expect(device.answers).to_have_attribute("data-author", "parrot")
    await expect(device.row(entry)).to_contain_text("hello parrot")
    await expect(device.row(entry)).to_have_attribute("aria-current", "page")


async def test_an_answer_is_unread_elsewhere_until_somebody_reads_it(
    open_device: OpenDevice, gate: Gate
) -> None:
    desk, phone = [await open_device() for _ in range(2)]
    entry = await _new_chat(desk, "storyteller", f"Tell me until {gate}")
    await expect(desk.answers).to_contain_text(BEGINNING)
    for device in (desk, phone):
        await expect(device.row(entry)).to_have_attribute("data-state", "running")
    # Nobody looks while it ends.
    await desk.go("#/")
    gate.open()
    for device in (desk, phone):
        await expect(device.row(entry)).to_have_attribute("data-unread", "1")
        await expect(device.row(entry)).to_have_attribute("data-state", "idle")
    await phone.row(entry).click()
    await expect(phone.sealed).to_have_count(1)
    for device in (desk, phone):
        await expect(device.row(entry)).not_to_have_attribute("data-unread", re.compile("."))


async def test_typing_is_seen_on_the_other_device(open_device: OpenDevice) -> None:
    desk, phone = [await open_device() for _ in range(2)]
    entry = await _new_chat(desk, "echo", "a chat to type in")
    await expect(desk.sealed).to_have_count(1)
    await desk.field.press_sequentially("I am wri")
    await expect(phone.row(entry)).to_have_attribute("data-state", "typing")
    await desk.field.press_sequentially("ting")
    await desk.field.press("Enter")
    await expect(desk.sealed).to_have_count(2)
    await expect(phone.row(entry)).to_have_attribute("data-state", "idle")


async def test_everything_is_in_one_list_and_is_found_by_its_words(
    open_device: OpenDevice, start_daemon: StartDaemon
) -> None:
    daemon = await start_daemon(config())
    device = await open_device(home=daemon.url)
    group = await device.new_group("Harvest plans", "echo", "parrot")
    await device.say("apples")
    await expect(device.sealed).to_have_count(2)
    chat = await _new_chat(device, "echo", "about the weather")
    await expect(device.sealed).to_have_count(1)
    await device.go("#/c/list-plain")
    await device.say("an orchard in winter")
    await expect(device.sealed).to_have_count(1)
    rows = device.page.locator("a[data-entry]")
    await expect(rows).to_have_count(3)
    plain = "conversation:list-plain"
    listed = [await row.get_attribute("data-entry") for row in await rows.all()]
    assert listed == [plain, chat, group]
    await device.row(chat).click()
    await device.page.keyboard.press("Escape")
    await device.page.locator("[data-thread]").focus()
    await device.page.keyboard.press("/")
    search = device.page.get_by_role("searchbox", name="Search conversations")
    await expect(search).to_be_focused()
    for word, entry in (("orchard", plain), ("WEATHER", chat), ("harvest", group)):
        await search.fill(word)
        await expect(rows).to_have_count(1)
        await expect(rows).to_have_attribute("data-entry", entry)
    await search.fill("nothing of the kind")
    await expect(rows).to_have_count(0)
    await search.fill("")
    await expect(rows).to_have_count(3)
