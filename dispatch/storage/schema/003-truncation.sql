-- Truncations and resumed turns: stretches of seqs that do not count any more, markers in the log,
-- and which turn a turn goes on with.
--
-- A table's checks cannot be changed, so `turn` is made anew; its rows keep their keys.
BEGIN IMMEDIATE;

DROP VIEW conversation_record;
DROP VIEW turn_record;

ALTER TABLE conversation DROP COLUMN truncated_after_seq;
ALTER TABLE conversation ADD COLUMN superseded BLOB NOT NULL DEFAULT x'5b5d';

ALTER TABLE turn RENAME TO turn_before;
DROP INDEX turn_id;
DROP INDEX turn_client_key;
DROP INDEX turn_history;
DROP INDEX turn_unsealed;
DROP INDEX turn_retained;

-- `retained`: it is sealed, or a marker, and the log may still hold events of it.
CREATE TABLE turn (
    key INTEGER PRIMARY KEY,
    conversation INTEGER NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (
        state IN ('queued', 'steering', 'running', 'sealed', 'absorbed', 'cancelled', 'marker')
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
    resumes TEXT,
    client_key TEXT,
    digest BLOB NOT NULL,
    acceptance BLOB NOT NULL,
    metrics BLOB NOT NULL,
    chunks BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;

INSERT INTO turn (
    key, conversation, id, state, ordinal, user, created_at_ms, started_at_ms, sealed_at_ms,
    outcome, first_seq, chunk_count, first_offset, last_offset, retained, client_key, digest,
    acceptance, metrics, chunks, body
)
SELECT
    key, conversation, id, state, ordinal, user, created_at_ms, started_at_ms, sealed_at_ms,
    outcome, first_seq, chunk_count, first_offset, last_offset, retained, client_key, digest,
    acceptance, metrics, chunks, body
FROM turn_before;

DROP TABLE turn_before;

CREATE UNIQUE INDEX turn_id ON turn (conversation, id);
CREATE UNIQUE INDEX turn_client_key ON turn (client_key) WHERE client_key IS NOT NULL;
CREATE INDEX turn_history ON turn (conversation, first_seq) WHERE state = 'sealed';
CREATE INDEX turn_unsealed ON turn (conversation, ordinal)
    WHERE state IN ('queued', 'steering', 'running');
CREATE INDEX turn_retained ON turn (sealed_at_ms) WHERE retained = 1;

CREATE VIEW conversation_record AS
SELECT
    key, account, id, session, workspace, status, title, visibility, user, created_at_ms,
    active_at_ms, last_seq,
    max(
        last_offset,
        coalesce((SELECT max(offset) FROM event WHERE event.conversation = conversation.key), 0)
    ) AS last_offset,
    epoch, last_message, superseded, details
FROM conversation;

CREATE VIEW turn_record AS
SELECT
    key, conversation, id, state, ordinal, user, body, created_at_ms, client_key, digest,
    acceptance, started_at_ms, sealed_at_ms, outcome, first_seq, chunk_count, x'' AS chunks,
    first_offset, last_offset, metrics, resumes
FROM turn;

PRAGMA user_version = 3;
COMMIT;
