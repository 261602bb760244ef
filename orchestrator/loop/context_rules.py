"""The prompt's length in the loop: when it is rewritten, from where on, what its turns expect.

    a response begins, and it pays     Compacted (priced)
    the context is nearly full         Compacted (overflow), or without a strategy a last answer
    the engine refused the prompt      Compacted (refused), once; else the response fails

Only between two turns, when no call is open. Sizes are estimates: the newest turn's tokens as the
engine counted them, and bytes beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchestrator.loop import compaction, notices
from orchestrator.loop.budgets import Bounds
from orchestrator.loop.compaction import Decision, Facts
from orchestrator.loop.events import (
    Compacted,
    HistoryImported,
    Item,
    LimitReached,
    ModelResult,
    Notice,
    ResponseAccepted,
    Warmed,
    encode,
)
from orchestrator.loop.state import Around, Compact, Run, Shown, State

BYTES_PER_TOKEN = 4
TOO_LONG = "context_length_exceeded"
"""The code of an engine's refusal, OpenAI's own."""
FULL = 0.95
"""Share of the context that a prompt and its answer may be expected to fill."""


def compacted(state: State, event: Compacted) -> None:
    """The one event that changes what the model has seen."""
    run = state.run
    kept = state.history[place(state.history, event.keep_from) :]
    if run and not any(_is_request(each, run) for each in kept):
        # The task stays, however long the run is.
        kept = [*(_alone(each) for each in state.history if _is_request(each, run)), *kept]
    state.history = [event, *kept]
    state.offers.update(state.offers_next)
    state.offers_next.clear()
    state.total.cost_usd += event.cost_usd
    if run:
        run.spent.cost_usd += event.cost_usd
        run.compacted_at = event.step
        run.failed = None


def _alone(event: Shown) -> Shown:
    """A request without outputs of calls that leave the prompt: no engine takes them so."""
    if not isinstance(event, ResponseAccepted):
        return event
    orphans = _outputs_of(event.input)
    left = [
        item
        for item in event.input
        if item.get("type") != "function_call_output" or item["call_id"] not in orphans
    ]
    return event if left == event.input else msgspec.structs.replace(event, input=left)


def _is_request(event: Shown, run: Run) -> bool:
    return isinstance(event, ResponseAccepted) and event.response_id == run.response_id


def place(history: Sequence[Shown], keep_from: int) -> int:
    """Where in the history the turn `keep_from` begins, with what was asked and told before it.

    Outputs that a client brought stay with the calls that they answer.
    """
    for index, event in enumerate(history):
        if isinstance(event, ModelResult) and event.step >= keep_from:
            return _beginning(history, index)
    return len(history)


def _beginning(history: Sequence[Shown], index: int) -> int:
    while index:
        before = history[index - 1]
        if isinstance(before, Notice):
            index -= 1
        elif isinstance(before, ResponseAccepted):
            index -= 1
            if answered := _outputs_of(before.input):
                made = (n for n in range(index) if not answered.isdisjoint(_calls_of(history[n])))
                index = min(made, default=index)
        else:
            break
    return index


def _outputs_of(items: Sequence[Item]) -> set[str]:
    """Ids of the calls that these items answer, and do not bring themselves."""
    made = {item["call_id"] for item in items if item.get("type") == "function_call"}
    outputs = {item["call_id"] for item in items if item.get("type") == "function_call_output"}
    return outputs - made


def _calls_of(event: Shown) -> set[str]:
    """Ids of the calls that stand in it: a model's, or those that a client brought."""
    if isinstance(event, ModelResult):
        return {call.call_id for call in event.calls}
    if isinstance(event, ResponseAccepted):
        items = event.input
    else:
        items = event.items if isinstance(event, HistoryImported) else []
    return {item["call_id"] for item in items if item.get("type") == "function_call"}


def size(history: Sequence[Shown], around: Around) -> int:
    """About how many tokens a prompt of this history has."""
    beyond = 0
    for event in reversed(history):
        if isinstance(event, Compacted):
            break
        if isinstance(event, ModelResult) and event.prompt_tokens:
            if any(isinstance(each, Compacted) and each.step > event.step for each in history[:1]):
                break  # counted before the prompt was rewritten
            return event.prompt_tokens + event.output_tokens + beyond // BYTES_PER_TOKEN
        beyond += len(encode(event))
    return (around.head_bytes + sum(len(encode(each)) for each in history)) // BYTES_PER_TOKEN


def before_turn(state: State, run: Run, bounds: Bounds, around: Around) -> Compact | Notice | None:
    """Rewrite the prompt, or ask for a last answer, before the next turn."""
    if run.last is not None or run.compacted_at > state.step:
        return None
    strategy = around.context.strategy
    tokens = size(state.history, around) if strategy != "none" or around.context_tokens else 0
    if around.context_tokens and tokens + around.answer_tokens > FULL * around.context_tokens:
        step = compact(state, bounds.now, around, "overflow") if _may(run, around) else None
        if step is not None or not bounds.limits.last_answer or not state.step:
            return step
        full = LimitReached("overflow", tokens, around.context_tokens, bounds.now)
        return notices.last(state.step + 1, full)
    if strategy == "none" or run.spent.turns:
        return None
    return compact(state, bounds.now, around, "priced")


