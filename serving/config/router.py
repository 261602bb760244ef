"""The router's sections of a stack's configuration: its policies' knobs, each with its reason."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from serving.config.sections import Frozen

TurnType = Literal["classify", "summarise", "format", "tool-call", "plan", "finalise"]
TURN_TYPES: tuple[TurnType, ...] = get_args(TurnType)
TierPolicy = Literal["auto", "small", "frontier", "race"]


class TierKnobs(Frozen):
    """What an agent may have of its own; unset: as the stack has it."""

    policy: TierPolicy | None = None
    """`auto`: by history and price. `small` and `frontier`: always that one (small may still
    escalate). `race`: both are asked at once, and the first good answer wins."""
    quality_floor: float | None = Field(default=None, gt=0, le=1)
    """Share of the frontier's quality that must be kept."""
    budget_usd: float | None = Field(default=None, gt=0)
    """What one session may cost."""
    when_spent: Literal["small", "refuse"] | None = None
    """What a session gets whose budget is used up: the small model only, or a refusal."""
    margin: float | None = Field(default=None, ge=0)
    """A session changes its model for a gain of more than this share of what staying costs."""


class TiersConfig(TierKnobs):
    """How `model: auto` chooses between the small and the frontier model; see docs/tiers.md."""

    policy: TierPolicy = "auto"
    quality_floor: float = Field(default=0.95, gt=0, le=1)
    when_spent: Literal["small", "refuse"] = "small"
    margin: float = Field(default=0.2, ge=0)
    caution: float = Field(default=1.0, ge=0)
    """Standard errors by which what is known of quality must clear the floor; 1.64 is being 95 %
    sure of it, 1 is 84 %."""
    small_turns: tuple[TurnType, ...] = ("classify", "summarise", "format")
    """Side turns: the small model has them until history says that it fails."""
    escalate: bool = True
    """A small model's invalid or unsure answer is asked again of the frontier, once."""
    min_logprob: float = Field(default=-0.5, le=0)
    """Mean log probability of the values in a call's arguments below which it is unsure."""
    hold_text: bool = False
    """Hold streamed text of the small model back until it is whole, so that it can escalate."""
    explore: float = Field(default=0.02, ge=0, lt=1)
    """Share of sessions that try the small model where too little is known of it, on turns that
    can escalate only. Never more than the floor leaves room for."""
    remaining_turns: float = Field(default=4.0, ge=1)
    """Turns that a session is expected to have still, when models are compared."""
    output_tokens: int = Field(default=200, ge=1)
    """Of a turn, where there is no history."""
    implicit_weight: float = Field(default=0.25, ge=0, le=1)
    """What a success counts that was only seen (a valid call, never asked again), beside one that
    was reported to /v1/warmloop/outcomes."""
    observed_weight: float = Field(default=0.5, ge=0, le=1)
    """... and what an outcome counts that the agent loop saw itself: tools took a turn's calls, or
    a call was refused."""
    prior_turns: float = Field(default=20.0, gt=0)
    """How many outcomes of its own make a kind of turn count as much as what it is a kind of."""
    half_life_turns: float = Field(default=2000.0, gt=0)
    """Outcomes after which an older one counts half."""
    max_kinds: int = Field(default=10_000, ge=16)
    """Kinds of turns with a history; the least recently used go first."""
    max_sessions: int = Field(default=100_000, ge=1)
    """Sessions whose model and spending are remembered."""
    max_recent: int = Field(default=50_000, ge=1)
    """Requests whose outcome can still be reported."""
    held_bytes: int = Field(default=8 * 2**20, ge=1024)
    """Longest answer that is held back; a longer one counts as invalid."""
    save_every_s: float = Field(default=30.0, gt=0)
    """How often the history is written to the stack's folder."""

    def of(self, own: TierKnobs | None) -> TiersConfig:
        """These knobs with an agent's own in their place."""
        return self if own is None else self.model_copy(update=own.model_dump(exclude_none=True))


class FailureConfig(Frozen):
    """What a turn may cost when replicas fail."""

    max_eject_s: float = Field(default=60.0, gt=0)
    """The pause of a replica that keeps failing doubles from `router.eject_s` up to this."""
    retry_share: float = Field(default=0.2, ge=0, le=10)
    """Retries and continuations, as a share of the requests of the last `retry_window_s`."""
    retry_floor: int = Field(default=10, ge=0)
    """... and so many more; turns of a replica that was just ejected may each move once besides."""
    retry_window_s: float = Field(default=60.0, gt=0)
    busy_pause_s: float = Field(default=0.1, ge=0)
    """A turn that met a full queue waits about so long before the next, and twice that then."""
    slow_factor: float = Field(default=5.0, gt=1)
    """A replica whose prefill is so many times slower than its peers' gets one turn at a time."""
    slow_samples: int = Field(default=8, ge=1)
    """... when so many of its turns have shown it."""
    continuations: int = Field(default=3, ge=0, le=10)
    """How often a stream of plain text that is cut goes on elsewhere; 0 = never."""
    continue_wait_s: float = Field(default=30.0, ge=0)
    """How long it waits for a replica, where none takes turns just now."""
    continue_bytes: int = Field(default=256 * 1024, ge=0)
    """Text of one stream that is kept for it."""


