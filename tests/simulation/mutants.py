"""The runtime with one promise broken on purpose: what the claims are worth is whether they see it.

Neighbours: `test_mutants` runs the scenario on each. A mutant is made of the real source of a
function, changed in one place; where the source no longer reads so, making it fails.
"""

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

from dispatch.core import conversation
from dispatch.runtime import (
    broker,
    feed,
    intake,
    journal,
    recovery,
    rewinding,
    starting,
    truncation,
    turns,
)
from dispatch.server import watch, wishes


class Change(NamedTuple):
    """One function (`name` or `Class.name`) of a module, and what to write instead of what."""

    module: ModuleType
    name: str
    edits: tuple[tuple[str, str], ...]


class Mutant(NamedTuple):
    """A broken promise: which invariant, how, and words that the claims must find for it."""

    invariant: int
    what: str
    changes: tuple[Change, ...]
    words: tuple[str, ...]


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The runtime is broken inside."""
    with ExitStack() as stack:
        for change in mutant.changes:
            stack.enter_context(_changed(change))
        yield


def _changed(change: Change) -> AbstractContextManager[Any]:
    owner: Any = change.module
    *classes, name = change.name.split(".")
    for part in classes:
        owner = getattr(owner, part)
    source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    for old, new in change.edits:
        assert source.count(old) == 1, f"{change.name} no longer reads so: {old}"
        source = source.replace(old, new)
    code = compile(f"from __future__ import annotations\n{source}", change.name, "exec")
    space: dict[str, Any] = {}
    exec(code, change.module.__dict__, space)
    return mock.patch.object(owner, name, space[name])


PAUSE = "await __import__('anyio').sleep(0.02)"

SHOWS_BEFORE_IT_WRITES = (
    (
        "        try:\n            await self._store.commit(batch)\n",
        "        self._show(taken, batch)\n"
        "        taken = [one._replace(pending=[], offsets=[], shown=[]) for one in taken]\n"
        "        try:\n            await self._store.commit(batch)\n",
    ),
)

MUTANTS = (
    Mutant(
        1,
        "what a batch has is shown before it is written",
        (Change(journal, "Journal._commit_pending", SHOWS_BEFORE_IT_WRITES),),
        ("the disk does not have them", "of which the disk knows nothing"),
    ),
    Mutant(
        1,
        "an acknowledgement does not wait for the disk",
        (
            Change(
                intake,
                "_keep",
                (
                    (
                        "    live.arriving += 1\n",
                        "    live.arriving += 1\n"
                        "    head = live.outbox.head\n"
                        "    told = starting.accepted_of(live, admission, place, head)\n"
                        "    admission.accepted(told)\n"
                        "    admission.accepted = lambda _: None\n",
                    ),
                ),
            ),
        ),
        ("was accepted and is not in the log", "was accepted as"),
    ),
    Mutant(
        4,
        "a subscriber's place is read a moment after what it is told of it",
        (
            Change(
                wishes,
                "_subscribe",
                (
                    (
                        "    watch = connection.watch(live, start)\n",
                        f"    {PAUSE}\n"
                        "    start = live.feed.head if start == seam.head else start\n"
                        "    watch = connection.watch(live, start)\n",
                    ),
                ),
            ),
        ),
        ("and is several",),
    ),
    Mutant(
        4,
        "a snapshot's position is read a moment after the snapshot",
        (
            Change(
                watch,
                "Watch.snapshot",
                (
                    (
                        "    self.cursor.offset = head\n",
                        f"    {PAUSE}\n    self.cursor.offset = live.feed.head\n",
                    ),
                ),
            ),
        ),
        ("and is several",),
    ),
    Mutant(
        4,
        "who leaves before a flush is taken to have got it",
        (Change(feed, "Feed.leave", (("offset = self.head", "offset = self.ring.head"),)),),
        ("and is several",),
    ),
    Mutant(
        6,
        "a turn whose agent failed is not ended",
        (Change(turns, "_fail", (("    live.end(", "    False and live.end("),)),),
        ("it never came to rest",),
    ),
    Mutant(
        6,
        "a turn that ends twice is sealed twice",
        (
            Change(
                conversation,
                "end",
                (
                    ("state.ending or ", ""),
                    ("assert running.phase", "assert True or running.phase"),
                ),
            ),
        ),
        ("in phase sealed",),
    ),
    Mutant(
        6,
        "a turn that a dead daemon left running is left so",
        (
            Change(
                recovery, "_take_over", (("live.apply(rules.end(", "0 and live.apply(rules.end("),)
            ),
        ),
        ("never sealed", "it never came to rest"),
    ),
    Mutant(
        7,
        "a client's id is not looked up",
        (
            Change(
                broker,
                "Broker._repeat",
                (("    found = await", "    return None\n    found = await"),),
            ),
            Change(
                starting, "record_of", (("client_key=admission.client_key", "client_key=None"),)
            ),
        ),
        ("is in the log 2 times", "was accepted twice"),
    ),
    Mutant(
        7,
        "the id of a truncation is not looked up",
        (
            Change(
                rewinding,
                "Rewinding.truncate",
                (("if found is None:", "if True:"),),
            ),
            Change(
                truncation,
                "begin",
                (("client_key=truncation.client_key", "client_key=None"),),
            ),
        ),
        ("was carried out twice", "was carried out at ["),
    ),
    Mutant(
        6,
        "any turn may be resumed",
        (
            Change(
                rewinding,
                "Rewinding.resumed",
                (("check_resumable(turn,", "(lambda *_: None)(turn,"),),
            ),
        ),
        ("went on with",),
    ),
)
