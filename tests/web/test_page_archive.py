"""What is done with a chat as a whole: renamed, archived, restored, deleted, on all devices.

Neighbours: `test_page_groups` is about the list itself; `dispatch/web/page/actions.js` does it.
"""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Locator, expect

from tests.web.conftest import OpenDevice
from tests.web.device import Device

pytestmark = pytest.mark.timeout(240)


async def _two_at_a_new_chat(open_device: OpenDevice, text: str) -> tuple[Device, Device, str]:
    """Two devices that look at a chat which one of them began; its entry."""
    desk, phone = [await open_device() for _ in range(2)]
    await desk.say(text)
    await expect(desk.page).to_have_url(re.compile("#/c/."))
    entry = "chat:" + desk.page.url.split("#/c/")[1]
    await phone.row(entry).click()
    for device in (desk, phone):
        await expect(device.sealed).to_contain_text(text)
        # A chat is called after its first message.
        await expect(device.row(entry)).to_contain_text(text)
        await expect(device.page.get_by_role("heading", level=1)).to_have_text(text)
    return desk, phone, entry


async def _act(device: Device, name: str) -> None:
    """Choose from the menu of what is open."""
    await device.button("More").click()
    await device.button(name).click()


def _dialog(device: Device, name: str) -> Locator:
    return device.page.get_by_role("dialog", name=name)


def _archive(device: Device) -> Locator:
    return device.page.get_by_role("button", name="Archived")


async def test_an_archived_chat_leaves_the_list_of_both_devices_until_it_is_restored(
    open_device: OpenDevice,
) -> None:
    desk, phone, entry = await _two_at_a_new_chat(open_device, "to be put away")
    await _act(desk, "Archive")
    for device in (desk, phone):
        await expect(device.row(entry)).to_have_count(0)
        await expect(device.page.get_by_role("note")).to_contain_text("in the archive")
        await expect(device.field).to_have_count(0)
        # What was said in it can still be read.
        await expect(device.sealed).to_contain_text("to be put away")
        await expect(_archive(device)).to_be_visible()
    await _archive(phone).click()
    await expect(phone.row(entry)).to_be_visible()
    await expect(desk.row(entry)).to_have_count(0)
    await phone.row(entry).click()
    await _act(phone, "Restore")
    await expect(desk.row(entry)).to_be_visible()
    for device in (desk, phone):
        await expect(device.field).to_be_visible()
    await phone.say("and it goes on")
    for device in (desk, phone):
        await expect(device.sealed).to_have_count(2)


async def test_a_deleted_chat_is_gone_everywhere_once_somebody_said_yes(
    open_device: OpenDevice,
) -> None:
    desk, phone, entry = await _two_at_a_new_chat(open_device, "to be forgotten")
    await _act(desk, "Delete")
    await expect(_dialog(desk, "Delete for ever?")).to_contain_text("to be forgotten")
    await _dialog(desk, "Delete for ever?").get_by_role("button", name="Never mind").click()
    await expect(desk.sealed).to_have_count(1)
    await _act(desk, "Delete")
    await _dialog(desk, "Delete for ever?").get_by_role("button", name="Delete").click()
    await expect(desk.page).to_have_url(f"{desk.home}/#/")
    await expect(phone.page.get_by_role("note")).to_contain_text("was deleted")
    await expect(phone.sealed).to_have_count(0)
    for device in (desk, phone):
        await expect(device.row(entry)).to_have_count(0)
    # Nor does this browser remember it.
    await phone.page.reload()
    await expect(phone.page.get_by_text("to be forgotten")).to_have_count(0)


async def test_a_new_title_is_seen_on_both_devices_and_after_a_reload(
    open_device: OpenDevice,
) -> None:
    desk, phone, entry = await _two_at_a_new_chat(open_device, "without a good title")
    await _act(desk, "Rename")
    title = _dialog(desk, "Rename").get_by_role("textbox", name="Title")
    await expect(title).to_have_value("without a good title")
    await title.fill("Plans for <b>spring</b>")
    await title.press("Enter")
    for device in (desk, phone):
        heading = device.page.get_by_role("heading", level=1)
        await expect(heading).to_have_text("Plans for <b>spring</b>")
        await expect(device.row(entry)).to_contain_text("Plans for <b>spring</b>")
    await phone.page.reload()
    await expect(phone.row(entry)).to_contain_text("Plans for <b>spring</b>")
    await expect(phone.page).to_have_title(re.compile("Plans for <b>spring</b> · dispatch"))


@pytest.mark.parametrize("kind", ["conversation", "group"])
async def test_conversations_and_groups_are_renamed_and_deleted_too(
    open_device: OpenDevice, kind: str
) -> None:
    desk, phone = [await open_device() for _ in range(2)]
    if kind == "group":
        entry = await desk.new_group("Old name", "echo")
    else:
        entry = "conversation:archive-plain"
        await desk.go("#/c/archive-plain")
    await desk.say("Old name")
    await expect(desk.sealed).to_have_count(1)
    await expect(phone.row(entry)).to_contain_text("Old name")
    await _act(desk, "Rename")
    await _dialog(desk, "Rename").get_by_role("textbox", name="Title").fill("New name")
    await _dialog(desk, "Rename").get_by_role("button", name="Rename").click()
    for device in (desk, phone):
        await expect(device.row(entry)).to_contain_text("New name")
    await _act(desk, "Delete")
    await _dialog(desk, "Delete for ever?").get_by_role("button", name="Delete").click()
    for device in (desk, phone):
        await expect(device.row(entry)).to_have_count(0)
