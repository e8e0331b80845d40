"""Talking on the page: an answer streams, survives reloads and devices, and is the same everywhere.

Neighbours: `conftest` opens devices of the shared daemon; `test_page_outages` is about what fails.
"""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.web.conftest import Gate, OpenDevice
from tests.web.speakers import BEGINNING, END

pytestmark = pytest.mark.timeout(240)


async def test_an_answer_streams_and_is_sealed(open_device: OpenDevice, gate: Gate) -> None:
    device = await open_device("#/c/talk-streams")
    await device.ask("storyteller", f"Tell me until {gate}")
    await expect(device.messages).to_have_count(1)
    await expect(device.answers).to_contain_text(BEGINNING)
    await expect(device.answers).to_have_attribute("data-state", "streaming")
    await expect(device.answers).to_have_attribute("data-author", "storyteller")
    await expect(device.button("Stop")).to_be_visible()
    gate.open()
    await expect(device.sealed).to_contain_text(f"{BEGINNING} {END}")
    await expect(device.button("Stop")).to_be_hidden()
    await expect(device.answers).to_have_count(1)
    await expect(device.messages).to_have_attribute("data-state", "sealed")


async def test_a_reload_in_the_middle_of_an_answer_goes_on_with_it(
    open_device: OpenDevice, gate: Gate
) -> None:
    device = await open_device("#/c/talk-reload")
    await device.ask("storyteller", f"Tell me until {gate}")
    await expect(device.answers).to_contain_text(BEGINNING)
    await device.page.reload()
    await expect(device.answers).to_contain_text(BEGINNING)
    await expect(device.answers).to_have_attribute("data-state", "streaming")
    gate.open()
    await expect(device.sealed).to_contain_text(f"{BEGINNING} {END}")
    assert len(await device.transcript()) == 2


async def test_a_second_device_joins_mid_answer_and_stays_identical(
    open_device: OpenDevice, gate: Gate
) -> None:
    desk, phone = [await open_device("#/c/talk-two") for _ in range(2)]
    await desk.say("a first word")
    await expect(phone.sealed).to_have_count(1)
    await desk.ask("storyteller", f"Tell me until {gate}")
    late = await open_device("#/c/talk-two")
    for device in (desk, phone, late):
        await expect(device.answers.last).to_contain_text(BEGINNING)
    assert await desk.transcript() == await phone.transcript() == await late.transcript()
    await phone.choose("echo")
    await phone.field.fill("and one from the phone")
    await phone.field.press("Enter")
    gate.open()
    for device in (desk, phone, late):
        await expect(device.sealed).to_have_count(3)
    told = await desk.transcript()
    assert len(told) == 6
    assert told == await phone.transcript() == await late.transcript()


async def test_a_page_that_opens_later_says_who_answered_and_what_was_stopped(
    open_device: OpenDevice, gate: Gate
) -> None:
    desk = await open_device("#/c/talk-past")
    await desk.say("a first word")
    await expect(desk.sealed).to_have_count(1)
    await desk.ask("storyteller", f"Tell me until {gate}")
    await expect(desk.answers.last).to_contain_text(BEGINNING)
    await desk.button("Stop").click()
    await expect(desk.sealed).to_have_count(2)
    await desk.ask("echo", "a last word")
    await expect(desk.sealed).to_have_count(3)
    late = await open_device("#/c/talk-past")
    await expect(late.sealed).to_have_count(3)
    told = await late.transcript()
    assert told == await desk.transcript()
    assert ["storyteller" in words for words in told[1::2]] == [False, True, False]
    assert ["Stopped" in words for words in told[1::2]] == [False, True, False]


async def test_an_answer_goes_on_when_its_sender_has_left(
    open_device: OpenDevice, gate: Gate
) -> None:
    sender, watcher = [await open_device("#/c/talk-left") for _ in range(2)]
    await sender.ask("storyteller", f"Tell me until {gate}")
    await expect(watcher.answers).to_contain_text(BEGINNING)
    await sender.page.close()
    gate.open()
    await expect(watcher.sealed).to_contain_text(f"{BEGINNING} {END}")


async def test_a_message_is_there_once_after_a_reload_while_it_is_sent(
    open_device: OpenDevice,
) -> None:
    device = await open_device("#/c/talk-once")
    await device.say("only once")
    await device.page.reload()
    await expect(device.sealed).to_have_count(1)
    await expect(device.messages).to_have_count(1)
    await expect(device.messages).to_contain_text("only once")


@pytest.mark.parametrize("by", ["button", "Escape"])
async def test_a_stop_keeps_what_was_said(open_device: OpenDevice, by: str) -> None:
    device, other = [await open_device(f"#/c/talk-stop-{by}") for _ in range(2)]
    await device.ask("endless", "Count")
    await expect(device.answers).to_contain_text("20 21 22")
    if by == "button":
        await other.button("Stop").click()
    else:
        await device.page.keyboard.press("Escape")
    for one in (device, other):
        await expect(one.sealed).to_contain_text("20 21 22")
        await expect(one.button("Stop")).to_be_hidden()
    assert await device.transcript() == await other.transcript()


