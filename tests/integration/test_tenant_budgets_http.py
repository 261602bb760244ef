"""A tenant's budget at a front door's HTTP: who is refused, with which words, and what is seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_tenants_http import Door, front_door, turn

PATIENCE_S = 30.0
TURNS = ("/v1/chat/completions", "/v1/completions", "/v1/messages")


@pytest.fixture
async def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path))
    tenants = {"acme": {"budget": {"window": "1h", "max_turns": 3}}, "bolt": {}}
    async with front_door(tmp_path, tenants=tenants) as made:
        yield made


def task(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"model": "desk", "input": "go\nSIMULATE: " + json.dumps(steps)}


async def spent(door: Door) -> float:
    """The share that the operator's page shows."""
    page = (await door.get("operator", "/metrics"))[1]
    line = 'warmloop_tenant_budget_used{limit="max_turns",tenant="acme"} '
    found = [each for each in page.splitlines() if each.startswith(line)]
    return float(found[0].removeprefix(line))


async def until_spent(door: Door, share: float) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while abs(await spent(door) - share) > 0.001:  # noqa: ASYNC110  nobody announces it
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("path", TURNS)
async def test_when_a_budget_is_used_up_all_its_tenant_asks_is_refused_with_what_and_until_when(
    door: Door, path: str
) -> None:
    for stream in (False, True, False):
        status, said = await door.post("acme", path, turn(path, stream=stream))
        assert status == 200, said
    await until_spent(door, 1.0)
    for asked, body in ((path, turn(path)), ("/v1/responses", task({"text": "no"}))):
        status, said, headers = await door.ask("acme", "POST", asked, body)
        assert status == 429, asked
        error = said["error"]
        assert error["type"] == "insufficient_quota"
        assert "tenants.acme.budget.max_turns" in error["message"]
        assert "3 model turns in 1h" in error["message"]
        assert 3_000 < int(headers["retry-after"]) <= 3_660
    assert (await door.post("bolt", path, turn(path)))[0] == 200
    page = (await door.get("operator", "/metrics"))[1]
    refused = 'warmloop_tenant_budget_refused_total{limit="max_turns",tenant="acme"} 2.0'
    assert refused in page


async def test_an_agent_s_turns_and_forwarded_ones_are_paid_from_one_budget(door: Door) -> None:
    status, said = await door.post("acme", "/v1/responses", task({"text": "one"}))
    assert (status, said["status"]) == (200, "completed")
    await until_spent(door, 1 / 3)
    assert (await door.post("acme", TURNS[0], turn(TURNS[0])))[0] == 200
    await until_spent(door, 2 / 3)
    status, said = await door.post("acme", "/v1/responses", task({"text": "last"}))
    assert (status, said["status"]) == (200, "completed")
    limit = said["warmloop"]["limit"]
    assert (limit["scope"], limit["kind"], limit["answered"]) == ("tenant", "turns", True)
    assert (await door.post("acme", "/v1/responses", task({"text": "no"})))[0] == 429
