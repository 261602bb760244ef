"""How far a response may go: what was used, against what may be.

Everything that is counted comes from the log (tokens and costs from ModelResult, the time from
ResponseAccepted), so a restart neither resets a budget nor forgives one.

    used ──┬─ 80 % ──────── warned: the model is told
           ├─ one more turn, as large as the largest so far, would be over
           │                wound down: it is asked for a last answer, without tools
           └─ the limit ─── cut

Limits of a response, of its conversation and of its tenant are the same kind of value, a Cap. What
the tenant has used is told by whoever asks (`Around`), and enters the log as what came of it: a
Notice, a LimitReached.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from orchestrator.loop.events import (
    AnyEvent,
    Call,
    Compacted,
    LimitKind,
    LimitReached,
    ModelResult,
    Scope,
    ToolIntent,
    ToolResult,
    Warmed,
)
from serving.config.agent import AgentLimits
from serving.config.tenancy import BudgetConfig
from serving.spending import Spending

MINUTE_S = 60.0


class Cap(msgspec.Struct, frozen=True, gc=False):
    """One limit, and how much of it is used; `turn` is what one more turn may take of it."""

    kind: LimitKind
    used: float
    limit: float
    turn: float
    scope: Scope = "response"
    warn_at: float = 0.0
    """The share of it that is worth a warning; 0: as the agent's own."""

    @property
    def name(self) -> str:
        return f"{self.scope}.{self.kind}"

    def reached(self, now: float) -> LimitReached:
        return LimitReached(self.kind, self.used, self.limit, now, self.scope)


@dataclass(slots=True)
class Totals(Spending):
    """What was used over more than one response."""

    def add(self, result: ModelResult) -> None:
        self.turns += 1
        self.tokens += result.prompt_tokens + result.output_tokens
        self.seconds += result.seconds
        self.cost_usd += result.cost_usd


SPENDING = frozenset({ModelResult, ToolIntent, ToolResult, Compacted, Warmed})
"""Events that may spend."""


def spending_of(events: Iterable[AnyEvent]) -> Spending | None:
    """What these events spend; None: nothing. Counted as they are stored, each of them once."""
    found: Spending | None = None
    for event in events:
        if type(event) not in SPENDING or (isinstance(event, ToolResult) and not event.cost_usd):
            continue
        if found is None:
            found = Spending()
        if isinstance(event, ModelResult | Warmed):
            found.turns += isinstance(event, ModelResult)
            found.tokens += event.prompt_tokens + event.output_tokens
            found.seconds += event.seconds
            found.cost_usd += event.cost_usd
        elif isinstance(event, ToolIntent):
            found.tool_calls += event.attempt == 1
        elif isinstance(event, ToolResult):
            found.cost_usd += event.cost_usd - event.agents_usd
        elif isinstance(event, Compacted):
            found.tokens += event.summary_tokens
            found.cost_usd += event.cost_usd
    return found


