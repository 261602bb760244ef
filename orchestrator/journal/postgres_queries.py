"""The SQL of the PostgreSQL journal: named, and each with what it is for.

Rows are locked in one order everywhere (by name or id), so that two processes never wait for each
other. Times are Unix time in seconds.
"""

from __future__ import annotations

# -- The writer's. --

# Take or renew leases; a new conversation begins with its first one. $4 is the time, null: the
# database's. Sorted, so that two processes never lock two rows in a different order.
GRANT = """
INSERT INTO conversations AS c (name, owner, fence, expires_at, created_at)
SELECT w.name, w.owner, 1, t.now + w.ttl_s, t.now
FROM unnest($1::text[], $2::text[], $3::float8[]) AS w (name, owner, ttl_s),
     (SELECT coalesce($4::float8, extract(epoch FROM clock_timestamp())) AS now) AS t
ORDER BY w.name
ON CONFLICT (name) DO UPDATE SET
    fence = c.fence + (c.owner <> excluded.owner)::int,
    owner = excluded.owner,
    expires_at = excluded.expires_at
WHERE c.owner IN ('', excluded.owner) OR c.expires_at <= excluded.created_at
RETURNING id, name, fence, expires_at
"""

# Where the logs of newly granted conversations end; nothing in them waits to be woken any more.
ENDS = """
WITH woken AS (
    UPDATE responses SET wake_at = 0
    WHERE conversation = ANY($1::bigint[]) AND NOT finished AND wake_at <> 0
)
SELECT c.id, coalesce(
    (SELECT seq FROM events e WHERE e.conversation = c.id ORDER BY seq DESC LIMIT 1), 0
) AS seq
FROM unnest($1::bigint[]) AS c (id)
"""

# Conversations by name, for what was not granted on this connection's watch.
HEADS = """
SELECT c.id, c.name, c.fence, coalesce(
    (SELECT seq FROM events e WHERE e.conversation = c.id ORDER BY seq DESC LIMIT 1), 0
) AS seq
FROM conversations c WHERE c.name = ANY($1::text[])
"""

# Which of these fences are still the newest; nobody can raise them until we commit.
HOLD = """
SELECT c.id FROM conversations c
JOIN unnest($1::bigint[], $2::bigint[]) AS w (id, fence) ON c.id = w.id AND c.fence = w.fence
ORDER BY c.id FOR SHARE OF c
"""

# Store events of conversations whose fence is held, all in one; returns which those are.
APPEND = f"""
WITH held AS ({HOLD}), stored AS (
    INSERT INTO events (conversation, seq, payload)
    SELECT e.conversation, e.seq, e.payload
    FROM unnest($3::bigint[], $4::bigint[], $5::text[]) AS e (conversation, seq, payload)
    WHERE e.conversation IN (SELECT id FROM held)
)
SELECT id FROM held
"""  # noqa: S608  a query of ours in a query of ours

# Store events of conversations that are known to be held.
ADD_EVENTS = """
INSERT INTO events (conversation, seq, payload)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[])
"""

# Index responses that were accepted; returns those whose id and Idempotency-Key were free.
ADD_RESPONSES = """
INSERT INTO responses (id, conversation, first_seq, idempotency_key, stored)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::boolean[])
ON CONFLICT DO NOTHING RETURNING id
"""

# Who used this Idempotency-Key, or this id.
FIND_USED = """
SELECT r.id, c.name, r.first_seq FROM responses r JOIN conversations c ON c.id = r.conversation
WHERE r.idempotency_key = $1 OR r.id = $2
"""

# Responses that were indexed for an append that is refused after all.
TAKE_BACK = "DELETE FROM responses WHERE id = ANY($1::text[])"

# Responses that ended.
END_RESPONSES = """
UPDATE responses r SET finished = true, ended_at = e.at
FROM unnest($1::text[], $2::float8[]) AS e (id, at) WHERE r.id = e.id
"""

# Leases that are given up, unless somebody else has them; what was written under them is news
# until then. $4 is the time, null: the database's.
RELEASE = """
UPDATE conversations c SET owner = '',
    expires_at = coalesce($4::float8, extract(epoch FROM clock_timestamp()))
FROM unnest($1::text[], $2::bigint[], $3::text[]) AS w (name, fence, owner)
WHERE c.name = w.name AND c.fence = w.fence AND c.owner = w.owner
RETURNING c.id, c.name
"""

# When what is unfinished in these conversations is due.
SET_WAKE = """
UPDATE responses r SET wake_at = w.wake_at
FROM unnest($1::bigint[], $2::float8[]) AS w (conversation, wake_at)
WHERE r.conversation = w.conversation AND NOT r.finished
"""

