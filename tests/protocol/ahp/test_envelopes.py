"""Envelopes: numbers, origins, and changes that take several actions."""

from typing import Any

import msgspec
import pytest
from hypothesis import given

from dispatch.protocol.ahp.conversion import down_state
from dispatch.protocol.ahp.envelopes import (
    ENVELOPES_PER_POSITION,
    Change,
    Origin,
    encode_envelope,
    envelopes,
    rejection,
    server_seq,
    snapshot,
)
from dispatch.protocol.ahp.reduce import fold, reduce
from dispatch.protocol.ahp.versions import SERVED, V0_5_1, V0_7, V0_9
from tests.protocol.ahp.histories import EMPTY_CHAT, one_turn
from tests.protocol.ahp.test_conversion import starts_a_call_again

Object = dict[str, Any]
CHANNEL = "ahp-chat:/a"
START = {
    "type": "chat/turnStarted",
    "turnId": "t1",
    "startedAt": "2026-01-01T00:00:00.000Z",
    "message": {"text": "hi", "origin": {"kind": "user"}},
}
LOST = {"kind": "error", "error": {"errorType": "e", "message": "lost"}, "resumable": True}
FAILED = {"type": "chat/error", "turnId": "t1", "duration": 1, "part": LOST}
RESUMED = {"type": "chat/turnResume", "turnId": "t1"}


def change(state: Object, action: Object, **more: Any) -> Change:
    after = reduce(state, action)
    return Change(channel=CHANNEL, server_seq=100, action=action, before=state, after=after, **more)


def test_an_action_of_the_host_has_no_origin() -> None:
    [envelope] = envelopes(V0_9, change(EMPTY_CHAT, START))
    assert envelope == {"channel": CHANNEL, "action": START, "serverSeq": 100}
    frame = msgspec.json.decode(encode_envelope(envelope))
    assert frame == {"jsonrpc": "2.0", "method": "action", "params": envelope}


def test_an_action_of_a_client_has_its_origin() -> None:
    [envelope] = envelopes(V0_5_1, change(EMPTY_CHAT, START, origin=Origin("k1", 3)))
    assert envelope["origin"] == {"clientId": "k1", "clientSeq": 3}
    assert "startedAt" not in envelope["action"]


def test_of_several_actions_the_last_alone_has_the_number_of_the_change() -> None:
    failed = fold(EMPTY_CHAT, [START, FAILED])
    sent = envelopes(V0_7, change(failed, RESUMED, origin=Origin("k1", 4)))
    assert len(sent) > 1
    assert [e["serverSeq"] for e in sent[:-1]] == [99] * (len(sent) - 1)
    assert sent[-1]["serverSeq"] == 100
    assert [("origin" in e) for e in sent] == [False] * (len(sent) - 1) + [True]


def test_a_change_that_a_version_has_no_word_for_sends_nothing() -> None:
    read = {"type": "chat/isReadChanged", "isRead": True}
    assert envelopes(V0_7, change(EMPTY_CHAT, read)) == []


@pytest.mark.parametrize("version", SERVED, ids=lambda version: version.offered_as)
@given(history=one_turn)
def test_a_client_cut_off_among_several_actions_loses_nothing(version: Any, history: Any) -> None:
    """It has seen a part of a change, and is then told the whole of it again."""
    _, state, actions = history
    theirs = down_state(version, "chat", state)
    for action in actions:
        if starts_a_call_again(state, action):
            continue
        after = reduce(state, action)
        said = [e["action"] for e in envelopes(version, change(state, action))]
        for each in [*said[:-1], *said]:
            now = after.get("modifiedAt", "")
            theirs = reduce(theirs, each, version.rules, now=now)
        state = after
        assert theirs == down_state(version, "chat", state), action


def test_numbers_of_an_event_are_above_those_of_the_event_before() -> None:
    assert server_seq(1, ENVELOPES_PER_POSITION - 1) < server_seq(2, 1) - 1
    for index in (0, ENVELOPES_PER_POSITION):
        with pytest.raises(AssertionError):
            server_seq(1, index)


def test_a_refused_action_comes_back_as_it_was_sent() -> None:
    odd = {"type": "chat/bogus", "x": [1]}
    echoed = rejection(CHANNEL, odd, 7, Origin("k1", 2), "no such action")
    assert echoed["action"] == odd
    assert echoed["rejectionReason"] == "no such action"


def test_a_snapshot_has_the_shapes_of_its_version() -> None:
    failed = fold(EMPTY_CHAT, [START, FAILED])
    assert "error" in snapshot(V0_7, CHANNEL, "chat", failed, 5)["state"]["turns"][0]
    newer = snapshot(V0_9, CHANNEL, "chat", failed, 5)
    assert newer == {"resource": CHANNEL, "state": failed, "fromSeq": 5}
