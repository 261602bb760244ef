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

from router.placing import placement
from router.placing.claim import Claim, Placed
from router.placing.desk import Booking, Desk, Held
from router.placing.health import Clock
from router.placing.outlook import Outlook
from router.placing.outside import Outside
from router.placing.placement import Choice, Need, Option
from router.placing.programs import Program, Programs
from router.placing.rates import Rates
from router.placing.waiting import Fair, Line
from router.placing.warmth import Warmth
from router.turn import NO_TIME, Urgency
from serving.cluster.front_queues import Queue
from serving.config.router import RouterConfig
from serving.errors import Unavailable
from serving.tables.base import Engine

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
        self._knobs = knobs
        self._programs = programs
        self._warmth = warmth
        self._rates = rates
        self._outlook = Outlook(
            model, knobs, programs=programs, rates=rates, outside=outside, slots=slots
        )
        self._clock = clock
        self._fair = Fair(knobs.queue.tenant_credit_tokens)
        self._desks: dict[str, Desk] = {}
        self._heard: Sequence[Engine] = ()
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
        rates = [self._outlook.rate(desk) for desk in self._desks.values()]
        prefill_s = tokens * len(rates) / sum(rates) if rates else 0.0
        return Queue(self._fair.waiting, tokens, prefill_s)

    def keep_only(self, replicas: Collection[str]) -> None:
        """What waited for a replica that is gone is placed again."""
        self._heard = ()
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
            (desk.backlog_tokens + desk.line.before(tenant, order_s) + queued)
            / self._outlook.rate(desk)
            for desk in self._desks.values()
        )

    def arrive(
        self, claim: Claim, program: Program, engines: Sequence[Engine], arrived_s: float
    ) -> tuple[Placed, Booking] | Held:
        """Placed at once, or waiting. `engines` are not empty. Raises Unavailable for a spare turn
        that would have to wait, or leave its home."""
        now = self._clock()
        self._hear(engines)
        if not claim.spare:
            self._clear_way(program.home, engines)
        need, options = self._outlook.options(claim, program, engines, self._desks, now)
        choice = placement.choose(need, options, self._knobs.placement)
        desk = None
        fresh = need.tokens
        if choice is not None:
            desk = self._desks[choice.engine.replica]
            if desk.spares and not claim.spare:
                desk.clear_way()  # it goes elsewhere than home
            fresh = self._outlook.fresh(claim, need, desk)
            free = not desk.line and self._may_go(desk, need, fresh, claim.tenant.name)
            if free and (not claim.spare or self._has_time(need, desk, options)):
                return self._go(claim, program, need, choice, arrived_s)
        if claim.spare:
            raise Unavailable(
                f"model {self.model!r} has no time to spare; nothing was read", code=NO_TIME
            )
        order_s = self._outlook.due_s(claim, fresh, arrived_s, engines[0].replica)
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

    def _has_time(self, need: Need, desk: Desk, options: Sequence[Option]) -> bool:
        """Nothing waits, here or at that engine, and it is the session's home, if that is there."""
        if self._fair.waiting or desk.unbegun:
            return False
        homes = {o.engine.replica for o in options if o.engine.replica == need.home}
        waits = any(o.wait_s > 0 for o in options if o.engine.replica == desk.replica)
        return homes <= {desk.replica} and not waits

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

    def _hear(self, engines: Sequence[Engine]) -> None:
        """What engines say of themselves; the same snapshot says nothing new, and most turns come
        between two of them."""
        if engines is self._heard:
            return
        for engine in engines:
            self._desk(engine).heard(engine)
        # A list could be another one by the next turn.
        self._heard = engines if isinstance(engines, tuple) else ()

    def _clear_way(self, home: str, engines: Sequence[Engine]) -> None:
        """Spare turns end where this one may go: at its home, or, if it has none, anywhere. Where
        it goes instead of its home is known later."""
        if home:
            desk = self._desks.get(home)
            if desk is not None and desk.spares and any(e.replica == home for e in engines):
                desk.clear_way()
            return
        for engine in engines:
            if self._desks[engine.replica].spares:
                self._desks[engine.replica].clear_way()

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

    def _go(
        self, claim: Claim, program: Program, need: Need, choice: Choice, arrived_s: float
    ) -> tuple[Placed, Booking]:
        """Count it there; from here on it is that replica's load."""
        now = self._clock()
        desk = self._desks[choice.engine.replica]
        hashes = claim.identity.hashes
        at, node = desk.held.find(hashes)
        warm, whole = self._outlook.warm(node, need, desk), node.warm if node is not None else 0
        if hashes:
            node = desk.held.extend(hashes, self._outlook.ends(claim, at, node))
        due_in_s = None
        if desk.backlog_tokens or choice.engine.load.waiting or claim.urgency == "batch":
            due_in_s = self._outlook.due_s(claim, need.tokens - warm, arrived_s, desk.replica) - now
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
            if not self._outlook.fits(held, desk):
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
                fresh = self._outlook.fresh(stranger.claim, stranger.need, desk)
                share = self._knobs.queue.stranger_share
                desk.strangers_from_s = now + fresh / self._outlook.rate(desk) / share
            self._send(stranger, desk, "forced" if forced else "room")
        self._steal(desk)

    def _next_stranger(self, desk: Desk, now: float) -> tuple[Held | None, bool]:
        """One for which there is room; else the first, where this replica can afford it."""
        held = self._strangers.first(lambda h: self._outlook.fits(h, desk), _LOOK)
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
            gain = self._outlook.gain(
                first, other, desk, other.backlog_tokens, price=1.0, least_s=0.0
            )
            if gain > most and self._outlook.fits(first, desk) and self._ready_for(first, desk):
                best, most = first, gain
        return best

    def _steal(self, desk: Desk) -> None:
        """It has nothing to do: take a turn that is quicker here than where it waits."""
        if desk.backlog_tokens or desk.line or self._fair.waiting == len(self._strangers):
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
                gain = self._outlook.gain(
                    held, busiest, desk, ahead, price=knobs.leave_price, least_s=knobs.leave_s
                )
                if gain > most and self._outlook.fits(held, desk):
                    best, most = held, gain
            ahead += held.tokens
        if best is not None:
            self._send(best, desk, "steal")

    def _send(self, held: Held, desk: Desk, reason: str) -> None:
        self._line_of(held).remove(held)
        if held.placed.done():
            return  # it was cancelled in this very turn of the loop
        fresh = self._outlook.fresh(held.claim, held.need, desk)
        first_token_s = (desk.backlog_tokens + fresh) / self._outlook.rate(desk)
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

    def _ready_for(self, held: Held, desk: Desk) -> bool:
        fresh = self._outlook.fresh(held.claim, held.need, desk)
        return self._may_go(desk, held.need, fresh, held.tenant)

    def _may_go(self, desk: Desk, need: Need, fresh_tokens: int, tenant: str) -> bool:
        if desk.backlog_tokens and self._fair.is_spent(tenant):
            # What lies in an engine's own queue cannot be overtaken by who comes and had less.
            return False
        return desk.may_go(need, fresh_tokens, self._outlook.rate(desk), self._knobs.queue)

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