# What tenants have spent more: events' transaction counts it, too. Sorted, so that two connections
# never wait for each other.
SPEND = """
INSERT INTO spending AS s (
    tenant, ends_at, expires_at, writer, turns, tool_calls, tokens, seconds, cost_usd
)
SELECT * FROM unnest(
    $1::text[], $2::float8[], $3::float8[], $4::text[],
    $5::bigint[], $6::bigint[], $7::bigint[], $8::float8[], $9::float8[]
) AS w (tenant, ends_at, expires_at, writer, turns, tool_calls, tokens, seconds, cost_usd)
ORDER BY w.ends_at, w.tenant
ON CONFLICT (ends_at, tenant, writer) DO UPDATE SET
    turns = s.turns + excluded.turns,
    tool_calls = s.tool_calls + excluded.tool_calls,
    tokens = s.tokens + excluded.tokens,
    seconds = s.seconds + excluded.seconds,
    cost_usd = s.cost_usd + excluded.cost_usd
"""

# What no budget looks at any more.
FORGET_SPENT = "DELETE FROM spending WHERE expires_at <= $1"

# Tombstones in the place of events.
PURGE_EVENTS = """
UPDATE events e SET payload = t.payload
FROM unnest($2::bigint[], $3::text[]) AS t (seq, payload)
WHERE e.conversation = $1 AND e.seq = t.seq
"""

# Responses that are not to be found any more; their ids stay taken.
PURGE_RESPONSES = """
UPDATE responses SET purged = true, idempotency_key = NULL WHERE id = ANY($1::text[])
"""

# A conversation of which nothing is left.
PURGE_CONVERSATION = "UPDATE conversations SET purged = true WHERE id = $1"

# The log after a place, for what is in doubt.
STORED = "SELECT payload FROM events WHERE conversation = $1 AND seq > $2 ORDER BY seq"

# -- The readers'. --

# The log of a conversation after a place.
READ = """
SELECT seq, payload FROM events
WHERE conversation = (SELECT id FROM conversations WHERE name = $1) AND seq > $2 ORDER BY seq
"""

# The newest place of a log; no row when there is none.
LAST = """
SELECT seq FROM events
WHERE conversation = (SELECT id FROM conversations WHERE name = $1) ORDER BY seq DESC LIMIT 1
"""

_REF = "SELECT r.id, c.name, r.first_seq FROM responses r JOIN conversations c"

# A response by its id.
FIND_RESPONSE = f"{_REF} ON c.id = r.conversation WHERE r.id = $1 AND NOT r.purged"

# A response by the Idempotency-Key it came under.
FIND_IDEMPOTENT = f"{_REF} ON c.id = r.conversation WHERE r.idempotency_key = $1"

# What a dead process left behind, and what has waited long enough.
DUE = f"""
{_REF} ON c.id = r.conversation
WHERE NOT r.finished AND NOT r.purged AND r.wake_at <= $1 AND (c.owner = '' OR c.expires_at <= $1)
ORDER BY r.wake_at, r.id LIMIT $2
"""

# When the next one has waited long enough.
NEXT_WAKE = """
SELECT min(wake_at) FROM responses WHERE NOT finished AND NOT purged AND wake_at > $1
"""

# Responses that were not to be stored, some time after their end.
UNSTORED = f"""
{_REF} ON c.id = r.conversation
WHERE NOT r.stored AND NOT r.purged AND r.finished AND r.ended_at <= $1 LIMIT $2
"""

# Conversations without news for longer than they are kept; who writes has a lease, and
# `expires_at` says until when the last one was held.
IDLE = """
SELECT name FROM conversations c
WHERE NOT purged AND created_at <= $1 AND expires_at <= $1 AND NOT EXISTS (
    SELECT 1 FROM responses r
    WHERE r.conversation = c.id AND (NOT r.finished OR r.ended_at > $1)
) ORDER BY created_at LIMIT $2
"""

# Those of these conversations that are there.
PRESENT = "SELECT name FROM conversations WHERE NOT purged AND name = ANY($1::text[])"

# Conversations that asked a person for more than was decided, after one of them.
ASKING = """
SELECT c.name FROM conversations c JOIN (
    SELECT e.conversation AS id FROM events e
    WHERE starts_with(e.payload, '{"type":"approval_')
        AND e.conversation > coalesce((SELECT id FROM conversations WHERE name = $1), 0)
    GROUP BY e.conversation
    HAVING sum(CASE substr(e.payload, 19, 1) WHEN 'r' THEN 1 ELSE -1 END) > 0
    ORDER BY e.conversation LIMIT $2
) AS asking USING (id) ORDER BY c.id
"""

# What tenants have spent in stretches that end after a time, but for what one writer has.
SPENT = """
SELECT tenant, ends_at, sum(turns)::bigint, sum(tool_calls)::bigint, sum(tokens)::bigint,
    sum(seconds), sum(cost_usd)
FROM spending WHERE ends_at > $1 AND writer <> $2 GROUP BY ends_at, tenant
"""

# Tell other processes; one row a note.
NOTIFY = "SELECT pg_notify($1, note) FROM unnest($2::text[]) AS n (note)"
