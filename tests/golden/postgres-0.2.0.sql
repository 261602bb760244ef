CREATE TABLE public.conversations (
    id bigint NOT NULL,
    name text NOT NULL,
    fence bigint DEFAULT 0 NOT NULL,
    owner text DEFAULT ''::text NOT NULL,
    expires_at double precision DEFAULT 0 NOT NULL,
    created_at double precision DEFAULT 0 NOT NULL,
    purged boolean DEFAULT false NOT NULL
)
WITH (fillfactor='80');
ALTER TABLE public.conversations ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.conversations_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.events (
    conversation bigint NOT NULL,
    seq bigint NOT NULL,
    payload text NOT NULL
);
CREATE TABLE public.responses (
    id text NOT NULL,
    conversation bigint NOT NULL,
    first_seq bigint NOT NULL,
    idempotency_key text,
    finished boolean DEFAULT false NOT NULL,
    stored boolean DEFAULT true NOT NULL,
    purged boolean DEFAULT false NOT NULL,
    wake_at double precision DEFAULT 0 NOT NULL,
    ended_at double precision DEFAULT 0 NOT NULL
);
CREATE TABLE public.warmloop_migrations (
    version integer NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);
INSERT INTO public.conversations OVERRIDING SYSTEM VALUE VALUES (1, 'finished', 1, '', 1795872753.171388, 1795872753.072177, false);
INSERT INTO public.conversations OVERRIDING SYSTEM VALUE VALUES (2, 'limited', 1, '', 1795872753.206323, 1795872753.172274, false);
INSERT INTO public.conversations OVERRIDING SYSTEM VALUE VALUES (3, 'open', 1, '', 1795872753.223931, 1795872753.208208, false);
INSERT INTO public.conversations OVERRIDING SYSTEM VALUE VALUES (4, 'decided', 1, '', 1795872753.286648, 1795872753.226568, false);
INSERT INTO public.events VALUES (1, 1, '{"type":"conversation_started","agent":"desk@2","at":100.0,"tenant":"acme","metadata":{"who":"me"}}');
INSERT INTO public.events VALUES (1, 2, '{"type":"response_accepted","response_id":"resp_1","at":101.0,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"héllo"}]}],"request":{"model":"desk"},"idempotency_key":"key-1","tenant":"acme"}');
INSERT INTO public.events VALUES (1, 3, '{"type":"model_intent","step":1,"attempt":1,"at":101.0,"turn_type":"tool-call","prompt_sha256":"abababababababababababababababababababababababababababababababab"}');
INSERT INTO public.events VALUES (1, 4, '{"type":"model_routed","step":1,"attempt":1,"model":"big","replica":"big-0","reason":"home","predicted_cached_tokens":64}');
INSERT INTO public.events VALUES (1, 5, '{"type":"output_delta","step":1,"attempt":1,"kind":"text","text":"let me"}');
INSERT INTO public.events VALUES (1, 6, '{"type":"model_failed","step":1,"attempt":1,"at":102.0,"error":"the process ended","code":"superseded","retry":true,"superseded":true,"wasted_tokens":12}');
INSERT INTO public.events VALUES (1, 7, '{"type":"model_intent","step":1,"attempt":2,"at":103.0,"turn_type":"tool-call","prompt_sha256":"abababababababababababababababababababababababababababababababab"}');
INSERT INTO public.events VALUES (1, 8, '{"type":"output_delta","step":1,"attempt":2,"kind":"call","text":"{\"n\"","call_id":"call_1_0","name":"look"}');
INSERT INTO public.events VALUES (1, 9, '{"type":"output_delta","step":1,"attempt":2,"kind":"arguments","text":": 0}","call_id":"call_1_0"}');
INSERT INTO public.events VALUES (1, 10, '{"type":"model_result","step":1,"attempt":2,"at":104.0,"text":"let me look","calls":[{"call_id":"call_1_0","name":"look","arguments":"{\"n\": 0}"},{"call_id":"call_1_1","name":"look","arguments":"{\"n\": 1}"},{"call_id":"call_1_2","name":"look","arguments":"{\"n\": 2}"},{"call_id":"call_1_3","name":"look","arguments":"{\"n\": 3}"}],"finish_reason":"tool_calls","prompt_tokens":90,"cached_tokens":64,"output_tokens":20,"cost_usd":0.5,"uncached_cost_usd":0.9,"seconds":1.0}');
INSERT INTO public.events VALUES (1, 11, '{"type":"tool_intent","step":1,"call_id":"call_1_0","key":"c:1:call_1_0","at":104.0}');
INSERT INTO public.events VALUES (1, 12, '{"type":"tool_intent","step":1,"call_id":"call_1_1","key":"c:1:call_1_1","at":104.0}');
INSERT INTO public.events VALUES (1, 13, '{"type":"tool_intent","step":1,"call_id":"call_1_2","key":"c:1:call_1_2","at":104.0}');
INSERT INTO public.events VALUES (1, 14, '{"type":"tool_intent","step":1,"call_id":"call_1_3","key":"c:1:call_1_3","at":104.0}');
INSERT INTO public.events VALUES (1, 15, '{"type":"tool_result","step":1,"call_id":"call_1_0","at":105.0,"output":"result 0","seconds":0.25}');
INSERT INTO public.events VALUES (1, 16, '{"type":"tool_result","step":1,"call_id":"call_1_1","at":104.0,"output":"result 1","outcome":"error","seconds":0.25}');
INSERT INTO public.events VALUES (1, 17, '{"type":"tool_result","step":1,"call_id":"call_1_2","at":103.0,"output":"result 2","outcome":"timeout","seconds":0.25}');
INSERT INTO public.events VALUES (1, 18, '{"type":"tool_result","step":1,"call_id":"call_1_3","at":102.0,"output":"result 3","outcome":"outcome_unknown","seconds":0.25}');
INSERT INTO public.events VALUES (1, 19, '{"type":"model_intent","step":2,"attempt":1,"at":106.0}');
INSERT INTO public.events VALUES (1, 20, '{"type":"model_result","step":2,"attempt":1,"at":107.0,"text":"done","prompt_tokens":150,"cached_tokens":128,"output_tokens":5}');
INSERT INTO public.events VALUES (1, 21, '{"type":"response_finished","response_id":"resp_1","at":107.0,"status":"completed"}');
INSERT INTO public.events VALUES (1, 22, '{"type":"response_accepted","response_id":"resp_2","at":108.0,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"and?"}]}],"request":{"instructions":"Brief."},"previous_response_id":"resp_1"}');
INSERT INTO public.events VALUES (1, 23, '{"type":"model_intent","step":3,"attempt":1,"at":108.0,"turn_type":"finalise"}');
INSERT INTO public.events VALUES (1, 24, '{"type":"model_result","step":3,"attempt":1,"at":109.0,"text":"the end","calls":[{"call_id":"call_3_0","name":"reply","arguments":"{\"text\": \"the end\"}"}],"finish_reason":"tool_calls","prompt_tokens":170,"cached_tokens":160,"output_tokens":8}');
INSERT INTO public.events VALUES (1, 25, '{"type":"response_finished","response_id":"resp_2","at":109.0,"status":"completed"}');
INSERT INTO public.events VALUES (2, 1, '{"type":"conversation_started","agent":"big","at":200.0}');
INSERT INTO public.events VALUES (2, 2, '{"type":"history_imported","source":"finished","response_id":"resp_1","items":[{"type":"message","role":"user","content":[{"type":"input_text","text":"héllo"}]}]}');
INSERT INTO public.events VALUES (2, 3, '{"type":"response_accepted","response_id":"resp_3","at":201.0,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"go"}]}],"request":{"max_output_tokens":5}}');
INSERT INTO public.events VALUES (2, 4, '{"type":"model_intent","step":1,"attempt":1,"at":201.0}');
INSERT INTO public.events VALUES (2, 5, '{"type":"model_failed","step":1,"attempt":1,"at":202.0,"error":"no engine","code":"engine_unavailable","retry":true}');
INSERT INTO public.events VALUES (2, 6, '{"type":"limit_reached","kind":"seconds","value":60.5,"limit":60.0,"at":262.0}');
INSERT INTO public.events VALUES (2, 7, '{"type":"response_finished","response_id":"resp_3","at":262.0,"status":"incomplete","code":"max_seconds","message":"out of time"}');
INSERT INTO public.events VALUES (2, 8, '{"type":"response_accepted","response_id":"resp_4","at":300.0,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"again"}]}],"request":{"tools":[{"type":"function","name":"ask_client","parameters":{"type":"object"}}]}}');
INSERT INTO public.events VALUES (2, 9, '{"type":"model_intent","step":2,"attempt":1,"at":300.0}');
INSERT INTO public.events VALUES (2, 10, '{"type":"model_result","step":2,"attempt":1,"at":301.0,"calls":[{"call_id":"call_2_0","name":"ask_client","arguments":"{}"}],"finish_reason":"tool_calls","prompt_tokens":10,"output_tokens":4}');
INSERT INTO public.events VALUES (2, 11, '{"type":"cancel_requested","response_id":"resp_4","at":302.0}');
INSERT INTO public.events VALUES (2, 12, '{"type":"response_finished","response_id":"resp_4","at":302.0,"status":"cancelled"}');
INSERT INTO public.events VALUES (3, 1, '{"type":"conversation_started","agent":"desk@2","at":400.0}');
INSERT INTO public.events VALUES (3, 2, '{"type":"response_accepted","response_id":"resp_5","at":401.0,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"héllo"}]}],"request":{"store":false,"background":true}}');
INSERT INTO public.events VALUES (3, 3, '{"type":"model_intent","step":1,"attempt":1,"at":401.0}');
INSERT INTO public.events VALUES (3, 4, '{"type":"model_result","step":1,"attempt":1,"at":402.0,"calls":[{"call_id":"call_1_0","name":"look","arguments":"{}"}],"finish_reason":"tool_calls","prompt_tokens":10,"output_tokens":4}');
INSERT INTO public.events VALUES (3, 5, '{"type":"tool_intent","step":1,"call_id":"call_1_0","key":"c:1:call_1_0","at":402.0}');
INSERT INTO public.events VALUES (4, 1, '{"type":"conversation_started","agent":"desk@2","at":500.0}');
INSERT INTO public.events VALUES (4, 2, '{"type":"response_accepted","response_id":"resp_6","at":501.0,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"héllo"}]}]}');
INSERT INTO public.events VALUES (4, 3, '{"type":"model_intent","step":1,"attempt":1,"at":501.0}');
INSERT INTO public.events VALUES (4, 4, '{"type":"call_ready","step":1,"attempt":1,"call":{"call_id":"call_1_2","name":"read","arguments":"{}"}}');
INSERT INTO public.events VALUES (4, 5, '{"type":"tool_intent","step":1,"call_id":"call_1_2","key":"c:1:call_1_2","at":501.5,"version":"3","traceparent":"00-ab-cd-01"}');
INSERT INTO public.events VALUES (4, 6, '{"type":"model_result","step":1,"attempt":1,"at":502.0,"calls":[{"call_id":"call_1_0","name":"buy","arguments":"{}"},{"call_id":"call_1_1","name":"wait","arguments":"{}"},{"call_id":"call_1_2","name":"read","arguments":"{}"}],"finish_reason":"tool_calls","prompt_tokens":10,"output_tokens":4}');
INSERT INTO public.events VALUES (4, 7, '{"type":"tool_progress","step":1,"call_id":"call_1_2","at":502.0,"value":"half"}');
INSERT INTO public.events VALUES (4, 8, '{"type":"tool_failed","step":1,"call_id":"call_1_2","at":502.5,"attempt":1,"error":"busy","code":"rate_limited","retry_at":503.0}');
INSERT INTO public.events VALUES (4, 9, '{"type":"timer_set","step":1,"call_id":"call_1_1","at":502.5,"until":900.0,"output":"woken"}');
INSERT INTO public.events VALUES (4, 10, '{"type":"approval_requested","step":1,"call_id":"call_1_0","approval_id":"apr_1","at":502.5,"name":"buy","arguments":"{}"}');
INSERT INTO public.events VALUES (4, 11, '{"type":"tool_intent","step":1,"call_id":"call_1_2","key":"c:1:call_1_2","at":503.0,"attempt":2}');
INSERT INTO public.events VALUES (4, 12, '{"type":"result_kept","step":1,"call_id":"call_1_2","text":"a long text"}');
INSERT INTO public.events VALUES (4, 13, '{"type":"tool_result","step":1,"call_id":"call_1_2","at":504.0,"output":"a long","seconds":0.5,"cost_usd":0.25,"quota":{"left":3.0},"partial":true}');
INSERT INTO public.events VALUES (4, 14, '{"type":"tool_result","step":1,"call_id":"call_1_1","at":900.0,"output":"woken"}');
INSERT INTO public.events VALUES (4, 15, '{"type":"response_finished","response_id":"resp_6","at":901.0,"status":"completed"}');
INSERT INTO public.events VALUES (4, 16, '{"type":"response_accepted","response_id":"resp_7","at":950.0,"input":[{"type":"mcp_approval_response","approval_request_id":"apr_1","approve":true}]}');
INSERT INTO public.events VALUES (4, 17, '{"type":"approval_decided","approval_id":"apr_1","call_id":"call_1_0","at":950.0,"approve":true,"reason":"fine"}');
INSERT INTO public.events VALUES (4, 18, '{"type":"tool_intent","step":1,"call_id":"call_1_0","key":"c:1:call_1_0","at":951.0}');
INSERT INTO public.events VALUES (4, 19, '{"type":"tool_result","step":1,"call_id":"call_1_0","at":952.0,"output":"bought"}');
INSERT INTO public.events VALUES (4, 20, '{"type":"model_intent","step":2,"attempt":1,"at":952.0}');
INSERT INTO public.events VALUES (4, 21, '{"type":"model_result","step":2,"attempt":1,"at":953.0,"text":"done"}');
INSERT INTO public.events VALUES (4, 22, '{"type":"response_finished","response_id":"resp_7","at":953.0,"status":"completed"}');
INSERT INTO public.events VALUES (4, 23, '{"type":"purged","of":"response_accepted","step":7,"facts":{"at":954.0}}');
INSERT INTO public.responses VALUES ('resp_1', 1, 2, 'key-1', true, true, false, 0, 107);
INSERT INTO public.responses VALUES ('resp_2', 1, 22, NULL, true, true, false, 0, 109);
INSERT INTO public.responses VALUES ('resp_3', 2, 3, NULL, true, true, false, 0, 262);
INSERT INTO public.responses VALUES ('resp_4', 2, 8, NULL, true, true, false, 0, 302);
INSERT INTO public.responses VALUES ('resp_5', 3, 2, NULL, false, false, false, 0, 0);
INSERT INTO public.responses VALUES ('resp_6', 4, 2, NULL, true, true, false, 0, 901);
INSERT INTO public.responses VALUES ('resp_7', 4, 16, NULL, true, true, false, 0, 953);
INSERT INTO public.warmloop_migrations VALUES (1, '2026-11-28 13:32:33.012286+00');
SELECT pg_catalog.setval('public.conversations_id_seq', 4, true);
ALTER TABLE ONLY public.conversations
    ADD CONSTRAINT conversations_name_key UNIQUE (name);
ALTER TABLE ONLY public.conversations
    ADD CONSTRAINT conversations_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (conversation, seq);
ALTER TABLE ONLY public.responses
    ADD CONSTRAINT responses_idempotency_key_key UNIQUE (idempotency_key);
ALTER TABLE ONLY public.responses
    ADD CONSTRAINT responses_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.warmloop_migrations
    ADD CONSTRAINT warmloop_migrations_pkey PRIMARY KEY (version);
CREATE INDEX conversations_by_age ON public.conversations USING btree (created_at) WHERE (NOT purged);
CREATE INDEX responses_due ON public.responses USING btree (wake_at, id) WHERE (NOT finished);
CREATE INDEX responses_of_conversation ON public.responses USING btree (conversation, first_seq);
CREATE INDEX responses_unstored ON public.responses USING btree (ended_at) WHERE ((NOT stored) AND (NOT purged) AND finished);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_conversation_fkey FOREIGN KEY (conversation) REFERENCES public.conversations(id);
ALTER TABLE ONLY public.responses
    ADD CONSTRAINT responses_conversation_fkey FOREIGN KEY (conversation) REFERENCES public.conversations(id);
