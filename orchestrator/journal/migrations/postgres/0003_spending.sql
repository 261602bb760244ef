-- What tenants with a budget have spent, by stretches of time: written with the events that spend,
-- and not a sum over them, since what is purged stays spent. `writer` is one life of a process: two
-- processes then never wait for each other's rows. Times are Unix time in seconds; from `expires_at`
-- on no window reaches back to the stretch.
CREATE TABLE spending (
    ends_at    double precision NOT NULL,
    tenant     text             NOT NULL,
    writer     text             NOT NULL,
    expires_at double precision NOT NULL,
    turns      bigint           NOT NULL,
    tool_calls bigint           NOT NULL,
    tokens     bigint           NOT NULL,
    seconds    double precision NOT NULL,
    cost_usd   double precision NOT NULL,
    PRIMARY KEY (ends_at, tenant, writer)
) WITH (fillfactor = 50);  -- rows change in place, with each step of their tenant
