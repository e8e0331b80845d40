"""What differs between the reducers of the versions, by name.

Neighbours: the reducers take one of these; `CANONICAL` is what the host folds with, the older ones
are what clients of those versions fold with, and what the steps between versions are tested by.
Source: `protocol/ahp.md`, section Versions, and the conformance data of 0.7.0.
Invariant: a rule that no version changed is not here.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """One version's reducers.

    `errors_are_parts`: a turn's error is its last response part, else its `error`.
    `reads_clock`: `modifiedAt` is the reader's time, else it follows from the action.
    `execution_asks`: a tool that a client has to run counts as input needed.
    `requests_are_parts`: questions stand in the turn, else beside the turns.
    `turns_are_timed`: turns have `startedAt` and `duration`.
    `ready_repeats`: a tool call that is ready may be made ready again, keeping what is not said.
    `authenticates`: tool calls can wait for an authentication.
    `creation_failed`: how the lifecycle of a session that could not be made is called.
    """

    errors_are_parts: bool = True
    reads_clock: bool = False
    execution_asks: bool = False
    requests_are_parts: bool = True
    turns_are_timed: bool = True
    ready_repeats: bool = True
    authenticates: bool = True
    creation_failed: str = "failed"


CANONICAL: Final = Rules()
"""0.9, and 1.0, which changed the negotiation alone."""

RULES_0_7: Final = Rules(
    errors_are_parts=False,
    reads_clock=True,
    execution_asks=True,
    creation_failed="creationFailed",
)

RULES_0_5_1: Final = Rules(
    errors_are_parts=False,
    reads_clock=True,
    execution_asks=True,
    creation_failed="creationFailed",
    requests_are_parts=False,
    turns_are_timed=False,
    ready_repeats=False,
    authenticates=False,
)
