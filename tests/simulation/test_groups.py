"""A group in the simulated world: the same kills and the same disk, and every claim about rows."""

import os

import pytest

from dispatch.runtime import timeline
from dispatch.testing import run_virtual
from tests.simulation.claims import broken_claims
from tests.simulation.group_people import GroupPerson, broken_group_claims
from tests.simulation.mutants import Change, Mutant, applied
from tests.simulation.world import World, live_through

BATCHES = 6
SEEDS = int(os.environ.get("DISPATCH_SIMULATION_SEEDS", "60"))
MUTANT_SEEDS = 40

MUTANTS = (
    Mutant(
        1,
        "a seq is given out when the first token is decided",
        (
            Change(
                timeline,
                "Timeline.said",
                (
                    (
                        "    return partial(self._speak, reply)",
                        "    self.record.last_seq += 1\n"
                        "    seq = self.record.last_seq\n"
                        "    def speak(draft):\n"
                        "        row = self.stage_row(draft, reply.row)\n"
                        "        row.seq, row.began_position = seq, draft.position\n"
                        "    return speak",
                    ),
                ),
            ),
        ),
        ("seqs are", "the last seq", "the daemon died", "are not the rows"),
    ),
)


def simulate(seed: int) -> list[str]:
    """What broke in one run."""
    world = World(seed)
    host = GroupPerson(world, "ann")
    people = [host, GroupPerson(world, "bob", host)]

    async def main() -> list[str]:
        await live_through(world, people)
        return [*await broken_claims(world, []), *await broken_group_claims(world, people)]

    return run_virtual(main)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_whatever_happens_every_claim_about_groups_holds(batch: int) -> None:
    for seed in range(batch, SEEDS, BATCHES):
        broken = simulate(seed)
        assert broken == [], f"seed {seed}"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.what.replace(" ", "_"))
def test_a_broken_promise_of_groups_is_seen(mutant: Mutant) -> None:
    with applied(mutant):
        for seed in range(MUTANT_SEEDS):
            broken = simulate(seed)
            if any(word in claim for claim in broken for word in mutant.words):
                return
    pytest.fail(f"{MUTANT_SEEDS} seeds, and nobody saw it")
