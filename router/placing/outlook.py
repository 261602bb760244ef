"""What would a turn find at each replica, in tokens and seconds? Estimates for `pool` to decide on.

    options   the turn as it is (Need), and of each replica: the wait, the rate, what it holds
    fresh     tokens of its prompt that one replica would have to compute
    fits      is there room for it in one replica's cache?
    gain      the seconds that it would win at another replica than the one where it waits
    due_s     the moment by which it is ordered there

Changes nothing but what has expired by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router.placing import placement
from router.placing.claim import Claim
from router.placing.desk import Desk, Held
from router.placing.outside import Outside
from router.placing.placement import Need, Option
from router.placing.programs import Program, Programs
from router.placing.rates import Rates
from router.placing.warmth import Node
from serving.config.router import RouterConfig
from serving.tables.base import Engine


class Outlook:
    """Of one model's replicas."""

    def __init__(
        self,
        model: str,
        knobs: RouterConfig,
        *,
        programs: Programs,
        rates: Rates,
        outside: Outside,
        slots: int,
    ) -> None:
        """`slots`: sequences that one engine computes at once."""
        self._model = model
        self._queue = knobs.queue
        self._placement = knobs.placement
        self._rates = rates
        self._outside = outside
        self._slots = slots
        self._programs = programs

    def options(
        self,
        claim: Claim,
        program: Program,
        engines: Sequence[Engine],
        desks: Mapping[str, Desk],
        now: float,
    ) -> tuple[Need, list[Option]]:
        """The turn in tokens, and each replica as it finds it."""
        identity = claim.identity
        hashes, ends = identity.hashes, identity.ends_bytes
        size = identity.total_bytes or claim.prompt_bytes
        ratio = self._rates.bytes_per_token(self._model)
        home = desks.get(program.home) if len(engines) > 1 else None
        if (
            home is not None
            and not home.line
            and not home.backlog_tokens
            and (home.running < self._slots)
        ):
            # Whose home has nothing to do goes there if it fits at all: no need to ask the others.
            at_home = next((e for e in engines if e.replica == program.home), None)
            engines = engines if at_home is None else (at_home,)
        known, tokens = -1, int(size / ratio)
        found: list[tuple[Engine, Desk, Node | None]] = []
        for engine in engines:
            desk = desks[engine.replica]
            at, node = desk.held.find(hashes)
            if node is not None and at > known:
                # Counted by an engine up to there; only the rest is estimated.
                known, tokens = at, node.end + int((size - ends[at]) / ratio)
            found.append((engine, desk, node))
        need = Need(
            identity.key, max(1, tokens), self._rates.answer_tokens(self._model), program.home
        )
        expected_since = now - self._programs.patience_s
        options = []
        for engine, desk, node in found:
            desk.active.expire(expected_since)
            rate = self._rates.prefill(engine.replica, self._model)
            elsewhere: float | None = self._outside.elsewhere_tokens(engine.replica)
            if elsewhere is None:
                # Of others' turns we know the number only.
                others = max(0, engine.load.waiting - desk.unbegun)
                elsewhere = others * self._rates.fresh_tokens(self._model)
            ahead = desk.backlog_tokens + desk.line.before(claim.tenant.name) + elsewhere
            wait_s = ahead / rate + self._slot_wait_s(desk, engine)
            warm = self.warm(node, need, desk)
            room = desk.room_tokens(program)
            options.append(Option(engine, wait_s, rate, warm, room, desk.placed))
        return need, options

    def _slot_wait_s(self, desk: Desk, engine: Engine) -> float:
        """Until one of the engine's slots is free, as those before it end one by one."""
        # What waits there is ours or others'; what is ours is counted as running, too.
        others = max(0, engine.load.waiting - max(0, desk.running - self._slots))
        ahead = desk.running + others - self._slots + 1
        return max(0, ahead) * self._rates.turn_s(self._model) / self._slots

    def due_s(self, claim: Claim, fresh_tokens: int, arrived_s: float, replica: str) -> float:
        """The moment at which it is due, by which turns that wait are ordered."""
        rate = self._rates.prefill(replica, self._model)
        order_s = arrived_s + self._queue.overtake * fresh_tokens / rate
        return order_s + (self._queue.batch_wait_s if claim.urgency == "batch" else 0.0)

    def ends(self, claim: Claim, at: int, known: Node | None) -> list[int]:
        """Tokens up to each boundary: counted up to the one that is known, estimated from there."""
        ends_bytes = claim.identity.ends_bytes
        ratio = self._rates.bytes_per_token(self._model)
        base, base_bytes = (known.end, ends_bytes[at]) if known is not None else (0, 0)
        rest = [base + int((size - base_bytes) / ratio) for size in ends_bytes[at + 1 :]]
        return [base] * (at + 1) + rest

    def rate(self, desk: Desk) -> float:
        return self._rates.prefill(desk.replica, self._model)

    def fresh(self, claim: Claim, need: Need, desk: Desk) -> int:
        """Tokens of its prompt that are not held there."""
        return need.tokens - self.warm(desk.held.find(claim.identity.hashes)[1], need, desk)

    def warm(self, node: Node | None, need: Need, desk: Desk) -> int:
        if node is None:
            return 0
        warm = node.warm
        if node.tail and warm == node.end:
            warm += int(node.tail * self._rates.answers_kept(self._model))
        warm = min(warm, need.tokens - 1)  # an engine computes at least the last token
        return warm - warm % (desk.held.block_tokens or 1)

    def gain(
        self,
        held: Held,
        there: Desk,
        here: Desk,
        ahead_tokens: int,
        *,
        price: float,
        least_s: float,
    ) -> float:
        """Seconds by which its first token comes sooner here, beyond `least_s` and the price of
        what is computed once more."""
        rate = self.rate(here)
        fresh_here = self.fresh(held.claim, held.need, here)
        fresh_there = self.fresh(held.claim, held.need, there)
        gain = (ahead_tokens + fresh_there) / self.rate(there)
        gain -= (here.backlog_tokens + fresh_here) / rate + least_s
        return gain - price * max(0, fresh_here - fresh_there) / rate

    def fits(self, held: Held, desk: Desk) -> bool:
        engine = held.engines.get(desk.replica)
        if engine is None:
            return False
        warm = held.need.tokens - self.fresh(held.claim, held.need, desk)
        option = Option(engine, 0.0, 1.0, warm, desk.room_tokens(held.program))
        return placement.fits(held.need, option, self._placement)
