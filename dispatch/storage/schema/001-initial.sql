-- The first schema. One transaction; the runner refuses a script that does not end at its number.
--
-- Wide values come last in a row, so that reading the narrow ones never walks overflow pages.
-- Views are what the adapter reads: their columns are the port's records, in the port's order.
BEGIN IMMEDIATE;

PRAGMA application_id = 0x44535043; -- "DSPC"

-- One row. The two floors are above every position and key that was ever given out and removed
-- again; `backup` is set in copies, `clean` while nobody has the database open.
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    generation TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    next_position INTEGER NOT NULL,
    next_key INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    backup INTEGER NOT NULL CHECK (backup IN (0, 1)),
    clean INTEGER NOT NULL CHECK (clean IN (0, 1))
) STRICT;

CREATE TABLE conversation (
    key INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    id TEXT NOT NULL,
    session TEXT NOT NULL,
    workspace TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'idle', 'closed', 'deleted')),
    visibility TEXT NOT NULL CHECK (visibility IN ('account', 'user')),
    user TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    active_at_ms INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    last_offset INTEGER NOT NULL,
    truncated_after_seq INTEGER,
    epoch INTEGER NOT NULL,
    title TEXT NOT NULL,
    last_message TEXT NOT NULL,
    details BLOB NOT NULL
) STRICT;

-- Also what keeps a deleted conversation's id from being used again.
CREATE UNIQUE INDEX conversation_id ON conversation (account, id);
CREATE INDEX conversation_active ON conversation (account, active_at_ms DESC, key DESC)
    WHERE status <> 'deleted';

-- `retained`: it is sealed and the log may still hold events of it.
CREATE TABLE turn (
    key INTEGER PRIMARY KEY,
    conversation INTEGER NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (
        state IN ('queued', 'steering', 'running', 'sealed', 'absorbed', 'cancelled')
    ),
    ordinal INTEGER NOT NULL,
    user TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER,
    sealed_at_ms INTEGER,
    outcome TEXT,
    first_seq INTEGER,
    chunk_count INTEGER NOT NULL,
    first_offset INTEGER,
    last_offset INTEGER,
    retained INTEGER NOT NULL CHECK (retained IN (0, 1)),
    client_key TEXT,
    digest BLOB NOT NULL,
    acceptance BLOB NOT NULL,
    metrics BLOB NOT NULL,
    chunks BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX turn_id ON turn (conversation, id);
CREATE UNIQUE INDEX turn_client_key ON turn (client_key) WHERE client_key IS NOT NULL;
CREATE INDEX turn_history ON turn (conversation, first_seq) WHERE state = 'sealed';
CREATE INDEX turn_unsealed ON turn (conversation, ordinal)
    WHERE state IN ('queued', 'steering', 'running');
CREATE INDEX turn_retained ON turn (sealed_at_ms) WHERE retained = 1;

-- The log of an account, in the order in which it was shown.
CREATE TABLE event (
    position INTEGER PRIMARY KEY,
    conversation INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX event_offset ON event (conversation, offset);

CREATE TABLE piece (
    turn INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    first_index INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;

-- A table with a rowid and an index, because pieces are far larger than a page.
CREATE UNIQUE INDEX piece_ordinal ON piece (turn, ordinal);

CREATE TABLE cursor (
    conversation INTEGER NOT NULL,
    user TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (conversation, user)
) STRICT, WITHOUT ROWID;

-- A commit of events alone does not touch the conversation's row, so the log may be ahead of it.
CREATE VIEW conversation_record AS
SELECT
    key, account, id, session, workspace, status, title, visibility, user, created_at_ms,
    active_at_ms, last_seq,
    max(
        last_offset,
        coalesce((SELECT max(offset) FROM event WHERE event.conversation = conversation.key), 0)
    ) AS last_offset,
    truncated_after_seq, epoch, last_message, details
FROM conversation;

CREATE VIEW turn_record AS
SELECT
    key, conversation, id, state, ordinal, user, body, created_at_ms, client_key, digest,
    acceptance, started_at_ms, sealed_at_ms, outcome, first_seq, chunk_count, x'' AS chunks,
    first_offset, last_offset, metrics
FROM turn;

PRAGMA user_version = 1;
COMMIT;
