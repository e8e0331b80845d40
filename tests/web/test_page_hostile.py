"""What a model says is shown and never believed: no element, script, request or link of its own.

Neighbours: `attacker` of `speakers.py` says it all; `conftest` fails a page that meets its policy.
"""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.web.conftest import OpenDevice
from tests.web.device import Device

pytestmark = pytest.mark.timeout(240)

# Nothing that a person does may wait longer for the main thread, however large an answer is.
TASK_MS_MAX = 2_000.0


async def _attacked(open_device: OpenDevice, name: str, kilobytes: int) -> Device:
    device = await open_device(f"#/c/{name}")
    await device.ask("attacker", f"Say {kilobytes}")
    await expect(device.sealed).to_contain_text("That was all.")
    return device


async def _is_untouched(device: Device) -> None:
    page = device.page
    assert await page.evaluate("window.taken") is None
    forbidden = "script, iframe, style, form, input, button, svg[onload], math, object, embed, [id]"
    inside = page.locator(".prose").locator(forbidden)
    # The button that copies code is the page's own.
    assert set(await inside.all_inner_texts()) <= {"Copy"}
    attributes = await page.locator(".prose *").evaluate_all(
        """all => all.flatMap((one) => one.getAttributeNames())
             .filter((name) => /^on|^style$/.test(name))"""
    )
    assert attributes == []
    assert await page.locator(".prose img").count() == 0
    for link in await page.locator(".prose a").all():
        href = await link.get_attribute("href")
        assert href is None or href.startswith(("https://", "http://", "mailto:"))
        if href is not None:
            assert "noopener" in (await link.get_attribute("rel") or "")
    assert await page.locator("#app").count() == 1
    width = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0
    await expect(device.field).to_be_visible()


async def test_a_hostile_answer_stays_text_while_it_streams_and_after_a_reload(
    open_device: OpenDevice,
) -> None:
    device = await _attacked(open_device, "hostile-text", 0)
    await _is_untouched(device)
    await expect(device.answers.get_by_role("link", name="honest link")).to_have_attribute(
        "href", "https://example.org/page"
    )
    await expect(device.answers).to_contain_text("مرحبا بالعالم")
    await device.page.reload()
    await expect(device.sealed).to_contain_text("That was all.")
    await _is_untouched(device)


async def test_hostile_words_of_people_tools_and_titles_stay_text(
    open_device: OpenDevice,
) -> None:
    device = await open_device("#/c/hostile-people")
    said = "<img src=x onerror=\"window.taken='user'\"> [x](javascript:taken=1) **not bold**"
    await device.say(said)
    await expect(device.sealed).to_have_count(1)
    await expect(device.messages).to_have_text(said, use_inner_text=True)
    await expect(device.row("conversation:hostile-people")).to_contain_text("<img src=x")
    await _is_untouched(device)
    await device.ask("attacker", "Say 0")
    await expect(device.sealed).to_have_count(2)
    tool = device.page.locator("details.tool")
    await expect(tool).to_contain_text("<b>tool</b>")
    await tool.locator("summary").click()
    await expect(tool).to_contain_text("<script>taken=1</script>")
    await _is_untouched(device)


async def test_a_megabyte_of_code_does_not_stop_the_page(open_device: OpenDevice) -> None:
    device = await _attacked(open_device, "hostile-huge", 1024)
    await _is_untouched(device)
    assert await device.page.locator("figure.code").count() == 2
    await device.field.fill("still here")
    await device.page.reload()
    await expect(device.sealed).to_contain_text("That was all.")
    await _is_untouched(device)
    longest = max((task.duration for task in await device.long_tasks()), default=0.0)
    print(f"longest task after the reload: {longest:.0f} ms")
    assert longest < TASK_MS_MAX


async def test_a_link_of_a_hostile_address_leads_nowhere(open_device: OpenDevice) -> None:
    for fragment in (
        "#/c/<img src=x onerror=taken=1>",
        "#/g/..%2f..%2fauth",
        "#/c/",
        "#/x/y",
        "#//",
    ):
        device = await open_device(fragment)
        # The daemon refuses what is no id; the browser says so.
        device.allow("Failed to load resource")
        await expect(device.page.locator("main")).to_have_attribute("data-view", "new")
        await device.close()
