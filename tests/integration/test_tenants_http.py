"""Two tenants at one front door, over a simulated engine: what each gets, and what neither sees."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from orchestrator.api import sealing
from orchestrator.app import create_app
from router.tenancy.keys import KeyFile
from serving.config.model import SimulatorConfig
from serving.config.stack import StackConfig
from serving.simulator.server import Simulator
from tests.contract.front_door import served
from tests.integration.engines_behaving_badly import until

PATIENCE_S = 30.0
LONG = "The desk opens at nine and closes at six. " * 60
TURNS = ("/v1/chat/completions", "/v1/completions", "/v1/messages")
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 9}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@dataclass
class Door:
    """A front door, its file of keys, and a key for each who may come in."""

    http: aiohttp.ClientSession
    file: KeyFile
    keys: dict[str, str]
    simulator: Simulator
    app: Any

    async def ask(
        self, who: str, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """(status, JSON or text, headers); `who` is a tenant, or empty for nobody."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if who:
            sent["authorization"] = f"Bearer {self.keys[who]}"
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            sent["content-type"] = "application/json"
        async with self.http.request(method, path, data=data, headers=sent) as answer:
            text = await answer.text()
            got = {name.lower(): value for name, value in answer.headers.items()}
            is_json = answer.content_type == "application/json"
            return answer.status, json.loads(text) if is_json else text, got

    async def until_it_answers(
        self, status: int, who: str, method: str, path: str, body: Any = None
    ) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (await self.ask(who, method, path, body))[0] != status:  # noqa: ASYNC110  another process may change it
                await asyncio.sleep(0.02)

    async def post(self, who: str, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        status, said, _ = await self.ask(who, "POST", path, body, **headers)
        return status, said

    async def get(self, who: str, path: str) -> tuple[int, Any]:
        status, said, _ = await self.ask(who, "GET", path)
        return status, said


def stack(url: str, folder: Path, **sections: Any) -> StackConfig:
    whole = {
        "name": "tenants",
        "models": {
            "big": {"engine": "external", "urls": [url]},
            "tiny": {"engine": "external", "tier": "small", "urls": [url], "served_name": "big"},
        },
        "agents": {"desk": {"model": "big", "instructions": LONG, "reply_tool": False}},
        "tenants": {"acme": {}, "bolt": {}},
        "admission": {"keys": str(folder / "keys.json"), "keys_check_s": 0.05},
        **sections,
    }
    return StackConfig.model_validate(whole)


@asynccontextmanager
async def front_door(folder: Path, **sections: Any) -> AsyncIterator[Door]:
    """A whole front door in this process; `sections` are of the configuration."""
    async with AsyncExitStack() as life:
        simulator = Simulator("big", 32_768, SimulatorConfig(prefill_tokens_per_s=1e6))
        runner = web.AppRunner(simulator.app(), handler_cancellation=True, access_log=None)
        await runner.setup()
        life.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        config = stack(f"http://127.0.0.1:{port}", folder, **sections)
        file = KeyFile(config.keys_path)
        keys = {name: file.create(name)[0] for name in (*config.tenants, "operator")}
        app = create_app(config)
        url = await life.enter_async_context(served(app))
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        http = await life.enter_async_context(aiohttp.ClientSession(url, timeout=timeout))
        door = Door(http, file, keys, simulator, app)
        await door.until_it_answers(200, "operator", "GET", "/ready")
        yield door


@pytest.fixture
async def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path))
    async with front_door(tmp_path) as made:
        yield made


def turn(path: str, text: str = LONG, **fields: Any) -> dict[str, Any]:
    """A request for one of the forwarding routes."""
    if path == "/v1/completions":
        return {"model": "big", "prompt": text, "max_tokens": 8, **fields}
    messages = [{"role": "user", "content": text}]
    return {"model": "big", "messages": messages, "max_tokens": 8, **fields}


def cached_of(said: Any) -> int:
    """Cached tokens in an answer of any of the APIs."""
    usage = said["usage"]
    for name in ("prompt_tokens_details", "input_tokens_details"):
        if name in usage:
            return int((usage[name] or {}).get("cached_tokens") or 0)
    return int(usage.get("cache_read_input_tokens") or 0)


