"""For everybody: axe in every view, the keyboard alone, a phone, and people whom motion hurts.

Neighbours: axe-core comes from npm with the other packages of `package.json`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.async_api import Page, expect

from tests.packages import Missing
from tests.web.conftest import OpenDevice
from tests.web.device import Device
from tests.web.toolchain import toolchain

pytestmark = pytest.mark.timeout(300)

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
# What a thumb can hit: WCAG 2.2, 2.5.8.
TARGET_PIXELS_MIN = 24


@pytest.fixture(scope="session")
def axe() -> Path:
    """The script of axe-core."""
    try:
        path = toolchain().folder / "node_modules" / "axe-core" / "axe.min.js"
    except Missing as reason:
        pytest.skip(str(reason))
    assert path.exists()
    return path


async def _grave(page: Page) -> list[str]:
    """What axe finds serious or critical, and where."""
    found = await page.evaluate(
        """async () => {
          const { violations } = await axe.run(document, { resultTypes: ["violations"] });
          return violations.filter(({ impact }) => impact === "serious" || impact === "critical")
            .map(({ id, nodes }) => `${id}: ${nodes.map(({ target, failureSummary }) =>
              `${target} ${failureSummary}`).join("; ")}`);
        }"""
    )
    assert isinstance(found, list)
    return found


async def _settled(page: Page) -> None:
    """Colours that fade in are judged once they are there."""
    await page.wait_for_function(
        """() => document.getAnimations().every((one) => one.playState !== "running"
             || one.effect.getComputedTiming().endTime === Infinity)"""
    )


@pytest.mark.parametrize("size", ["desktop", "phone"])
async def test_no_view_has_serious_findings_in_light_or_dark(
    open_device: OpenDevice, axe: Path, size: str
) -> None:
    options = PHONE if size == "phone" else {}
    device = await open_device(None, reduced_motion="reduce", **options)
    await device.context.add_init_script(path=axe)
    page, found = device.page, {}

    async def judge(view: str) -> None:
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme)
            await _settled(page)
            if grave := await _grave(page):
                found[f"{view}, {scheme}"] = grave

    await device.go("#/")
    await expect(page.locator("main")).to_have_attribute("data-view", "new")
    await judge("new")
    name = f"access-{size}"
    await device.go(f"#/c/{name}-work")
    await judge("empty conversation")
    await device.ask("worker", "Look at the seal")
    await expect(device.sealed).to_contain_text("Nothing that was shown")
    for summary in await page.locator("[data-thread] summary").all():
        await summary.click()
    await judge("conversation")
    await device.ask("failing", "Try it")
    await expect(page.locator("[data-error]")).to_be_visible()
    await judge("error")
    await device.go(f"#/c/{name}-ask")
    await device.ask("interviewer", "Begin")
    await expect(page.locator("[data-request]")).to_be_visible()
    await device.say("and then this")
    await expect(page.locator("[data-queued]")).to_be_visible()
    await judge("question and queue")
    await device.button("What is happening").click()
    await expect(page.locator("#panel")).to_be_visible()
    await judge("panel")
    await page.locator("#panel").get_by_role("button", name="Close").click()
    await device.go("#/")
    if size == "phone":
        await device.button("Show conversations").click()
    await judge("conversations")
    await device.button("Settings").click()
    await judge("settings")
    await page.keyboard.press("Escape")
    await device.button("New group").click()
    await expect(page.get_by_role("dialog", name="New group")).to_be_visible()
    await judge("new group")
    assert found == {}


async def _tab_to(device: Device, wanted: str) -> None:
    """Press Tab until what matches has the focus, and see that it shows."""
    for _ in range(80):
        await device.page.keyboard.press("Tab")
        if await device.page.evaluate("wanted => document.activeElement?.matches(wanted)", wanted):
            break
    else:
        pytest.fail(f"Tab does not lead to {wanted}")
    shown = await device.page.evaluate(
        """() => {
          const { outlineStyle, outlineWidth, boxShadow } =
            getComputedStyle(document.activeElement);
          const holder = document.activeElement.closest(".field");
          const around = holder === null ? null : getComputedStyle(holder);
          return [outlineStyle !== "none" && outlineWidth !== "0px", boxShadow !== "none",
            around !== null && (around.boxShadow !== "none" || around.outlineStyle !== "none")];
        }"""
    )
    assert any(shown), f"the focus on {wanted} cannot be seen"


async def test_a_chat_is_held_with_the_keyboard_alone(device: Device) -> None:
    page = device.page
    await _tab_to(device, "input[type=radio]")
    await page.keyboard.press("ArrowDown")
    await _tab_to(device, "textarea")
    await page.keyboard.type("hello from the keyboard")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile("#/c/."))
    await expect(device.sealed).to_contain_text("hello from the keyboard")
    await expect(device.field).to_be_focused()
    await page.keyboard.type("and once more")
    await page.keyboard.press("Enter")
    await expect(device.sealed).to_have_count(2)
    await page.keyboard.press("Escape")
    await _tab_to(device, "a[data-entry]")
    await _tab_to(device, "#main, [data-thread]")


async def test_a_group_is_made_with_the_keyboard_alone(device: Device) -> None:
    page = device.page
    await _tab_to(device, "button[aria-label='New group']")
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="New group")
    await expect(dialog).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    await expect(device.button("New group")).to_be_focused()
    await page.keyboard.press("Enter")
    await dialog.get_by_role("checkbox", name="echo", exact=True).focus()
    await page.keyboard.press("Space")
    await dialog.get_by_role("checkbox", name="parrot", exact=True).focus()
    await page.keyboard.press("Space")
    await dialog.get_by_role("textbox", name="Title").focus()
    await page.keyboard.type("By hand")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile("#/g/."))
    await page.keyboard.type("hello all")
    await page.keyboard.press("Enter")
    await expect(device.sealed).to_have_count(2)


async def test_a_phone_shows_one_thing_at_a_time_and_nothing_sideways(
    open_device: OpenDevice,
) -> None:
    device = await open_device("#/c/access-phone", **PHONE)
    page = device.page
    await device.ask("worker", "Look at the seal")
    await expect(device.sealed).to_contain_text("Nothing that was shown")
    await expect(device.row("conversation:access-phone")).not_to_be_in_viewport()
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert await page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    await device.button("Show conversations").tap()
    await expect(device.row("conversation:access-phone")).to_be_in_viewport()
    await device.row("conversation:access-phone").tap()
    await expect(device.row("conversation:access-phone")).not_to_be_in_viewport()
    await expect(device.field).to_be_in_viewport()
    # The most that stands beside each other: pickers, stop, send, and a message that waits.
    await device.ask("interviewer", "Begin")
    await expect(device.button("Stop")).to_be_visible()
    await device.say("and then this, which is rather a long message for such a small screen")
    await expect(page.locator("[data-queued]")).to_be_visible()
    outside = await page.locator("main :is(button, select, textarea, input)").evaluate_all(
        """all => all.filter((one) => {
          const { left, right, width } = one.getBoundingClientRect();
          return width > 1 && (left < 0 || right > innerWidth);
        }).map((one) => one.outerHTML.slice(0, 100))"""
    )
    assert outside == []
    small = []
    # A field for files is laid over by its label.
    for one in await page.locator("button, summary, select, label:has(input[type=file])").all():
        box = await one.bounding_box()
        if box is not None and min(box["width"], box["height"]) < TARGET_PIXELS_MIN:
            small.append(await one.evaluate("one => one.outerHTML.slice(0, 120)"))
    assert small == []


async def test_nothing_moves_for_people_whom_motion_hurts(open_device: OpenDevice) -> None:
    device = await open_device("#/c/access-still", reduced_motion="reduce")
    await device.ask("asking", "Do it")
    await expect(device.page.locator("[data-request]")).to_be_visible()
    await device.button("Settings").click()
    moving = await device.page.evaluate(
        """() => document.getAnimations().filter((one) => one.playState === "running"
             && Number(one.effect.getComputedTiming().duration) > 1)
           .map((one) => [one.effect.target.className,
                          one.animationName ?? one.transitionProperty].join(" "))"""
    )
    assert moving == []


async def test_the_theme_that_was_chosen_is_kept(open_device: OpenDevice) -> None:
    device = await open_device(color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = await device.page.evaluate(background)
    await device.button("Settings").click()
    await device.page.get_by_role("radio", name="Dark").check(force=True)
    await device.page.wait_for_function(f"light => {background} !== light", arg=light)
    dark = await device.page.evaluate(background)
    await device.page.reload()
    await device.page.wait_for_function(f"dark => {background} === dark", arg=dark)
