"""SIGKILL around notices and rewritten prompts: every turn is asked in the same bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.loop.events import AnyEvent, Compacted, Notice, ResponseFinished
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


async def log_of(folder: Path) -> list[AnyEvent]:
    journal = SqliteJournal(folder / "journal.db")
    try:
        return [each.event for each in await journal.read("conv")]
    finally:
        await journal.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert start(folder)[-1] == "finished"
    return folder


async def test_without_a_crash_all_of_it_happens(undisturbed: Path) -> None:
    log = await log_of(undisturbed)
    assert {each.kind for each in log if isinstance(each, Notice)} >= {"drift", "turns"}
    rewritten = [each for each in log if isinstance(each, Compacted)]
    assert rewritten
    assert all(each.text == "it was looked at" for each in rewritten)
    assert sum(isinstance(each, ResponseFinished) for each in log) == 7


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
    tmp_path: Path, undisturbed: Path, stop: str
) -> None:
    last = start(tmp_path, stop)[-1]
    assert last.startswith("stopped"), f"never came to {stop!r}: {last!r}"
    assert start(tmp_path)[-1] == "finished"
    assert prompts(tmp_path) == prompts(undisturbed)
    log, expected = await log_of(tmp_path), await log_of(undisturbed)
    for kind in (Notice, Compacted):
        told = [(each.step, each.text) for each in log if isinstance(each, kind)]
        assert told == [(each.step, each.text) for each in expected if isinstance(each, kind)]
