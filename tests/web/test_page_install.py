"""The page as an application: its manifest and icons, as Chromium judges them, under its policy.

Neighbours: `tests/server/test_assets.py` is about how files are served.
"""

from __future__ import annotations

import json
import struct
from typing import Literal

import pytest
from playwright.async_api import expect

from tests.web.device import Device

pytestmark = pytest.mark.timeout(240)

# Of 255, on average over all pixels: what two ways to draw the same edges may differ by.
DIFFERENCE_MAX = 4.0


async def _linked(device: Device, rel: str) -> str:
    href = await device.page.locator(f"link[rel={rel}]").get_attribute("href")
    assert href is not None
    return device.home + href


async def test_chromium_finds_nothing_that_keeps_the_page_from_being_installed(
    device: Device,
) -> None:
    session = await device.context.new_cdp_session(device.page)
    manifest = await session.send("Page.getAppManifest")
    assert manifest["errors"] == []
    assert manifest["url"] == await _linked(device, "manifest")
    assert json.loads(manifest["data"])["name"] == "dispatch"
    assert manifest["manifest"]["startUrl"] == f"{device.home}/"
    found = (await session.send("Page.getInstallabilityErrors"))["installabilityErrors"]
    # Each device of these tests is a private window.
    assert [error["errorId"] for error in found if error["errorId"] != "in-incognito"] == []


async def test_the_manifest_and_every_icon_have_the_type_and_size_that_they_claim(
    device: Device,
) -> None:
    request = device.page.request
    reply = await request.get(await _linked(device, "manifest"))
    assert reply.headers["content-type"] == "application/manifest+json"
    icons = (await reply.json())["icons"]
    assert {icon["sizes"] for icon in icons} >= {"any", "192x192", "512x512"}
    assert {icon["purpose"] for icon in icons} == {"any", "maskable"}
    for icon in icons:
        served = await request.get(device.home + icon["src"])
        assert (served.status, served.headers["content-type"]) == (200, icon["type"])
        body = await served.body()
        if icon["type"] == "image/png":
            assert body.startswith(b"\x89PNG\r\n\x1a\n")
            width, height = struct.unpack(">II", body[16:24])
            assert f"{width}x{height}" == icon["sizes"]
        else:
            assert body.startswith(b"<svg")
    for rel in ("icon", "apple-touch-icon"):
        assert (await request.get(await _linked(device, rel))).status == 200


async def test_every_icon_is_a_picture_of_the_one_drawing(device: Device) -> None:
    """Whoever changes `icon.svg` has to draw the others anew."""
    found = await device.page.evaluate(
        """async () => {
          const manifest = await (await fetch("/web/dispatch.webmanifest")).json();
          const pixels = async (src, scale) => {
            const picture = new Image();
            picture.src = src;
            await picture.decode();
            const context = new OffscreenCanvas(96, 96).getContext("2d");
            context.fillStyle = "#3d4fc4";
            context.fillRect(0, 0, 96, 96);
            const side = 96 * scale, edge = (96 - side) / 2;
            context.drawImage(picture, edge, edge, side, side);
            return context.getImageData(0, 0, 96, 96).data;
          };
          const drawings = manifest.icons.map(async ({ src, purpose }) => {
            // Of what a mask may take nothing is drawn: four fifths are left.
            const scale = purpose === "maskable" ? 0.8 : 1;
            const [drawn, meant] = [await pixels(src, 1), await pixels("/web/icon.svg", scale)];
            const sum = drawn.reduce((all, value, i) => all + Math.abs(value - meant[i]), 0);
            return [src, sum / drawn.length];
          });
          return Promise.all(drawings);
        }"""
    )
    assert len(found) >= 4
    assert [(src, off) for src, off in found if off > DIFFERENCE_MAX] == []


async def test_the_policy_lets_nothing_run_or_come_from_elsewhere(
    device: Device,
) -> None:
    reply = await device.page.request.get(f"{device.home}/")
    policy = dict(
        part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    for name in ("script-src", "style-src", "connect-src", "manifest-src", "worker-src"):
        assert policy[name] == "'self'"
    assert policy["img-src"] == "'self' data: blob:"
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert policy[name] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    await expect(device.page.locator("script:not([src]), style, [onclick]")).to_have_count(0)


async def test_what_is_installed_has_the_colour_of_its_ground(device: Device) -> None:
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        await device.page.emulate_media(color_scheme=scheme)
        colour, ground = await device.page.evaluate(
            """scheme => {
              const meta = document.querySelector(`meta[name=theme-color][media*=${scheme}]`);
              const probe = new OffscreenCanvas(1, 1).getContext("2d");
              probe.fillStyle = meta.content;
              const main = getComputedStyle(document.querySelector("#main")).backgroundColor;
              const colour = probe.fillStyle;
              probe.fillStyle = main;
              return [colour, probe.fillStyle];
            }""",
            scheme,
        )
        assert colour == ground
