"""Agent frameworks over HTTP, unchanged: one task with a tool that the client runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import clients
from tests.contract.conftest import simulated_front

PROGRAMS = Path(__file__).with_name("clients")
SCRIPT = [
    {"calls": [{"name": "price_of", "arguments": {"what": "helmet"}}]},
    {"text": "A helmet is 42 euros."},
]
PROMPT = f"What is a helmet?\nSIMULATE: {json.dumps(SCRIPT)}"


@pytest.mark.clients
@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize("program", ["agents_sdk", "langgraph_agent", "pydantic_agent"])
async def test_a_framework_gets_its_tool_called_and_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, api: str
) -> None:
    async with simulated_front(tmp_path, monkeypatch) as url:
        status, said = await clients.run(
            "python",
            *(str(PROGRAMS / f"{program}.py"), url, "big", api, PROMPT),
            folder=tmp_path,
        )

    assert status == 0, said
    assert said.count("TOOL helmet") == 1, said
    assert "ANSWER A helmet is 42 euros." in said
