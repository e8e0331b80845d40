"""kill -9 in the middle of commits, again and again: what was acknowledged is there.

The child (`life.py`) writes to its standard output what is durable, the moment it knows; a pipe
outlives its writer, so it is the ledger of everything that was acknowledged.
"""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from dispatch.core.identity import ConversationId
from dispatch.storage.check import verify
from dispatch.storage.sqlite import SqliteStore
from tests.storage import life

CYCLES = 25


def run_and_kill(data: Path, seed: int, lines: int) -> dict[str, int]:
    """Let a child live until it has said so many lines; the last offset it said of each."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tests.storage.life", str(data), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as child:
        assert child.stdout is not None
        try:
            said = [child.stdout.readline() for _ in range(lines)]
        finally:
            child.kill()
        said += child.stdout.readlines()
    assert all(said[:lines]), "the child ended by itself"
    whole = [line.split() for line in said if line.endswith(b"\n")]
    return {name.decode(): int(offset) for name, offset in whole}


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_nothing_acknowledged_is_lost_however_often_the_writer_is_killed(
    tmp_path: Path,
) -> None:
    chance = random.Random(20)
    data = tmp_path / "data"
    acknowledged: dict[str, int] = {}
    incarnations = []
    for cycle in range(CYCLES):
        said = run_and_kill(data, cycle, chance.randrange(1, 120))
        for name, offset in said.items():
            assert offset > acknowledged.get(name, 0)
            acknowledged[name] = offset
        assert verify(data) == []
        store = SqliteStore(data)
        incarnations.append((await store.open()).incarnation)
        try:
            for name, offset in acknowledged.items():
                record = await store.conversation(life.ACCOUNT, ConversationId(name))
                assert record is not None
                events = await store.events(record.key, 0, 1_000_000)
                assert [event.offset for event in events] == list(range(1, len(events) + 1))
                assert len(events) >= offset
        finally:
            await store.close()
    # Two openings a cycle: the child's and ours.
    assert incarnations == list(range(2, 2 * CYCLES + 1, 2))
