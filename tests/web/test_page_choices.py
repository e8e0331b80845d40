"""Who answers: the agents and models that the daemon offers, as messages carry the choice.

Neighbours: `scholar` of `speakers.py` has two models; `dispatch/web/page/pickers.js` offers them.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.async_api import Locator, WebSocket, expect

from tests.web.conftest import OpenDevice
from tests.web.device import Device

pytestmark = pytest.mark.timeout(240)


class Sent:
    """The messages that a device has sent, as the daemon got them."""

    def __init__(self, device: Device) -> None:
        self._frames: list[dict[str, Any]] = []
        device.page.on("websocket", self._opened)

    def _opened(self, socket: WebSocket) -> None:
        socket.on("framesent", lambda text: self._frames.append(json.loads(text)))

    @property
    def models(self) -> list[str | None]:
        return [
            frame.get("model") for frame in self._frames if frame["type"] in ("chat.send", "send")
        ]


def _picker(device: Device) -> Locator:
    return device.page.get_by_label("Agent and model")


async def _offers(device: Device) -> list[str]:
    texts = await _picker(device).locator("option").all_inner_texts()
    return [text.strip() for text in texts]


async def test_a_model_is_sent_as_agent_and_model(open_device: OpenDevice) -> None:
    device = await open_device(None)
    sent = Sent(device)
    await device.go("#/c/choices-model")
    await device.say("whoever is first")
    await expect(device.sealed).to_have_count(1)
    await device.ask("scholar/large", "the large one")
    await expect(device.sealed.last).to_contain_text("model large")
    await expect(device.answers.last).to_have_attribute("data-author", "scholar")
    await device.ask("scholar/small", "the small one")
    await expect(device.sealed.last).to_contain_text("model small")
    await device.ask("parrot", "no model at all")
    await expect(device.answers.last).to_have_attribute("data-author", "parrot")
    await expect(device.sealed).to_have_count(4)
    assert sent.models == [None, "scholar/large", "scholar/small", "parrot"]


async def test_every_agent_and_model_is_offered_and_a_choice_outlives_a_reload(
    open_device: OpenDevice,
) -> None:
    device = await open_device("#/c/choices-kept")
    await expect(_picker(device)).to_have_value("echo")
    offers = await _offers(device)
    assert offers[0] == "echo"
    assert {"parrot", "scholar · small", "scholar · large"} <= set(offers)
    assert "scholar" not in offers
    await device.ask("scholar/large", "keep to it")
    await expect(device.sealed).to_contain_text("model large")
    await device.page.reload()
    await expect(_picker(device)).to_have_value("scholar/large")
    await device.say("once more")
    await expect(device.sealed).to_have_count(2)
    await expect(device.sealed.last).to_contain_text("model large")


async def test_a_chat_keeps_its_agent_and_offers_that_agents_models(device: Device) -> None:
    await device.page.get_by_role("radio", name="scholar", exact=True).check(force=True)
    await device.say("whichever model is first")
    await expect(device.page).to_have_url(re.compile("#/c/."))
    await expect(device.sealed).to_have_count(1)
    assert await _offers(device) == ["scholar · small", "scholar · large"]
    await device.ask("scholar/large", "the large one")
    await expect(device.sealed.last).to_contain_text("model large")
    # An agent without models leaves nothing to choose.
    await device.go("#/")
    await device.page.get_by_role("radio", name="parrot", exact=True).check(force=True)
    await device.say("only you")
    await expect(device.page.get_by_role("heading", level=1)).to_have_text("only you")
    await expect(device.sealed).to_have_count(1)
    await expect(_picker(device)).to_have_count(0)
