"""What `check` verifies of timelines: groups, chat sessions, their rows and their log.

Neighbours: `check` runs this beside its own rules, in the same snapshot; `schema/` has the tables.
Invariant: an empty answer means that each rule below was looked at and holds.

Seqs count from 1 without a gap up to what the timeline says; rows and log belong to a timeline that
is there; an ended reply has its place and its positions, an open one a turn that waits or runs;
each message's end says as many outcomes as it has replies; `unread` is what a recount says; no
position is in two logs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final


def timeline_findings(connection: sqlite3.Connection) -> Iterator[str]:
    """What is wrong with timelines, a sentence each."""
    for sentence, statement in RULES:
        for row in connection.execute(statement):
            yield sentence.format(*row)


RULES: Final = (
    (
        "{0} {1} has {2} rows with a seq up to {3}, and says that its last seq is {4}",
        """
        SELECT t.kind, t.id, count(r.seq), coalesce(max(r.seq), 0), t.last_seq
        FROM timeline AS t LEFT JOIN timeline_row AS r ON r.timeline = t.key
        WHERE t.status <> 'deleted'
        GROUP BY t.key
        HAVING count(r.seq) <> t.last_seq OR coalesce(max(r.seq), 0) <> t.last_seq
            OR coalesce(min(r.seq), 1) <> 1
        """,
    ),
    (
        "row number {0} belongs to a timeline that is not there",
        """
        SELECT key FROM timeline_row
        WHERE NOT EXISTS (
            SELECT 1 FROM timeline
            WHERE timeline.key = timeline_row.timeline AND status <> 'deleted'
        )
        """,
    ),
    (
        "row number {0} of {1} is over, and lacks its seq or its positions",
        """
        SELECT r.key, t.id FROM timeline_row AS r JOIN timeline AS t ON t.key = r.timeline
        WHERE r.outcome IS NOT NULL AND (
            r.seq IS NULL OR r.began_position IS NULL OR r.ended_position IS NULL
            OR r.began_position > r.ended_position
        )
        """,
    ),
    (
        "row number {0} of {1} answers row {2}, which is no message before it",
        """
        SELECT r.key, t.id, r.reply_to
        FROM timeline_row AS r JOIN timeline AS t ON t.key = r.timeline
        WHERE r.role = 'reply' AND r.reply_to IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM timeline_row AS m
            WHERE m.timeline = r.timeline AND m.seq = r.reply_to AND m.role = 'message'
                AND (r.seq IS NULL OR m.seq < r.seq)
        )
        """,
    ),
    (
        "row number {0} of {1} waits for turn {2}, which neither waits nor runs",
        """
        SELECT r.key, t.id, r.turn_id
        FROM timeline_row AS r JOIN timeline AS t ON t.key = r.timeline
        WHERE r.role = 'reply' AND r.outcome IS NULL
            AND EXISTS (SELECT 1 FROM turn WHERE turn.key = r.turn)
            AND NOT EXISTS (
                SELECT 1 FROM turn
                WHERE turn.key = r.turn AND turn.state IN ('queued', 'steering', 'running')
            )
        """,
    ),
    (
        "the event at position {0} tells of a timeline that never was",
        """
        SELECT position FROM timeline_event
        WHERE NOT EXISTS (SELECT 1 FROM timeline WHERE timeline.key = timeline_event.timeline)
        """,
    ),
    (
        "the event at position {0} of {1} is behind its last position {2}",
        """
        SELECT e.position, t.id, t.last_position
        FROM timeline_event AS e JOIN timeline AS t ON t.key = e.timeline
        WHERE e.position > t.last_position
        """,
    ),
    (
        "position {0} is in the log of a conversation and in that of a timeline",
        "SELECT position FROM timeline_event JOIN event USING (position)",
    ),
    (
        "message {1} of {0} ended with {2} outcomes, and has {3} replies",
        """
        SELECT t.id, CAST(e.payload AS TEXT) ->> 'replyTo',
            (SELECT sum(value) FROM json_each(CAST(e.payload AS TEXT), '$.results')) AS outcomes,
            (
                SELECT count(*) FROM timeline_row AS r
                WHERE r.timeline = t.key AND r.role = 'reply'
                    AND r.reply_to = CAST(e.payload AS TEXT) ->> 'replyTo' AND r.outcome IS NOT NULL
            ) AS replies
        FROM timeline_event AS e JOIN timeline AS t ON t.key = e.timeline
        WHERE t.status <> 'deleted' AND CAST(e.payload AS TEXT) ->> 'type' = 'all-ended'
            AND outcomes <> replies
        """,
    ),
    (
        "{0} {1} says that {2} replies are unread, and a recount {3}",
        """
        SELECT t.kind, t.id, t.unread, count(r.key) AS recounted
        FROM timeline AS t
            LEFT JOIN cursor AS c ON c.subject = t.key AND c.user = t.user
            LEFT JOIN timeline_row AS r ON r.timeline = t.key AND r.role = 'reply'
                AND r.outcome IS NOT NULL AND r.seq > coalesce(c.seq, 0)
        WHERE t.status <> 'deleted'
        GROUP BY t.key
        HAVING t.unread <> recounted
        """,
    ),
)
