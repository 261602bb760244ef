"""When is a prompt read again in a pause, so that the turn after it finds it in the engine's cache?

    answer, calls ─────────── a pause: tools run, a timer, a retry ───────────► next turn
           ├── the copy lives ──┤
    end known, and in time        nothing: it will be there, unless the pause goes on beyond that
    end known, and later          hold it, if that costs less than losing it, else read the prompt
                                  again, so that it is read shortly before the end
    end not known                 hold it, as long as that costs less than losing it

To hold is to touch: asking for one token of an answer before the copy has grown so old that it
counts as gone, at the price of cached tokens; what is lost costs fresh ones. Pure: state, clock
and what calls are known to take in, a moment out. What was done is in the log (`Warmed`), so
whoever goes on with the run after a crash or a long timer counts on.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf

import msgspec

from orchestrator.loop import context_rules
from orchestrator.loop.budgets import Cap
from orchestrator.loop.compaction import RELATIVE
from orchestrator.loop.events import ModelResult
from orchestrator.loop.state import Around, OpenCall, Run, State
from serving.config.agent import AgentLimits
from serving.config.context import KeepWarmConfig

HOLD_AT = 0.8
"""Share of its life after which a copy is touched."""
TakesS = Callable[[str], float | None]
"""How long calls of a tool take, in seconds; None: that is not known."""


class Touch(msgspec.Struct, frozen=True, gc=False):
    """One that is to be made. Unix seconds."""

    at: float
    """When; it may have passed."""
    before: float
    """From then on it is too late."""


def next_touch(
    state: State, around: Around, limits: AgentLimits, now: float, takes_s: TakesS
) -> Touch | None:
    """The next touch, if this pause goes on until then."""
    keep, run = around.context.keep_warm, state.run
    if keep is None or run is None or not _may(state, run, keep):
        return None
    lives_s = context_rules.copy_lives_s(state, around.context.cache_lives_s)
    ends_at = end_of_pause(run, now, takes_s)
    touch = _moment(state, lives_s, ends_at, now, run, around)
    if touch is None:
        return None
    warm = max(touch.at, now) < state.turn_at + lives_s
    tokens = state.turn_tokens
    cost = around.prices.cost_usd(prompt=tokens, cached=tokens if warm else 0, output=1)
    if cost > _left_usd(state, run, keep, limits):
        return None
    return touch if all(_leaves_room(cap, cost, tokens + 1) for cap in around.caps) else None


def _moment(  # noqa: PLR0917 - the table above
    state: State, lives_s: float, ends_at: float | None, now: float, run: Run, around: Around
) -> Touch | None:
    keep = around.context.keep_warm
    assert keep is not None  # noqa: S101  asked before
    gone_at = state.turn_at + lives_s
    hold = Touch(state.turn_at + HOLD_AT * lives_s, gone_at)
    if ends_at is None or ends_at < now:
        return hold if now < gone_at and _pays(run.touches + 1, around) else None
    if ends_at < gone_at:
        # Most calls take longer than is expected of them; the copy is held where that is much.
        late = Touch(max(hold.at, ends_at), gone_at)
        return late if _pays(run.touches + 1, around) else None
    touches = run.touches + (ceil((ends_at - gone_at) / (HOLD_AT * lives_s)) or 1)
    if now < gone_at and touches <= keep.touches and _pays(touches, around):
        return hold
    ahead_s = keep.ahead_s + context_rules.reads_s(state)
    return Touch(ends_at - min(ahead_s, lives_s / 2), ends_at)


def _may(state: State, run: Run, keep: KeepWarmConfig) -> bool:
    return (
        run.phase == "tools"
        and not run.cancel_requested
        and run.touches < keep.touches
        and state.turn_tokens >= keep.least_tokens
        and bool(state.history)
        and isinstance(state.history[-1], ModelResult)
        and not any(_ends_response(run, each) for each in run.calls.values())
    )


def _ends_response(run: Run, open_call: OpenCall) -> bool:
    """A person or the client has the word: the next turn is a later response's."""
    waits = open_call.approval == "asked" or open_call.call.name in run.client_tools
    return open_call.result is None and waits


def _left_usd(state: State, run: Run, keep: KeepWarmConfig, limits: AgentLimits) -> float:
    """What a touch may cost: never what the next turn needs."""
    left = inf if keep.max_usd is None else keep.max_usd - run.touches_usd
    for most, used in (
        (limits.max_cost_usd, run.spent.cost_usd),
        (limits.conversation.max_cost_usd, state.total.cost_usd),
    ):
        if most is not None:
            left = min(left, most - used - run.spent.largest_cost_usd)
    return left


def _leaves_room(cap: Cap, usd: float, tokens: int) -> bool:
    """Of a budget that is shared with others, too, a touch leaves what their next turns need."""
    match cap.kind:
        case "cost":
            used = usd
        case "tokens":
            used = float(tokens)
        case "seconds":
            used = 0.0  # few, mostly
        case _:
            return True  # of turns and calls it uses none
    return cap.used + used + cap.turn <= cap.limit


def _pays(touches: int, around: Around) -> bool:
    """Do so many touches of what is cached cost less than computing it once more?"""
    prices = around.prices
    if not (prices.fresh or prices.cached):
        prices = RELATIVE
    return touches * prices.cached <= prices.fresh - prices.cached


def end_of_pause(run: Run, now: float, takes_s: TakesS) -> float | None:
    """When the last of the open calls will have its result; None where that is not known."""
    ends_at = 0.0
    for open_call in run.calls.values():
        if open_call.result is None:
            ends = _end_of(open_call, now, takes_s(open_call.call.name))
            if ends is None:
                return None
            ends_at = max(ends_at, ends)
    return ends_at or None


def _end_of(open_call: OpenCall, now: float, takes_s: float | None) -> float | None:
    if open_call.timer is not None:
        return open_call.timer.until
    if open_call.failed is not None:
        return open_call.failed.retry_at + (takes_s or 0.0)
    return None if takes_s is None else (open_call.began_at or now) + takes_s
