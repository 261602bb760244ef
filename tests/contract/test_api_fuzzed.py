"""The API under requests that schemathesis makes up from the schema that it serves of itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from starlette.routing import Route

from orchestrator.app import create_app
from router.http.asgi import Gate
from router.peers.news import SECRET_VARIABLE
from router.peers.peers import NEWS, TABLE
from serving.config.stack import StackConfig
from tests import clients
from tests.contract.conftest import simulated_front
from tests.contract.front_door import clients as clients_of

HOOKS = Path(__file__).with_name("fuzz_hooks.py")
EXAMPLES = 10
"""For each operation, besides what covers each rule of its schema; about a minute."""
UNWRITTEN = {
    "/openapi.json": "is the schema",
    "/v1/chat/completions": "forwarded: its body is the engine's, whose schema tells it",
    "/v1/completions": "forwarded, too",
    "/v1/messages": "forwarded, too",
    NEWS: "for other front doors only: signed messages in a form of their own",
    TABLE: "as the one before",
}
"""Paths that are served and not in the schema, each with its reason."""


def desk(engine_url: str) -> StackConfig:
    """Every kind of route there is: agents, adapters, `auto`."""
    big = {"engine": "external", "urls": [engine_url], "lora": {"enabled": True}}
    agent = {"model": "big", "instructions": "You are a desk.", "reply_tool": False}
    return StackConfig.model_validate(
        {"models": {"big": big}, "agents": {"desk": agent}, "front": {"drain_s": 0.1}}
    )


@pytest.fixture
async def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    async with simulated_front(tmp_path / "home", monkeypatch, desk) as running:
        yield running


def test_every_route_that_is_served_is_in_the_schema_or_has_a_reason_not_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path))
    monkeypatch.setenv(SECRET_VARIABLE, "a secret of front doors, for this test")
    gate = create_app(desk("http://127.0.0.1:9"))
    assert isinstance(gate, Gate)
    app = gate.inner
    assert isinstance(app, FastAPI)
    served = {
        (route.path_format, method.lower())
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if route.path not in UNWRITTEN
    }
    written = {(path, method) for path, said in app.openapi()["paths"].items() for method in said}
    assert served == written
    rest = {*gate.routes, *gate.forwarding.paths.values(), app.openapi_url}
    assert rest == set(UNWRITTEN)


@pytest.mark.clients
async def test_whatever_the_schema_allows_or_forbids_is_answered_as_it_says(
    url: str, tmp_path: Path
) -> None:
    known = tmp_path / "ids.json"
    async with clients_of(url) as (client, http):
        known.write_text(json.dumps(await _made(client)))

        # Not every rule of a request can be said in a schema, so valid ones may be refused: that
        # check does not apply. All others do.
        status, said = await clients.run(
            "schemathesis",
            *("run", f"{url}/openapi.json"),
            *("--max-examples", str(EXAMPLES), "--seed", "1", "--request-timeout", "10"),
            *("--exclude-checks", "positive_data_acceptance", "--suppress-health-check", "all"),
            *("--no-color",),
            env={"SCHEMATHESIS_HOOKS": str(HOOKS), "WARMLOOP_FUZZ_IDS": str(known)},
            folder=tmp_path,
            timeout_s=600,
        )

        assert status == 0, said[-8000:]
        async with http.get("/health") as answer:
            assert answer.status == 200


async def _made(client: AsyncOpenAI) -> dict[str, list[str]]:
    """Ids that are there, by the name of the parameter that takes them."""
    ids: dict[str, list[str]] = {"response_id": [], "conversation_id": [], "item_id": []}
    for _ in range(30):
        made = await client.conversations.create(
            items=[{"type": "message", "role": "user", "content": "hi"}]
        )
        items = await client.conversations.items.list(made.id)
        response = await client.responses.create(model="desk", input="hi")
        ids["conversation_id"].append(made.id)
        ids["item_id"].append(items.data[0].id or "")
        ids["response_id"].append(response.id)
    return ids
