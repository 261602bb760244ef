"""Is it worth to rewrite a prompt? Pure: prices, sizes and the state of the cache in, figures out.

    as it is    first turn  P tokens, cached if the engine still has them
                then        P tokens, cached, each turn
    rewritten   first turn  the head cached, the rest of K tokens fresh; and the summary, if any
                then        K tokens, cached, each turn

P is the prompt now and K the prompt after; what both add later is the same and left out. Rewriting
saves (P - K) cached tokens a turn and costs K fresh ones once. So a short session never pays for
it, and a long pause, after which all is fresh anyhow, makes it cheap. That turns remain as many
as there were is the best guess without knowing more: sessions that were long go on long.
"""

from __future__ import annotations

import msgspec

from serving.config.model import Prices

RELATIVE = Prices(fresh=1.0, cached=0.1, output=4.0)
"""Where a model has no prices: what its tokens cost in time, beside each other."""
MAX_TURNS = 50.0
"""More turns than this are not counted on."""


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What a decision rests on. Tokens; US dollars per million."""

    prompt_tokens: int
    head_tokens: int
    """Instructions and examples, which stay in front and cached."""
    kept_tokens: int
    """The whole prompt after rewriting."""
    is_warm: bool
    """The engine probably has the prompt still."""
    turns: float
    """Turns that are expected to come."""
    prices: Prices
    extra_fresh: int = 0
    extra_output: int = 0
    """What a summary reads and writes."""
    margin: float = 0.2


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Whether, and the figures behind it."""

    worth_it: bool
    as_it_is_usd: float
    rewritten_usd: float
    reason: str


def decide(facts: Facts) -> Decision:
    """Compare the expected rest of the session with and without rewriting."""
    prices = facts.prices
    if not (prices.fresh or prices.cached):
        prices = RELATIVE
    prompt, kept = facts.prompt_tokens, facts.kept_tokens
    later = max(0.0, facts.turns - 1)
    head = min(facts.head_tokens, kept)
    first = prices.cost_usd(prompt=prompt, cached=prompt if facts.is_warm else head, output=0)
    as_it_is = first + later * prompt * prices.cached / 1e6
    rewritten = (
        prices.cost_usd(prompt=kept, cached=head, output=0)
        + later * kept * prices.cached / 1e6
        + prices.cost_usd(prompt=facts.extra_fresh, cached=0, output=facts.extra_output)
    )
    saved = as_it_is - rewritten
    worth_it = kept < prompt and saved > facts.margin * as_it_is
    reason = (
        f"{prompt} to {kept} tokens, {'warm' if facts.is_warm else 'cold'}, "
        f"{facts.turns:.1f} turns expected: {as_it_is:.3g} against {rewritten:.3g}"
    )
    return Decision(worth_it, as_it_is, rewritten, reason)


def expected_turns(turns: int, prior: float) -> float:
    """How many more turns a conversation that had `turns` will have."""
    return min(MAX_TURNS, max(prior, float(turns)))
