"""`scripts/demo-crash`: it proves what it says, would say so if it did not, and leaves nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import pytest

from scripts.crash.cast import Shown
from scripts.crash.proof import Difference
from tests.e2e.checkout import Checkout
from tests.e2e.commands import GUARD_SECONDS

pytestmark = pytest.mark.timeout(120)


def mentioning(folder: Path) -> list[str]:
    """The command lines of processes that name this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    (tmp_path / "checkout").mkdir()
    (tmp_path / "scratch").mkdir()
    return Checkout(tmp_path / "checkout")


async def test_two_devices_survive_a_kill_and_nothing_is_left_behind(
    checkout: Checkout, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    told = await checkout.typed("./scripts/demo-crash", TMPDIR=str(scratch))
    assert "NOT SO" not in told
    assert told.count("proven  ") == 9
    assert told.endswith("Nothing was lost and nothing came twice.\n")
    for device in ("laptop", "phone"):
        assert f"{device:<7}| (connection lost, trying again)" in told
    assert list(scratch.iterdir()) == []
    assert mentioning(scratch) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_demonstration_that_is_interrupted_cleans_up_and_fails(
    number: signal.Signals, checkout: Checkout, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    async with checkout.going("./scripts/demo-crash", TMPDIR=str(scratch)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        with anyio.fail_after(GUARD_SECONDS * 2):
            shown = b""
            while b"A daemon is up" not in shown:
                shown += await process.stdout.receive()
            process.send_signal(number)
            told = b"".join([piece async for piece in process.stderr])
            assert await process.wait() == 1
    assert told.decode() == f"demo-crash: ended by {number.name}\n"
    assert list(scratch.iterdir()) == []
    assert mentioning(scratch) == []


def said(*texts: str) -> list[Shown]:
    return [Shown(offset, "text-delta", "t", text) for offset, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("seen", "difference"),
    [
        (said("one two ", "three"), Difference(lost=0, doubled=0)),
        (said("one ", "two three"), Difference(lost=0, doubled=0)),
        (said("one ", "three"), Difference(lost=4, doubled=0)),
        (said("one two ", "two three"), Difference(lost=0, doubled=4)),
        (said("one two three")[:0], Difference(lost=13, doubled=0)),
    ],
)
def test_the_proof_counts_what_is_lost_and_what_came_twice(
    seen: list[Shown], difference: Difference
) -> None:
    assert Difference.between(seen, said("one two three")) == difference


def test_a_merged_frame_is_the_same_as_its_parts() -> None:
    frame = {
        "type": "chat.delta",
        "position": "abc:7",
        "event": {"type": "text-delta", "turnId": "t", "delta": "ab"},
    }
    shown = Shown.read(frame)
    assert shown == Shown(7, "text-delta", "t", "ab")
    assert len(shown.atoms()) == 2
    assert Shown.read({"type": "chat.subscribed"}) is None
