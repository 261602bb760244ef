-- What tenants with a budget have spent, by stretches of time: written with the events that spend,
-- and not a sum over them, since what is purged stays spent. `writer` is one life of a process.
-- Times are Unix time in seconds; from `expires_at` on no window reaches back to the stretch.
CREATE TABLE spending (
    ends_at    REAL    NOT NULL,
    tenant     TEXT    NOT NULL,
    writer     TEXT    NOT NULL,
    expires_at REAL    NOT NULL,
    turns      INTEGER NOT NULL,
    tool_calls INTEGER NOT NULL,
    tokens     INTEGER NOT NULL,
    seconds    REAL    NOT NULL,
    cost_usd   REAL    NOT NULL,
    PRIMARY KEY (ends_at, tenant, writer)
) STRICT, WITHOUT ROWID;
