"""What an agent asks: answered where it is asked, once, by whichever device is at hand.

Neighbours: the agents are `asking` of `tests/e2e/agents.py` and `interviewer` of `speakers.py`.
"""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.web.conftest import OpenDevice

pytestmark = pytest.mark.timeout(240)


async def test_an_approval_is_answered_on_the_other_device(open_device: OpenDevice) -> None:
    desk, phone = [await open_device("#/c/request-other") for _ in range(2)]
    await desk.ask("asking", "Do it")
    for device in (desk, phone):
        await expect(device.page.get_by_role("group", name="May I?")).to_be_visible()
    await phone.button("Yes").click()
    for device in (desk, phone):
        await expect(device.sealed).to_contain_text("answer: yes")
        await expect(device.page.locator("[data-request]")).to_have_count(0)


async def test_a_question_is_still_there_after_a_reload(open_device: OpenDevice) -> None:
    device = await open_device("#/c/request-reload")
    await device.ask("asking", "Do it")
    await expect(device.page.get_by_role("group", name="May I?")).to_be_visible()
    await device.page.reload()
    await device.page.get_by_role("group", name="May I?").get_by_role("button", name="No").click()
    await expect(device.sealed).to_contain_text("answer: no")


async def test_a_form_is_filled_in_and_sent(open_device: OpenDevice) -> None:
    device = await open_device("#/c/request-form")
    await device.ask("interviewer", "Begin")
    form = device.page.get_by_role("group", name="Before I start")
    await expect(form).to_contain_text("Three short questions.")
    await form.get_by_role("button", name="Answer").click()
    # The branch is required: nothing was sent.
    await expect(form).to_be_visible()
    await form.get_by_label("Name of the branch").fill("spring")
    await form.get_by_label("Kind of change").select_option("Something new")
    await form.get_by_label("Run the tests").check()
    await form.get_by_role("button", name="Answer").click()
    await expect(device.sealed).to_contain_text(
        'answered: accept {"name":"spring","kind":"Something new","tests":true}'
    )


async def test_a_form_is_declined(open_device: OpenDevice) -> None:
    device = await open_device("#/c/request-decline")
    await device.ask("interviewer", "Begin")
    form = device.page.get_by_role("group", name="Before I start")
    await form.get_by_role("button", name="Decline").click()
    await expect(device.sealed).to_contain_text("answered: decline")


async def test_a_stop_closes_what_was_asked(open_device: OpenDevice) -> None:
    desk, phone = [await open_device("#/c/request-stop") for _ in range(2)]
    await desk.ask("asking", "Do it")
    await expect(phone.page.get_by_role("group", name="May I?")).to_be_visible()
    await desk.button("Stop").click()
    for device in (desk, phone):
        await expect(device.page.locator("[data-request]")).to_have_count(0)
        await expect(device.button("Stop")).to_be_hidden()
