"""Sessions that end while the page is open: signed out here or elsewhere, and who comes next.

Neighbours: `test_page_auth` signs in; `dispatch/web/page/sign_in.js` is the door.
Invariant: what was read by one person is in no corner of the page once the session is over.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import expect

from tests.e2e.process import DaemonProcess
from tests.web.conftest import OpenDevice
from tests.web.device import Device
from tests.web.speakers import config

pytestmark = pytest.mark.timeout(240)

TOKENS = {user: f"a-token-for-a-session-of-{user}" for user in ("ada", "bob")}
REFUSED = r"Failed to load resource: .* 401|WebSocket connection to .* failed"


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonProcess]:
    """A daemon with an account for each of two people."""
    tables = "".join(
        f'[[auth.tokens]]\nuser = "{user}"\naccount = "{user}"\n'
        f'sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n'
        for user, token in TOKENS.items()
    )
    daemon = DaemonProcess(tmp_path_factory.mktemp("guarded"), config(f"[auth]\n{tables}"))
    await daemon.start()
    yield daemon
    await daemon.end()


async def _sign_in(device: Device, user: str) -> None:
    device.allow(REFUSED)
    await device.page.get_by_label("Token").fill(TOKENS[user])
    await device.button("Sign in").click()


async def _is_at_the_door(device: Device, secret: str) -> None:
    """The page asks who this is, and nothing of what was read is left in it."""
    await expect(device.page.locator("main")).to_have_attribute("data-view", "sign-in")
    await expect(device.page).to_have_title("Sign in · dispatch")
    assert secret not in await device.page.content()


async def test_a_session_that_ends_elsewhere_closes_the_page_and_the_next_one_goes_on(
    open_device: OpenDevice, guarded: DaemonProcess
) -> None:
    device = await open_device("#/c/sessions-ended", home=guarded.url)
    await _sign_in(device, "ada")
    await device.say("a secret of ada")
    await expect(device.sealed).to_contain_text("a secret of ada")
    await device.button("What is happening").click()
    await device.button("Show raw frames").click()
    await device.button("More").click()
    await device.button("Rename").click()
    await expect(device.page.get_by_role("dialog", name="Rename")).to_be_visible()
    # The cookie of this browser, by other hands than the page's.
    ended = await device.context.request.delete(f"{guarded.url}/auth/session")
    assert ended.ok
    await _is_at_the_door(device, "a secret of ada")
    await expect(device.page.get_by_role("dialog")).to_have_count(0)
    await _sign_in(device, "ada")
    await expect(device.sealed).to_contain_text("a secret of ada")
    await device.say("it goes on")
    await expect(device.sealed).to_have_count(2)
    await expect(device.row("conversation:sessions-ended")).to_be_visible()


async def test_the_next_person_of_a_browser_sees_nothing_of_the_last(
    open_device: OpenDevice, guarded: DaemonProcess
) -> None:
    device = await open_device("#/c/sessions-next", home=guarded.url)
    await _sign_in(device, "ada")
    await device.say("a secret of ada")
    await expect(device.sealed).to_contain_text("a secret of ada")
    await expect(device.row("conversation:sessions-next")).to_be_visible()
    await device.field.fill("a secret that ada did not send")
    await device.context.request.delete(f"{guarded.url}/auth/session")
    await _is_at_the_door(device, "a secret")
    await _sign_in(device, "bob")
    await expect(device.field).to_have_value("")
    await expect(device.page.locator("[data-thread]")).to_have_attribute("data-phase", "live")
    await expect(device.row("conversation:sessions-next")).to_have_count(0)
    await device.say("a word of bob")
    await expect(device.sealed).to_contain_text("a word of bob")
    assert "a secret" not in await device.page.content()
    kept = await device.page.evaluate(
        """async () => {
          const opened = indexedDB.open("dispatch");
          await new Promise((done) => { opened.onsuccess = done; });
          const tables = [...opened.result.objectStoreNames];
          const rows = tables.map((table) => new Promise((done) => {
            const all = opened.result.transaction(table).objectStore(table).getAll();
            all.onsuccess = () => done(all.result);
          }));
          return JSON.stringify([await Promise.all(rows), { ...localStorage }]);
        }"""
    )
    assert "a secret" not in kept
    await device.button("Settings").click()
    await expect(device.page.get_by_text("Signed in as bob")).to_be_visible()


async def test_who_signs_out_is_signed_out_in_every_tab(
    open_device: OpenDevice, guarded: DaemonProcess
) -> None:
    device = await open_device("#/c/sessions-tabs", home=guarded.url)
    await _sign_in(device, "ada")
    await device.say("a secret of ada")
    await expect(device.sealed).to_contain_text("a secret of ada")
    tab = Device(device.context, await device.context.new_page(), guarded.url)
    tab.allow(REFUSED)
    await tab.go("#/c/sessions-tabs")
    await expect(tab.sealed).to_contain_text("a secret of ada")
    await device.button("Settings").click()
    await device.button("Sign out").click()
    for one in (device, tab):
        await _is_at_the_door(one, "a secret of ada")
    # Whichever of them has the socket, and wherever somebody signs in: it is for both.
    await device.page.reload()
    await _is_at_the_door(device, "a secret of ada")
    await _sign_in(device, "ada")
    await expect(device.row("conversation:sessions-tabs")).to_be_visible()
    await expect(tab.sealed).to_contain_text("a secret of ada")
    assert await tab.faults() == []


async def test_who_cannot_reach_the_daemon_is_told_that_the_session_goes_on(
    open_device: OpenDevice, guarded: DaemonProcess
) -> None:
    device = await open_device("#/c/sessions-offline", home=guarded.url)
    await _sign_in(device, "ada")
    await device.say("still here")
    await expect(device.sealed).to_contain_text("still here")
    device.allow("Failed to load resource")
    await device.page.route("**/auth/session", lambda route: route.abort())
    await device.button("Settings").click()
    await device.button("Sign out").click()
    await expect(device.page.get_by_text("You are still signed in")).to_be_visible()
    await expect(device.sealed).to_contain_text("still here")
