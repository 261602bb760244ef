-- The journal's first schema in PostgreSQL. Applied once, in one transaction, under an advisory
-- lock; the table warmloop_migrations says how far. Times are Unix time in seconds.

-- A conversation, and who may write to it. `fence` only grows: an append that carries an older
-- token is refused. An append holds the row FOR SHARE, so that no lease is granted meanwhile.
CREATE TABLE conversations (
    id         bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text             NOT NULL UNIQUE,
    fence      bigint           NOT NULL DEFAULT 0,
    owner      text             NOT NULL DEFAULT '',
    expires_at double precision NOT NULL DEFAULT 0,
    created_at double precision NOT NULL DEFAULT 0,
    purged     boolean          NOT NULL DEFAULT false
) WITH (fillfactor = 80);  -- room for leases: they change in place

CREATE INDEX conversations_by_age ON conversations (created_at) WHERE NOT purged;

-- The logs. `payload` is one event as JSON text: jsonb cannot hold the character U+0000.
CREATE TABLE events (
    conversation bigint NOT NULL REFERENCES conversations (id),
    seq          bigint NOT NULL,
    payload      text   NOT NULL,
    PRIMARY KEY (conversation, seq)
);

-- Index over the logs: where each response begins, and under which Idempotency-Key it came.
CREATE TABLE responses (
    id              text             PRIMARY KEY,
    conversation    bigint           NOT NULL REFERENCES conversations (id),
    first_seq       bigint           NOT NULL,
    idempotency_key text             UNIQUE,
    finished        boolean          NOT NULL DEFAULT false,
    stored          boolean          NOT NULL DEFAULT true,
    purged          boolean          NOT NULL DEFAULT false,
    wake_at         double precision NOT NULL DEFAULT 0,
    ended_at        double precision NOT NULL DEFAULT 0
);

-- A hundred thousand parked runs must not be looked at to find the one that is due.
CREATE INDEX responses_due ON responses (wake_at, id) WHERE NOT finished;
CREATE INDEX responses_of_conversation ON responses (conversation, first_seq);
CREATE INDEX responses_unstored ON responses (ended_at)
    WHERE NOT stored AND NOT purged AND finished;
