"""What a front door that runs says at /metrics: docs/metrics.md's names, figures that add up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.app import create_app
from serving.config.model import SimulatorConfig
from serving.config.stack import StackConfig
from serving.simulator.server import Simulator
from tests.contract.front_door import served
from tests.metric_names import documented

PATIENCE_S = 30.0
LONG = "The desk opens at nine and closes at six. " * 60
PRICES = {"fresh": 2.0, "cached": 0.2, "output": 8.0}


class Page:
    """One look at /metrics."""

    def __init__(self, text: str) -> None:
        self.families = {each.name: each for each in text_string_to_metric_families(text)}

    def names(self) -> dict[str, Metric]:
        """As docs/metrics.md writes them: a counter's ends in _total."""
        return {
            name + ("_total" if family.type == "counter" else ""): family
            for name, family in self.families.items()
        }

    def value(self, sample: str, **labels: str) -> float:
        """The sum of that sample over all that fits; 0 where there is none."""
        return sum(
            each.value
            for family in self.families.values()
            for each in family.samples
            if each.name == sample and labels.items() <= each.labels.items()
        )


class Door:
    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._http.post(path, json=body, headers=sent) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json"
            return answer.status, json.loads(text) if is_json else text

    async def page(self) -> Page:
        async with self._http.get("/metrics") as answer:
            assert answer.status == 200
            return Page(await answer.text())

    async def ready(self) -> bool:
        async with self._http.get("/ready") as answer:
            return answer.status == 200


@asynccontextmanager
async def front_door(folder: Path) -> AsyncIterator[Door]:
    """The whole application over a simulated engine, which serves two models."""
    async with AsyncExitStack() as life:
        simulator = Simulator("big", 32_768, SimulatorConfig(prefill_tokens_per_s=1e6))
        runner = web.AppRunner(simulator.app(), handler_cancellation=True, access_log=None)
        await runner.setup()
        life.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        engine = {
            "engine": "external",
            "urls": [f"http://127.0.0.1:{runner.addresses[0][1]}"],
            "served_name": "big",
            "prices": PRICES,
        }
        config = StackConfig.model_validate(
            {
                "name": "metrics",
                "models": {"big": engine, "tiny": {**engine, "tier": "small"}},
                "agents": {
                    "desk": {
                        "model": "big",
                        "instructions": LONG,
                        "reply_tool": False,
                        "tools": ["builtin:note"],
                    }
                },
            }
        )
        url = await life.enter_async_context(served(create_app(config)))
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        http = await life.enter_async_context(aiohttp.ClientSession(url, timeout=timeout))
        door = Door(http)
        async with asyncio.timeout(PATIENCE_S):
            while not await door.ready():  # noqa: ASYNC110  nobody announces it
                await asyncio.sleep(0.02)
        yield door


@pytest.fixture
async def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path))
    async with front_door(tmp_path) as made:
        yield made


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "big", "messages": [{"role": "user", "content": LONG}], **fields}


def task(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"model": "desk", "input": "go\nSIMULATE: " + json.dumps(steps)}


NOTE = {"calls": [{"name": "note", "arguments": {"text": "seen"}}]}


async def test_the_page_has_the_metrics_that_the_table_lists_with_the_labels_it_gives(
    door: Door,
) -> None:
    said = (await door.post("/v1/responses", task(NOTE, {"text": "done"})))[1]
    assert said["status"] == "completed", said
    assert (await door.post("/v1/chat/completions", chat(stream=True)))[0] == 200
    assert (await door.post("/v1/chat/completions", chat(model="auto")))[0] == 200
    page = await door.page()
    known, found = documented(), page.names()
    assert {*found} == {*known}
    seen = 0
    for name, family in found.items():
        for sample in family.samples:
            assert {*sample.labels} - {"le"} == known[name], name
            seen += 1
    assert seen > 100


async def test_a_task_shows_in_cost_tokens_time_tools_and_journal(door: Door) -> None:
    said = (await door.post("/v1/responses", task(NOTE, {"text": "done"})))[1]
    assert said["status"] == "completed", said
    page = await door.page()
    prompt, cached, output = (
        page.value("warmloop_tokens_total", model="big", kind=kind)
        for kind in ("prompt", "cached", "output")
    )
    assert 0 < cached < prompt  # the second turn finds the first one's prefix
    spent = ((prompt - cached) * 2.0 + cached * 0.2 + output * 8.0) / 1e6
    uncached = (prompt * 2.0 + output * 8.0) / 1e6
    assert page.value("warmloop_usd_total", kind="spent") == pytest.approx(spent)
    assert page.value("warmloop_usd_total", kind="uncached") == pytest.approx(uncached)
    assert page.value("warmloop_responses_total", agent="desk", status="completed") == 1
    assert page.value("warmloop_response_usd_count", agent="desk") == 1
    assert page.value("warmloop_response_usd_sum", agent="desk") == pytest.approx(spent)
    assert page.value("warmloop_response_uncached_usd_total", agent="desk") == pytest.approx(
        uncached
    )
    assert page.value("warmloop_response_seconds_count", agent="desk") == 1
    assert page.value("warmloop_tool_seconds_count", agent="desk", outcome="ok") == 1
    # Its acceptance, two turns with a call between them, its end.
    assert page.value("warmloop_journal_append_seconds_count", durable="true") >= 4
    assert page.value("warmloop_journal_append_seconds_sum", durable="true") > 0
    assert page.value("warmloop_journal_failures_total") == 0


async def test_streams_alone_have_a_time_to_first_token(door: Door) -> None:
    assert (await door.post("/v1/chat/completions", chat()))[0] == 200
    page = await door.page()
    assert page.value("warmloop_first_byte_seconds_count", model="big") == 1
    assert page.value("warmloop_first_token_seconds_count", model="big") == 0
    assert (await door.post("/v1/chat/completions", chat(stream=True)))[0] == 200

    async def counted() -> bool:
        return (await door.page()).value("warmloop_turn_seconds_count", model="big") == 2

    async with asyncio.timeout(PATIENCE_S):
        while not await counted():  # noqa: ASYNC110  it is counted when the stream has ended
            await asyncio.sleep(0.02)
    page = await door.page()
    first, whole = (
        page.value(f"warmloop_{name}_seconds_sum", model="big") for name in ("first_byte", "turn")
    )
    assert page.value("warmloop_first_token_seconds_count", model="big") == 1
    assert 0 < page.value("warmloop_queue_seconds_sum", model="big") <= first <= whole


async def test_a_bare_models_responses_are_counted_without_a_name(door: Door) -> None:
    said = (await door.post("/v1/responses", {"model": "big", "input": "hello"}))[1]
    assert said["status"] == "completed", said
    page = await door.page()
    assert page.value("warmloop_responses_total", agent="", status="completed") == 1
