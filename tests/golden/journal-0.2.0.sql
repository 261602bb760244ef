BEGIN TRANSACTION;
CREATE TABLE conversations (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    fence      INTEGER NOT NULL DEFAULT 0,
    owner      TEXT    NOT NULL DEFAULT '',
    expires_at REAL    NOT NULL DEFAULT 0
, created_at REAL NOT NULL DEFAULT 0, purged INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO "conversations" VALUES(1,'finished',1,'',0.0,1.79584327095862913135e+09,0);
INSERT INTO "conversations" VALUES(2,'limited',1,'',0.0,1.79584327097921419148e+09,0);
INSERT INTO "conversations" VALUES(3,'open',1,'',0.0,1.79584327098413014411e+09,0);
INSERT INTO "conversations" VALUES(4,'decided',1,'',0.0,1.79584327098637366298e+09,0);
CREATE TABLE events (
    conversation INTEGER NOT NULL REFERENCES conversations (id),
    seq          INTEGER NOT NULL,
    payload      TEXT    NOT NULL
) STRICT;
INSERT INTO "events" VALUES(1,1,'{"type":"conversation_started","agent":"desk@2","at":100.0,"tenant":"acme","metadata":{"who":"me"}}');
INSERT INTO "events" VALUES(1,2,'{"type":"response_accepted","response_id":"resp_1","at":101.0,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"héllo"}]}],"request":{"model":"desk"},"idempotency_key":"key-1","tenant":"acme"}');
INSERT INTO "events" VALUES(1,3,'{"type":"model_intent","step":1,"attempt":1,"at":101.0,"turn_type":"tool-call","prompt_sha256":"abababababababababababababababababababababababababababababababab"}');
INSERT INTO "events" VALUES(1,4,'{"type":"model_routed","step":1,"attempt":1,"model":"big","replica":"big-0","reason":"home","predicted_cached_tokens":64}');
INSERT INTO "events" VALUES(1,5,'{"type":"output_delta","step":1,"attempt":1,"kind":"text","text":"let me"}');
INSERT INTO "events" VALUES(1,6,'{"type":"model_failed","step":1,"attempt":1,"at":102.0,"error":"the process ended","code":"superseded","retry":true,"superseded":true,"wasted_tokens":12}');
INSERT INTO "events" VALUES(1,7,'{"type":"model_intent","step":1,"attempt":2,"at":103.0,"turn_type":"tool-call","prompt_sha256":"abababababababababababababababababababababababababababababababab"}');
INSERT INTO "events" VALUES(1,8,'{"type":"output_delta","step":1,"attempt":2,"kind":"call","text":"{\"n\"","call_id":"call_1_0","name":"look"}');
INSERT INTO "events" VALUES(1,9,'{"type":"output_delta","step":1,"attempt":2,"kind":"arguments","text":": 0}","call_id":"call_1_0"}');
INSERT INTO "events" VALUES(1,10,'{"type":"model_result","step":1,"attempt":2,"at":104.0,"text":"let me look","calls":[{"call_id":"call_1_0","name":"look","arguments":"{\"n\": 0}"},{"call_id":"call_1_1","name":"look","arguments":"{\"n\": 1}"},{"call_id":"call_1_2","name":"look","arguments":"{\"n\": 2}"},{"call_id":"call_1_3","name":"look","arguments":"{\"n\": 3}"}],"finish_reason":"tool_calls","prompt_tokens":90,"cached_tokens":64,"output_tokens":20,"cost_usd":0.5,"uncached_cost_usd":0.9,"seconds":1.0}');
INSERT INTO "events" VALUES(1,11,'{"type":"tool_intent","step":1,"call_id":"call_1_0","key":"c:1:call_1_0","at":104.0}');
INSERT INTO "events" VALUES(1,12,'{"type":"tool_intent","step":1,"call_id":"call_1_1","key":"c:1:call_1_1","at":104.0}');
INSERT INTO "events" VALUES(1,13,'{"type":"tool_intent","step":1,"call_id":"call_1_2","key":"c:1:call_1_2","at":104.0}');
INSERT INTO "events" VALUES(1,14,'{"type":"tool_intent","step":1,"call_id":"call_1_3","key":"c:1:call_1_3","at":104.0}');
INSERT INTO "events" VALUES(1,15,'{"type":"tool_result","step":1,"call_id":"call_1_0","at":105.0,"output":"result 0","seconds":0.25}');
INSERT INTO "events" VALUES(1,16,'{"type":"tool_result","step":1,"call_id":"call_1_1","at":104.0,"output":"result 1","outcome":"error","seconds":0.25}');
INSERT INTO "events" VALUES(1,17,'{"type":"tool_result","step":1,"call_id":"call_1_2","at":103.0,"output":"result 2","outcome":"timeout","seconds":0.25}');
INSERT INTO "events" VALUES(1,18,'{"type":"tool_result","step":1,"call_id":"call_1_3","at":102.0,"output":"result 3","outcome":"outcome_unknown","seconds":0.25}');
INSERT INTO "events" VALUES(1,19,'{"type":"model_intent","step":2,"attempt":1,"at":106.0}');
INSERT INTO "events" VALUES(1,20,'{"type":"model_result","step":2,"attempt":1,"at":107.0,"text":"done","prompt_tokens":150,"cached_tokens":128,"output_tokens":5}');
INSERT INTO "events" VALUES(1,21,'{"type":"response_finished","response_id":"resp_1","at":107.0,"status":"completed"}');
INSERT INTO "events" VALUES(1,22,'{"type":"response_accepted","response_id":"resp_2","at":108.0,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"and?"}]}],"request":{"instructions":"Brief."},"previous_response_id":"resp_1"}');
INSERT INTO "events" VALUES(1,23,'{"type":"model_intent","step":3,"attempt":1,"at":108.0,"turn_type":"finalise"}');
INSERT INTO "events" VALUES(1,24,'{"type":"model_result","step":3,"attempt":1,"at":109.0,"text":"the end","calls":[{"call_id":"call_3_0","name":"reply","arguments":"{\"text\": \"the end\"}"}],"finish_reason":"tool_calls","prompt_tokens":170,"cached_tokens":160,"output_tokens":8}');
INSERT INTO "events" VALUES(1,25,'{"type":"response_finished","response_id":"resp_2","at":109.0,"status":"completed"}');
INSERT INTO "events" VALUES(2,1,'{"type":"conversation_started","agent":"big","at":200.0}');
INSERT INTO "events" VALUES(2,2,'{"type":"history_imported","source":"finished","response_id":"resp_1","items":[{"type":"message","role":"user","content":[{"type":"input_text","text":"héllo"}]}]}');
INSERT INTO "events" VALUES(2,3,'{"type":"response_accepted","response_id":"resp_3","at":201.0,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"go"}]}],"request":{"max_output_tokens":5}}');
INSERT INTO "events" VALUES(2,4,'{"type":"model_intent","step":1,"attempt":1,"at":201.0}');
INSERT INTO "events" VALUES(2,5,'{"type":"model_failed","step":1,"attempt":1,"at":202.0,"error":"no engine","code":"engine_unavailable","retry":true}');
INSERT INTO "events" VALUES(2,6,'{"type":"limit_reached","kind":"seconds","value":60.5,"limit":60.0,"at":262.0}');
INSERT INTO "events" VALUES(2,7,'{"type":"response_finished","response_id":"resp_3","at":262.0,"status":"incomplete","code":"max_seconds","message":"out of time"}');
INSERT INTO "events" VALUES(2,8,'{"type":"response_accepted","response_id":"resp_4","at":300.0,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"again"}]}],"request":{"tools":[{"type":"function","name":"ask_client","parameters":{"type":"object"}}]}}');
INSERT INTO "events" VALUES(2,9,'{"type":"model_intent","step":2,"attempt":1,"at":300.0}');
INSERT INTO "events" VALUES(2,10,'{"type":"model_result","step":2,"attempt":1,"at":301.0,"calls":[{"call_id":"call_2_0","name":"ask_client","arguments":"{}"}],"finish_reason":"tool_calls","prompt_tokens":10,"output_tokens":4}');
INSERT INTO "events" VALUES(2,11,'{"type":"cancel_requested","response_id":"resp_4","at":302.0}');
INSERT INTO "events" VALUES(2,12,'{"type":"response_finished","response_id":"resp_4","at":302.0,"status":"cancelled"}');
INSERT INTO "events" VALUES(3,1,'{"type":"conversation_started","agent":"desk@2","at":400.0}');
INSERT INTO "events" VALUES(3,2,'{"type":"response_accepted","response_id":"resp_5","at":401.0,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"héllo"}]}],"request":{"store":false,"background":true}}');
INSERT INTO "events" VALUES(3,3,'{"type":"model_intent","step":1,"attempt":1,"at":401.0}');
INSERT INTO "events" VALUES(3,4,'{"type":"model_result","step":1,"attempt":1,"at":402.0,"calls":[{"call_id":"call_1_0","name":"look","arguments":"{}"}],"finish_reason":"tool_calls","prompt_tokens":10,"output_tokens":4}');
INSERT INTO "events" VALUES(3,5,'{"type":"tool_intent","step":1,"call_id":"call_1_0","key":"c:1:call_1_0","at":402.0}');
INSERT INTO "events" VALUES(4,1,'{"type":"conversation_started","agent":"desk@2","at":500.0}');
INSERT INTO "events" VALUES(4,2,'{"type":"response_accepted","response_id":"resp_6","at":501.0,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"héllo"}]}]}');
INSERT INTO "events" VALUES(4,3,'{"type":"model_intent","step":1,"attempt":1,"at":501.0}');
INSERT INTO "events" VALUES(4,4,'{"type":"call_ready","step":1,"attempt":1,"call":{"call_id":"call_1_2","name":"read","arguments":"{}"}}');
INSERT INTO "events" VALUES(4,5,'{"type":"tool_intent","step":1,"call_id":"call_1_2","key":"c:1:call_1_2","at":501.5,"version":"3","traceparent":"00-ab-cd-01"}');
INSERT INTO "events" VALUES(4,6,'{"type":"model_result","step":1,"attempt":1,"at":502.0,"calls":[{"call_id":"call_1_0","name":"buy","arguments":"{}"},{"call_id":"call_1_1","name":"wait","arguments":"{}"},{"call_id":"call_1_2","name":"read","arguments":"{}"}],"finish_reason":"tool_calls","prompt_tokens":10,"output_tokens":4}');
INSERT INTO "events" VALUES(4,7,'{"type":"tool_progress","step":1,"call_id":"call_1_2","at":502.0,"value":"half"}');
INSERT INTO "events" VALUES(4,8,'{"type":"tool_failed","step":1,"call_id":"call_1_2","at":502.5,"attempt":1,"error":"busy","code":"rate_limited","retry_at":503.0}');
INSERT INTO "events" VALUES(4,9,'{"type":"timer_set","step":1,"call_id":"call_1_1","at":502.5,"until":900.0,"output":"woken"}');
INSERT INTO "events" VALUES(4,10,'{"type":"approval_requested","step":1,"call_id":"call_1_0","approval_id":"apr_1","at":502.5,"name":"buy","arguments":"{}"}');
INSERT INTO "events" VALUES(4,11,'{"type":"tool_intent","step":1,"call_id":"call_1_2","key":"c:1:call_1_2","at":503.0,"attempt":2}');
INSERT INTO "events" VALUES(4,12,'{"type":"result_kept","step":1,"call_id":"call_1_2","text":"a long text"}');
INSERT INTO "events" VALUES(4,13,'{"type":"tool_result","step":1,"call_id":"call_1_2","at":504.0,"output":"a long","seconds":0.5,"cost_usd":0.25,"quota":{"left":3.0},"partial":true}');
INSERT INTO "events" VALUES(4,14,'{"type":"tool_result","step":1,"call_id":"call_1_1","at":900.0,"output":"woken"}');
INSERT INTO "events" VALUES(4,15,'{"type":"response_finished","response_id":"resp_6","at":901.0,"status":"completed"}');
INSERT INTO "events" VALUES(4,16,'{"type":"response_accepted","response_id":"resp_7","at":950.0,"input":[{"type":"mcp_approval_response","approval_request_id":"apr_1","approve":true}]}');
INSERT INTO "events" VALUES(4,17,'{"type":"approval_decided","approval_id":"apr_1","call_id":"call_1_0","at":950.0,"approve":true,"reason":"fine"}');
INSERT INTO "events" VALUES(4,18,'{"type":"tool_intent","step":1,"call_id":"call_1_0","key":"c:1:call_1_0","at":951.0}');
INSERT INTO "events" VALUES(4,19,'{"type":"tool_result","step":1,"call_id":"call_1_0","at":952.0,"output":"bought"}');
INSERT INTO "events" VALUES(4,20,'{"type":"model_intent","step":2,"attempt":1,"at":952.0}');
INSERT INTO "events" VALUES(4,21,'{"type":"model_result","step":2,"attempt":1,"at":953.0,"text":"done"}');
INSERT INTO "events" VALUES(4,22,'{"type":"response_finished","response_id":"resp_7","at":953.0,"status":"completed"}');
INSERT INTO "events" VALUES(4,23,'{"type":"purged","of":"response_accepted","step":7,"facts":{"at":954.0}}');
CREATE TABLE responses (
    id              TEXT    PRIMARY KEY,
    conversation    INTEGER NOT NULL REFERENCES conversations (id),
    first_seq       INTEGER NOT NULL,
    finished        INTEGER NOT NULL DEFAULT 0,
    idempotency_key TEXT    UNIQUE
, wake_at REAL NOT NULL DEFAULT 0, ended_at REAL NOT NULL DEFAULT 0, stored INTEGER NOT NULL DEFAULT 1, purged INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;
INSERT INTO "responses" VALUES('resp_1',1,2,1,'key-1',0.0,107.0,1,0);
INSERT INTO "responses" VALUES('resp_2',1,22,1,NULL,0.0,109.0,1,0);
INSERT INTO "responses" VALUES('resp_3',2,3,1,NULL,0.0,262.0,1,0);
INSERT INTO "responses" VALUES('resp_4',2,8,1,NULL,0.0,302.0,1,0);
INSERT INTO "responses" VALUES('resp_5',3,2,0,NULL,0.0,0.0,0,0);
INSERT INTO "responses" VALUES('resp_6',4,2,1,NULL,0.0,901.0,1,0);
INSERT INTO "responses" VALUES('resp_7',4,16,1,NULL,0.0,953.0,1,0);
CREATE UNIQUE INDEX events_place ON events (conversation, seq);
CREATE INDEX responses_due ON responses (wake_at, id) WHERE finished = 0;
CREATE INDEX responses_of_conversation ON responses (conversation, first_seq);
CREATE INDEX responses_unstored ON responses (ended_at)
    WHERE stored = 0 AND purged = 0 AND finished = 1;
CREATE INDEX conversations_by_age ON conversations (created_at) WHERE purged = 0;
COMMIT;
PRAGMA user_version=2;
