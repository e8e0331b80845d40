"""Keys that do something on the whole page, and keys that are text.

Neighbours: `test_page_talk` edits the last waiting message and stops with Escape,
`test_page_access` does everything without a mouse.
"""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.web.conftest import Gate, OpenDevice
from tests.web.speakers import BEGINNING

pytestmark = pytest.mark.timeout(240)


async def test_a_slash_searches_unless_it_is_typed(open_device: OpenDevice) -> None:
    device = await open_device("#/c/keys-slash")
    search = device.page.get_by_role("searchbox", name="Search conversations")
    await device.field.press_sequentially("either/or")
    await expect(device.field).to_have_value("either/or")
    await device.page.locator("[data-thread]").focus()
    await device.page.keyboard.press("Control+/")
    await expect(search).not_to_be_focused()
    await device.page.keyboard.press("/")
    await expect(search).to_be_focused()
    await expect(search).to_have_value("")
    await device.page.keyboard.type("and/or")
    await expect(search).to_have_value("and/or")
    # Escape leaves the search as it was, and the field has what was typed.
    await device.page.keyboard.press("Escape")
    await expect(search).to_have_value("")
    await expect(device.field).to_be_focused()
    await expect(device.field).to_have_value("either/or")


async def test_escape_closes_what_is_open_before_it_stops_an_answer(
    open_device: OpenDevice, gate: Gate
) -> None:
    device = await open_device("#/c/keys-escape")
    await device.ask("storyteller", f"Tell me until {gate}")
    await expect(device.answers).to_contain_text(BEGINNING)
    await device.button("More").click()
    await expect(device.button("Rename")).to_be_visible()
    await device.page.keyboard.press("Escape")
    await expect(device.button("Rename")).to_be_hidden()
    await expect(device.button("More")).to_be_focused()
    await device.button("More").click()
    await device.button("Rename").click()
    await expect(device.page.get_by_role("dialog", name="Rename")).to_be_visible()
    await device.page.keyboard.press("Escape")
    await expect(device.page.get_by_role("dialog", name="Rename")).to_have_count(0)
    await expect(device.button("More")).to_be_focused()
    await device.page.keyboard.press("/")
    await device.page.keyboard.press("Escape")
    await expect(device.answers).to_have_attribute("data-state", "streaming")
    # Nothing is open any more: this one is for the answer.
    await device.page.keyboard.press("Escape")
    await expect(device.sealed).to_contain_text("Stopped")
    await expect(device.sealed).to_contain_text(BEGINNING)


async def test_the_up_key_edits_only_from_an_empty_field_and_only_what_waits(
    open_device: OpenDevice, gate: Gate
) -> None:
    device = await open_device("#/c/keys-up")
    await device.field.press("ArrowUp")
    await expect(device.field).to_have_value("")
    await device.ask("storyteller", f"Tell me until {gate}")
    await expect(device.answers).to_contain_text(BEGINNING)
    await device.choose("echo")
    waiting = device.page.locator("[data-queued]")
    await device.say("for later")
    await expect(waiting).to_have_count(1)
    await device.field.fill("something else")
    await device.field.press("ArrowUp")
    await expect(device.field).to_have_value("something else")
    await expect(waiting).to_have_count(1)
    await device.field.fill("")
    await device.field.press("ArrowUp")
    await expect(device.field).to_have_value("for later")
    await expect(waiting).to_have_count(0)
    # It is out of the queue, so nobody answers it until it is sent again.
    gate.open()
    await expect(device.sealed).to_have_count(1)
    await expect(device.messages).to_have_count(1)
    await device.field.press("Enter")
    await expect(device.sealed).to_have_count(2)


async def test_enter_that_ends_the_choice_of_a_character_sends_nothing(
    open_device: OpenDevice,
) -> None:
    device = await open_device("#/c/keys-compose")
    session = await device.context.new_cdp_session(device.page)
    await device.field.focus()
    composing = {"text": "にほん", "selectionStart": 3, "selectionEnd": 3}
    await session.send("Input.imeSetComposition", composing)
    await expect(device.field).to_have_value("にほん")
    enter = {"type": "rawKeyDown", "key": "Process", "code": "Enter", "windowsVirtualKeyCode": 229}
    await session.send("Input.dispatchKeyEvent", enter)
    await session.send("Input.insertText", {"text": "日本"})
    await expect(device.field).to_have_value("日本")
    await expect(device.messages).to_have_count(0)
    await device.field.press("Enter")
    await expect(device.sealed).to_contain_text("日本")
    await expect(device.messages).to_have_count(1)
