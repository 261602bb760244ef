"""A real vLLM's KV events: what the router predicts of its cache, beside what it reports."""

from __future__ import annotations

import pytest
from rich.console import Console

from benchmarks.warmth import BLOCK_TOKENS, Size, measured, table

pytestmark = pytest.mark.engine


async def test_with_a_real_vllms_events_predictions_are_exact_to_a_block() -> None:
    console = Console(width=110)
    arms = await measured("vllm", Size(sessions=8, turns=32), console)
    console.print(table(arms))
    told = {arm.name: arm.figures() for arm in arms}
    # Else there was nothing to predict.
    assert told["with events, beside others"]["turns_with_a_part_gone"] > 0
    for beside in ("", ", beside others"):
        exact = told["with events" + beside]
        assert exact["mean_error_tokens"] <= BLOCK_TOKENS
        assert exact["mean_error_tokens"] < told["without events" + beside]["mean_error_tokens"]
