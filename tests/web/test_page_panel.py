"""The panel that says what is happening: figures, running turns, a turn drawn, raw frames.

Neighbours: `stepper` of `speakers.py` is the turn; `dispatch/web/page/timeline.js` draws it.
"""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Locator, expect

from tests.web.conftest import Gate, OpenDevice
from tests.web.device import Device

pytestmark = pytest.mark.timeout(240)


async def _panel(device: Device) -> Locator:
    await device.button("What is happening").click()
    panel = device.page.get_by_role("complementary", name="What is happening")
    await expect(panel).to_be_visible()
    return panel


def _fact(panel: Locator, name: str) -> Locator:
    """What stands beside a word."""
    row = panel.locator("dl > div").filter(has=panel.page.get_by_text(name, exact=True))
    return row.locator("dd")


async def test_the_state_and_the_position_are_those_of_the_connection(
    open_device: OpenDevice,
) -> None:
    device = await open_device("#/c/panel-state")
    panel = await _panel(device)
    await expect(_fact(panel, "State")).to_have_text("online")
    await expect(_fact(panel, "Daemon")).to_contain_text("dispatch/")
    await device.say("one more")
    await expect(device.sealed).to_have_count(1)
    position = _fact(panel, "Position")
    await expect(position).to_have_text(re.compile(r"^\w+:\d+$"))
    before = int((await position.inner_text()).split(":")[1])
    await device.say("and another")
    await expect(device.sealed).to_have_count(2)
    await expect(position).not_to_have_text(re.compile(rf":{before}$"))
    assert int((await position.inner_text()).split(":")[1]) > before


async def test_frames_are_counted_as_they_come(open_device: OpenDevice) -> None:
    device = await open_device("#/c/panel-frames")
    panel = await _panel(device)
    await device.ask("torrent", "Speak for 2")
    # Of a whole second of two hundred deltas; how many come in one frame is the daemon's business.
    await expect(panel).to_contain_text(re.compile(r"\b\d\d+ a second"))
    drawn = panel.get_by_role("img", name=re.compile("^Frames in each of the last 59 seconds"))
    most = re.search(r"at most (\d+)", await drawn.get_attribute("aria-label") or "")
    assert most is not None
    assert int(most[1]) >= 10
    await expect(device.sealed).to_contain_text("That was all.")


async def test_running_turns_are_listed_and_lead_to_their_conversation(
    open_device: OpenDevice, gate: Gate
) -> None:
    device = await open_device("#/c/panel-running")
    await device.ask("storyteller", f"A long story until {gate}")
    await expect(device.answers).to_have_attribute("data-state", "streaming")
    await device.go("#/")
    panel = await _panel(device)
    running = panel.get_by_role("button", name=re.compile("^A long story until"))
    await running.click()
    await expect(device.page).to_have_url(f"{device.home}/#/c/panel-running")
    gate.open()
    await expect(device.sealed).to_have_count(1)
    await expect(running).to_have_count(0)


async def test_a_turn_is_drawn_step_by_step_and_stays_to_be_looked_at(
    open_device: OpenDevice, gate: Gate
) -> None:
    device = await open_device("#/c/panel-steps")
    panel = await _panel(device)
    await expect(panel).to_contain_text("The next answer is drawn here")
    await device.ask("stepper", f"Find it, then {gate}")
    picture = panel.locator("svg[data-role=timeline]")
    await expect(picture).to_have_attribute("aria-label", re.compile(r"^step 1: \d\.\d s, search$"))
    await expect(picture.locator("g.open")).to_have_count(1)
    await expect(panel).to_contain_text("Runs for")
    gate.open()
    await expect(device.sealed).to_contain_text("There is the needle.")
    words = r"^step 1: \d+\.\d s, 340 tokens, search; step 2: \d+\.\d s, 41 tokens$"
    await expect(picture).to_have_attribute("aria-label", re.compile(words))
    await expect(picture.locator("g.over")).to_have_count(2)
    await expect(panel).to_contain_text("2,700 tokens read, 381 written")
    await expect(panel.get_by_role("heading", name="Last turn")).to_be_visible()
    # A bar for each step, to scale and beside each other: neither grows when the turn is over.
    sizes = "all => all.map((one) => one.getBBox()).map(({ x, width }) => [x, width])"
    bars = panel.locator("svg[data-role=timeline] g > rect:first-child")
    (first_x, first_width), (second_x, _) = drawn = await bars.evaluate_all(sizes)
    # A step that took no time is still a line of three.
    assert second_x >= first_x + first_width - 3
    await device.page.wait_for_function(
        """drawings => new Promise((resolve) => {
          const panel = document.querySelector("#panel");
          new MutationObserver(() => resolve(true)).observe(panel, {
            subtree: true, childList: true, attributes: true, characterData: true });
        })"""
    )
    assert await bars.evaluate_all(sizes) == drawn


async def test_raw_frames_are_shown_on_demand_and_not_before(open_device: OpenDevice) -> None:
    device = await open_device("#/c/panel-raw")
    panel = await _panel(device)
    frames = panel.get_by_role("list", name="Raw frames")
    await device.say("before anybody asked")
    await expect(device.sealed).to_have_count(1)
    await expect(frames).to_have_count(0)
    await panel.get_by_role("button", name="Show raw frames").click()
    await expect(frames).to_contain_text("Nothing yet.")
    await device.say("once somebody asked")
    await expect(device.sealed).to_have_count(2)
    sent = frames.locator("li[data-direction=out]").filter(has_text='"chat.send"')
    await expect(sent).to_contain_text("once somebody asked")
    await expect(frames.locator("li[data-direction=in]").first).to_contain_text('{"type":')
    await expect(frames).not_to_contain_text("before anybody asked")
    await panel.get_by_role("button", name="Hide raw frames").click()
    await expect(frames).to_have_count(0)
    # Closed and opened again it keeps none either.
    await panel.get_by_role("button", name="Show raw frames").click()
    await panel.get_by_role("button", name="Close").click()
    await device.say("while nobody looked")
    await expect(device.sealed).to_have_count(3)
    await expect(await _panel(device)).not_to_contain_text("while nobody looked")
    await expect(frames).to_have_count(0)
