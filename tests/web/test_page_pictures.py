"""Pictures beside a message: pasted, dropped and picked, made to fit, the same on every device.

Neighbours: `scholar` of `speakers.py` says what it was shown; `dispatch/web/page/pictures.js` fits.
Invariant: keys, the clipboard and the drags are the browser's own.
"""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.web.conftest import OpenDevice
from tests.web.device import Device

pytestmark = pytest.mark.timeout(240)

# As the page has it: models look at no more.
SIDE_PIXELS_MAX = 1_568
FRAME_BYTES_MAX = 1_048_576


def _png(width: int, height: int, noise: bool = False) -> bytes:
    """A picture of one colour, or of nothing that can be made smaller."""
    dice = random.Random(5)
    rows = (dice.randbytes(3 * width) if noise else b"\x3d\x4f\xc4" * width for _ in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


async def _drop(device: Device, where: str, *files: Path) -> None:
    """Drag files of the desktop onto a part of the page."""
    box = await device.page.locator(where).bounding_box()
    assert box is not None
    session = await device.context.new_cdp_session(device.page)
    dragged = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        await session.send(
            "Input.dispatchDragEvent",
            {
                "type": kind,
                "x": box["x"] + box["width"] / 2,
                "y": box["y"] + box["height"] / 2,
                "data": dragged,
            },
        )
    await session.detach()


async def test_a_pasted_picture_is_shown_on_both_devices_and_after_a_reload(
    open_device: OpenDevice,
) -> None:
    desk, phone = [await open_device("#/c/pictures-pasted") for _ in range(2)]
    await desk.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await desk.choose("scholar/small")
    await desk.page.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(40, 30);
          canvas.getContext("2d").fillRect(5, 5, 20, 20);
          const picture = await canvas.convertToBlob({ type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
        }"""
    )
    await desk.field.focus()
    await desk.page.keyboard.press("Control+V")
    await expect(desk.page.get_by_role("img", name="Picture 1")).to_be_visible()
    await desk.say("What is this?")
    shown = []
    for device in (desk, phone):
        await expect(device.sealed).to_contain_text("pictures image/webp")
        await expect(device.messages).to_have_count(1)
        picture = device.messages.locator("img")
        await expect(picture).to_have_js_property("naturalWidth", 40)
        shown.append(await picture.get_attribute("src"))
    await expect(desk.page.get_by_role("list", name="Pictures")).to_have_count(0)
    await desk.page.reload()
    await expect(desk.messages.locator("img")).to_have_js_property("naturalHeight", 30)
    shown.append(await desk.messages.locator("img").get_attribute("src"))
    assert len(set(shown)) == 1


async def test_a_picture_that_is_dropped_beside_the_field_is_made_to_fit(
    open_device: OpenDevice, tmp_path: Path
) -> None:
    device = await open_device("#/c/pictures-dropped")
    sent: list[int] = []
    device.page.on(
        "websocket",
        lambda socket: socket.on("framesent", lambda text: sent.append(len(text))),
    )
    await device.page.reload()
    await device.choose("scholar/small")
    large = tmp_path / "holiday.png"
    large.write_bytes(_png(2_400, 600))
    await _drop(device, "[data-thread]", large)
    await expect(device.page.get_by_role("img", name="Picture 1")).to_be_visible()
    # Whoever is quick means the message with the picture that is still being fitted.
    noise = tmp_path / "noise.png"
    noise.write_bytes(_png(900, 700, noise=True))
    await device.field.fill("Both of them")
    await _drop(device, "[data-thread]", noise)
    await device.field.press("Enter")
    await expect(device.sealed).to_contain_text("pictures image/webp, image/webp")
    sides = await device.messages.locator("img").evaluate_all(
        "all => all.map((one) => [one.naturalWidth, one.naturalHeight])"
    )
    assert sides[0] == [SIDE_PIXELS_MAX, SIDE_PIXELS_MAX / 4]
    assert max(sent) < FRAME_BYTES_MAX
    await expect(device.page).to_have_url(f"{device.home}/#/c/pictures-dropped")
    await expect(device.page.locator("body.dropping")).to_have_count(0)


async def test_what_cannot_be_sent_as_a_picture_is_refused_with_a_word(
    open_device: OpenDevice, tmp_path: Path
) -> None:
    device = await open_device("#/c/pictures-refused")
    await device.choose("scholar/small")
    said = device.page.get_by_role("alert")
    previews = device.page.get_by_role("list", name="Pictures").get_by_role("img")
    notes, broken = tmp_path / "notes.txt", tmp_path / "broken.png"
    notes.write_text("no picture")
    broken.write_bytes(_png(40, 30)[:60])
    many = [tmp_path / f"noise-{number}.png" for number in range(5)]
    for file in many:
        file.write_bytes(_png(500, 400, noise=True))
    for file in (notes, broken):
        await _drop(device, "[data-role=composer]", file)
        await expect(said).to_contain_text(f"{file.name} is not a picture")
        await expect(previews).to_have_count(0)
    await _drop(device, "[data-role=composer]", *many)
    await expect(said).to_contain_text("noise-4.png does not fit into the message any more")
    fitting = await previews.count()
    assert 0 < fitting < len(many)
    await device.button("Remove picture 1").click()
    await expect(previews).to_have_count(fitting - 1)
    await expect(said).to_have_count(0)
    await device.field.press("Enter")
    if fitting > 1:
        await expect(said).to_contain_text("a message has words")
    await device.say("What remains")
    await expect(device.sealed).to_contain_text("model small")
    await expect(device.messages.locator("img")).to_have_count(fitting - 1)
    await expect(said).to_have_count(0)


async def test_a_group_says_that_it_takes_no_pictures(
    open_device: OpenDevice, tmp_path: Path
) -> None:
    device = await open_device()
    await device.new_group("Without pictures", "echo", "parrot")
    picture = tmp_path / "picture.png"
    picture.write_bytes(_png(40, 30))
    await _drop(device, "[data-role=composer]", picture)
    await expect(device.page.get_by_role("alert")).to_contain_text("Groups take no pictures")
    await device.say("words alone")
    await expect(device.sealed).to_have_count(2)
    await expect(device.page.get_by_role("alert")).to_have_count(0)
