-- Timelines: groups and chat sessions, their rows, and the log of what happened to them.
--
-- `unread` is kept by every commit that moves it: the ended replies behind the read cursor of the
-- user who made the timeline, so that neither a list nor a sum counts rows.
BEGIN IMMEDIATE;

-- The largest position that pruning took out of the log of a timeline.
ALTER TABLE meta ADD COLUMN pruned_position INTEGER NOT NULL DEFAULT 0;

-- Conversations and timelines share their keys, so one table knows what was read of either.
ALTER TABLE cursor RENAME COLUMN conversation TO subject;

CREATE TABLE timeline (
    key INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('group', 'chat')),
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

-- Also what keeps a deleted timeline's id from being used again.
CREATE UNIQUE INDEX timeline_id ON timeline (account, kind, id);
CREATE UNIQUE INDEX timeline_alias ON timeline (account, alias) WHERE alias IS NOT NULL;
-- The status comes last so that a page of some statuses passes by the others without reading them.
CREATE INDEX timeline_active ON timeline (account, kind, active_at_ms DESC, key DESC, status)
    WHERE status <> 'deleted';
CREATE INDEX timeline_own ON timeline (account, kind, user, active_at_ms DESC, key DESC, status)
    WHERE status <> 'deleted';
CREATE INDEX timeline_unread ON timeline (account, kind, user, unread, status)
    WHERE status = 'active' AND unread > 0;

CREATE TABLE timeline_row (
    key INTEGER PRIMARY KEY,
    timeline INTEGER NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('message', 'reply')),
    seq INTEGER,
    reply_to INTEGER,
    turn INTEGER,
    turn_id TEXT,
    conversation TEXT,
    agent TEXT NOT NULL,
    user TEXT NOT NULL,
    outcome TEXT,
    began_position INTEGER,
    ended_position INTEGER,
    created_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER,
    ended_at_ms INTEGER,
    client_key TEXT,
    digest BLOB NOT NULL,
    details BLOB NOT NULL,
    text TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX timeline_row_seq ON timeline_row (timeline, seq) WHERE seq IS NOT NULL;
CREATE UNIQUE INDEX timeline_row_client_key ON timeline_row (client_key)
    WHERE client_key IS NOT NULL;
CREATE INDEX timeline_row_turn ON timeline_row (turn) WHERE turn IS NOT NULL;
CREATE INDEX timeline_row_turn_id ON timeline_row (timeline, turn_id)
    WHERE role = 'reply' AND turn_id IS NOT NULL;
CREATE INDEX timeline_row_reply_to ON timeline_row (timeline, reply_to)
    WHERE role = 'reply' AND reply_to IS NOT NULL;
CREATE INDEX timeline_row_open ON timeline_row (timeline)
    WHERE role = 'reply' AND outcome IS NULL;
-- What `unread` counts; with every column that the count names, so that it reads no row.
CREATE INDEX timeline_row_ended ON timeline_row (timeline, seq, role, outcome)
    WHERE role = 'reply' AND outcome IS NOT NULL;
-- Whose turns may have events after a position.
CREATE INDEX timeline_row_log ON timeline_row (timeline, ended_position)
    WHERE role = 'reply' AND turn IS NOT NULL;

-- An index ends with the primary key, so these two are in the order of the log.
CREATE TABLE timeline_event (
    position INTEGER PRIMARY KEY,
    timeline INTEGER NOT NULL,
    stream TEXT NOT NULL,
    row INTEGER,
    at_ms INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;

CREATE INDEX timeline_event_stream ON timeline_event (stream);
CREATE INDEX timeline_event_timeline ON timeline_event (timeline);
CREATE INDEX timeline_event_at ON timeline_event (at_ms);

CREATE VIEW timeline_record AS
SELECT
    key, account, kind, id, user, status, title, created_at_ms, updated_at_ms, active_at_ms,
    last_seq, last_position, floor, epoch, alias, details
FROM timeline;

CREATE VIEW timeline_row_record AS
SELECT
    key, timeline, role, seq, reply_to, turn, turn_id, conversation, agent, user, outcome,
    began_position, ended_position, created_at_ms, started_at_ms, ended_at_ms, client_key, digest,
    details, text
FROM timeline_row;

PRAGMA user_version = 2;
COMMIT;
