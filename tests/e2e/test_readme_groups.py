"""What the README says about groups and chats, typed as it stands there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.checkout import Checkout
from tests.e2e.programs import needed
from tests.e2e.readme import claim
from tests.protocol.published import saw

pytestmark = pytest.mark.timeout(90)

GROUPS = "Groups and chats"
CONFIGURATION = claim(GROUPS, "toml", "[agents.parrot]")
MAKE = claim(GROUPS, "sh", "dispatch groups create")
LOOK = claim(GROUPS, "sh", "dispatch groups list")
CHATS = claim(GROUPS, "sh", "dispatch chats create")
Frame = dict[str, Any]


def objects(text: str) -> list[Frame]:
    """JSON objects one after the other; what curl prints has no line end."""
    found, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        one, end = decoder.raw_decode(text)
        found.append(one)
        text = text[end:]
    return found


@pytest.fixture
async def checkout(tmp_path: Path) -> AsyncIterator[Checkout]:
    needed("curl")
    checkout = Checkout(tmp_path)
    (tmp_path / "dispatch.toml").write_text(CONFIGURATION.code)
    async with checkout.serving("./scripts/serve --config dispatch.toml"):
        yield checkout


async def test_two_agents_answer_one_prompt(checkout: Checkout) -> None:
    script = f"{MAKE.at(checkout.url)}echo BREAK\n{LOOK.at(checkout.url)}"
    streamed, _, printed = (await checkout.typed(script)).partition("BREAK")
    lines = streamed.splitlines()
    frames = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    for frame in frames:
        saw("GroupStreamFrame", frame)
    ids = [int(line[4:]) for line in lines if line.startswith("id: ")]
    assert ids == sorted(set(ids))
    assert len(ids) == len(frames)
    said = {"echo": "", "parrot": ""}
    for frame in frames:
        if frame["kind"] == "assistant_chunk":
            said[frame["familiarId"]] += frame["text"]
    assert set(said.values()) == {"one prompt, two answers"}
    assert frames[-1]["scope"] == "group"
    assert frames[-1]["results"]["completed"] == 2

    snapshot, *answer, listed = objects(printed)
    assert [event["seq"] for event in snapshot["events"]] == [1, 2, 3]
    assert {event["text"] for event in snapshot["events"]} == {"one prompt, two answers"}
    assert answer[-1]["results"]["completed"] == 1
    assert {frame["familiarId"] for frame in answer if "familiarId" in frame} == {"parrot"}
    assert listed["lastSeq"] == 5


async def test_a_session_counts_what_is_unread(checkout: Checkout) -> None:
    printed = objects(await checkout.typed(CHATS.at(checkout.url)))
    first, second, listed, *read, moved, page = printed
    assert first["response"]["content"] == "is anybody there?"
    assert second["response"]["content"] == "still there?"
    assert (listed["title"], listed["unread_count"]) == ("Kitchen", 2)
    assert [message["role"] for message in read] == ["user", "assistant"] * 2
    assert (moved["last_read_seq"], moved["unread_count"]) == (4, 0)
    assert page["unread_total"] == 0
    assert [session["unread_count"] for session in page["sessions"]] == [0]