class KvEventsConfig(Frozen):
    """What engines publish of their KV caches, and whether we listen."""

    listen: bool = True
    """To those that publish. Without it what they hold is only estimated."""
    max_blocks: int = Field(default=500_000, ge=1)
    """Blocks of one replica that are remembered, at about 100 bytes each; a replica that has more
    is only estimated."""
    max_boundaries: int = Field(default=50_000, ge=1)
    """Conversations of one replica that are followed; the least recently used go first."""


class PeersConfig(Frozen):
    """How several front doors tell each other what they learn; who they are: `front.peers`."""

    batch_s: float = Field(default=0.05, gt=0)
    """News wait so long for others that go with them."""
    max_queued: int = Field(default=5000, ge=1)
    """News that wait for one peer; the oldest go first."""
    max_table: int = Field(default=200_000, ge=0)
    """Message boundaries that a front door which has just started is told."""


class PlacementConfig(Frozen):
    """Which replica gets a turn: what weighs how much."""

    spread: float = Field(default=1.0, ge=1)
    """No replica gets more than this many times its share of new sessions."""
    alike_s: float = Field(default=0.05, ge=0)
    """Replicas whose scores differ by less are as good as each other."""
    leave_s: float = Field(default=1.0, ge=0)
    """What leaving home must gain beyond its cost."""
    leave_price: float = Field(default=6.0, ge=0)
    """The prefix that is computed once more elsewhere counts this much in addition."""
    eviction_price: float = Field(default=0.5, ge=0)
    """A second that others will need to compute again what was driven out counts this much."""
    small_tokens: int = Field(default=4096, ge=0)
    """A turn that computes no more than this needs no room made for it."""
    holds: float = Field(default=0.3, ge=0, le=1)
    """A program still has its place while this share of its prompt is held."""


class QueueConfig(Frozen):
    """How turns wait in the router, so that engines' own queues stay short."""

    max_running: int = Field(default=256, ge=1)
    """Turns in one engine at once; vLLM's own default."""
    backlog_s: float = Field(default=0.5, gt=0)
    """Prefill that may wait in an engine; the rest waits here, where it can still be moved."""
    overtake: float = Field(default=1.0, ge=0)
    """A turn is overtaken by shorter ones that arrive up to this many times its prefill later."""
    batch_wait_s: float = Field(default=60.0, ge=0)
    """Interactive turns go before batch turns that arrived up to this much earlier."""
    max_wait_s: float = Field(default=600.0, gt=0)
    """Longest wait in the router; then 503."""
    tenant_credit_tokens: float = Field(default=50_000.0, ge=0)
    """Tokens over weight that a tenant which asks for less than its share may have at once, before
    those who have had more."""
    stranger_share: float = Field(default=1.0, gt=0, le=1)
    """Share of a replica's prefill time that may go to programs for which others must make room."""


class WarmthConfig(Frozen):
    """What is remembered of each replica's cache."""

    max_nodes: int = Field(default=65_536, ge=16)
    """Message boundaries of one replica; about 200 bytes each."""
    unknown_capacity_tokens: int = Field(default=250_000, ge=1)
    """Taken for an engine that does not say how much its cache holds, until it shows more."""
    prefill_tokens_per_s_guess: float = Field(default=8000.0, gt=0)
    """Until the first turns have shown it."""


class RouterConfig(Frozen):
    """The policies' knobs."""

    tiers: TiersConfig = TiersConfig()
    placement: PlacementConfig = PlacementConfig()
    queue: QueueConfig = QueueConfig()
    warmth: WarmthConfig = WarmthConfig()
    eject_s: float = Field(default=5.0, gt=0)
    """How long a replica that refused or timed out gets no turns, the first time."""
    attempts: int = Field(default=3, ge=1, le=10)
    """Replicas to try before the first byte; then the client gets the error."""
    max_sessions: int = Field(default=200_000, ge=1)
    """Sessions kept in memory; the least recently used go first."""
    failure: FailureConfig = FailureConfig()
    kv_events: KvEventsConfig = KvEventsConfig()
    peers: PeersConfig = PeersConfig()


class ToolsConfig(Frozen):
    """What a tool's schema may ask for; see `serving.schemas`."""

    max_tools: int = Field(default=128, ge=1)
    """Tools in one request."""
    max_string: int = Field(default=4096, ge=1)
    """Characters of a string argument whose schema sets no maxLength."""
    max_items: int = Field(default=64, ge=1)
    """Items of an array argument whose schema sets no maxItems."""
    max_depth: int = Field(default=4, ge=1, le=16)
    """Levels of a schema that refers to itself."""
    resamples: int = Field(default=1, ge=0, le=5)
    """How often a call that does not fit its schema is asked for again."""
    max_known: int = Field(default=512, ge=1)
    """Tool lists that are remembered with what was decided about them."""