EVERY_ROUTE = [
    *(("POST", path) for path in TURNS),
    ("POST", "/v1/responses"),
    ("POST", "/v1/responses/compact"),
    ("POST", "/v1/responses/input_tokens"),
    ("GET", "/v1/responses/resp_x"),
    ("GET", "/v1/responses/resp_x?stream=true"),
    ("POST", "/v1/responses/resp_x/cancel"),
    ("GET", "/v1/responses/resp_x/input_items"),
    ("DELETE", "/v1/responses/resp_x"),
    ("POST", "/v1/conversations"),
    *((method, "/v1/conversations/conv_x") for method in ("GET", "POST", "DELETE")),
    *((method, "/v1/conversations/conv_x/items") for method in ("GET", "POST")),
    *((method, "/v1/conversations/conv_x/items/item_x") for method in ("GET", "DELETE")),
    ("GET", "/openapi.json"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/big"),
    ("POST", "/v1/tools/check"),
    ("POST", "/v1/warmloop/outcomes"),
    ("GET", "/v1/warmloop/approvals"),
    ("POST", "/v1/warmloop/journal/purge"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("GET", "/v1/nothing"),
    ("GET", "/"),
]


# Who comes in


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
async def test_no_route_answers_without_a_key(door: Door, method: str, path: str) -> None:
    stranger = "wl_this-is-not-a-key-of-anybody"
    for headers in ({}, {"authorization": f"Bearer {stranger}"}, {"x_api_key": stranger}):
        status, said, got = await door.ask("", method, path, {"model": "big"}, **headers)
        assert status == 401
        error = said["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert stranger not in json.dumps(said) + json.dumps(got)
        assert got["www-authenticate"].startswith("Bearer")
        assert got["x-request-id"]


async def test_every_route_that_was_tried_is_every_route_there_is(door: Door) -> None:
    def shape(path: str) -> str:
        return re.sub(r"\{[^}]*\}|resp_x|conv_x|item_x|big", "*", path.partition("?")[0])

    tried = {shape(path) for _, path in EVERY_ROUTE}
    routes = (*door.app.forwarding.paths.values(), *(r.path for r in door.app.inner.routes))
    there = {shape(path) for path in routes}
    assert there - tried == {"/health", "/ready", "/metrics"}


@pytest.mark.parametrize("path", TURNS)
async def test_a_key_opens_the_forwarding_routes_in_either_header(door: Door, path: str) -> None:
    assert (await door.post("acme", path, turn(path)))[0] == 200
    status, _ = await door.post("", path, turn(path), x_api_key=door.keys["bolt"])
    assert status == 200


async def test_a_large_body_without_a_key_is_refused_and_the_connection_lives(door: Door) -> None:
    big = turn("/v1/chat/completions", "x" * 900_000)
    assert (await door.post("", "/v1/chat/completions", big))[0] == 401
    assert (await door.post("acme", "/v1/chat/completions", turn("")))[0] == 200


async def test_keys_come_and_go_without_a_restart(door: Door) -> None:
    key, stored = door.file.create("acme")
    door.keys["new"] = key

    await door.until_it_answers(200, "new", "GET", "/v1/models")
    door.file.revoke(stored.id)
    await door.until_it_answers(401, "new", "GET", "/v1/models")
    assert (await door.get("acme", "/v1/models"))[0] == 200


async def test_the_operators_routes_are_not_for_tenants(door: Door) -> None:
    body = {"lora_name": "a", "lora_path": "/nowhere"}
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        status, said = await door.post("acme", path, body)
        assert (status, said["error"]["code"]) == (403, "operator_only")
        status, _ = await door.post("operator", path, body)
        assert status in (400, 404)  # it was heard; the adapter is at fault
    purge = "/v1/warmloop/journal/purge?older_than_s=86400"
    status, said = await door.post("acme", purge, {})
    assert (status, said["error"]["code"]) == (403, "operator_only")
    assert await door.post("operator", purge, {}) == (200, {"purged": 0})


async def test_strangers_see_that_the_stack_lives_and_nothing_more(door: Door) -> None:
    away = {"x_forwarded_for": "10.0.0.9"}
    assert (await door.ask("", "GET", "/health", **away))[:2] == (200, {"status": "ok"})
    assert (await door.ask("", "GET", "/ready", **away))[:2] == (200, {"status": "ready"})
    assert (await door.ask("", "GET", "/metrics", **away))[0] == 401
    assert (await door.ask("acme", "GET", "/metrics", **away))[0] == 403
    assert (await door.ask("operator", "GET", "/metrics", **away))[0] == 200
    assert (await door.get("", "/metrics"))[0] == 200
    assert "engines" in (await door.get("", "/health"))[1]


async def test_no_key_is_ever_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path))
    async with front_door(tmp_path) as door:
        await door.post("acme", "/v1/responses", {"model": "desk", "input": "hi"})
        await door.post("acme", "/v1/chat/completions", {"model": "nope", "messages": []})
        await door.post("", "/v1/chat/completions", {}, authorization="Bearer wl_wrong-key-here")
        await door.get("acme", f"/v1/models/{door.keys['bolt']}")
        for path in TURNS:
            await door.post("acme", path, turn(path))
        metrics = (await door.get("operator", "/metrics"))[1]
        keys = [*door.keys.values(), "wl_wrong-key-here"]
    written = capfd.readouterr()
    log = written.err + written.out + metrics
    assert '"tenant":"acme"' in log
    files = all_bytes(tmp_path)
    assert b"acme" in files
    for key in keys:
        assert key not in log
        assert key.encode() not in files


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


# Whose cache


@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize("path", TURNS)
async def test_a_tenant_finds_its_own_prefix_warm_and_nobody_elses(
    door: Door, path: str, tools: bool
) -> None:
    if tools and path == "/v1/completions":
        return
    extra: dict[str, Any] = {}
    if tools:
        function = TOOL["function"]
        assert isinstance(function, dict)
        of_messages = {"name": function["name"], "input_schema": function["parameters"]}
        extra["tools"] = [of_messages if path == "/v1/messages" else TOOL]
    body = turn(path, **extra)

    async def cached(who: str, **fields: Any) -> int:
        status, said = await door.post(who, path, {**body, **fields})
        assert status == 200, said
        return cached_of(said)

    assert await cached("acme") == 0
    warm = await cached("acme")
    assert warm > 500
    assert await cached("bolt") == 0
    assert await cached("bolt") == warm
    # Its own salt is combined with the tenant's, so that neither lets another in.
    assert await cached("acme", cache_salt="s") == 0
    assert await cached("acme", cache_salt="s") == warm
    assert await cached("bolt", cache_salt="s") == 0
    assert await cached("operator") == 0


async def test_a_key_that_is_new_finds_its_tenants_prefix_warm(door: Door) -> None:
    body = turn("/v1/chat/completions")
    await door.post("acme", "/v1/chat/completions", body)
    door.keys["acme again"], _ = door.file.create("acme")
    await door.until_it_answers(200, "acme again", "GET", "/v1/models")
    _, said = await door.post("acme again", "/v1/chat/completions", body)
    assert cached_of(said) > 500


async def test_agents_turns_carry_their_tenant_to_the_engine(door: Door) -> None:
    async def cached(who: str, path: str, body: Any) -> int:
        status, said = await door.post(who, path, body)
        assert status == 200, said
        return cached_of(said)

    body = {"model": "desk", "input": "hello"}
    assert await cached("acme", "/v1/responses", body) == 0
    assert await cached("acme", "/v1/responses", body) > 500
    assert await cached("bolt", "/v1/responses", body) == 0
    assert await cached("bolt", "/v1/responses", body) > 500
    chat = {"model": "desk", "messages": [{"role": "user", "content": "hello"}]}
    assert await cached("operator", "/v1/chat/completions", chat) == 0
    assert await cached("operator", "/v1/chat/completions", chat) > 500
    assert await cached("bolt", "/v1/chat/completions", chat) > 500


# Whose conversations


async def test_a_response_is_there_for_its_tenant_only(door: Door) -> None:
    _, made = await door.post("acme", "/v1/responses", {"model": "desk", "input": "a secret"})
    where = f"/v1/responses/{made['id']}"
    for method, path in (
        ("GET", where),
        ("GET", f"{where}?stream=true"),
        ("POST", f"{where}/cancel"),
        ("GET", f"{where}/input_items"),
    ):
        assert (await door.ask("acme", method, path))[0] == 200
        for other in ("bolt", "operator"):
            status, said, _ = await door.ask(other, method, path)
            gone, unknown, _ = await door.ask(other, method, path.replace(made["id"], "resp_no"))
            assert (status, gone) == (404, 404)
            assert said == json.loads(json.dumps(unknown).replace("resp_no", made["id"]))
            assert "secret" not in json.dumps(said)


async def test_nobody_goes_on_where_another_tenant_stopped(door: Door) -> None:
    _, made = await door.post("acme", "/v1/responses", {"model": "desk", "input": "a secret"})
    _, more = await door.post(
        "acme",
        "/v1/responses",
        {"model": "desk", "input": "more", "previous_response_id": made["id"]},
    )
    for previous in (made["id"], more["id"]):  # a fork, and the newest
        body = {"model": "desk", "input": "what?", "previous_response_id": previous}
        status, said = await door.post("bolt", "/v1/responses", body)
        assert (status, said["error"]["code"]) == (400, "previous_response_not_found")
        assert (await door.post("acme", "/v1/responses", body))[0] == 200


async def test_a_conversation_is_there_for_its_tenant_only(door: Door) -> None:
    _, made = await door.post("acme", "/v1/conversations", {"metadata": {"a": "b"}})
    where = f"/v1/conversations/{made['id']}"
    body = {"model": "desk", "input": "hi", "conversation": made["id"]}
    for _ in range(2):  # before its first response, and after
        assert (await door.get("acme", where))[0] == 200
        assert (await door.get("bolt", where))[0] == 404
        assert (await door.post("bolt", "/v1/responses", body))[0] == 404
        status, said = await door.post("acme", "/v1/responses", body)
        assert status == 200
        assert said["conversation"]["id"] == made["id"]
    begun = said["conversation"]["id"]
    assert (await door.get("bolt", f"/v1/conversations/{begun}"))[0] == 404
    _, items = await door.get("acme", f"{where}/items")
    one = f"{where}/items/{items['data'][0]['id']}"
    item = {"type": "message", "role": "user", "content": "mine now"}
    for method, path, sent in (
        ("POST", where, {"metadata": {}}),
        ("DELETE", where, None),
        ("GET", f"{where}/items", None),
        ("POST", f"{where}/items", {"items": [item]}),
        ("GET", one, None),
        ("DELETE", one, None),
        ("DELETE", f"/v1/responses/{said['id']}", None),
    ):
        for other in ("bolt", "operator"):
            assert (await door.ask(other, method, path, sent))[0] == 404
    assert (await door.get("acme", f"{where}/items"))[1] == items


async def test_what_was_compacted_is_of_use_to_its_tenant_only(door: Door) -> None:
    asked = {"model": "big", "input": "The safe opens with 4711."}
    status, window = await door.post("acme", "/v1/responses/compact", asked)
    assert status == 200
    again = {"model": "big", "input": window["output"]}
    assert (await door.post("acme", "/v1/responses", again))[0] == 200
    status, said = await door.post("bolt", "/v1/responses", again)
    assert (status, said["error"]["param"]) == (400, "input[1].encrypted_content")
    for key in (sealing.open_to_all("acme"), sealing.open_to_all("")):
        with pytest.raises(sealing.BadSeal):
            sealing.opened(window["output"][1]["encrypted_content"], key)
    response = (await door.post("acme", "/v1/responses", {"model": "big", "input": "hi"}))[1]
    for path in ("/v1/responses/compact", "/v1/responses/input_tokens"):
        other = {"model": "big", "input": "hi", "previous_response_id": response["id"]}
        status, said = await door.post("bolt", path, other)
        assert (status, said["error"]["code"]) == (400, "previous_response_not_found")


async def test_an_idempotency_key_is_one_tenants_own(door: Door) -> None:
    body = {"model": "desk", "input": "once"}
    ids = {}
    for who in ("acme", "bolt", "acme", "bolt"):
        status, said = await door.post(who, "/v1/responses", body, idempotency_key="same")
        assert status == 200
        assert ids.setdefault(who, said["id"]) == said["id"]
    assert ids["acme"] != ids["bolt"]


async def test_an_outcome_is_reported_by_whose_answer_it_was(door: Door) -> None:
    body = {**turn("/v1/chat/completions"), "model": "auto"}
    _, _, got = await door.ask("acme", "POST", "/v1/chat/completions", body)
    outcome = {"request_id": got["x-request-id"], "success": True}
    assert (await door.post("bolt", "/v1/warmloop/outcomes", outcome))[0] == 404
    assert (await door.post("acme", "/v1/warmloop/outcomes", outcome))[0] == 200


# Whose models


async def test_a_tenant_sees_and_gets_what_it_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path))
    tenants = {"acme": {"models": ["desk", "tiny"]}, "bolt": {"models": ["auto"]}, "carl": {}}
    async with front_door(tmp_path, tenants=tenants) as door:
        seen = {}
        for who in ("acme", "bolt", "carl", "operator"):
            _, listed = await door.get(who, "/v1/models")
            seen[who] = [model["id"] for model in listed["data"]]
        assert seen["acme"] == ["tiny", "desk"]
        assert seen["bolt"] == ["auto"]
        assert seen["carl"] == seen["operator"] == ["big", "tiny", "auto", "desk"]
        for who, names in seen.items():
            for name in ("big", "tiny", "auto", "desk"):
                expected = 200 if name in names else 404
                assert (await door.get(who, f"/v1/models/{name}"))[0] == expected
                said = {}
                for path in ("/v1/chat/completions", "/v1/responses"):
                    body = {"model": name, "input": "hi"} if path == "/v1/responses" else {
                        **turn(path), "model": name
                    }  # fmt: skip
                    status, said = await door.post(who, path, body)
                    assert status == expected, (who, name, path, said)
                    if expected == 404:
                        assert said["error"]["code"] == "model_not_found"
                        hidden = {"big", "tiny", "auto", "desk"} - {*names, name}
                        assert not any(f"'{each}'" in said["error"]["message"] for each in hidden)


