"""What every run of a worker shares."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.clock import Clock
from orchestrator.journal.base import Journal
from orchestrator.model import ModelClient
from orchestrator.tools.base import ChildRuns
from orchestrator.worker.guard_metrics import GuardMetrics
from orchestrator.worker.ledger import Ledger
from orchestrator.worker.offers import Offers
from orchestrator.worker.run_metrics import RunMetrics
from orchestrator.worker.tool_times import ToolTimes
from orchestrator.worker.turn_outcomes import Report
from serving.config.model import Prices


@dataclass(frozen=True, slots=True)
class Collaborators:
    """Handed to each runner, and by it to its parts."""

    journal: Journal
    models: ModelClient
    offers: Offers
    """Tools that agents have besides their own."""
    clock: Clock
    prices: Mapping[str, Prices]
    """By the name of the model that served."""
    delta_batch_s: float
    park_s: float
    """A run that only waits, for so long or longer, waits without a process."""
    outcomes: Report
    """Hears whether a turn was good."""
    children: ChildRuns | None
    """Where calls ask other agents."""
    guard: GuardMetrics
    runs: RunMetrics
    times: ToolTimes
    """How long calls take, for who has to be ready when they end."""
    context_tokens: Callable[[str], int]
    """Longest prompt and answer of a model; 0: not known."""
    spawn: Callable[[Coroutine[Any, Any, None]], None]
    """Starts a task that the worker owns."""
    ledger: Ledger
    """What tenants have spent."""
