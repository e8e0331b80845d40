"""A conversation of ten thousand turns: opens at once, pages back, and never jumps.

Neighbours: `seeding` writes it; `test_page_load` is about speed while an agent speaks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import expect

from tests.e2e.attackers import http_of
from tests.e2e.process import DaemonProcess
from tests.web.conftest import OpenDevice
from tests.web.device import GUARD_MS
from tests.web.seeding import question, seed_long
from tests.web.speakers import config

pytestmark = pytest.mark.timeout(240)

TURNS = 10_000
# Of the main thread, from the first byte of the page until the newest message is there.
OPEN_SECONDS_MAX = 1.0
# Of three answers each: more rows than the page reads at first.
GROUP_SENDS = 70
# A person who reads sees text move by a line; this is less.
JUMP_PIXELS_MAX = 8


@pytest.fixture(scope="module")
async def old_daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    """A daemon that has been used for years."""
    folder = tmp_path_factory.mktemp("years")
    daemon = DaemonProcess(folder, config())
    await seed_long(daemon.data, "long", TURNS)
    await daemon.start()
    yield daemon
    await daemon.end()


async def test_ten_thousand_turns_open_in_under_a_second(
    open_device: OpenDevice, old_daemon: DaemonProcess
) -> None:
    # The same process as the page's, in which nothing was done yet.
    device = await open_device("web/icon.svg", home=old_daemon.url)
    device.allow("favicon.ico")
    session = await device.context.new_cdp_session(device.page)
    await session.send("Performance.enable")

    async def task_seconds() -> float:
        found = (await session.send("Performance.getMetrics"))["metrics"]
        return next(float(one["value"]) for one in found if one["name"] == "TaskDuration")

    before = await task_seconds()
    await device.go("#/c/long")
    await expect(device.answers.last).to_contain_text(f"Answer {TURNS}")
    spent = await task_seconds() - before
    print(f"{spent:.3f} s of the main thread, {await device.answers.count()} answers drawn")
    assert 0 < spent < OPEN_SECONDS_MAX
    await expect(device.messages.last).to_be_in_viewport()


async def test_older_pages_come_as_one_scrolls_and_what_is_read_stays_where_it_is(
    open_device: OpenDevice, old_daemon: DaemonProcess
) -> None:
    device = await open_device("#/c/long", home=old_daemon.url)
    await expect(device.answers.last).to_contain_text(f"Answer {TURNS}")
    thread = device.page.locator("[data-thread]")
    for _ in range(6):
        first = await device.messages.first.get_attribute("data-seq")
        shown = device.page.locator(f'article[data-seq="{first}"]')
        await thread.evaluate("thread => { thread.scrollTop = 0; }")
        await device.page.wait_for_function(
            "first => document.querySelector('article[data-message]').dataset.seq !== first",
            arg=first,
        )
        assert await shown.count() == 1
    # All of them in one look: another page may arrive meanwhile.
    seen = await device.messages.evaluate_all(
        "all => all.map((one) => [Number(one.dataset.seq), one.innerText])"
    )
    numbers = [seq for seq, _ in seen]
    assert numbers == list(range(numbers[0], 2 * TURNS, 2))
    assert numbers[0] < 2 * TURNS - 600
    assert seen[0][1].strip() == question((numbers[0] + 1) // 2)


async def test_a_long_group_is_read_back_to_its_first_message(
    open_device: OpenDevice, daemon: DaemonProcess
) -> None:
    async with http_of(daemon.url) as http:
        members = {"memberFamiliarIds": ["echo", "parrot", "mimic"], "title": "A long group"}
        group = (await http.post("/api/groups", json=members)).json()["id"]
        for number in range(GROUP_SENDS):
            sent = await http.post(f"/api/groups/{group}/send", json={"text": f"Round {number}"})
            assert sent.status_code == 200
    device = await open_device(f"#/g/{group}")
    await expect(device.messages.last).to_contain_text(f"Round {GROUP_SENDS - 1}")
    thread = device.page.locator("[data-thread]")
    while (first := await device.messages.first.get_attribute("data-seq")) != "1":
        await thread.evaluate("thread => { thread.scrollTop = 0; }")
        await device.page.wait_for_function(
            "first => document.querySelector('article[data-message]').dataset.seq !== first",
            arg=first,
        )
    await expect(device.messages.first).to_contain_text("Round 0")
    await expect(device.answers).to_have_count(3 * GROUP_SENDS)
    await expect(device.messages).to_have_count(GROUP_SENDS)


async def test_reading_an_old_message_is_not_disturbed_by_what_comes_above_or_below(
    open_device: OpenDevice, old_daemon: DaemonProcess
) -> None:
    device = await open_device("#/c/long", home=old_daemon.url)
    await expect(device.answers.last).to_contain_text(f"Answer {TURNS}")
    thread = device.page.locator("[data-thread]")
    first = await device.messages.first.get_attribute("data-seq")
    read = device.page.locator(f'article[data-seq="{first}"]')
    # As a wheel does it: near the top, and then the pages above arrive.
    before = await read.evaluate(
        """async (article, guard) => {
          const thread = article.closest("[data-thread]");
          thread.scrollTop = 60;
          const at = article.getBoundingClientRect().top;
          const first = article.dataset.seq;
          const end = performance.now() + guard;
          while (thread.querySelector("article[data-message]").dataset.seq === first) {
            if (performance.now() > end) throw new Error("nothing older came");
            await new Promise(requestAnimationFrame);
          }
          return at;
        }""",
        GUARD_MS,
    )
    box = await read.bounding_box()
    assert box is not None
    assert abs(box["y"] - before) <= JUMP_PIXELS_MAX
    other = await open_device("#/c/long", home=old_daemon.url)
    await other.say("something new at the end")
    await expect(other.sealed.last).to_contain_text("something new at the end")
    await expect(device.button("Go to the newest message")).to_be_visible()
    after = await read.bounding_box()
    assert after is not None
    assert abs(after["y"] - box["y"]) <= JUMP_PIXELS_MAX
    await device.button("Go to the newest message").click()
    await expect(device.answers.last).to_contain_text("something new at the end")
    await expect(device.answers.last).to_be_in_viewport()
    assert await thread.count() == 1
