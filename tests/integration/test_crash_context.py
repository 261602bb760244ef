"""SIGKILL around notices and rewritten prompts: every turn is asked in the same bytes."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.loop.events import Compacted, Notice, ResponseFinished
from tests.integration import killing

CHILD = Path(__file__).parent / "context_child.py"


def start(folder: Path, stop: str = "") -> list[str]:
    """Run the child, kill it where it stops, and give what it said."""
    return killing.run(CHILD, str(folder), stop)


def prompts(folder: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in (folder / "prompts").read_text().splitlines():
        asked = json.loads(line)
        # A turn that was sampled again is another answer, whose calls have other ids.
        body = re.sub(r"(call_\d+_\d+)_\d+", r"\1", asked["body"])
        found.setdefault(asked["turn"], set()).add(body)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert start(folder)[-1] == "finished"
    return folder


async def test_without_a_crash_all_of_it_happens(undisturbed: Path) -> None:
    log = await killing.log_in(undisturbed, "conv")
    assert {each.kind for each in log if isinstance(each, Notice)} >= {"drift", "turns"}
    rewritten = [each for each in log if isinstance(each, Compacted)]
    assert rewritten
    assert all(each.text == "it was looked at" for each in rewritten)
    assert sum(isinstance(each, ResponseFinished) for each in log) == 7


@pytest.fixture
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Path]:
    async with killing.folder_for(request, tmp_path) as folder:
        yield folder


@killing.BOTH_IN_FULL
@pytest.mark.parametrize(
    "stop",
    [
        "before ToolResult+Notice",
        "after ToolResult+Notice",
        "summary",
        "before Compacted",
        "after Compacted",
    ],
)
async def test_killed_around_a_notice_or_a_rewriting_every_turn_has_the_same_prompt(
    bench: Path, undisturbed: Path, stop: str
) -> None:
    last = start(bench, stop)[-1]
    assert last.startswith("stopped"), f"never came to {stop!r}: {last!r}"
    assert start(bench)[-1] == "finished"
    assert prompts(bench) == prompts(undisturbed)
    log, expected = await killing.log_in(bench, "conv"), await killing.log_in(undisturbed, "conv")
    for kind in (Notice, Compacted):
        told = [(each.step, each.text) for each in log if isinstance(each, kind)]
        assert told == [(each.step, each.text) for each in expected if isinstance(each, kind)]
