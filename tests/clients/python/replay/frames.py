"""Holds a list of expected frames against frames as they come.

An answer's text may come in any number of pieces, and the members of a group do not wait for
each other: both are undone here, one frame at a time.

Neighbours: `compare` compares one frame; `transcript` says which come from where.
Invariant: a frame that is not expected is found when it comes, not at the end.
"""

import copy
import json

from replay.compare import Mismatch

# Their value in a piece that is not the last of its run is nobody's business.
NUMBERS = ("position", "id", "frameId")


def payload(frame):
    for key in ("event", "data"):
        if isinstance(frame.get(key), dict):
            return frame[key]
    return frame


def text_key(frame):
    """The field of a piece's text, or None where the frame is no piece."""
    inner = payload(frame)
    if inner.get("type") in ("text-delta", "reasoning-delta"):
        return "delta"
    if inner.get("kind") == "assistant_chunk":
        return "text"
    return None


def kind(frame):
    inner = payload(frame)
    return inner.get("type"), inner.get("kind")


class Lane:
    """The frames of one member, or of none, in their order."""

    def __init__(self):
        self.expected = []
        self.joined = ""

    def take(self, frame, names):
        wanted = self.expected[0]
        key = text_key(wanted)
        if key is None or text_key(frame) is None or kind(wanted) != kind(frame):
            names.match(wanted, frame)
            self.expected.pop(0)
            return
        whole = payload(wanted)[key]
        self.joined += payload(frame)[key]
        if not whole.startswith(self.joined):
            raise Mismatch(f"text {self.joined!r} is no beginning of {whole!r}")
        # Compared as if it had the whole text, which the last piece has.
        frame = copy.deepcopy(frame)
        payload(frame)[key] = whole
        if self.joined != whole:
            names.match({k: v for k, v in wanted.items() if k not in NUMBERS}, frame)
            return
        names.match(wanted, frame)
        self.expected.pop(0)
        self.joined = ""


class Expected:
    """What has to come; `take` raises Mismatch for a frame that should not."""

    def __init__(self, frames, names):
        self.names = names
        self.lanes = {}
        for frame in frames:
            member = payload(frame).get("familiarId")
            self.lanes.setdefault(member, Lane()).expected.append(frame)

    @property
    def complete(self):
        return not any(lane.expected for lane in self.lanes.values())

    def take(self, frame):
        lane = self.lanes.get(payload(frame).get("familiarId"))
        if lane is None or not lane.expected:
            raise Mismatch(f"not expected: {json.dumps(frame)[:300]}")
        try:
            lane.take(frame, self.names)
        except Mismatch as wrong:
            raise Mismatch(
                f"{wrong}\n    came     {json.dumps(frame)[:400]}"
                f"\n    expected {json.dumps(lane.expected[0])[:400]}"
            ) from None

    def missing(self):
        return [frame for lane in self.lanes.values() for frame in lane.expected]
