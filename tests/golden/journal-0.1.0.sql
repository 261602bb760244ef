BEGIN TRANSACTION;
CREATE TABLE conversations (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    fence      INTEGER NOT NULL DEFAULT 0,
    owner      TEXT    NOT NULL DEFAULT '',
    expires_at REAL    NOT NULL DEFAULT 0
) STRICT;
INSERT INTO "conversations" VALUES(1,'finished',1,'',0.0);
INSERT INTO "conversations" VALUES(2,'limited',1,'',0.0);
INSERT INTO "conversations" VALUES(3,'open',1,'',0.0);
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
CREATE TABLE responses (
    id              TEXT    PRIMARY KEY,
    conversation    INTEGER NOT NULL REFERENCES conversations (id),
    first_seq       INTEGER NOT NULL,
    finished        INTEGER NOT NULL DEFAULT 0,
    idempotency_key TEXT    UNIQUE
) STRICT, WITHOUT ROWID;
INSERT INTO "responses" VALUES('resp_1',1,2,1,'key-1');
INSERT INTO "responses" VALUES('resp_2',1,22,1,NULL);
INSERT INTO "responses" VALUES('resp_3',2,3,1,NULL);
INSERT INTO "responses" VALUES('resp_4',2,8,1,NULL);
INSERT INTO "responses" VALUES('resp_5',3,2,0,NULL);
CREATE UNIQUE INDEX events_place ON events (conversation, seq);
CREATE INDEX responses_unfinished ON responses (conversation, first_seq) WHERE finished = 0;
COMMIT;
PRAGMA user_version=1;