@dataclass(slots=True)
class Spent:
    """What one response has used so far. Tokens as engines reported them; `since` is Unix time."""

    since: float
    turns: int = 0
    tool_calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    wasted_tokens: int = 0
    cost_usd: float = 0.0
    uncached_cost_usd: float = 0.0
    turn_began: float = 0.0
    """Unix time at which the newest turn was asked; 0: none was."""
    largest_tokens: int = 0
    largest_seconds: float = 0.0
    """Of one turn and its tools."""
    longest_answer_s: float = 0.0
    """Of one turn alone."""
    largest_cost_usd: float = 0.0
    repeats: int = 0
    """How many times in a row the newest calls were made."""
    last_calls: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    states: dict[bytes, int] = field(default_factory=dict)
    """Hash of a turn's calls and results → how many turns had them."""
    same_state: int = 0
    """How often the newest turn's calls and results were seen."""
    call_times: list[float] = field(default_factory=list)
    """When the calls of the last minute began."""

    def begin_turn(self, at: float) -> None:
        if self.turn_began:
            self.largest_seconds = max(self.largest_seconds, at - self.turn_began)
        self.turn_began = at

    def add(self, result: ModelResult) -> None:
        self.turns += 1
        self.prompt_tokens += result.prompt_tokens
        self.cached_tokens += result.cached_tokens
        self.output_tokens += result.output_tokens
        self.cost_usd += result.cost_usd
        self.uncached_cost_usd += result.uncached_cost_usd
        tokens = result.prompt_tokens + result.output_tokens
        self.largest_tokens = max(self.largest_tokens, tokens)
        self.longest_answer_s = max(self.longest_answer_s, result.seconds)
        self.largest_cost_usd = max(self.largest_cost_usd, result.cost_usd)

    def count_calls(self, calls: list[Call]) -> None:
        """Note the calls of one turn.

        Turns that ask for the same set of calls again are repetitions, and so are equal calls
        within one turn.
        """
        asked = frozenset([(call.name, call.arguments) for call in calls])
        times = len(calls) // len(asked)
        self.repeats = self.repeats + times if asked == self.last_calls else times
        self.last_calls = asked

    def count_call(self, at: float) -> None:
        """A call begins."""
        self.tool_calls += 1
        times = self.call_times
        times.append(at)
        while times[0] <= at - MINUTE_S:
            del times[0]

    def count_state(self, state: bytes) -> None:
        """A turn has its results."""
        self.same_state = self.states[state] = self.states.get(state, 0) + 1


def of_response(spent: Spent, limits: AgentLimits, now: float) -> list[Cap]:
    """The caps of one response."""
    tokens = spent.prompt_tokens + spent.output_tokens
    seconds = round(now - spent.since, 3)
    longest = max(spent.largest_seconds, now - spent.turn_began if spent.turn_began else 0.0)
    caps = [
        Cap("seconds", seconds, limits.max_seconds, longest),
        Cap("tokens", tokens, limits.max_tokens, spent.largest_tokens),
        Cap("turns", spent.turns, limits.max_turns, 1),
        Cap("tool_calls", spent.tool_calls, limits.max_tool_calls, 0),
    ]
    if limits.max_cost_usd is not None:
        caps.append(Cap("cost", spent.cost_usd, limits.max_cost_usd, spent.largest_cost_usd))
    return caps


def of_conversation(total: Totals, spent: Spent, limits: AgentLimits) -> list[Cap]:
    """The caps of a conversation that has used `total`, this response included."""
    own = limits.conversation
    caps: list[Cap] = []
    if own.max_turns is not None:
        caps.append(Cap("turns", total.turns, own.max_turns, 1, "conversation"))
    if own.max_tool_calls is not None:
        caps.append(Cap("tool_calls", total.tool_calls, own.max_tool_calls, 0, "conversation"))
    if own.max_tokens is not None:
        largest = spent.largest_tokens
        caps.append(Cap("tokens", total.tokens, own.max_tokens, largest, "conversation"))
    if own.max_seconds is not None:
        longest = spent.longest_answer_s
        caps.append(Cap("seconds", total.seconds, own.max_seconds, longest, "conversation"))
    if own.max_cost_usd is not None:
        dearest = spent.largest_cost_usd
        caps.append(Cap("cost", total.cost_usd, own.max_cost_usd, dearest, "conversation"))
    return caps


def of_tenant(used: Spending, budget: BudgetConfig, spent: Spent, expected: int) -> tuple[Cap, ...]:
    """The caps of a tenant that has used so much in its window. There should be room for so many
    `expected` turns, so that each of its runs has its last answer."""
    caps = []
    for amount, limit in budget.limits.items():
        kind, largest = _BY_AMOUNT[amount]
        turn = getattr(spent, largest) if largest else amount == "turns"
        now = getattr(used, amount)
        caps.append(Cap(kind, now, limit, turn * expected, "tenant", budget.warn_at))
    return tuple(caps)


