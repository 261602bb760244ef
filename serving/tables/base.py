"""EngineTable: which engines there are, how loaded they are, and what each can hold.

One interface, several feeds (`discovery.py`): a list of URLs, or the Ray directory. The router
reads a snapshot for each turn; it never waits for the feed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

EngineState = Literal["starting", "ready", "draining", "dead"]
EngineKind = Literal["vllm", "sglang", "simulated", "external"]
Tier = Literal["small", "frontier"]


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine says of itself, from its own metrics.

    Token counters are totals since the engine started; `kv_usage` is a share from 0 to 1.
    """

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    queried_tokens: int = 0
    hit_tokens: int = 0
    prompt_tokens: int = 0
    """Prompts computed, or found in the cache."""
    generated_tokens: int = 0
    open_requests: int = 0
    """Requests that its HTTP server holds, known to its scheduler or not; 0 = it does not say."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One replica of one model: an OpenAI server at `url` (no trailing slash, no `/v1`)."""

    replica: str
    """Unique among all engines and all restarts, e.g. `small-3f9a`."""
    model: str
    """The model's name in the configuration: what clients write in `model`."""
    url: str
    served_name: str
    """What the engine itself calls the model; equal to `model` for engines that we start."""
    kind: EngineKind = "vllm"
    found_kind: EngineKind | None = None
    """What an external engine turned out to be; None = nothing that we know."""
    state: EngineState = "ready"
    load: EngineLoad = field(default_factory=EngineLoad)
    capacity_tokens: int = 0
    """Tokens that its KV cache holds; 0 = unknown."""
    context_tokens: int = 0
    """Longest prompt plus output that it takes; 0 = unknown."""
    adapters: tuple[str, ...] = ()
    reason: str = ""
    """Why it is not ready, in a sentence; empty when it is."""
    restarts: int = 0
    """Engines that this replica had before this one."""
    retry_at: float = 0.0
    """When a dead one is started again, in Unix seconds; 0 = never, or it is not dead."""
    round: int = 0
    """The rolling restart that it came with; 0 = the first start."""
    kv_events: str = ""
    """Where it publishes what its KV cache stores and drops (a ZeroMQ address); empty: nowhere."""
    kv_replay: str = ""
    """Where it sends again what a listener missed."""

    @property
    def speaks(self) -> EngineKind:
        """Whose server it is, where servers differ beyond OpenAI's API."""
        return self.found_kind or self.kind


class EngineTable(Protocol):
    """The router's view of the fleet. `snapshot()` is cheap, never blocks, never raises."""

    def snapshot(self) -> tuple[Engine, ...]:
        """All known engines, ready or not, in a stable order."""

    async def start(self) -> None:
        """Begin to follow the feed; returns at once, before the first engine is known."""

    async def stop(self) -> None:
        """Stop following; idempotent."""
