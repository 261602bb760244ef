"""What rules go by, and what they say.

change    it costs you now            keep   as it should be
look      worth a look                again  not known well enough: measure again
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.report_figures import Agents, Capacity, Cost, Latency, Load
from benchmarks.report_read import Results
from benchmarks.report_words import cost_of, latency_of

Kind = Literal["change", "look", "again", "keep"]
KINDS_IN_ORDER: tuple[Kind, ...] = ("change", "look", "again", "keep")


@dataclass(frozen=True, slots=True)
class Advice:
    kind: Kind
    found: str
    """The figure, in words."""
    do: str
    by: str
    """Whose figure it is."""
    timed: bool = False
    """It goes by times: on a busy machine it says little."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured; None: nothing was."""

    cost: Cost | None
    latency: Latency | None
    load: Load | None
    agents: Agents | None
    capacity: Capacity | None = None

    @classmethod
    def of(cls, results: Results) -> Evidence:
        found = (
            cost_of(results),
            latency_of(results),
            results.of("load"),
            results.of("agents"),
            results.of("capacity"),
        )
        return cls(*(each.envelope.figures if each else None for each in found))