_BY_AMOUNT: dict[str, tuple[LimitKind, str]] = {
    "turns": ("turns", ""),
    "tool_calls": ("tool_calls", ""),
    "tokens": ("tokens", "largest_tokens"),
    "seconds": ("seconds", "longest_answer_s"),
    "cost_usd": ("cost", "largest_cost_usd"),
}
"""Amount → its limit's kind, and where the largest turn's is."""


class Bounds(msgspec.Struct, frozen=True, gc=False):
    """All that bounds a response at one moment (Unix seconds)."""

    limits: AgentLimits
    caps: list[Cap]
    now: float

    def cut(self, *, asking: bool) -> LimitReached | None:
        """The limit that is reached. Turns count only against one who would ask (`asking`), calls
        only against one who would call (`before_tools`)."""
        for cap in self.caps:
            if cap.used < cap.limit or cap.kind == "tool_calls":
                continue
            if asking or cap.kind != "turns":
                return cap.reached(self.now)
        return None

    def nearly(self) -> Cap | None:
        """A cap that one more turn may go over: the next one had better be the last."""
        for cap in self.caps:
            if cap.used and cap.used + cap.turn >= cap.limit:
                return cap
        return None

    def warnings(self) -> list[Cap]:
        """The caps of which so much is used that the model should know."""
        own = self.limits.warn_at
        return [
            cap
            for cap in self.caps
            if (share := cap.warn_at or own) < 1 and cap.limit and cap.used >= share * cap.limit
        ]

    def before_tools(self, spent: Spent, calls: int, waiting: int) -> LimitReached | None:
        """May `waiting` more of a turn's `calls` run? All or none: half a turn's calls are of no
        use to a model."""
        limits, now = self.limits, self.now
        if spent.repeats >= limits.same_call:
            return LimitReached("same_call", spent.repeats, limits.same_call, now)
        for cap in self.caps:
            if cap.kind == "tool_calls" and cap.used + waiting > cap.limit:
                return LimitReached("tool_calls", cap.used + waiting, cap.limit, now, cap.scope)
        if calls > limits.max_calls_a_turn:
            return LimitReached("storm", calls, limits.max_calls_a_turn, now)
        most = limits.max_calls_a_minute
        if waiting + len(spent.call_times) > most:
            recent = waiting + sum(at > now - MINUTE_S for at in spent.call_times)
            if recent > most:
                return LimitReached("storm", recent, most, now)
        return None


def deadline(spent: Spent, limits: AgentLimits) -> float:
    """When the response runs out of time, in Unix seconds."""
    return spent.since + limits.max_seconds


REASONS = {
    "turns": ("max_turns", "the limit of {limit:g} model turns is reached"),
    "tool_calls": ("max_tool_calls", "{value:g} tool calls, the limit is {limit:g}"),
    "tokens": ("max_tokens", "{value:g} tokens are used, the limit is {limit:g}"),
    "seconds": ("max_seconds", "{value:g} s have passed, the limit is {limit:g}"),
    "cost": ("max_cost_usd", "${value:g} is spent, the limit is ${limit:g}"),
    "same_call": ("same_call", "the same call was made {value:g} times in a row"),
    "same_state": ("same_state", "the same calls gave the same results {value:g} times"),
    "storm": ("storm", "{value:g} calls at once or in a minute are more than {limit:g}"),
    "overflow": ("context_full", "a prompt of {value:g} tokens leaves no room in {limit:g}"),
}
"""Limit → the response's reason code, and a sentence."""


def explain(reached: LimitReached) -> tuple[str, str]:
    """Reason code and sentence for a limit."""
    code, sentence = REASONS[reached.kind]
    said = sentence.format(value=reached.value, limit=reached.limit)
    if reached.scope == "response":
        return code, said
    return f"{reached.scope}_{code}", f"{said} ({_WHOSE[reached.scope]})"


_WHOSE: dict[Scope, str] = {
    "conversation": "of the whole conversation",
    "tenant": "of all that the tenant does",
}
