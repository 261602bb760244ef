"""The replicas benchmark: how real runs become a workload, and when two rankings agree."""

from __future__ import annotations

import pytest

from benchmarks.replicas import Chooser, as_workload, simulate
from benchmarks.replicas_load import FLEET, Played, Rates, Seen, Shape
from benchmarks.replicas_report import Figures, disagreements
from benchmarks.routing_workload import oracle_tokens


def _figures(policy: str, hits: float, ttft_s: float) -> Figures:
    return Figures(policy, hits, ttft_s, ttft_s, 1.0, 1.0)


def _played(sessions: int, turns: int) -> Played:
    return Played(
        [
            Seen(s, t, 0.1, 640 + 160 * t, 320 if s and not t else 0, 8, 1.0 if t else 0.0, "a")
            for t in range(turns)
            for s in range(sessions)
        ]
    )


def test_a_real_run_becomes_sessions_whose_prompts_grow_from_a_shared_head() -> None:
    workload = as_workload(_played(3, 4))
    first, second, _ = workload.sessions
    assert [t.prompt_tokens for t in first.turns] == [640, 800, 960, 1120]
    assert first.turns[0].blocks[:10] == second.turns[0].blocks[:10]
    assert first.turns[0].blocks[10] != second.turns[0].blocks[10]
    assert first.turns[1].blocks[:20] == first.turns[0].blocks
    # All that was sent before is found, less the last token of each prompt.
    assert oracle_tokens(workload.sessions, 32) == (640 + 800 + 960) * 3 + 320 * 2


def test_the_simulation_of_a_real_run_keeps_sessions_at_home() -> None:
    shape = Shape(sessions=3, turns=5)  # odd: round robin does not hit homes by chance
    workload = as_workload(_played(3, 5))
    told = {
        policy: simulate(policy, workload, Rates(2000.0, 25.0), 4000, shape)
        for policy in ("round-robin", "sticky", "ours")
    }
    assert told["sticky"].hits > told["round-robin"].hits
    assert told["ours"].hits > told["round-robin"].hits


def test_only_differences_beyond_noise_can_disagree() -> None:
    real = [_figures("a", 0.80, 0.20), _figures("b", 0.79, 0.40)]
    same = [_figures("a", 0.70, 0.15), _figures("b", 0.75, 0.30)]
    other = [_figures("a", 0.80, 0.30), _figures("b", 0.79, 0.15)]
    assert disagreements(real, same) == []
    assert [line.split(":")[0] for line in disagreements(real, other)] == ["mean TTFT"]


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        ("round-robin", ["y", "x", "y"]),
        ("least-loaded", ["x", "y", "x"]),
        ("sticky", ["x", "x", "x"]),
        ("ours", [FLEET, FLEET, FLEET]),
    ],
)
def test_a_policy_chooses_by_what_is_under_way(policy: str, chosen: list[str]) -> None:
    chooser = Chooser(policy, ["x", "y"])
    assert [chooser.choose("one") for _ in range(3)] == chosen
