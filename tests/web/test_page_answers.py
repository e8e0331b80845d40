"""What is in an answer beside its text: code that is copied, thoughts that unfold, tools at work.

Neighbours: `worker` and `stepper` of `speakers.py` answer; `dispatch/web/page/parts.js` shows it.
"""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.web.conftest import Gate, OpenDevice
from tests.web.speakers import CODE, THOUGHT

pytestmark = pytest.mark.timeout(240)


async def test_the_button_of_a_code_block_copies_the_code_and_nothing_else(
    open_device: OpenDevice,
) -> None:
    device = await open_device("#/c/answers-code")
    await device.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await device.ask("worker", "Look at the seal")
    await expect(device.sealed).to_contain_text("What I found")
    await device.button("Copy").click()
    await expect(device.button("Copied")).to_be_visible()
    copied = await device.page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == CODE.removeprefix("```python\n").removesuffix("```\n").strip()


async def test_code_is_selected_where_the_clipboard_is_not_to_be_had(
    open_device: OpenDevice,
) -> None:
    device = await open_device("#/c/answers-select")
    await device.page.evaluate(
        """() => { navigator.clipboard.writeText = async () => {
          throw new DOMException("Write permission denied.", "NotAllowedError"); }; }"""
    )
    await device.ask("worker", "Look at the seal")
    await expect(device.sealed).to_contain_text("What I found")
    await device.button("Copy").click()
    await expect(device.button("Selected")).to_be_visible()
    selected = await device.page.evaluate("getSelection().toString()")
    assert selected.startswith("def seal(turn: Turn) -> None:")


async def test_thoughts_are_folded_and_unfold_without_a_mouse(open_device: OpenDevice) -> None:
    device = await open_device("#/c/answers-thoughts")
    await device.ask("worker", "Look at the seal")
    await expect(device.sealed).to_contain_text("What I found")
    thought = device.page.locator("details.thinking")
    await expect(thought.get_by_text("Thoughts", exact=True)).to_be_visible()
    await expect(thought.get_by_text(THOUGHT)).to_be_hidden()
    await thought.locator("summary").press("Enter")
    await expect(thought.get_by_text(THOUGHT)).to_be_visible()
    # What somebody unfolded stays so while the next answer comes.
    await device.ask("echo", "and another")
    await expect(device.sealed).to_have_count(2)
    await expect(thought.get_by_text(THOUGHT)).to_be_visible()


async def test_a_tool_says_what_it_was_given_what_came_of_it_and_how_it_stands(
    open_device: OpenDevice, gate: Gate
) -> None:
    device = await open_device("#/c/answers-tools")
    await device.ask("stepper", f"Find it, then {gate}")
    tool = device.page.locator("details.tool")
    await expect(tool.get_by_text("Running", exact=True)).to_be_visible()
    await expect(tool.locator("summary")).to_contain_text("the needle")
    given = tool.get_by_role("region", name="Input of search")
    came = tool.get_by_role("region", name="Output of search")
    await expect(given).to_have_count(0)
    await tool.locator("summary").click()
    await expect(given).to_have_text('{\n  "query": "the needle"\n}', use_inner_text=True)
    await expect(came).to_contain_text("half of the haystack")
    await expect(tool.get_by_role("heading", name="Output so far")).to_be_visible()
    gate.open()
    await expect(tool.get_by_text("Done", exact=True)).to_be_visible()
    await expect(came).to_contain_text("the whole haystack")
    await expect(tool.get_by_role("heading", name="Output", exact=True)).to_be_visible()
    await expect(device.sealed).to_contain_text("There is the needle.")
    # It is still unfolded: the end of a turn closes nothing.
    await expect(came).to_be_visible()


async def test_a_tool_that_failed_says_so_before_it_is_unfolded(open_device: OpenDevice) -> None:
    device = await open_device("#/c/answers-failed")
    await device.ask("worker", "Look at the seal")
    await expect(device.sealed).to_contain_text("What I found")
    tools = device.page.locator("details.tool")
    states = [await one.locator(".tool-state").inner_text() for one in await tools.all()]
    assert states == ["Done", "Failed"]
    await tools.last.locator("summary").click()
    await expect(tools.last.get_by_role("region", name="Output of run_tests")).to_have_text(
        "1 failed, 41 passed"
    )
