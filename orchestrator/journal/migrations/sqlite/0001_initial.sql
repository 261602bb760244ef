-- The journal's first schema. Applied once, in one transaction; PRAGMA user_version says how far.

-- A conversation, and who may write to it. `fence` only grows: an append that carries an older
-- token is refused. `expires_at` is Unix time in seconds.
CREATE TABLE conversations (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    fence      INTEGER NOT NULL DEFAULT 0,
    owner      TEXT    NOT NULL DEFAULT '',
    expires_at REAL    NOT NULL DEFAULT 0
) STRICT;

-- The logs. `payload` is one event as JSON. Rows lie in the order in which they came, not by
-- conversation: a batch for a thousand conversations then fills few pages instead of touching a
-- thousand, which is six times cheaper. The index makes (conversation, seq) unique and finds them.
CREATE TABLE events (
    conversation INTEGER NOT NULL REFERENCES conversations (id),
    seq          INTEGER NOT NULL,
    payload      TEXT    NOT NULL
) STRICT;

CREATE UNIQUE INDEX events_place ON events (conversation, seq);

-- Index over the logs: where each response begins, and under which Idempotency-Key it came.
CREATE TABLE responses (
    id              TEXT    PRIMARY KEY,
    conversation    INTEGER NOT NULL REFERENCES conversations (id),
    first_seq       INTEGER NOT NULL,
    finished        INTEGER NOT NULL DEFAULT 0,
    idempotency_key TEXT    UNIQUE
) STRICT, WITHOUT ROWID;

-- What a new process must pick up.
CREATE INDEX responses_unfinished ON responses (conversation, first_seq) WHERE finished = 0;
