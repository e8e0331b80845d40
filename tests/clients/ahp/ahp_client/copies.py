"""A copy of one channel: what the host confirmed, and what this client did that has no echo yet.

Neighbours: `folding` folds, `client` brings what comes and sends what is done.
Invariant: what is confirmed follows from the snapshot and the envelopes alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.clients.ahp.ahp_client.folding import folded, kind_of
from tests.clients.ahp.ahp_client.words import Json, Moment, Number


class Pending(NamedTuple):
    """An action that was shown before the host had it."""

    client_seq: int
    action: Json


class Diverged(AssertionError):
    """What was folded is not what the host says."""


class Copy:
    """One channel's state, folded."""

    def __init__(self, uri: str, version: Number, client_id: str) -> None:
        self.uri = uri
        self.version = version
        self.client_id = client_id
        self.confirmed: Json = {}
        self.server_seq = 0
        self.pending: list[Pending] = []
        self.envelopes: list[Json] = []
        self.rejections: list[Json] = []

    @property
    def shown(self) -> Json:
        """The confirmed state with what is pending on top."""
        state = self.confirmed
        for one in self.pending:
            state = self._folded(state, one.action)
        return state

    def begin(self, snapshot: Json) -> None:
        """Take over a snapshot; what is pending goes on top of it."""
        assert snapshot["resource"] == self.uri
        self.confirmed = snapshot["state"]
        self.server_seq = snapshot["fromSeq"]

    def receive(self, envelope: Json) -> None:
        """Fold what came; an echo of one's own settles what was pending."""
        assert envelope["channel"] == self.uri
        if envelope["serverSeq"] < self.server_seq:
            raise Diverged(f"backwards from {self.server_seq}: {envelope}")
        self.server_seq = envelope["serverSeq"]
        self.envelopes.append(envelope)
        origin = envelope.get("origin")
        if origin is not None and origin["clientId"] == self.client_id:
            self._settle(origin["clientSeq"])
        if "rejectionReason" in envelope:
            self.rejections.append(envelope)
            return
        self.confirmed = self._folded(self.confirmed, envelope["action"])

    def compare(self, snapshot: Json) -> None:
        """Raise `Diverged` where a snapshot of this moment is not what was folded."""
        ours, theirs = self.comparable(self.confirmed), self.comparable(snapshot["state"])
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                raise Diverged(
                    f"{self.uri} {self.version} {name}: folded {ours.get(name)!r}, "
                    f"the host says {theirs.get(name)!r} at {snapshot['fromSeq']}"
                )

    def comparable(self, state: Json) -> Json:
        """Without what a client of this version reads from its own clock."""
        is_timed = self.version >= (0, 9, 0) or kind_of(state) != "chat"
        return {name: one for name, one in state.items() if is_timed or name != "modifiedAt"}

    def actions(self, kind: str) -> list[Json]:
        """What happened of one type, in order."""
        return [
            one["action"]
            for one in self.envelopes
            if one["action"]["type"] == kind and "rejectionReason" not in one
        ]

    def text(self, turn_id: str) -> str:
        """The answer's text of a turn, running or over."""
        turns = [*self.confirmed["turns"], self.confirmed.get("activeTurn") or {}]
        parts: list[Any] = [t["responseParts"] for t in turns if t.get("id") == turn_id]
        return "".join(p["content"] for some in parts for p in some if p["kind"] == "markdown")

    def _settle(self, client_seq: int) -> None:
        settled = [one for one in self.pending if one.client_seq == client_seq]
        if settled and self.pending[0] is not settled[0]:
            raise Diverged(f"{settled[0]} was settled before {self.pending[0]}")
        self.pending = [one for one in self.pending if one.client_seq != client_seq]

    def _folded(self, state: Json, action: Json) -> Json:
        now = state.get("modifiedAt", "")
        return folded(kind_of(state), state, action, Moment(self.version, now))
