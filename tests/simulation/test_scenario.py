"""The unmodified runtime through kills, a slow, full and forgetful disk, and people who come.

A seed is a run. Those of the suite are the same each time; `DISPATCH_SIMULATION_SEEDS=5000` looks
further, `DISPATCH_SIMULATION_SEED=17` looks at one again.
"""

import os

import pytest

from dispatch.testing import run_virtual
from tests.simulation.claims import broken_claims
from tests.simulation.devices import Device
from tests.simulation.old_devices import OldDevice
from tests.simulation.world import World, live_through

BATCHES = 12
SEEDS = int(os.environ.get("DISPATCH_SIMULATION_SEEDS", "120"))
ONE = os.environ.get("DISPATCH_SIMULATION_SEED")


def simulate(seed: int) -> tuple[World, list[str]]:
    """One run, and what broke in it."""
    world = World(seed)
    devices = [Device(world, name) for name in ("ann", "bob", "eve")]
    old_devices = [OldDevice(world, "old")]

    async def main() -> list[str]:
        await live_through(world, [*devices, *old_devices])
        return await broken_claims(world, devices, old_devices)

    return world, run_virtual(main)


def seeds_of(batch: int) -> list[int]:
    if ONE is not None:
        return [int(ONE)] if batch == 0 else []
    return list(range(batch, SEEDS, BATCHES))


def test_a_seed_is_a_run() -> None:
    first, again = simulate(7)[0], simulate(7)[0]
    assert first.committed == again.committed
    assert first.prompts == again.prompts
    assert first.kills == again.kills


@pytest.mark.parametrize("batch", range(BATCHES))
def test_whatever_happens_every_claim_holds(batch: int) -> None:
    for seed in seeds_of(batch):
        _, broken = simulate(seed)
        again = f"DISPATCH_SIMULATION_SEED={seed} ./scripts/test tests/simulation"
        assert broken == [], f"seed {seed}; again: {again}"
