"""One message on its way into a group: its row, a reply for each target, and their turns.

Neighbours: `groups.sends` makes one, `groups.timeline` ends the replies, `intake` runs the turns.
Invariant: the message, the open replies and the queued turns are one commit; if it is refused
nothing was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from dispatch.core.commands import TurnBody
from dispatch.core.group import Member
from dispatch.core.identity import TurnId
from dispatch.runtime import intake
from dispatch.runtime.admission import encode_body
from dispatch.runtime.conversations import Conversations
from dispatch.runtime.groups.members import Provision
from dispatch.runtime.groups.timeline import SESSION_MISSING, GroupTimeline
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft
from dispatch.runtime.scribes import chronicle_of
from dispatch.runtime.timeline import Reply
from dispatch.storage.port import TurnRecord
from dispatch.storage.timeline import RowRecord


class Target(NamedTuple):
    """One member that is to answer; `live` is None where its conversation is gone."""

    member: Member
    live: Live | None


class Fanout:
    """See the module. `write` may run again; `durable` or `refused` runs once."""

    def __init__(
        self,
        conversations: Conversations,
        timeline: GroupTimeline,
        message: RowRecord,
        replies: Sequence[tuple[Target, Reply]],
        renewal: Provision | None,
    ) -> None:
        """Open the replies; `renewal` has conversations for members that have lost theirs."""
        self._conversations = conversations
        self._timeline = timeline
        self._message = self._written = message
        self._replies = [reply for _, reply in replies]
        self._missing = [reply for target, reply in replies if target.live is None]
        self._lost = {target.member for target, _ in replies if target.live is None}
        self._renewal = renewal
        self._turns = [
            (target.live, _turn(target.live, reply, message.text))
            for target, reply in replies
            if target.live is not None
        ]
        for live, _ in self._turns:
            conversations.hold(live)
        for reply in self._replies:
            timeline.replies[_turn_id(reply)] = reply

    def write(self, draft: Draft, _offset: int) -> None:
        """Add all of it."""
        timeline = self._timeline
        self._written = timeline.add_message(draft, self._message)
        for reply in self._replies:
            reply.row.reply_to = self._written.seq
            timeline.stage_row(draft, reply.row).reply_to = self._written.seq
        for live, turn in self._turns:
            draft.turns.append(turn)
            chronicle = chronicle_of(live.scribe)
            if chronicle is not None:
                chronicle.accepted(draft, turn)
        for reply in self._missing:
            reply.error = SESSION_MISSING
            timeline.end(draft, reply, "error")
        if self._renewal is not None:
            self._renew(draft, self._renewal)

    def durable(self) -> RowRecord:
        """Let the turns run; the message's row as it was written."""
        if self._renewal is not None:
            self._renewal.keep(self._timeline)
        for live, turn in self._turns:
            intake.restore(live, turn)
            live.tell_queue()
            intake.advance(live)
            self._conversations.release(live)
        return self._written

    def refused(self) -> None:
        """It never was."""
        if self._renewal is not None:
            self._renewal.drop()
        for reply in self._replies:
            self._timeline.refused(_turn_id(reply))
        for live, _ in self._turns:
            self._conversations.release(live)

    def _renew(self, draft: Draft, renewal: Provision) -> None:
        """A member whose conversation is gone gets another one for the next message."""
        group = self._timeline.group_in(draft)
        # The message before this one, or a change of the members, may have been first.
        lost = {member.agent for member in group.members if member in self._lost}
        renewal.write(draft, lost)
        if lost:
            members = tuple(
                renewal.members[member.agent] if member.agent in lost else member
                for member in group.members
            )
            self._timeline.change(draft, msgspec.structs.replace(group, members=members))


def _turn_id(reply: Reply) -> TurnId:
    assert reply.row.turn_id is not None, "a reply names its turn"
    return reply.row.turn_id


def _turn(live: Live, reply: Reply, text: str) -> TurnRecord:
    row = reply.row
    assert row.turn is not None, "a reply has a turn"
    return TurnRecord(
        key=row.turn,
        conversation=live.record.key,
        id=_turn_id(reply),
        state="queued",
        ordinal=row.turn,
        user=row.user,
        body=encode_body(TurnBody(message=text, model=row.agent)),
        created_at_ms=row.created_at_ms,
    )
