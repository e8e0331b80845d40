"""Two windows of any versions do anything at once: Hypothesis looks for an order that breaks it.

They act before they are told, lose their connections, come back and send again what had no echo,
to a daemon that is killed meanwhile. Whenever it is looked at, what each folded is the host's
snapshot, and nobody waits for the other.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.clients.ahp.ahp_client.client import client
from tests.clients.ahp.ahp_client.words import Json
from tests.e2e.ahp import VERSIONS, Seat, created, message, new_id, seated, serving
from tests.e2e.process import DaemonProcess

EXAMPLES = int(os.environ.get("DISPATCH_TEST_AHP_EXAMPLES", "12"))
STEPS = 14
KILLS_MAX = 1

who = st.integers(0, 1)


class TwoWindows(RuleBasedStateMachine):
    """Both follow one session; `started` are the texts each of them began a turn with."""

    portal: ClassVar[BlockingPortal]
    daemon: ClassVar[DaemonProcess]

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.seats: list[Seat] = []
        self.started: list[list[str]] = [[], []]
        self.truncations = 0
        self.kills = 0

    @initialize(
        versions=st.tuples(st.sampled_from(VERSIONS), st.sampled_from(VERSIONS)),
        agent=st.sampled_from(["alice", "endless", "listener", "asker", "broken"]),
    )
    def open(self, versions: tuple[str, str], agent: str) -> None:
        windows = [
            self.stack.enter_context(
                self.portal.wrap_async_context_manager(client(self.daemon.url, one))
            )
            for one in versions
        ]
        first = self.portal.call(created, windows[0], agent)
        self.seats = [first, self.portal.call(seated, windows[1], first.session.uri)]

    def act(self, number: int, kind: str, /, **members: object) -> None:
        seat = self.seats[number]

        async def dispatched() -> None:
            await seat.act(kind, **members)

        self.portal.call(dispatched)

    @rule(number=who)
    def start(self, number: int) -> None:
        text = new_id("start")
        self.started[number].append(text)
        self.portal.call(self.seats[number].start, text)

    @rule(number=who)
    def start_and_lose_the_connection(self, number: int) -> None:
        self.start(number)
        self.cut(number)

    @rule(number=who, kind=st.sampled_from(["steering", "queued"]))
    def wait_in_line(self, number: int, kind: str) -> None:
        one = new_id("waits")
        self.act(number, "pendingMessageSet", kind=kind, id=one, message=message(one))

    @rule(number=who)
    def take_back(self, number: int) -> None:
        for row in self.seats[number].chat.shown.get("queuedMessages", [])[:1]:
            self.act(number, "pendingMessageRemoved", kind="queued", id=row["id"])

    @rule(number=who)
    def reorder(self, number: int) -> None:
        rows = self.seats[number].chat.shown.get("queuedMessages", [])
        self.act(number, "queuedMessagesReordered", order=[row["id"] for row in rows][::-1])

    @rule(number=who)
    def cancel(self, number: int) -> None:
        turn = self.seats[number].chat.shown.get("activeTurn")
        if turn is not None:
            self.act(number, "turnCancelled", turnId=turn["id"], duration=1)

    @rule(number=who, response=st.sampled_from(["accept", "decline", "cancel"]))
    def answer(self, number: int, response: str) -> None:
        entries = self.seats[number].session.confirmed.get("inputNeeded", [])
        for request in [one["request"] for one in entries if one["kind"] == "chatInput"][:1]:
            answers = {one["id"]: answer_to(one) for one in request["questions"]}
            told = {"requestId": request["id"], "response": response, "answers": answers}
            self.act(number, "inputCompleted", **told)

    @rule(number=who)
    def resume(self, number: int) -> None:
        turns = self.seats[number].chat.confirmed["turns"]
        if turns and self.seats[number].client.version in ("0.9.0", "1.0.0"):
            self.act(number, "turnResume", turnId=turns[-1]["id"])

    @rule(number=who, is_set=st.booleans(), word=st.sampled_from(["Read", "Archived"]))
    def flag(self, number: int, is_set: bool, word: str) -> None:
        seat = self.seats[number]
        action = {"type": f"session/is{word}Changed", f"is{word}": is_set}
        self.portal.call(seat.client.dispatch, seat.session.uri, action)

    @rule(number=who, text=st.text(max_size=5))
    def draft(self, number: int, text: str) -> None:
        self.act(number, "draftChanged", draft=message(text))

    @rule(number=who)
    def truncate(self, number: int) -> None:
        turns = self.seats[number].chat.confirmed["turns"]
        self.truncations += 1
        self.act(number, "truncated", **({"turnId": turns[-1]["id"]} if turns else {}))

    @rule(number=who)
    def rename(self, number: int) -> None:
        seat = self.seats[number]
        action = {"type": "session/titleChanged", "title": new_id("title")}
        self.portal.call(seat.client.dispatch, seat.session.uri, action)

    @rule(number=who)
    def cut(self, number: int) -> None:
        self.portal.call(self.seats[number].client.break_off)
        self.portal.call(self.seats[number].client.reconnect)

    @precondition(lambda self: self.kills < KILLS_MAX)
    @rule()
    def kill(self) -> None:
        self.kills += 1
        self.portal.call(self.daemon.kill)
        self.portal.call(self.daemon.start)
        for seat in self.seats:
            self.portal.call(seat.client.reconnect)

    @rule(number=who)
    def check(self, number: int) -> None:
        """What was folded is what the host says, whatever else is on its way."""
        self.portal.call(self.seats[number].client.check)

    def teardown(self) -> None:
        try:
            if self.seats:
                self.come_to_rest()
        finally:
            self.stack.close()

    def come_to_rest(self) -> None:
        for seat in self.seats:
            self.portal.call(seat.client.settled)
            self.portal.call(seat.client.check)
        texts = Counter[str]()
        chat = self.seats[0].chat.confirmed
        running = [chat["activeTurn"]] if "activeTurn" in chat else []
        texts.update(turn["message"]["text"] for turn in [*chat["turns"], *running])
        assert [text for text, count in texts.items() if count > 1] == []
        for seat, started in zip(self.seats, self.started, strict=True):
            refused = {
                one["action"]["message"]["text"]
                for one in seat.chat.rejections
                if one["action"]["type"] == "chat/turnStarted"
            }
            lost = set(started) - refused - texts.keys()
            assert self.truncations or not lost


def answer_to(question: Json) -> Json:
    value = {"kind": "text", "value": "cellar"}
    if question["kind"] == "single-select":
        value = {"kind": "selected", "value": question["options"][0]["id"]}
    return {"state": "submitted", "value": value}


@pytest.mark.timeout(120 + 5 * EXAMPLES)
def test_two_windows_never_diverge(tmp_path: Path) -> None:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(tmp_path)) as daemon,
    ):
        TwoWindows.portal, TwoWindows.daemon = portal, daemon
        run_state_machine_as_test(
            TwoWindows,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