async def test_a_tenant_cannot_reach_around_its_limits_with_fields(door: Door) -> None:
    for field in ("lora_path", "priority"):
        body = {**turn(""), field: "x"}
        status, said = await door.post("acme", "/v1/chat/completions", body)
        assert (status, said["error"]["param"]) == (400, field)


# How much, and until when


async def test_limits_are_told_as_openai_tells_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path))
    tenants = {"acme": {"max_requests_per_minute": 3}, "bolt": {}}
    async with front_door(tmp_path, tenants=tenants) as door:
        path, body = "/v1/chat/completions", turn("", "hi")
        status, _, got = await door.ask("acme", "POST", path, body)
        assert status == 200
        assert got["x-ratelimit-limit-requests"] == "3"
        assert got["x-ratelimit-remaining-requests"] == "2"
        # An agent's response is one request, on whichever route it is asked for.
        assert (await door.post("acme", "/v1/responses", {"model": "desk", "input": "x"}))[0] == 200
        chat = {"model": "desk", "messages": [{"role": "user", "content": "hello"}]}
        assert (await door.post("acme", path, chat))[0] == 200
        for where, asked in (
            (path, body),
            (path, chat),
            ("/v1/responses", {"model": "desk", "input": "x"}),
            ("/v1/messages", turn("/v1/messages", "hi")),
        ):
            status, said, got = await door.ask("acme", "POST", where, asked)
            assert status == 429
            assert said["error"]["code"] == "rate_limit_exceeded"
            assert "max_requests_per_minute" in said["error"]["message"]
            assert 1 <= int(got["retry-after"]) <= 20
            assert got["x-ratelimit-remaining-requests"] == "0"
        assert (await door.post("bolt", path, body))[0] == 200


