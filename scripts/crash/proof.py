"""What was proven: counted from what the devices showed, against the log and the history.

Neighbours: `cast.Device` has what was shown; the log is read anew by a third reader, the history
over HTTP, both from the daemon that came after the crash.
Invariant: it holds only if every single check does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import chain, pairwise

import anyio
import msgspec

from dispatch.client import Client, HttpApi
from dispatch.client.dial import Address
from dispatch.client.frames import encode_item
from dispatch.core.content import Text
from scripts.crash.cast import CONVERSATION, GUARD_SECONDS, Device, Shown


@dataclass(frozen=True, slots=True)
class Proof:
    """`checks`: a sentence each, and whether it is so; `figures`: what was counted, how much."""

    checks: tuple[tuple[str, bool], ...]
    figures: tuple[tuple[str, str], ...]

    @property
    def holds(self) -> bool:
        """Whether all of it was proven."""
        return all(is_so for _, is_so in self.checks)


@dataclass(frozen=True, slots=True)
class Difference:
    """What one sequence lacks of the log (`lost`) and has beyond it (`doubled`), in atoms."""

    lost: int
    doubled: int

    @classmethod
    def between(cls, seen: Sequence[Shown], log: Sequence[Shown]) -> Difference:
        """Of what a reader saw and what there was."""
        ours, theirs = _atoms(seen), _atoms(log)
        blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
        alike = sum(block.size for block in blocks)
        return cls(len(theirs) - alike, len(ours) - alike)


def _atoms(events: Sequence[Shown]) -> list[tuple[str, str, str]]:
    return list(chain.from_iterable(event.atoms() for event in events))


async def log_of(url: str, generation: str, turns: int) -> list[Shown]:
    """What a reader who comes now is shown of the whole log, up to the last seal."""
    found: list[Shown] = []
    async with Client(url) as client:
        with anyio.fail_after(GUARD_SECONDS):
            async for item in client.follow(CONVERSATION, after=f"{generation}:0"):
                if shown := Shown.read(msgspec.json.decode(encode_item(item))):
                    found.append(shown)
                    turns -= shown.kind == "turn-sealed"
                    if not turns:
                        break
    return found


async def kept_answers(url: str) -> list[str]:
    """What the history has of the agent's text, an item a turn."""
    page = await HttpApi(Address.parse(url)).history(CONVERSATION)
    chunks = [line.chunk for line in page.chunks if line.role == "assistant"]
    return [chunk.text for chunk in chunks if isinstance(chunk, Text)]


async def prove(
    url: str, devices: Sequence[Device], shown_before: Sequence[Sequence[Shown]], second: str
) -> Proof:
    """Hold what every device showed against the log and the history.

    `shown_before`: what each had shown at the kill; `second`: the queued message, which the echo
    says back word for word.
    """
    log = await log_of(url, devices[0].generation, len(devices[0].sealed))
    answers = await kept_answers(url)
    atoms = _atoms(log)
    before = [_atoms(shown) for shown in shown_before]
    taken_back = sum(seen != atoms[: len(seen)] for seen in before)
    differences = [Difference.between(device.shown, log) for device in devices]
    lost = sum(difference.lost for difference in differences)
    doubled = sum(difference.doubled for difference in differences)
    checks = (
        ("nothing that a device had shown was taken back", taken_back == 0),
        ("nothing was lost, and nothing came twice", lost == doubled == 0),
        ("every device saw the log, in its order", all(_atoms(d.shown) == atoms for d in devices)),
        ("no position came twice", all(_is_rising(device.shown) for device in devices)),
        ("nobody was given a snapshot instead", not any(d.gaps_total for d in devices)),
        ("every device reconnected by itself", all(d.reconnects_total for d in devices)),
        (
            "their texts are identical, and are the history",
            all(list(d.texts.values()) == answers for d in devices),
        ),
        (
            "the broken turn ended once, as interrupted",
            all(list(d.reasons.values()) == ["interrupted", "stop"] for d in devices)
            and all(len(d.sealed) == 2 for d in devices),
        ),
        ("the queued message ran once, after the crash", answers[1:] == [second]),
    )
    figures = (
        ("characters and other events in the log", f"{len(atoms)}"),
        ("shown before the kill", " and ".join(str(len(seen)) for seen in before)),
        ("shown in the end", " and ".join(str(len(_atoms(d.shown))) for d in devices)),
        ("lost", str(lost)),
        ("doubled", str(doubled)),
    )
    return Proof(checks, figures)


def _is_rising(events: Sequence[Shown]) -> bool:
    return all(one.offset < other.offset for one, other in pairwise(events))
