"""The claims can fail: each broken promise is seen by the scenario, and for what it is."""

import pytest

from tests.simulation.mutants import MUTANTS, Mutant, applied
from tests.simulation.test_scenario import simulate

SEEDS = 60


@pytest.mark.parametrize(
    "mutant", MUTANTS, ids=lambda m: f"{m.invariant}-{m.what}".replace(" ", "_")
)
def test_a_broken_promise_is_seen(mutant: Mutant) -> None:
    with applied(mutant):
        for seed in range(SEEDS):
            _, broken = simulate(seed)
            if any(word in claim for claim in broken for word in mutant.words):
                return
    pytest.fail(f"{SEEDS} seeds, and nobody saw it")


def test_every_invariant_that_is_simulated_has_a_mutant() -> None:
    assert {mutant.invariant for mutant in MUTANTS} == {1, 4, 6, 7}