def after_refusal(state: State, run: Run, bounds: Bounds, around: Around) -> Compact | None:
    """The engine said that the prompt is too long: once more with a shorter one."""
    if run.compacted_at >= state.step or not _may(run, around):
        return None
    return compact(state, bounds.now, around, "refused")


def _may(run: Run, around: Around) -> bool:
    return around.context.strategy != "none" or run.request.get("truncation") == "auto"


def said_too_long(run: Run) -> str:
    """What a client can do about a prompt that nothing has made short enough."""
    if run.request.get("truncation") == "auto":
        return "and nothing is left that could be left out; send less input"
    return "send less input, or truncation: 'auto', which leaves the oldest turns out"


def compact(state: State, now: float, around: Around, why: str) -> Compact | None:
    """The rewriting, if there is something to leave out and, when it is `priced`, it pays."""
    context = around.context
    keep_from = state.step - context.keep_turns + 1
    if why != "priced":
        keep_from = max(keep_from, state.step - 1)  # there is no room for more
    cut = place(state.history, keep_from)
    replaced = state.history[:cut]
    if not _may_leave(replaced, state.history[cut:], why, context.keep_turns):
        return None
    decision, facts = weigh(state, cut, now, around)
    if why == "priced" and not decision.worth_it:
        return None
    return Compact(
        Compacted(
            step=state.step + 1,
            at=now,
            keep_from=keep_from,
            strategy="summary" if context.strategy == "summary" else "window",
            why=why,  # type: ignore[arg-type]  # the three above
            reason=decision.reason,
            prompt_tokens=facts.prompt_tokens,
            kept_tokens=facts.kept_tokens,
            as_it_is_usd=decision.as_it_is_usd,
            rewritten_usd=decision.rewritten_usd,
        ),
        replaced,
    )


def _may_leave(replaced: Sequence[Shown], kept: Sequence[Shown], why: str, keep_turns: int) -> bool:
    """Is there a turn in what would leave? An import is turns in one piece: for a price it leaves
    only when as many newer turns stay as are to be kept."""
    if any(isinstance(each, ModelResult) for each in replaced):
        return True
    if not any(isinstance(each, HistoryImported) for each in replaced):
        return False
    return why != "priced" or sum(isinstance(e, ModelResult) for e in kept) >= keep_turns


def weigh(state: State, cut: int, now: float, around: Around) -> tuple[Decision, Facts]:
    """What leaving out `history[:cut]` costs and saves."""
    context = around.context
    prompt = size(state.history, around)
    sizes = [len(encode(event)) for event in state.history]
    head = around.head_bytes
    share = (head + sum(sizes[cut:])) / max(1, head + sum(sizes))
    summarised = context.strategy == "summary"
    kept = round(prompt * share) + (context.summary_tokens if summarised else 0)
    facts = Facts(
        prompt_tokens=prompt,
        head_tokens=round(prompt * head / max(1, head + sum(sizes))),
        kept_tokens=kept,
        is_warm=is_warm(state, now, context.cache_lives_s),
        turns=compaction.expected_turns(state.total.turns, context.remaining_turns),
        prices=around.prices,
        extra_fresh=prompt - kept if summarised else 0,
        extra_output=context.summary_tokens if summarised else 0,
        margin=context.margin,
    )
    return compaction.decide(facts), facts


def is_warm(state: State, now: float, lives_s: float) -> bool:
    """Does the engine probably hold the prompt still? By the pause since the newest turn, and by
    what earlier pauses of this conversation did to its cache."""
    if not state.turn_at:
        return False
    return now - state.turn_at < copy_lives_s(state, lives_s)


def copy_lives_s(state: State, lives_s: float) -> float:
    """After a pause of this length the engine's copy counts as gone."""
    longest = max(lives_s, state.held_after_s)
    return min(longest, state.lost_after_s) if state.lost_after_s else longest


def warmed(state: State, event: Warmed) -> None:
    """The engine has the prompt, from now on; what it found of it tells as much as a turn's."""
    note_pause(state, event)
    note_read(state, event)
    state.total.cost_usd += event.cost_usd
    if run := state.run:
        run.touches += 1
        run.touches_usd += event.cost_usd
        run.spent.cost_usd += event.cost_usd


def note_pause(state: State, event: ModelResult | Warmed) -> None:
    """Learn from a turn whether the engine had kept the prompt over the pause before it."""
    if state.turn_at and state.turn_tokens and event.prompt_tokens:
        pause = event.at - event.seconds - state.turn_at
        if event.cached_tokens >= 0.7 * min(state.turn_tokens, event.prompt_tokens):
            state.held_after_s = max(state.held_after_s, pause)
        elif pause > state.held_after_s and event.prompt_tokens >= state.turn_tokens:
            state.lost_after_s = min(state.lost_after_s or pause, pause)
    state.turn_at = event.at
    state.turn_tokens = event.prompt_tokens


def note_read(state: State, event: ModelResult | Warmed) -> None:
    """Learn how long engines take to read a prompt, where most of one had to be computed."""
    fresh = event.prompt_tokens - event.cached_tokens
    if fresh < max(1, state.read_tokens):
        return
    took_s = event.seconds if isinstance(event, Warmed) else event.first_token_s - event.stored_s
    if took_s > 0:
        state.read_tokens, state.read_s = fresh, took_s


def reads_s(state: State) -> float:
    """How long the newest prompt takes an engine that has none of it; 0: nobody knows."""
    return state.read_s * state.turn_tokens / state.read_tokens if state.read_tokens else 0.0
