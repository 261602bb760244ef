"""SIGKILL between and inside turns resets nothing of a tenant's budget, and gives nothing back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.loop.events import LimitReached, ModelResult
from tests.integration import killing

CHILD = Path(__file__).parent / "budget_child.py"


@pytest.fixture
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Path]:
    async with killing.folder_for(request, tmp_path) as folder:
        yield folder


@killing.BOTH
@pytest.mark.parametrize(
    "stop",
    [
        "after ModelRouted+ModelResult+ToolIntent",
        "asked conv_2 1",
        "before ToolResult+Notice+ModelIntent",
        "asked conv_2 2 for the last time",
    ],
)
async def test_a_budget_is_the_same_after_a_kill(bench: Path, stop: str) -> None:
    last = killing.run(CHILD, str(bench), stop)[-1]
    assert last.startswith(f"stopped {stop}")
    ended = killing.run(CHILD, str(bench))[-1]
    assert ended == "finished 8 completed completed"
    log = [each for name in ("conv_1", "conv_2") for each in await killing.log_in(bench, name)]
    assert sum(isinstance(each, ModelResult) for each in log) == 8
    limits = [(each.scope, each.answered) for each in log if isinstance(each, LimitReached)]
    assert limits == [("response", True), ("tenant", True)]
    asked: dict[str, set[str]] = {}
    for line in (bench / "prompts").read_text().splitlines():
        said = json.loads(line)
        asked.setdefault(said["turn"], set()).add(said["body"])
    assert len(asked) == 8
    assert all(len(bodies) == 1 for bodies in asked.values()), "the same bytes, however often"
