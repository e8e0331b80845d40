"""The timeline of one group: each run of a member ends in one row, each message in one last word.

Neighbours: `groups` has the verbs, `timeline` what both kinds share, `protocol.groups` the frames.
Invariant: a message with n targets makes exactly 1 + n rows, and when the last of them is ended the
group's own end of that message is in the same commit.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

import msgspec

from dispatch.core.commands import Dispatched
from dispatch.core.events import ErrorEvent
from dispatch.core.group import Group, GroupRun, GroupView, decode_group, encode_group
from dispatch.core.identity import TurnId
from dispatch.core.notices import GroupChangedNotice
from dispatch.core.replay import Frame
from dispatch.core.timeline import Changed, RepliesEnded, Results
from dispatch.protocol.groups.frames import frames
from dispatch.protocol.groups.rows import group_object
from dispatch.runtime.live import Live
from dispatch.runtime.pending import Draft, PendingChange
from dispatch.runtime.services import Services
from dispatch.runtime.timeline import Reply, Timeline
from dispatch.storage.port import TurnRecord
from dispatch.storage.timeline import RowRecord, TimelineEvent, TimelineRecord

SESSION_MISSING: Final = ErrorEvent("the member's conversation is gone", "session_missing")

_ENCODER: Final = msgspec.json.Encoder()
_OUTCOMES: Final = {"aborted": "cancelled"}
# What agents call their failures, in the words of groups.
_ERROR_CODES: Final = {
    "timeout": "timeout",
    "interrupted": "interrupted",
    "session_missing": "session_missing",
    "unknown_agent": "spawn_failed",
    "spawn_failed": "spawn_failed",
}


def stream_name(record: TimelineRecord) -> str:
    """The stream of one group."""
    return f"group:{record.key}"


class GroupTimeline(Timeline):
    """See the module. `feed` is its stream, by frame id."""

    def __init__(
        self, services: Services, record: TimelineRecord, *, is_stored: bool, head: int
    ) -> None:
        """`head` is the id of the last frame that was shown."""
        super().__init__(services, record, is_stored=is_stored)
        self.feed = services.feeds.new_stream(head)
        # Of messages with open replies: how the others ended.
        self.ended_replies: dict[int, Counter[str]] = {}
        # Who answers what, as of one draft.
        self._answers: tuple[Draft | None, dict[int, list[Reply]]] = (None, {})
        # Somebody deletes it.
        self.is_ending = False
        # One change of its members at a time.
        self.changing = asyncio.Lock()

    @property
    def group(self) -> Group:
        """What it is beside its rows, as it is on disk."""
        return decode_group(self.record.details)

    @property
    def stream(self) -> str:
        """See `Timeline`."""
        return stream_name(self.record)

    @property
    def is_at_rest(self) -> bool:
        """See `Timeline`."""
        return super().is_at_rest and not self.feed.is_followed

    @property
    def settled_seq(self) -> int:
        """The largest seq up to which every row is over."""
        open_seqs = [r.row.seq for r in self.replies.values() if r.row.seq is not None]
        return min(open_seqs, default=self.record.last_seq + 1) - 1

    def close(self) -> None:
        """See `Timeline`."""
        self.services.feeds.drop(self.feed)

    def group_in(self, draft: Draft) -> Group:
        """What it is beside its rows, once a draft is durable."""
        return decode_group(self.stage(draft).details)

    def change(self, draft: Draft, group: Group) -> None:
        """It is this from now on; who watches is told."""
        record = self.stage(draft)
        record.details = encode_group(group)
        record.title = group.shown_title
        record.updated_at_ms = self.services.clock.now_ms()
        shown = msgspec.Raw(_ENCODER.encode(group_object(self.view_in(draft))))
        self.emit(draft, Changed("updated", shown))
        draft.then.append(self._tell_account)

    def view(self) -> GroupView:
        """The group as its clients see it, of this instant."""
        return self.view_of(self.record, [r for r in self.replies.values() if r.is_kept])

    def view_in(self, draft: Draft) -> GroupView:
        """The group as it will be once a draft is durable."""
        record = self.stage(draft)
        rest = [reply for reply in self.replies.values() if self.is_open_in(draft, reply)]
        return self.view_of(record, rest)

    def view_of(self, record: TimelineRecord, replies: Iterable[Reply]) -> GroupView:
        """A view of a row and of open replies."""
        group = decode_group(record.details)
        pending: dict[int, list[RowRecord]] = {}
        for reply in replies:
            if reply.row.reply_to is not None:
                pending.setdefault(reply.row.reply_to, []).append(reply.row)
        runs = []
        for user_seq in sorted(pending):
            rows = sorted(pending[user_seq], key=lambda row: row.key)
            runs.append(
                GroupRun(
                    user_seq=user_seq,
                    pending=tuple(row.agent for row in rows),
                    started_at_ms=rows[0].created_at_ms,
                )
            )
        return GroupView(
            id=record.id,
            group=group,
            created_at_ms=record.created_at_ms,
            updated_at_ms=record.updated_at_ms,
            last_seq=record.last_seq,
            runs=tuple(runs),
        )

    # -- what is shown -------------------------------------------------------------------------

    def show(self, event: TimelineEvent, row: RowRecord | None) -> None:
        """See `Timeline`."""
        self._publish(frames(self.record.id, event.position, event.payload, row, is_own=True))

    def show_turn(self, position: int, reply: Reply, payload: bytes, delta: str) -> None:
        """See `Timeline`."""
        self._publish(frames(self.record.id, position, payload, reply.row, is_own=False))

    def _publish(self, shown: list[Frame]) -> None:
        if shown:
            self.services.feeds.publish(self.feed, shown)

    # -- scribe.Scribe -------------------------------------------------------------------------

    def check_open(self) -> None:
        """See `scribe.Scribe`: members are ordinary conversations."""

    def accepted(self, draft: Draft, record: TurnRecord) -> None:
        """See `scribe.Scribe`: what comes in directly is not in the timeline."""

    def absorbed(self, draft: Draft, record: TurnRecord) -> None:
        """See `scribe.Scribe`: a text that was steered in directly is no row."""

    def renamed(self, draft: Draft, title: str) -> None:
        """See `scribe.Scribe`: a member's title is not the group's."""

    def ended(self, draft: Draft, turn: TurnId, outcome: str) -> None:
        """See `scribe.Scribe`."""
        reply = self.replies.get(turn)
        if reply is not None:
            self.end(draft, reply, reply.ending or _OUTCOMES.get(outcome, outcome))

    def dropped(self, draft: Draft, turns: Sequence[TurnId], by: Dispatched | None = None) -> None:
        """See `scribe.Scribe`."""
        for turn in turns:
            reply = self.replies.get(turn)
            if reply is not None:
                self.end(draft, reply, reply.ending or "cancelled")

    def deleting(self, live: Live) -> None:
        """See `scribe.Scribe`: what runs there is aborted, and why is what its row says."""
        reply = None if live.current is None else self.replies.get(live.current.id)
        if reply is not None and reply.ending is None and not live.state.ending:
            reply.ending, reply.error = "error", SESSION_MISSING

    def deleted(self, live: Live) -> None:
        """See `scribe.Scribe`: somebody deleted a member's conversation behind the group."""
        for turn, reply in list(self.replies.items()):
            if reply.row.conversation == live.record.id and reply.is_kept:
                self.lose(turn)

    def lose(self, turn: TurnId) -> None:
        """See `Timeline`."""
        reply = self.replies[turn]

        def write(draft: Draft, _offset: int) -> None:
            if self.is_open_in(draft, reply):
                reply.error = SESSION_MISSING
                self.end(draft, reply, "error")

        self.outbox.change(PendingChange(write))

    def end(self, draft: Draft, reply: Reply, outcome: str) -> None:
        """End a reply, and with the last one its message."""
        error = reply.error if outcome in ("error", "interrupted") else None
        if outcome == "error":
            error = error or ErrorEvent("the member failed", "member_failed")
        if error is not None:
            code = _ERROR_CODES.get(error.code or "", "member_failed")
            error = msgspec.structs.replace(error, code=code)
        row = self.end_reply(draft, reply, outcome, error=error)
        reply_to = row.reply_to
        if reply_to is None:
            return
        siblings = self._siblings(draft, reply_to)
        if any(self.is_open_in(draft, sibling) for sibling in siblings):
            draft.then.append(partial(self._count, reply_to, outcome))
            return
        counted = Counter(self.ended_replies.get(reply_to, Counter()))
        counted.update(self.outcome_in(draft, sibling) for sibling in siblings)
        results = Results(**counted)
        self.emit(draft, RepliesEnded(reply_to, results, self.stage(draft).last_seq))
        draft.then.append(partial(self._forget_count, reply_to))

    def _kept(self, record: TimelineRecord) -> None:
        is_new = not self.is_stored
        super()._kept(record)
        self._answers = None, {}
        if is_new:
            self._tell_account()

    def _tell_account(self) -> None:
        """It was made or changed, and that is durable: whoever lists groups is told."""
        notice = GroupChangedNotice(account=self.record.account, view=self.view())
        self.services.feeds.notify(notice)

    def _siblings(self, draft: Draft, reply_to: int) -> list[Reply]:
        """Who was to answer a message when a draft was begun, or the message added to it."""
        known, answers = self._answers
        if known is not draft or reply_to not in answers:
            answers = {}
            for reply in self.replies.values():
                if reply.row.reply_to is not None:
                    answers.setdefault(reply.row.reply_to, []).append(reply)
            self._answers = draft, answers
        return answers[reply_to]

    def outcome_in(self, draft: Draft, reply: Reply) -> str:
        """How a reply ended, in a draft or before."""
        self.stage(draft)
        outcome = self._staged_rows.get(reply.row.key, reply.row).outcome
        assert outcome is not None, "it is over"
        return outcome

    def _count(self, reply_to: int, outcome: str) -> None:
        self.ended_replies.setdefault(reply_to, Counter())[outcome] += 1

    def _forget_count(self, reply_to: int) -> None:
        self.ended_replies.pop(reply_to, None)
