"""Notifications of the browser: for who asked for them, while the page is hidden, once an answer.

Neighbours: `test_page_load` is about what a screen reader hears; `dispatch/web/page/announcer.js`.
Invariant: a browser without windows hides no page, so the page is told that it is hidden; what it
asks of the browser is written down in its place.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.async_api import expect

from tests.web.conftest import Gate, OpenDevice
from tests.web.device import Device
from tests.web.speakers import BEGINNING

pytestmark = pytest.mark.timeout(240)

# Before the page's first line: a switch for what it sees of itself, and a list of what it shows.
STAGE = """
  window.stage = { isHidden: false, shown: [], asked: 0 };
  Object.defineProperty(Document.prototype, "visibilityState", {
    get: () => (window.stage.isHidden ? "hidden" : "visible"),
  });
  const Real = window.Notification;
  window.Notification = class extends Real {
    constructor(title, options) {
      super(title, options);
      window.stage.shown.push({ title, ...options });
      window.stage.last = this;
    }
    static requestPermission() {
      window.stage.asked += 1;
      return Real.requestPermission();
    }
  };
"""


async def _staged(open_device: OpenDevice, fragment: str) -> Device:
    device = await open_device(None)
    await device.context.grant_permissions(["notifications"])
    await device.context.add_init_script(STAGE)
    await device.go(fragment)
    return device


async def _opt_in(device: Device) -> None:
    await device.button("Settings").click()
    await device.page.get_by_role("checkbox", name="Notify me").check()
    await device.page.keyboard.press("Escape")


async def _hide(device: Device, is_hidden: bool = True) -> None:
    await device.page.evaluate(
        """isHidden => {
          stage.isHidden = isHidden;
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        is_hidden,
    )


async def _shown(device: Device) -> list[dict[str, Any]]:
    shown = await device.page.evaluate("stage.shown")
    assert isinstance(shown, list)
    return shown


async def test_who_opted_in_is_told_once_of_an_answer_that_ended_unseen(
    open_device: OpenDevice, gate: Gate
) -> None:
    device = await _staged(open_device, "#/c/notices-in")
    assert await device.page.evaluate("stage.asked") == 0
    await _opt_in(device)
    await device.ask("storyteller", f"Tell me until {gate}")
    await expect(device.answers).to_contain_text(BEGINNING)
    await expect(device.row("conversation:notices-in")).to_contain_text("Tell me until")
    await _hide(device)
    gate.open()
    await expect(device.sealed).to_have_count(1)
    (notice,) = await _shown(device)
    assert notice["title"].startswith("Tell me until")
    assert notice["body"].startswith(BEGINNING)
    icon = await device.page.request.get(device.home + notice["icon"])
    assert icon.headers["content-type"] == "image/png"


async def test_nobody_is_told_who_did_not_opt_in_or_who_looks(
    open_device: OpenDevice, gate: Gate
) -> None:
    device = await _staged(open_device, "#/c/notices-out")
    await device.ask("storyteller", f"Tell me until {gate}")
    await expect(device.answers).to_contain_text(BEGINNING)
    await _hide(device)
    gate.open()
    await expect(device.sealed).to_have_count(1)
    assert await _shown(device) == []
    await _hide(device, False)
    await _opt_in(device)
    await device.ask("echo", "in plain sight")
    await expect(device.sealed).to_have_count(2)
    assert await _shown(device) == []
    # It is a choice that is kept, and taken back.
    await device.page.reload()
    await device.button("Settings").click()
    choice = device.page.get_by_role("checkbox", name="Notify me")
    await expect(choice).to_be_checked()
    await choice.uncheck()
    await device.page.keyboard.press("Escape")
    await device.field.fill("unseen again")
    await _hide(device)
    await device.field.press("Enter")
    await expect(device.sealed).to_have_count(3)
    assert await _shown(device) == []


async def test_a_question_is_told_as_well_and_a_stop_is_not(open_device: OpenDevice) -> None:
    device = await _staged(open_device, "#/c/notices-ask")
    other = await open_device("#/c/notices-ask")
    await _opt_in(device)
    await _hide(device)
    await other.ask("asking", "Do it")
    await device.page.wait_for_function("() => stage.shown.length > 0")
    assert [notice["body"] for notice in await _shown(device)] == ["asking asks: May I?"]
    await other.button("Stop").click()
    await expect(device.page.locator("[data-request]")).to_have_count(0)
    await expect(device.button("Stop")).to_be_hidden()
    assert len(await _shown(device)) == 1


async def test_an_answer_in_another_chat_is_told_and_leads_there(
    open_device: OpenDevice, gate: Gate
) -> None:
    device = await _staged(open_device, "#/")
    await _opt_in(device)
    await device.page.get_by_role("radio", name="storyteller", exact=True).check(force=True)
    await device.say(f"Elsewhere until {gate}")
    await expect(device.page).to_have_url(re.compile("#/c/."))
    chat = device.page.url
    await expect(device.answers).to_contain_text(BEGINNING)
    await expect(device.row(f"chat:{chat.split('#/c/')[1]}")).to_contain_text("Elsewhere until")
    await device.go("#/c/notices-elsewhere")
    await _hide(device)
    gate.open()
    await device.page.wait_for_function("() => stage.shown.length > 0")
    (notice,) = await _shown(device)
    assert notice["title"].startswith("Elsewhere until")
    await _hide(device, False)
    await device.page.evaluate("stage.last.onclick()")
    await expect(device.page).to_have_url(chat)
    await expect(device.sealed).to_have_count(1)


async def test_a_browser_that_refuses_is_not_asked_again(open_device: OpenDevice) -> None:
    device = await open_device(None)
    await device.context.add_init_script(STAGE)
    # What some phones do: only a service worker may show one.
    await device.context.add_init_script(
        """Object.defineProperty(Notification, "permission", { get: () => "granted" });
           Notification.requestPermission = async () => "granted";
           window.Notification = Object.assign(
             function () { throw new TypeError("Illegal constructor"); },
             { permission: "granted", requestPermission: async () => "granted" });"""
    )
    await device.go("#/c/notices-refused")
    await _opt_in(device)
    await device.field.fill("unseen")
    await _hide(device)
    await device.field.press("Enter")
    await expect(device.sealed).to_have_count(1)
    await device.button("Settings").click()
    await expect(device.page.get_by_role("checkbox", name="Notify me")).to_have_count(0)
