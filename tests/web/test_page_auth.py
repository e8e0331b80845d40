"""Signing in where the daemon has `[auth]`, and what somebody sees who may not come in.

Neighbours: `tests/e2e/test_attacks_credentials.py` attacks the same door without a browser.
"""

from __future__ import annotations

import hashlib

import pytest
from playwright.async_api import expect

from tests.e2e.conftest import StartDaemon
from tests.web.conftest import OpenDevice
from tests.web.speakers import config

pytestmark = pytest.mark.timeout(240)

TOKEN = "a-token-for-the-tests-of-the-page"
REFUSED = r"Failed to load resource: .* 401|WebSocket connection to .* failed"


def _auth(*users: str) -> str:
    return "[auth]\n" + "".join(
        f'[[auth.tokens]]\nuser = "{user}"\n'
        f'sha256 = "{hashlib.sha256(f"{TOKEN}-{user}".encode()).hexdigest()}"\n'
        for user in users
    )


async def test_a_token_opens_the_page_and_is_not_kept_in_it(
    open_device: OpenDevice, start_daemon: StartDaemon
) -> None:
    daemon = await start_daemon(config() + _auth("ada"))
    device = await open_device("#/c/auth-one", home=daemon.url)
    device.allow(REFUSED)
    await expect(device.page.locator("main")).to_have_attribute("data-view", "sign-in")
    token = device.page.get_by_label("Token")
    await token.fill("not the token")
    await device.button("Sign in").click()
    await expect(device.page.get_by_role("alert")).to_be_visible()
    await token.fill(f"{TOKEN}-ada")
    await token.press("Enter")
    await expect(device.page.locator("main")).to_have_attribute("data-view", "conversation")
    await device.say("I am in")
    await expect(device.sealed).to_contain_text("I am in")
    await device.page.reload()
    await expect(device.sealed).to_contain_text("I am in")
    kept = await device.page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")
    assert TOKEN not in kept
    assert TOKEN not in await device.page.evaluate("document.cookie")
    assert TOKEN not in daemon.log
    await device.button("Settings").click()
    await device.button("Sign out").click()
    await expect(device.page.locator("main")).to_have_attribute("data-view", "sign-in")
    await expect(device.page.get_by_text("I am in")).to_have_count(0)
    await device.page.reload()
    await expect(device.page.locator("main")).to_have_attribute("data-view", "sign-in")


async def test_two_people_of_an_account_see_who_said_what(
    open_device: OpenDevice, start_daemon: StartDaemon
) -> None:
    daemon = await start_daemon(config() + _auth("ada", "bob"))
    devices = {}
    for user in ("ada", "bob"):
        device = devices[user] = await open_device("#/c/auth-two", home=daemon.url)
        device.allow(REFUSED)
        await device.page.get_by_label("Token").fill(f"{TOKEN}-{user}")
        await device.button("Sign in").click()
        await expect(device.field).to_be_visible()
    await devices["ada"].ask("asking", "from ada")
    await expect(devices["bob"].messages).to_contain_text("ada")
    await expect(devices["bob"].page.get_by_role("group", name="May I?")).to_be_visible()
    await devices["bob"].button("Yes").click()
    for device in devices.values():
        await expect(device.sealed).to_contain_text("answer: yes")
