"""When does a turn go, and to which replica? The one place where load and warmth are kept.

    enter(claim) ──► Slot: place() ──► began() ──► ended(usage) ──► freed

    Sessions   which chains belong to whom           (identity)
    Programs   where each session lives, and whether it is coming back
    Warmth     what each replica holds of which prompts
    Rates      how fast each replica is
    Pool       one model's replicas, and who waits for them: decides with `placement`
    Outside    what engines and other front doors tell of all that

Each front door has one. Nothing in it must survive: a new one learns from the turns that pass, and
from the others. Time comes from `clock`, of which only differences matter; timers are those of the
running loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from router.content import Content
from router.identity import Sessions
from router.placing.admission import Admission
from router.placing.claim import Claim, Placed
from router.placing.health import Clock, Health
from router.placing.outside import Outside
from router.placing.pool import Pool
from router.placing.programs import Programs
from router.placing.rates import Rates
from router.placing.slot import Slot
from router.placing.slowness import Slowness
from router.placing.warmth import Warmth
from router.turn import Urgency
from serving.cluster.front_queues import Queues
from serving.config.router import RouterConfig
from serving.tables.base import Engine

__all__ = ["Claim", "Placed", "Scheduler", "Slot"]


class Scheduler:
    """Turns on their way to all engines of one front door. For one event loop."""

    def __init__(
        self,
        knobs: RouterConfig,
        max_inflight: int,
        ready: Callable[[str], Sequence[Engine]],
        health: Health,
        clock: Clock,
        *,
        replicas: Callable[[], Collection[str]] = tuple,
        slots: Callable[[str], int] | None = None,
    ) -> None:
        """`ready` gives the engines that take turns for a model or adapter; `replicas` are all in
        the table, of which alone others may tell us something; `slots` says how many sequences an
        engine of a model computes at once."""
        self.knobs = knobs
        self.ready = ready
        self.health = health
        self.clock = clock
        self.admission = Admission(max_inflight)
        self.sessions = Sessions(knobs.max_sessions)
        self.programs = Programs(knobs.max_sessions)
        self.warmth = Warmth(knobs.warmth.max_nodes, knobs.warmth.unknown_capacity_tokens)
        self.rates = Rates(knobs.warmth.prefill_tokens_per_s_guess)
        self.outside = Outside(self, knobs, replicas)
        self._slowness = Slowness(knobs.failure.slow_factor, knobs.failure.slow_samples)
        self._slots = slots or (lambda _: knobs.queue.max_running)
        self._pools: dict[str, Pool] = {}

    def enter(self, claim: Claim) -> Slot:
        """A slot, counted from now. Raises RateLimited when there is no room to wait."""
        permit = self.admission.admit(claim.tenant.name, self.longest_wait_s)
        return Slot(self, claim, permit)

    def pool(self, model: str) -> Pool:
        """A configured model's; begun when its first engine is there."""
        pool = self._pools.get(model)
        if pool is None:
            pool = self._pools[model] = Pool(
                model,
                self.knobs,
                programs=self.programs,
                warmth=self.warmth,
                rates=self.rates,
                outside=self.outside,
                slots=self._slots(model),
                clock=self.clock,
            )
        return pool

    def closed(self, replica: str) -> None:
        """It was ejected: what waits for it is placed again."""
        for pool in self._pools.values():
            pool.closed(replica)

    def compare(self, replica: str, model: str) -> None:
        """A new sample of its rate: is it much slower than its peers?"""
        rates = {each: self.rates.measured(each) for each in self.pool(model).replicas}
        own = rates.pop(replica, None)
        peers = [rate for rate in rates.values() if rate is not None]
        if own is not None:
            self.health.slow(replica, self._slowness.sample(replica, own, peers))

    def keep_only(self, replicas: Collection[str]) -> None:
        """Forget replicas that left the table; a replica's name never comes back."""
        self.warmth.keep_only(replicas)
        self.programs.keep_only(replicas)
        self.rates.keep_only(replicas)
        self._slowness.keep_only(replicas)
        for pool in self._pools.values():
            pool.keep_only(replicas)

    def loads(self) -> dict[str, int]:
        """Prompt tokens of our turns that are still to be computed, by replica."""
        return dict(pair for pool in self._pools.values() for pair in pool.loads())

    def queues(self) -> Queues:
        """What waits here, by model."""
        return {model: pool.queue() for model, pool in self._pools.items() if pool.queued}

    @property
    def queued(self) -> int:
        """Turns that wait in the router."""
        return sum(pool.queued for pool in self._pools.values())

    def longest_wait_s(self) -> float:
        """Of all models: how long until what waits there now has begun."""
        return max((pool.wait_s() for pool in self._pools.values()), default=0.0)

    def wait_s(self, model: str, tenant: str = "", urgency: Urgency = "batch") -> float:
        """How long a turn that came now, to this model, would wait for its prefill to begin."""
        pool = self._pools.get(model)
        return pool.wait_s(tenant, urgency) if pool is not None else 0.0

    def expected_tokens(self, model: str, content: Content) -> tuple[int, int]:
        """Of this prompt on this model or adapter: its tokens, and the most that any ready replica
        holds of them."""
        tokens, warm = 0, 0
        hashes, ends, size = content.on(model), content.ends_bytes, content.total_bytes
        for engine in self.ready(model):
            ratio = self.rates.bytes_per_token(engine.model)
            tokens = tokens or int(size / ratio)
            at, node = self.warmth.at(engine.replica, engine.capacity_tokens).find(hashes)
            if node is not None and node.warm + node.tail > warm:
                warm = node.warm + node.tail
                tokens = node.end + int((size - ends[at]) / ratio)
        return max(tokens, warm), warm