async def test_an_agents_tokens_are_its_tenants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path))
    tenants = {"acme": {"max_tokens_per_minute": 600}, "bolt": {}}
    async with front_door(tmp_path, tenants=tenants) as door:
        asked = {"model": "desk", "input": "hello"}
        status, said = await door.post("acme", "/v1/responses", asked)
        assert status == 200
        assert said["usage"]["total_tokens"] > 600
        status, said = await door.post("acme", "/v1/responses", asked)
        assert status == 429
        assert "max_tokens_per_minute" in said["error"]["message"]


async def test_running_responses_count_as_requests_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path))
    tenants = {"acme": {"max_inflight": 1}, "bolt": {}}
    async with front_door(tmp_path, tenants=tenants) as door:
        slow = {"model": "desk", "input": 'SIMULATE: {"text": "x", "wait_s": 100}'}
        _, made = await door.post("acme", "/v1/responses", {**slow, "background": True})
        status, said = await door.post("acme", "/v1/chat/completions", turn("", "hi"))
        assert status == 429
        assert "max_inflight" in said["error"]["message"]
        assert (await door.post("acme", f"/v1/responses/{made['id']}/cancel", None))[0] == 200
        await door.until_it_answers(200, "acme", "POST", "/v1/chat/completions", turn("", "hi"))


