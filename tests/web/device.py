"""Somebody's browser: a profile of its own with one page, and what went wrong in it.

Neighbours: `conftest` opens devices and asks each for its faults after the test; `witness.js` runs
in their pages. Roles and labels are those that a person or a screen reader finds.
Invariant: every wait is under a guard; a fault that a test brings about is named by that test, and
every other one fails it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    expect,
)

# A wait for what the page shows; several times what it takes on a machine under load.
GUARD_MS: Final = 20_000
WITNESS: Final = Path(__file__).with_name("witness.js")
# What Chromium itself logs for a socket or a request of a page whose daemon is not there.
OUTAGE: Final = r"WebSocket connection to|net::ERR_|Failed to load resource"


class LongTask(NamedTuple):
    """A task of the main thread that took more than 50 ms; both in ms."""

    start: float
    duration: float


class Device:
    """One context of a browser; `home` is the address of its daemon."""

    def __init__(self, context: BrowserContext, page: Page, home: str) -> None:
        self.context = context
        self.page = page
        self.home = home
        self._faults: list[str] = []
        self._allowed: list[str] = []
        page.on("console", self._logged)
        page.on("pageerror", lambda error: self._faults.append(f"uncaught: {error}"))
        context.on("request", self._requested)

    @classmethod
    async def start(cls, browser: Browser, home: str, **options: Any) -> Device:
        """With an empty profile; `options` are those of Playwright's `new_context`."""
        context = await browser.new_context(**options)
        context.set_default_timeout(GUARD_MS)
        await context.add_init_script(path=WITNESS)
        return cls(context, await context.new_page(), home)

    async def close(self) -> None:
        """Shut it, as somebody shuts a laptop; its faults up to then are kept."""
        await self._collect()
        await self.context.close()

    # -- what is done with it

    async def go(self, fragment: str = "#/") -> None:
        """Open the page at a deep link."""
        await self.page.goto(f"{self.home}/{fragment}")

    async def say(self, text: str) -> None:
        """Write a message and press Enter."""
        await self.field.fill(text)
        await self.field.press("Enter")

    async def choose(self, agent: str) -> None:
        """Let this agent answer."""
        await self.page.get_by_label("Agent and model").select_option(agent)

    async def ask(self, agent: str, text: str) -> None:
        """Choose who answers, and write to it."""
        await self.choose(agent)
        await self.say(text)

    async def new_group(self, title: str, *agents: str) -> str:
        """Make a group of these; its entry in the sidebar."""
        await self.button("New group").click()
        dialog = self.page.get_by_role("dialog", name="New group")
        for agent in agents:
            await dialog.get_by_role("checkbox", name=agent, exact=True).check()
        await dialog.get_by_role("textbox", name="Title").fill(title)
        await dialog.get_by_role("button", name="Create group").click()
        # What is written before it is open goes into the field of another view.
        await expect(self.page).to_have_url(re.compile("#/g/."))
        return "group:" + self.page.url.split("#/g/")[1]

    def allow(self, pattern: str) -> None:
        """Faults that this test brings about itself."""
        self._allowed.append(pattern)

    # -- what is seen on it

    @property
    def field(self) -> Locator:
        return self.page.get_by_role("textbox", name="Message", exact=True)

    @property
    def answers(self) -> Locator:
        return self.page.locator("article[data-message=agent]")

    @property
    def messages(self) -> Locator:
        return self.page.locator("article[data-message=user]")

    @property
    def sealed(self) -> Locator:
        return self.page.locator("article[data-message=agent][data-state=sealed]")

    def button(self, name: str | re.Pattern[str], exact: bool = True) -> Locator:
        return self.page.get_by_role("button", name=name, exact=exact)

    def row(self, entry: str) -> Locator:
        """A row of the sidebar: `chat:ID`, `conversation:ID` or `group:ID`."""
        return self.page.locator(f'a[data-entry="{entry}"]')

    async def transcript(self) -> list[str]:
        """The texts of all messages on the screen, in order, as somebody reads them."""
        texts = await self.page.locator("article[data-message]").all_inner_texts()
        return [re.sub(r"\s+", " ", text).strip() for text in texts]

    # -- what went wrong on it

    async def long_tasks(self) -> list[LongTask]:
        found = await self.page.evaluate("witness.longTasks")
        return [LongTask(task["startTime"], task["duration"]) for task in found]

    async def faults(self) -> list[str]:
        """Errors and warnings of the console, requests to elsewhere, refusals of the policy."""
        await self._collect()
        return [
            fault
            for fault in dict.fromkeys(self._faults)
            if not any(re.search(pattern, fault) for pattern in self._allowed)
        ]

    async def _collect(self) -> None:
        if not self.page.is_closed() and self.page.url.startswith(self.home):
            violations = await self.page.evaluate("witness.violations")
            self._faults += [f"policy: {violation}" for violation in violations]

    def _logged(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._faults.append(f"{message.type}: {message.text} ({message.location['url']})")

    def _requested(self, request: Request) -> None:
        parts, home = urlsplit(request.url), urlsplit(self.home)
        if parts.scheme not in ("data", "blob") and parts.netloc != home.netloc:
            self._faults.append(f"request to elsewhere: {request.url}")
