"""Who gets which version, and that no word of a version is missing from the tables."""

import pytest

from dispatch.protocol.ahp.chat import _CHANGES as CHAT_CHANGES
from dispatch.protocol.ahp.client_actions import DISPATCHABLE
from dispatch.protocol.ahp.versions import (
    ACTIONS_SINCE,
    UNSUPPORTED_PROTOCOL_VERSION,
    V0_5_1,
    V0_7,
    V0_9,
    V1_0,
    Version,
    knows,
    negotiate,
)
from dispatch.protocol.jsonrpc import RpcError


@pytest.mark.parametrize(
    ("offered", "taken", "version"),
    [
        (["0.5.1"], "0.5.1", V0_5_1),
        (["0.7.0"], "0.7.0", V0_7),
        (["0.9.0"], "0.9.0", V0_9),
        (["0.9.4"], "0.9.4", V0_9),
        (["1.0.0"], "1.0.0", V1_0),
        (["1.0.12"], "1.0.12", V1_0),
        (["0.9.0", "1.0.0"], "1.0.0", V1_0),
        (["0.5.1", "0.9.0", "0.7.0"], "0.9.0", V0_9),
        (["1.1.0", "0.7.0"], "0.7.0", V0_7),
        (["2.0.0", None, "rubbish", "0.5.1"], "0.5.1", V0_5_1),
    ],
)
def test_the_highest_served_offer_is_taken(
    offered: list[object], taken: str, version: Version
) -> None:
    assert negotiate(offered) == (taken, version)


@pytest.mark.parametrize(
    "offered",
    [
        [],
        ["0.4.0"],
        ["0.5.2"],
        ["0.6.0"],
        ["0.7.1"],
        ["0.8.0"],
        ["1.1.0"],
        ["0.9"],
        ["0.9.0-dev"],
        ["v0.9.0"],
        ["0.9.0\n"],
        ["00.9.0"],
        ["\u0660.\u0669.\u0660"],
        [9],
        ["0." + "9" * 100 + ".0"],
    ],
)
def test_a_client_of_no_served_version_is_told_which_are(offered: list[object]) -> None:
    with pytest.raises(RpcError) as refused:
        negotiate(offered)
    assert refused.value.code == UNSUPPORTED_PROTOCOL_VERSION
    assert refused.value.data == {"supportedVersions": ["~1.0.0", "^0.9.0", "0.7.0", "0.5.1"]}


def test_offers_are_read_up_to_a_bound() -> None:
    with pytest.raises(RpcError):
        negotiate(["0.1.0"] * 1_000 + ["0.9.0"])


def test_every_action_that_is_folded_or_dispatched_has_a_first_version() -> None:
    assert CHAT_CHANGES.keys() <= ACTIONS_SINCE.keys()
    assert ACTIONS_SINCE.keys() >= DISPATCHABLE


@pytest.mark.parametrize(
    ("version", "word", "known"),
    [
        (V0_5_1, "chat/turnsLoaded", True),
        (V0_5_1, "chat/toolCallAuthRequired", False),
        (V0_5_1, "session/workingDirectorySet", False),
        (V0_7, "session/workingDirectorySet", True),
        (V0_7, "chat/turnResume", False),
        (V0_9, "chat/turnResume", True),
        (V0_9, "chat/backgroundWorkSet", False),
        (V0_5_1, "root/progress", True),
        (V1_0, "channel/frame", False),
    ],
)
def test_a_version_knows_what_was_there_when_it_was_made(
    version: Version, word: str, known: bool
) -> None:
    assert knows(version, word) is known