@pytest.mark.parametrize("model", ["big", "desk"])
async def test_at_the_deadline_the_engine_is_freed_and_the_client_told(
    door: Door, model: str
) -> None:
    slow = {**turn("", 'SIMULATE: {"text": "x", "wait_s": 100}'), "model": model}
    status, said = await door.post(
        "acme", "/v1/chat/completions", slow, x_warmloop_deadline_s="0.3"
    )
    assert (status, said["error"]["code"]) == (504, "deadline_exceeded")
    await until(lambda: not door.simulator.engine.load().running)


async def test_a_stream_that_meets_its_deadline_ends_in_an_error_event(door: Door) -> None:
    text = "word " * 2000
    slow = turn("", "SIMULATE: " + json.dumps({"text": text}), stream=True, max_tokens=2000)
    door.simulator.engine.config = SimulatorConfig(decode_tokens_per_s=20)
    status, said = await door.post("acme", "/v1/chat/completions", slow, x_warmloop_deadline_s="1")
    assert status == 200
    events = [line for line in said.splitlines() if line.startswith("data: ")]
    assert json.loads(events[-1][6:])["error"]["code"] == "deadline_exceeded"
    assert len(events) > 2


async def test_a_run_ends_at_the_deadline_of_its_request(door: Door) -> None:
    slow = {"model": "desk", "input": 'SIMULATE: {"text": "x", "wait_s": 100}'}
    status, said = await door.post("acme", "/v1/responses", slow, x_warmloop_deadline_s="0.3")
    assert status == 200
    assert said["status"] == "incomplete"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize(
    ("header", "value"),
    [("x_warmloop_deadline_s", "soon"), ("x_warmloop_urgency", "very")],
)
async def test_a_bad_header_is_refused_by_name(
    door: Door, path: str, header: str, value: str
) -> None:
    status, said = await door.post("acme", path, turn(path, "hi"), **{header: value})
    assert status == 400
    assert said["error"]["param"] == header.replace("_", "-")


