"""The copy that tests compare with can find what is wrong: it is held to what it must not take."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.ahp.ahp_client.copies import Copy, Diverged, Pending

URI = "ahp-chat:/a"
ME, OTHER = "window-1", "window-2"
CHAT = {"resource": URI, "title": "", "status": 1, "modifiedAt": "then", "turns": []}


@pytest.fixture
def copy() -> Copy:
    made = Copy(URI, (0, 9, 0), ME)
    made.begin({"resource": URI, "state": CHAT, "fromSeq": 10})
    return made


def draft(text: str) -> dict[str, Any]:
    return {"type": "chat/draftChanged", "draft": {"text": text, "origin": {"kind": "user"}}}


def envelope(number: int, action: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"channel": URI, "serverSeq": number, "action": action, **more}


def echo(number: int, client_seq: int, action: dict[str, Any], **more: Any) -> dict[str, Any]:
    origin = {"clientId": ME, "clientSeq": client_seq}
    return envelope(number, action, origin=origin, **more)


def test_what_is_pending_is_shown_on_top_and_settled_by_its_echo(copy: Copy) -> None:
    copy.pending.append(Pending(1, draft("mine")))
    copy.receive(envelope(11, draft("theirs"), origin={"clientId": OTHER, "clientSeq": 1}))
    assert copy.shown["draft"]["text"] == "mine"
    assert copy.confirmed["draft"]["text"] == "theirs"
    copy.receive(echo(12, 1, draft("mine")))
    assert copy.pending == []
    assert copy.confirmed["draft"]["text"] == "mine"


def test_a_refusal_takes_back_what_was_shown(copy: Copy) -> None:
    copy.pending.append(Pending(1, draft("mine")))
    copy.receive(echo(11, 1, draft("mine"), rejectionReason="no"))
    assert "draft" not in copy.shown
    assert len(copy.rejections) == 1


def test_a_number_that_goes_back_is_found(copy: Copy) -> None:
    copy.receive(envelope(12, draft("a")))
    with pytest.raises(Diverged):
        copy.receive(envelope(11, draft("b")))


def test_an_echo_out_of_turn_is_found(copy: Copy) -> None:
    copy.pending += [Pending(1, draft("a")), Pending(2, draft("b"))]
    with pytest.raises(Diverged):
        copy.receive(echo(11, 2, draft("b")))


@pytest.mark.parametrize(
    "wrong", [{"status": 8}, {"draft": {"text": "x"}}, {"turns": [{}]}, {"modifiedAt": "now"}]
)
def test_a_snapshot_that_is_another_state_is_found(copy: Copy, wrong: dict[str, Any]) -> None:
    copy.compare({"resource": URI, "state": CHAT, "fromSeq": 10})
    with pytest.raises(Diverged):
        copy.compare({"resource": URI, "state": {**CHAT, **wrong}, "fromSeq": 10})


def test_the_clock_of_an_older_client_is_its_own() -> None:
    copy = Copy(URI, (0, 7, 0), ME)
    copy.begin({"resource": URI, "state": CHAT, "fromSeq": 10})
    copy.compare({"resource": URI, "state": {**CHAT, "modifiedAt": "now"}, "fromSeq": 10})