async def test_a_draft_is_kept_over_a_reload_and_gone_once_sent(open_device: OpenDevice) -> None:
    device = await open_device("#/c/talk-draft")
    await device.field.fill("half a thought,\nin two lines")
    await device.go("#/c/talk-elsewhere")
    await expect(device.field).to_have_value("")
    await device.go("#/c/talk-draft")
    await expect(device.field).to_have_value("half a thought,\nin two lines")
    await device.page.reload()
    await expect(device.field).to_have_value("half a thought,\nin two lines")
    await device.field.press("Enter")
    await expect(device.sealed).to_have_count(1)
    await device.page.reload()
    await expect(device.sealed).to_have_count(1)
    await expect(device.field).to_have_value("")


async def test_shift_and_enter_is_a_new_line_and_the_field_grows(open_device: OpenDevice) -> None:
    device = await open_device("#/c/talk-lines")
    small = await device.field.bounding_box()
    for line in ("one", "two", "three"):
        await device.field.press_sequentially(line)
        await device.field.press("Shift+Enter")
    large = await device.field.bounding_box()
    assert small is not None
    assert large is not None
    assert large["height"] > small["height"] * 2
    await device.field.press("Enter")
    await expect(device.messages).to_have_text("one\ntwo\nthree\n", use_inner_text=True)
    await expect(device.field).to_have_value("")


async def test_waiting_messages_are_edited_and_cancelled_on_any_device(
    open_device: OpenDevice, gate: Gate
) -> None:
    device, other = [await open_device("#/c/talk-queue") for _ in range(2)]
    await device.ask("storyteller", f"Tell me until {gate}")
    await expect(device.answers).to_contain_text(BEGINNING)
    await device.choose("echo")
    for text in ("first", "second", "third"):
        await device.say(text)
    waiting = [one.page.locator("[data-queued]") for one in (device, other)]
    for chips in waiting:
        await expect(chips).to_have_count(3)
    await other.button("Cancel: first").click()
    for chips in waiting:
        await expect(chips).to_have_count(2)
    await device.field.press("ArrowUp")
    await expect(device.field).to_have_value("third")
    for chips in waiting:
        await expect(chips).to_have_count(1)
    await device.say("third, mended")
    for chips in waiting:
        await expect(chips).to_have_count(2)
    gate.open()
    for one in (device, other):
        await expect(one.sealed).to_have_count(3)
        await expect(one.page.locator("[data-queued]")).to_have_count(0)
        assert (await one.messages.all_inner_texts())[1:] == [
            "second",
            "third, mended",
        ]


async def test_steering_reaches_the_running_turn(open_device: OpenDevice) -> None:
    device = await open_device("#/c/talk-steer")
    await device.ask("steered", "Wait for me")
    await expect(device.answers).to_contain_text("waiting;")
    await device.page.get_by_label("While the agent answers").select_option("steer")
    await device.say("to the left")
    await expect(device.sealed.last).to_contain_text("taken")
    assert await device.messages.all_inner_texts() == [
        "Wait for me",
        "to the left",
    ]


async def test_what_failed_says_so_and_is_tried_again(open_device: OpenDevice) -> None:
    device = await open_device("#/c/talk-failing")
    await device.ask("failing", "Try it")
    error = device.page.locator("[data-error]")
    await expect(error).to_have_count(1)
    await expect(device.answers).to_contain_text("so far")
    await expect(device.answers).not_to_contain_text("secret-in-the-exception")
    await device.choose("echo")
    await device.button("Try again").click()
    await expect(device.sealed.last).to_contain_text("Try it")


async def test_a_deep_link_and_the_back_button_find_a_conversation(
    open_device: OpenDevice,
) -> None:
    device = await open_device("#/c/talk-link-1")
    await device.say("in the first")
    await expect(device.sealed).to_contain_text("in the first")
    await device.go("#/c/talk-link-2")
    await device.say("in the second")
    await expect(device.sealed).to_contain_text("in the second")
    await device.page.go_back()
    await expect(device.sealed).to_contain_text("in the first")
    await expect(device.row("conversation:talk-link-1")).to_have_attribute("aria-current", "page")
    await device.page.go_forward()
    await expect(device.sealed).to_contain_text("in the second")
    await device.row("conversation:talk-link-1").click()
    await expect(device.page).to_have_url(f"{device.home}/#/c/talk-link-1")
    await expect(device.sealed).to_contain_text("in the first")
    fresh = await open_device("#/c/talk-link-1")
    await expect(fresh.sealed).to_contain_text("in the first")
