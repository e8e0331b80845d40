-- What AHP keeps beside conversations: sessions, their chats, and the clients it has met.
--
-- A kind is checked in the table, and SQLite changes no check: the table is made anew.
BEGIN IMMEDIATE;

DROP VIEW timeline_record;
ALTER TABLE timeline RENAME TO timeline_before;

CREATE TABLE timeline (
    key INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (
        kind IN ('group', 'chat', 'ahp-session', 'ahp-chat', 'ahp-client')
    ),
    id TEXT NOT NULL,
    user TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'archived', 'deleted')),
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    active_at_ms INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    last_position INTEGER NOT NULL,
    floor INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    unread INTEGER NOT NULL DEFAULT 0,
    alias TEXT,
    title TEXT NOT NULL,
    details BLOB NOT NULL
) STRICT;

INSERT INTO timeline (
    key, account, kind, id, user, status, created_at_ms, updated_at_ms, active_at_ms, last_seq,
    last_position, floor, epoch, unread, alias, title, details
)
SELECT
    key, account, kind, id, user, status, created_at_ms, updated_at_ms, active_at_ms, last_seq,
    last_position, floor, epoch, unread, alias, title, details
FROM timeline_before;
DROP TABLE timeline_before;

-- As they were: they went with the old table.
CREATE UNIQUE INDEX timeline_id ON timeline (account, kind, id);
CREATE UNIQUE INDEX timeline_alias ON timeline (account, alias) WHERE alias IS NOT NULL;
CREATE INDEX timeline_active ON timeline (account, kind, active_at_ms DESC, key DESC, status)
    WHERE status <> 'deleted';
CREATE INDEX timeline_own ON timeline (account, kind, user, active_at_ms DESC, key DESC, status)
    WHERE status <> 'deleted';
CREATE INDEX timeline_unread ON timeline (account, kind, user, unread, status)
    WHERE status = 'active' AND unread > 0;

CREATE VIEW timeline_record AS
SELECT
    key, account, kind, id, user, status, title, created_at_ms, updated_at_ms, active_at_ms,
    last_seq, last_position, floor, epoch, alias, details
FROM timeline;

-- The conversations of a session, which are few.
CREATE INDEX conversation_session ON conversation (account, session) WHERE status <> 'deleted';

PRAGMA user_version = 4;
COMMIT;
