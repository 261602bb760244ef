"""Who goes now, and where? The replicas of one model, and the turns that wait for them.

A turn that finds room at its replica goes at once. Others wait here, in one of two ways:

    at a desk       its replica has as much prefill before it as an engine's queue should hold;
                    the turn goes when that is less, in order, or to another replica that has
                    nothing to do
    as a stranger   wherever it went it would drive out programs that are expected back: cache is
                    scarce, and it holds none of it. It goes when one of those has ended or is gone
                    for long, or, since nobody may starve, when a replica can afford it:
                    `stranger_share` of its prefill may go to what strangers compute at others'
                    cost. A program that was driven out while it waited becomes one.

At a replica, those whose prefix is there go before strangers: they are short, and the longer they
wait, the likelier it is that they are driven out, too.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

from router import placement
from router.claim import Claim, Placed
from router.desk import Booking, Desk, Held
from router.health import Clock
from router.outside import Outside
from router.placement import Choice, Need, Option
from router.programs import Program, Programs
from router.rates import Rates
from router.turn import Urgency
from router.waiting import Fair, Line
from router.warmth import Node, Warmth
from serving.errors import Unavailable
from serving.front_queues import Queue
from serving.router_config import RouterConfig
from serving.table import Engine

_LOOK = 32
"""How many of a line are looked at for one that fits."""
_TICK_S = 0.25
"""While turns wait: room comes from time passing, too."""


class Gone(Exception):
    """The replica at which a turn waited has left or failed: it is to be placed again."""


class Pool:
    """One model. Adapters share their model's engines, and its pool."""

    def __init__(
        self,
        model: str,
        knobs: RouterConfig,
        *,
        programs: Programs,
        warmth: Warmth,
        rates: Rates,
        outside: Outside,
        slots: int,
        clock: Clock,
    ) -> None:
        """`slots`: sequences that one engine computes at once."""
        self.model = model
        self._slots = slots
        self._knobs = knobs
        self._programs = programs
        self._warmth = warmth
        self._rates = rates
        self._outside = outside
        self._clock = clock
        self._fair = Fair(knobs.queue.tenant_credit_tokens)
        self._desks: dict[str, Desk] = {}
        self._strangers: Line[Held] = Line(self._fair)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def queued(self) -> int:
        return self._fair.waiting

    def loads(self) -> Iterator[tuple[str, int]]:
        """Prompt tokens on their way to each replica that has any."""
        for desk in self._desks.values():
            if tokens := desk.backlog_tokens + desk.line.tokens:
                yield desk.replica, tokens

    def queue(self) -> Queue:
        """What waits here, for those who decide how many replicas there are."""
        lines = [self._strangers, *(desk.line for desk in self._desks.values())]
        tokens = sum(line.tokens for line in lines)
        rates = [self._rate(desk) for desk in self._desks.values()]
        prefill_s = tokens * len(rates) / sum(rates) if rates else 0.0
        return Queue(self._fair.waiting, tokens, prefill_s)

    def keep_only(self, replicas: Collection[str]) -> None:
        """What waited for a replica that is gone is placed again."""
        for gone in [r for r in self._desks if r not in replicas]:
            self._again(self._desks.pop(gone).line)

    def closed(self, replica: str) -> None:
        """It takes no turns for now: what waits for it, or might go there, is placed again."""
        desk = self._desks.get(replica)
        if desk is not None:
            self._again(desk.line)
        self._again(self._strangers)

    def _again(self, line: Line[Held]) -> None:
        for held in list(line):
            line.remove(held)
            if not held.placed.done():
                held.placed.set_exception(Gone())

    @property
    def replicas(self) -> Collection[str]:
        """Those that turns have been placed among."""
        return self._desks.keys()

    def wait_s(self, tenant: str = "", urgency: Urgency = "batch") -> float:
        """How long a turn that came now and had no home would wait for its prefill to begin.

        A batch turn waits for all of its tenant's, an interactive one for those before it.
        """
        if not self._desks:
            return 0.0
        order_s = math.inf if urgency == "batch" else self._clock()
        queued = self._strangers.before(tenant, order_s) / len(self._desks)
        return min(
            (desk.backlog_tokens + desk.line.before(tenant, order_s) + queued) / self._rate(desk)
            for desk in self._desks.values()
        )

    def arrive(
        self, claim: Claim, program: Program, engines: Sequence[Engine], arrived_s: float
    ) -> tuple[Placed, Booking] | Held:
        """Placed at once, or waiting. `engines` are not empty."""
        now = self._clock()
        for engine in engines:
            self._desk(engine).heard(engine)
        need, options = self._options(claim, program, engines, now)
        choice = placement.choose(need, options, self._knobs.placement)
        desk = None
        fresh = need.tokens
        if choice is not None:
            desk = self._desks[choice.engine.replica]
            fresh = self._fresh(claim, need, desk)
            if not desk.line and self._may_go(desk, need, fresh, claim.tenant.name):
                return self._go(claim, program, need, choice, arrived_s)
        order_s = self._order_s(claim, fresh, arrived_s, engines[0].replica)
        by_replica = {engine.replica: engine for engine in engines}
        held = Held(
            order_s,
            fresh,
            claim=claim,
            need=need,
            program=program,
            engines=by_replica,
            arrived_s=arrived_s,
        )
        if desk is not None:
            held.at = desk
            desk.line.add(held)
        else:
            self._becomes_stranger(held)
            # Where least is taken from others, if there are several that could take it now.
            desks = [self._desks[engine.replica] for engine in engines]
            for each in sorted(desks, key=Desk.room_tokens, reverse=True):
                self.pump(each)
        self._arm()
        return held

    def _order_s(self, claim: Claim, fresh_tokens: int, arrived_s: float, replica: str) -> float:
        """The moment at which it is due, by which turns that wait are ordered."""
        rate = self._rates.prefill(replica, self.model)
        order_s = arrived_s + self._knobs.queue.overtake * fresh_tokens / rate
        return order_s + (self._knobs.queue.batch_wait_s if claim.urgency == "batch" else 0.0)

    def give_up(self, held: Held) -> None:
        """Whoever waited has left."""
        if held.placed.cancelled() or not held.placed.done():
            with suppress(KeyError, ValueError):  # taken from it between its end and this
                self._line_of(held).remove(held)
        elif held.placed.exception() is None:
            _, booking = held.placed.result()
            booking.end()
            self.freed(booking, held.program)

    def owes(self, claim: Claim, output_tokens: int) -> None:
        """What was generated is its tenant's, too."""
        self._fair.owe(claim.tenant.name, output_tokens / claim.tenant.weight)

    def freed(self, booking: Booking, program: Program) -> None:
        """A turn has ended there."""
        program.running -= 1
        self._programs.ended(program, self._clock())
        self.pump(booking.desk)

    def _desk(self, engine: Engine) -> Desk:
        desk = self._desks.get(engine.replica)
        if desk is None:
            desk = self._desks[engine.replica] = Desk(
                engine.replica,
                self.model,
                self._warmth.at(engine.replica, engine.capacity_tokens),
                self._programs.active(engine.replica),
                Line(self._fair),
            )
        return desk

    def _options(
        self, claim: Claim, program: Program, engines: Sequence[Engine], now: float
    ) -> tuple[Need, list[Option]]:
        """The turn in tokens, and each replica as it finds it."""
        identity = claim.identity
        hashes, ends = identity.hashes, identity.ends_bytes
        size = identity.total_bytes or claim.prompt_bytes
        ratio = self._rates.bytes_per_token(self.model)
        home = self._desks.get(program.home) if len(engines) > 1 else None
        if (
            home is not None
            and not home.line
            and not home.backlog_tokens
            and (home.running < self._slots)
        ):
            # Whose home has nothing to do goes there if it fits at all: no need to ask the others.
            engines = [e for e in engines if e.replica == program.home] or engines
        known, tokens = -1, int(size / ratio)
        found: list[tuple[Engine, Desk, Node | None]] = []
        for engine in engines:
            desk = self._desks[engine.replica]
            at, node = desk.held.find(hashes)
            if node is not None and at > known:
                # Counted by an engine up to there; only the rest is estimated.
                known, tokens = at, node.end + int((size - ends[at]) / ratio)
            found.append((engine, desk, node))
        need = Need(
            identity.key, max(1, tokens), self._rates.answer_tokens(self.model), program.home
        )
        expected_since = now - self._programs.patience_s
        options = []
        for engine, desk, node in found:
            desk.active.expire(expected_since)
            rate = self._rates.prefill(engine.replica, self.model)
            elsewhere: float | None = self._outside.elsewhere_tokens(engine.replica)
            if elsewhere is None:
                # Of others' turns we know the number only.
                others = max(0, engine.load.waiting - desk.unbegun)
                elsewhere = others * self._rates.fresh_tokens(self.model)
            ahead = desk.backlog_tokens + desk.line.before(claim.tenant.name) + elsewhere
            wait_s = ahead / rate + self._slot_wait_s(desk, engine)
            warm = self._warm(node, need, desk)
            room = desk.room_tokens(program)
            options.append(Option(engine, wait_s, rate, warm, room, desk.placed))
        return need, options

    def _slot_wait_s(self, desk: Desk, engine: Engine) -> float:
        """Until one of the engine's slots is free, as those before it end one by one."""
        # What waits there is ours or others'; what is ours is counted as running, too.
        others = max(0, engine.load.waiting - max(0, desk.running - self._slots))
        ahead = desk.running + others - self._slots + 1
        return max(0, ahead) * self._rates.turn_s(self.model) / self._slots

    def _go(
        self, claim: Claim, program: Program, need: Need, choice: Choice, arrived_s: float
    ) -> tuple[Placed, Booking]:
        """Count it there; from here on it is that replica's load."""
        now = self._clock()
        desk = self._desks[choice.engine.replica]
        hashes = claim.identity.hashes
        at, node = desk.held.find(hashes)
        warm, whole = self._warm(node, need, desk), node.warm if node is not None else 0
        if hashes:
            node = desk.held.extend(hashes, self._ends(claim, at, node))
        due_in_s = None
        if desk.backlog_tokens or choice.engine.load.waiting or claim.urgency == "batch":
            due_in_s = self._order_s(claim, need.tokens - warm, arrived_s, desk.replica) - now
        booking = Booking(desk, need, warm=warm, whole=whole, node=node, sent_s=now)
        self._fair.serve(claim.tenant.name, (need.tokens - warm) / claim.tenant.weight)
        self._rates.went(self.model, need.tokens - warm)
        if program.home not in self._desks:
            self._count_new(desk)
        program.running += 1
        self._programs.settle(program, desk.replica, need.tokens)
        placed = Placed(
            choice.engine, choice.reason, warm, now - arrived_s, choice.first_token_s, due_in_s
        )
        return placed, booking

    def _ends(self, claim: Claim, at: int, known: Node | None) -> list[int]:
        """Tokens up to each boundary: counted up to the one that is known, estimated from there."""
        ends_bytes = claim.identity.ends_bytes
        ratio = self._rates.bytes_per_token(self.model)
        base, base_bytes = (known.end, ends_bytes[at]) if known is not None else (0, 0)
        rest = [base + int((size - base_bytes) / ratio) for size in ends_bytes[at + 1 :]]
        return [base] * (at + 1) + rest

    def _count_new(self, desk: Desk) -> None:
        """Sessions that found a home, by replica: new ones, and those whose replica has left.

        Older ones count for less.
        """
        desk.placed += 1
        if sum(each.placed for each in self._desks.values()) > 64 * len(self._desks):
            for each in self._desks.values():
                each.placed /= 2

    # Those that wait

    def pump(self, desk: Desk) -> None:
        """Something became free there: let those go that may, in order."""
        if self._desks.get(desk.replica) is not desk:
            return  # it has left the table
        if not self._fair.waiting:
            return
        now = self._clock()
        desk.active.expire(now - self._programs.patience_s)
        for held in _heads(desk.line):
            if not self._welcome(held, desk):
                # Its prefix was driven out while it waited: now it would do that to others.
                desk.line.remove(held)
                self._becomes_stranger(held)
            elif self._ready_for(held, desk):
                if poorer := self._poorer(held, desk):
                    self._send(poorer, desk, "steal")
                    continue
                home = held.need.home
                self._send(held, desk, "home" if home == desk.replica else _moved(home))
            else:
                return
        while self._strangers:
            stranger, forced = self._next_stranger(desk, now)
            if stranger is None:
                break
            if not self._ready_for(stranger, desk):
                return
            if forced:
                fresh = self._fresh(stranger.claim, stranger.need, desk)
                share = self._knobs.queue.stranger_share
                desk.strangers_from_s = now + fresh / self._rate(desk) / share
            self._send(stranger, desk, "forced" if forced else "room")
        self._steal(desk)

    def _next_stranger(self, desk: Desk, now: float) -> tuple[Held | None, bool]:
        """One for which there is room; else the first, where this replica can afford it."""
        held = self._strangers.first(lambda h: self._welcome(h, desk), _LOOK)
        if held is not None or now < desk.strangers_from_s:
            return held, False
        return self._strangers.first(lambda h: desk.replica in h.engines, _LOOK), True

    def _poorer(self, held: Held, desk: Desk) -> Held | None:
        """A turn that waits elsewhere, of a tenant that has had less than this one's: where one
        tenant keeps all replicas busy, none is ever idle and steals."""
        start = self._fair.next_start(held.tenant)
        best, most = None, 0.0
        for other in self._desks.values():
            first = other.line.first(lambda _: True, 1) if other is not desk else None
            if first is None or self._fair.next_start(first.tenant) >= start:
                continue
            # Its own prefix, computed once more, is on its own account: no price beyond that.
            gain = self._gain(first, other, desk, other.backlog_tokens, price=1.0, least_s=0.0)
            if gain > most and self._welcome(first, desk) and self._ready_for(first, desk):
                best, most = first, gain
        return best

    def _gain(
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
        rate = self._rate(here)
        fresh_here = self._fresh(held.claim, held.need, here)
        fresh_there = self._fresh(held.claim, held.need, there)
        gain = (ahead_tokens + fresh_there) / self._rate(there)
        gain -= (here.backlog_tokens + fresh_here) / rate + least_s
        return gain - price * max(0, fresh_here - fresh_there) / rate

    def _steal(self, desk: Desk) -> None:
        """It has nothing to do: take a turn that is quicker here than where it waits."""
        if desk.backlog_tokens or desk.line:
            return
        busiest = max(self._desks.values(), key=lambda d: d.line.tokens)
        if not busiest.line:
            return
        ahead, knobs = busiest.backlog_tokens, self._knobs.placement
        best, most = None, 0.0
        for seen, held in enumerate(busiest.line):
            if seen >= _LOOK:
                break
            if desk.replica in held.engines:
                gain = self._gain(
                    held, busiest, desk, ahead, price=knobs.leave_price, least_s=knobs.leave_s
                )
                if gain > most and self._welcome(held, desk):
                    best, most = held, gain
            ahead += held.tokens
        if best is not None:
            self._send(best, desk, "steal")

    def _send(self, held: Held, desk: Desk, reason: str) -> None:
        self._line_of(held).remove(held)
        if held.placed.done():
            return  # it was cancelled in this very turn of the loop
        fresh = self._fresh(held.claim, held.need, desk)
        first_token_s = (desk.backlog_tokens + fresh) / self._rate(desk)
        choice = Choice(held.engines[desk.replica], reason, first_token_s)
        held.placed.set_result(
            self._go(held.claim, held.program, held.need, choice, held.arrived_s)
        )

    def _becomes_stranger(self, held: Held) -> None:
        """What it held is lost, or as good as: nothing is kept for it any more."""
        held.at = None
        if held.program.home:
            self._programs.active(held.program.home).remove(held.program)
        self._strangers.add(held)

    def _line_of(self, held: Held) -> Line[Held]:
        return self._strangers if held.at is None else held.at.line

    def _welcome(self, held: Held, desk: Desk) -> bool:
        engine = held.engines.get(desk.replica)
        if engine is None:
            return False
        warm = held.need.tokens - self._fresh(held.claim, held.need, desk)
        option = Option(engine, 0.0, 1.0, warm, desk.room_tokens(held.program))
        return placement.fits(held.need, option, self._knobs.placement)

    def _ready_for(self, held: Held, desk: Desk) -> bool:
        fresh = self._fresh(held.claim, held.need, desk)
        return self._may_go(desk, held.need, fresh, held.tenant)

    def _may_go(self, desk: Desk, need: Need, fresh_tokens: int, tenant: str) -> bool:
        if desk.backlog_tokens and self._fair.is_spent(tenant):
            # What lies in an engine's own queue cannot be overtaken by who comes and had less.
            return False
        return desk.may_go(need, fresh_tokens, self._rate(desk), self._knobs.queue)

    def _rate(self, desk: Desk) -> float:
        return self._rates.prefill(desk.replica, self.model)

    def _fresh(self, claim: Claim, need: Need, desk: Desk) -> int:
        """Tokens of its prompt that are not held there."""
        return need.tokens - self._warm(desk.held.find(claim.identity.hashes)[1], need, desk)

    def _warm(self, node: Node | None, need: Need, desk: Desk) -> int:
        if node is None:
            return 0
        warm = node.warm
        if node.tail and warm == node.end:
            warm += int(node.tail * self._rates.answers_kept(self.model))
        warm = min(warm, need.tokens - 1)  # an engine computes at least the last token
        return warm - warm % (desk.held.block_tokens or 1)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for desk in list(self._desks.values()):
            self.pump(desk)
        self._refuse_late()
        if self.queued:
            self._arm()

    def _refuse_late(self) -> None:
        before_s = self._clock() - self._knobs.queue.max_wait_s
        for line in (self._strangers, *(desk.line for desk in self._desks.values())):
            for held in [h for h in line if h.arrived_s < before_s]:
                line.remove(held)
                if held.placed.done():
                    continue
                held.placed.set_exception(
                    Unavailable(
                        f"model {self.model!r}: no engine had room for "
                        f"{self._knobs.queue.max_wait_s:g} s (router.queue.max_wait_s)",
                        code="engine_busy",
                        retry_after_s=max(1.0, self.wait_s()),
                    )
                )


def _moved(home: str) -> str:
    return "spill:load" if home else "hash"


def _heads(line: Line[Held]) -> Iterator[Held]:
    """The next of a line, again and again, while each is taken from it."""
    while (held := line.first(lambda _: True, 1)) is not None:
        yield held