async def test_what_would_wait_too_long_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path))
    async with front_door(tmp_path) as door:
        router = door.app.forwarding.turns._turns.router
        router.scheduler.wait_s = lambda *_: 42.4  # what its pools say is tested by themselves
        path, body = "/v1/chat/completions", turn("", "hi")
        status, said, got = await door.ask("acme", "POST", path, body, x_warmloop_deadline_s="5")
        assert (status, said["error"]["code"]) == (503, "overloaded")
        assert got["retry-after"] == "43"
        assert (await door.post("acme", path, body, x_warmloop_deadline_s="60"))[0] == 200
        assert (await door.post("acme", path, body))[0] == 200


async def test_a_flood_over_http_is_felt_by_the_flooder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ratios only: the quiet tenant waits for a few of the flooder's turns, the flooder for all."""
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path))
    async with front_door(tmp_path) as door:
        door.simulator.engine.config = SimulatorConfig(prefill_tokens_per_s=20_000)
        path = "/v1/chat/completions"
        done: list[str] = []

        async def ask(who: str, number: int) -> None:
            text = f"{who} {number} " + LONG
            status, _ = await door.post(who, path, turn("", text, max_tokens=1))
            assert status == 200
            done.append(who)

        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(ask("acme", number))
            await until(lambda: len(done) >= 5)
            before = len(done)
            for number in range(5):
                await ask("bolt", number)
            between = len(done) - before
        # Fair turns: one of its own for each of the flooder's, and what was in the engine already.
        assert between < 60
        assert done.count("bolt") == 5
