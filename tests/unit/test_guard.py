"""The guard says what it measured, and fails when one of its limits is passed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import guard
from benchmarks.harness.stats import Interval


@pytest.mark.parametrize(("second", "code"), [(1.9, 0), (2.1, 1), (float("nan"), 1)])
def test_it_fails_when_any_ratio_passes_its_limit(
    second: float,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checks = (
        ("a ÷ b", "time", lambda: Interval(0.1, 0.05, 0.2), 0.5),
        ("c ÷ d", "CPU", lambda: Interval(second, 1.0, 3.0), 2.0),
    )
    monkeypatch.setattr(guard, "CHECKS", checks)
    assert guard.main(["--json", str(tmp_path / "guard.json")]) == code
    said = capsys.readouterr().out
    assert "bar: a ÷ b, time ≤ 0.5: 0.10 reached" in said
    assert ("MISSED" in said) == bool(code)
    bars = json.loads((tmp_path / "guard.json").read_text())["bars"]
    assert [bar["missed"] for bar in bars] == [False, bool(code)]


def test_the_text_of_a_streamed_answer_is_put_together() -> None:
    stream = (
        b'14\r\ndata: {"choices":[{"delta":{"role":"assistant"}}]}\n\n\r\n'
        b'data: {"choices":[{"delta":{"content":"for"}}]}\n\n'
        b'data: {"choices":[{"delta":{"content":"ty"}}]}\n\n'
        b'data: {"choices":[],"usage":{}}\n\ndata: [DONE]\n\n'
    )
    assert guard._said(stream) == "forty"
