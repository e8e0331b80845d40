"""One truth: the host's reducers, our client's and VS Code's own fold what a client is sent alike.

What is folded is what leaves for the version, drawn by Hypothesis; the reference is VS Code's own
code, from the packages that carry it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings

from dispatch.protocol.ahp.conversion import down_actions, down_state
from dispatch.protocol.ahp.reduce import reduce
from dispatch.protocol.ahp.versions import V0_5_1, V0_7, V0_9, V1_0, Version
from tests.clients.ahp.ahp_client.folding import folded
from tests.clients.ahp.ahp_client.words import Moment
from tests.clients.ahp.vscode.fold import VscodeFold
from tests.protocol.ahp.histories import histories, one_turn
from tests.protocol.ahp.test_conversion import starts_a_call_again

History = tuple[str, dict[str, Any], list[dict[str, Any]]]
Sent = list[tuple[dict[str, Any], str]]
VERSIONS = pytest.mark.parametrize(
    "version", [V1_0, V0_9, V0_7, V0_5_1], ids=lambda version: version.offered_as
)


@pytest.fixture(scope="module")
def vscode_0_9() -> Iterator[VscodeFold]:
    fold = VscodeFold("0.9")
    yield fold
    fold.end()


@pytest.fixture(scope="module")
def vscode_0_5_1() -> Iterator[VscodeFold]:
    fold = VscodeFold("0.5.1")
    yield fold
    fold.end()


def sent_to(version: Version, history: History) -> tuple[dict[str, Any], Sent, list[Any]]:
    """The first state of a client, what it is sent, and the host's snapshot after each."""
    kind, state, actions = history
    first, sent, snapshots = down_state(version, kind, state), [], []
    for action in actions:
        if starts_a_call_again(state, action):
            continue
        after = reduce(state, action)
        said = down_actions(version, action, state, after)
        now = after.get("modifiedAt", "1970-01-01T00:00:00.000Z")
        sent += [(one, now) for one in said]
        # One change may be several actions: the snapshot is that after the last.
        snapshots += [None] * (len(said) - 1) + [down_state(version, kind, after)] * bool(said)
        state = after
    return first, sent, snapshots


def assert_folds_alike(version: Version, history: History, theirs: VscodeFold | None) -> None:
    kind = history[0]
    first, sent, snapshots = sent_to(version, history)
    state, states = first, []
    for action, now in sent:
        state = folded(kind, state, action, Moment(version.number, now))
        states.append(state)
    for (action, _), ours, snapshot in zip(sent, states, snapshots, strict=True):
        assert snapshot is None or ours == snapshot, action
    if theirs is not None:
        for (action, _), ours, vscode in zip(
            sent, states, theirs.states(kind, first, sent), strict=True
        ):
            assert ours == vscode, action


@VERSIONS
@settings(max_examples=60)
@given(history=histories)
def test_our_client_folds_what_the_host_says(version: Version, history: History) -> None:
    assert_folds_alike(version, history, None)


@VERSIONS
@settings(max_examples=60)
@given(history=one_turn)
def test_our_client_folds_one_turn_as_the_host_says(version: Version, history: History) -> None:
    assert_folds_alike(version, history, None)


@settings(max_examples=60)
@given(history=histories | one_turn)
def test_vscode_folds_0_9_as_the_host_says(vscode_0_9: VscodeFold, history: History) -> None:
    assert_folds_alike(V0_9, told_of(history, vscode_0_9), vscode_0_9)


@settings(max_examples=60)
@given(history=histories | one_turn)
def test_vscode_folds_0_5_1_as_the_host_says(vscode_0_5_1: VscodeFold, history: History) -> None:
    assert_folds_alike(V0_5_1, told_of(history, vscode_0_5_1), vscode_0_5_1)


def told_of(history: History, fold: VscodeFold) -> History:
    """The history without what changes nothing, which no host tells, and what is unknown there."""
    kind, first, actions = history
    state, told = first, []
    for action in actions:
        after = reduce(state, action)
        if after is state or not fold.knows(action["type"]):
            continue
        told.append(action)
        state = after
    return kind, first, told
