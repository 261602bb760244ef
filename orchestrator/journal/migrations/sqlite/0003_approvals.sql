-- Which conversations ask a person, without reading every log: events whose type begins with
-- `approval_` are few, and the type is the first field of each payload.
CREATE INDEX events_approvals ON events (conversation)
    WHERE substr(payload, 1, 18) = '{"type":"approval_';
