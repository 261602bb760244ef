"""Clients over HTTP, unchanged: one task with a tool that the client runs.

The same programs speak to a real engine in `test_front_door_vllm.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import clients
from tests.contract.conftest import simulated_front

FOLDER = Path(__file__).with_name("clients")
PROGRAMS = sorted(each.stem for each in FOLDER.glob("*.py"))
SCRIPT = [
    {"calls": [{"name": "price_of", "arguments": {"what": "helmet"}}]},
    {"text": "A helmet is 42 euros."},
]
PROMPT = f"What is a helmet?\nSIMULATE: {json.dumps(SCRIPT)}"


@pytest.mark.clients
@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_framework_gets_its_tool_called_and_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    async with simulated_front(tmp_path, monkeypatch) as url:
        status, said = await clients.run(
            "python",
            *(str(FOLDER / f"{program}.py"), url, "big", PROMPT),
            folder=tmp_path,
        )

    assert status == 0, said
    # Once by each API.
    assert said.count("TOOL helmet") == 2, said
    assert said.count("ANSWER A helmet is 42 euros.") == 2, said
