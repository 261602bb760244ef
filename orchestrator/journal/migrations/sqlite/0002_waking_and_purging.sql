-- Runs that wait without a process, and content that goes while its tombstone stays.

-- Age counts from this migration on where nothing better is known: nothing is purged for it at once.
ALTER TABLE conversations ADD COLUMN created_at REAL NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN purged INTEGER NOT NULL DEFAULT 0;
UPDATE conversations SET created_at = unixepoch();

-- `wake_at` and `ended_at` are Unix time in seconds. `stored` is 0 for a request with store: false.
ALTER TABLE responses ADD COLUMN wake_at REAL NOT NULL DEFAULT 0;
ALTER TABLE responses ADD COLUMN ended_at REAL NOT NULL DEFAULT 0;
ALTER TABLE responses ADD COLUMN stored INTEGER NOT NULL DEFAULT 1;
ALTER TABLE responses ADD COLUMN purged INTEGER NOT NULL DEFAULT 0;
UPDATE responses SET ended_at = unixepoch() WHERE finished = 1;
UPDATE responses SET stored = 0 WHERE (
    SELECT json_extract(payload, '$.request.store') FROM events e
    WHERE e.conversation = responses.conversation AND e.seq = responses.first_seq
) = 0;

-- A hundred thousand parked runs must not be looked at to find the one that is due.
DROP INDEX responses_unfinished;
CREATE INDEX responses_due ON responses (wake_at, id) WHERE finished = 0;
CREATE INDEX responses_of_conversation ON responses (conversation, first_seq);
CREATE INDEX responses_unstored ON responses (ended_at)
    WHERE stored = 0 AND purged = 0 AND finished = 1;
CREATE INDEX conversations_by_age ON conversations (created_at) WHERE purged = 0;
