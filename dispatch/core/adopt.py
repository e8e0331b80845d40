"""Conversations that were apart, as one timeline: each prompt once, its answers under it.

Neighbours: `runtime.groups` reads the conversations and writes the rows. Source:
`protocol/groups.md`, adopt. Every conversation holds its own copy of a prompt, and copies are
stamped late, so prompts are aligned by order and text (longest common subsequence), not by time.
Invariant: every turn given is in the result exactly once, a conversation's turns keep their order,
and the result depends on the members' order and the turns alone.

Bounds: one alignment keeps about 2 * sqrt(n) numbers of m bits and takes n operations on such
numbers twice, n and m being the prompts of the merge and of the child that occur in the other too.
Two conversations of 5,000 turns need some 100 kB and tens of milliseconds.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import isqrt

import msgspec

from dispatch.core.identity import TurnId


class ChildTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn of one conversation: the prompt and what was answered; times in epoch ms."""

    turn: TurnId
    prompt: str
    prompt_at_ms: int
    reply: str
    reply_at_ms: int
    outcome: str = "completed"
    ended_at_ms: int | None = None


class MergedReply(msgspec.Struct, frozen=True):
    """One agent's turn under a prompt."""

    agent: str
    turn: ChildTurn


class MergedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt of the merged timeline and its replies in order.

    The text is the first member's copy, `at_ms` the earliest of all; `targets` names the agents
    that have it, in member order, where those are not all.
    """

    text: str
    at_ms: int
    targets: tuple[str, ...] | None
    replies: tuple[MergedReply, ...]


class _Prompt:
    """A prompt while it is merged: what is compared, the earliest time, the turns by member."""

    __slots__ = ("at_ms", "key", "replies")

    def __init__(self, agent: str, turn: ChildTurn) -> None:
        self.key = unicodedata.normalize("NFC", turn.prompt).strip()
        self.at_ms = turn.prompt_at_ms
        self.replies = [MergedReply(agent, turn)]


def adopt(
    members: Sequence[str], children: Mapping[str, Sequence[ChildTurn]]
) -> list[MergedPrompt]:
    """The merged timeline of each member's turns; `members` are distinct and in order."""
    merged: list[_Prompt] = []
    for agent in members:
        child = [_Prompt(agent, turn) for turn in children.get(agent, ())]
        merged = _joined(merged, child)
    return [_shown(prompt, len(members)) for prompt in merged]


def _shown(prompt: _Prompt, members_count: int) -> MergedPrompt:
    # Members joined in their order, and sorting keeps it among equal times.
    targets = tuple(reply.agent for reply in prompt.replies)
    return MergedPrompt(
        text=prompt.replies[0].turn.prompt,
        at_ms=prompt.at_ms,
        targets=None if len(targets) == members_count else targets,
        replies=tuple(sorted(prompt.replies, key=lambda reply: reply.turn.reply_at_ms)),
    )


def _joined(merged: list[_Prompt], child: list[_Prompt]) -> list[_Prompt]:
    """The merge with one more conversation: anchors folded, the rest between them by time."""
    joined: list[_Prompt] = []
    done, taken = 0, 0
    anchors = alignment([prompt.key for prompt in merged], [prompt.key for prompt in child])
    for at, of in anchors:
        joined += _by_time(merged[done:at], child[taken:of])
        anchor, copy = merged[at], child[of]
        anchor.at_ms = min(anchor.at_ms, copy.at_ms)
        anchor.replies += copy.replies
        joined.append(anchor)
        done, taken = at + 1, of + 1
    return joined + _by_time(merged[done:], child[taken:])


def _by_time(merged: list[_Prompt], child: list[_Prompt]) -> list[_Prompt]:
    """Both in their own order, the earlier head first, the merge's where they are equal."""
    joined: list[_Prompt] = []
    taken = 0
    for prompt in merged:
        while taken < len(child) and child[taken].at_ms < prompt.at_ms:
            joined.append(child[taken])
            taken += 1
        joined.append(prompt)
    return joined + child[taken:]


def alignment(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """The longest common subsequence as pairs of indices.

    Among the longest the one that matches earliest: whose pairs, in order, are the smallest, by the
    left index first.
    """
    common = set(left) & set(right)
    lefts = [index for index, key in enumerate(left) if key in common]
    rights = [index for index, key in enumerate(right) if key in common]
    places: dict[str, list[int]] = {}
    for place, index in enumerate(rights):
        places.setdefault(right[index], []).append(place)
    pairs: list[tuple[int, int]] = []
    place = 0
    suffixes = _Suffixes([left[index] for index in lefts], places, len(rights))
    missing = suffixes.length(0, 0)
    for row, index in enumerate(lefts):
        if not missing:
            break
        # If this prompt can be matched at all, its nearest occurrence leaves the most behind it.
        of_key = places[left[index]]
        nearest = bisect_left(of_key, place)
        if nearest == len(of_key):
            continue
        if 1 + suffixes.length(row + 1, of_key[nearest] + 1) == missing:
            pairs.append((index, rights[of_key[nearest]]))
            place = of_key[nearest] + 1
            missing -= 1
    return pairs


class _Suffixes:
    """How long the common subsequences of all pairs of suffixes are, by Hyyrö's bit vectors.

    A row is one number: bit p stands for the p-th item of `right` from its end, and is clear where
    the length grows. Every so many rows one is kept; those of one stretch are computed again.
    """

    def __init__(self, left: list[str], places: dict[str, list[int]], width: int) -> None:
        self._left = left
        self._width = width
        self._full = (1 << width) - 1
        self._masks = {
            key: sum(1 << (width - 1 - place) for place in of_key) for key, of_key in places.items()
        }
        self._stretch = isqrt(len(left)) + 1
        self._kept = {len(left): self._full}
        self._rows: dict[int, int] = {}
        row = self._full
        for index in range(len(left) - 1, -1, -1):
            row = self._before(index, row)
            if index % self._stretch == 0:
                self._kept[index] = row

    def length(self, start: int, right_start: int) -> int:
        """That of `left[start:]` and `right[right_start:]`."""
        width = self._width - right_start
        row = self._row(start)
        return width - (row & ((1 << width) - 1)).bit_count()

    def _row(self, start: int) -> int:
        if start in self._kept:
            return self._kept[start]
        if start not in self._rows:
            end = min((start // self._stretch + 1) * self._stretch, len(self._left))
            row = self._kept[end]
            self._rows = {}
            for index in range(end - 1, start - start % self._stretch, -1):
                row = self._before(index, row)
                self._rows[index] = row
        return self._rows[start]

    def _before(self, index: int, row: int) -> int:
        """The row of the suffix that has one item more."""
        grown = row & self._masks[self._left[index]]
        return ((row + grown) | (row - grown)) & self._full
