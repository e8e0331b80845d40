"""Rows of the list: what a conversation waits for, and times as the reader writes them.

Neighbours: `test_page_groups` is about what is in the list; `sidebar.js` of the page draws it.
"""

from __future__ import annotations

import re

import pytest
from playwright.async_api import expect

from tests.web.conftest import OpenDevice

pytestmark = pytest.mark.timeout(240)


async def test_a_row_says_that_its_turn_waits_for_a_person_where_that_is_known(
    open_device: OpenDevice,
) -> None:
    desk, phone = await open_device("#/c/rows-asks"), await open_device()
    entry = "conversation:rows-asks"
    await desk.ask("asking", "Do it")
    await expect(desk.row(entry)).to_have_attribute("data-state", "asking")
    await expect(desk.row(entry)).to_contain_text("Waits for you")
    # Who does not follow it knows that it runs, and no more.
    await expect(phone.row(entry)).to_contain_text("Answering …")
    await phone.row(entry).click()
    await expect(phone.row(entry)).to_contain_text("Waits for you")
    await phone.button("Yes").click()
    for device in (desk, phone):
        await expect(device.row(entry)).to_have_attribute("data-state", "idle")
        await expect(device.row(entry)).not_to_contain_text("Waits for you")


async def test_the_row_of_a_group_says_so_too(open_device: OpenDevice) -> None:
    device = await open_device()
    entry = await device.new_group("Somebody asks", "echo", "asking")
    await device.say("Do it")
    await expect(device.row(entry)).to_contain_text("Waits for you")
    await device.button("No").click()
    await expect(device.row(entry)).not_to_contain_text("Waits for you")
    await expect(device.sealed).to_have_count(2)


@pytest.mark.parametrize(
    ("locale", "written"),
    [("en-US", r"^\d{1,2}:\d\d\s[AP]M$"), ("de-DE", r"^\d{1,2}:\d\d$")],
)
async def test_times_are_written_as_the_reader_writes_them_and_of_the_readers_zone(
    open_device: OpenDevice, locale: str, written: str
) -> None:
    device = await open_device(f"#/c/rows-{locale}", locale=locale, timezone_id="Asia/Kathmandu")
    await device.say("what time is it?")
    await expect(device.sealed).to_have_count(1)
    time = device.row(f"conversation:rows-{locale}").locator("time")
    await expect(time).to_have_text(re.compile(written))
    stamp = await time.get_attribute("datetime")
    told = await device.page.evaluate(
        """([stamp, locale]) => new Date(stamp).toLocaleTimeString(locale,
             { hour: "numeric", minute: "2-digit", timeZone: "Asia/Kathmandu" })""",
        [stamp, locale],
    )
    await expect(time).to_have_text(told)
