"""Prompts that are read again in a pause: when, at what price, and with which bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from orchestrator.agents import Agents, resolve
from orchestrator.api.turn_facts import TurnFacts
from orchestrator.clock import FakeClock
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop import context_rules, keep_warm
from orchestrator.loop.budgets import Cap
from orchestrator.loop.events import (
    AnyEvent,
    ApprovalRequested,
    Call,
    ConversationStarted,
    LimitKind,
    ModelIntent,
    ModelResult,
    ModelRouted,
    ResponseAccepted,
    TimerSet,
    ToolFailed,
    ToolIntent,
    ToolResult,
    Warmed,
)
from orchestrator.loop.machine import fold, fold_all
from orchestrator.loop.state import Around, State
from orchestrator.model import ArgumentsDelta, CallStart, Done, ModelError, ModelTurn, TextDelta
from orchestrator.model_scripted import ROUTED, Scripted, ScriptedModel
from orchestrator.tools.functions import from_function
from orchestrator.worker.run_metrics import RunMetrics
from orchestrator.worker.tool_times import ToolTimes
from orchestrator.worker.worker import Worker
from router.tenancy.budgets import Budgets
from router.turn import NO_TIME
from serving.config.agent import AgentConfig, AgentLimits
from serving.config.context import ContextConfig
from serving.config.model import Prices
from serving.config.tenancy import TenantConfig

E = TypeVar("E")
TOKENS = 2000
LIVES_S = 100.0
PRICES = Prices(fresh=1.0, cached=0.1, output=4.0)
LIMITS = AgentLimits()
T0 = 1000.0
"""When the newest answer came."""


# -- when: pure --


def context(lives_s: float = LIVES_S, **keep: Any) -> ContextConfig:
    return ContextConfig.model_validate({"cache_lives_s": lives_s, "keep_warm": keep})


def around(prices: Prices = PRICES, **keep: Any) -> Around:
    return Around(context=context(**keep), prices=prices)


def paused(*events: AnyEvent, names: Iterable[str] = ("dig",)) -> State:
    """A turn has made these calls, at T0; then came `events`."""
    calls = [Call(f"c{at}", name, "{}") for at, name in enumerate(names)]
    state = State()
    for event in (
        ConversationStarted("desk@1", T0),
        ResponseAccepted("r", T0, [{"role": "user", "content": "go"}]),
        ModelIntent(1, 1, T0),
        ModelRouted(1, 1, "big", "r0", "home"),
        ModelResult(1, 1, T0, calls=calls, prompt_tokens=TOKENS, output_tokens=10),
        *events,
    ):
        fold(state, event)
    return state


def began(at: float = T0, call: str = "c0") -> ToolIntent:
    return ToolIntent(1, call, "key", at)


def touched(at: float, cached: int = TOKENS, usd: float = 0.0) -> Warmed:
    return Warmed(1, at, "big", "r0", TOKENS + 10, cached, 1, usd)


def when(
    state: State, at: float = T0, given: Around | None = None, takes: float | None = None
) -> float | None:
    touch = keep_warm.next_touch(state, given or around(), LIMITS, at, lambda _: takes)
    return None if touch is None else touch.at


def test_without_the_setting_nothing_is_done() -> None:
    timer = TimerSet(1, "c0", T0, T0 + 500)
    state = paused(began(), timer)
    assert when(state, given=Around(prices=PRICES)) is None
    assert when(state) is not None


def test_a_pause_that_the_copy_outlives_needs_nothing() -> None:
    assert when(paused(began(), TimerSet(1, "c0", T0, T0 + 90))) == T0 + 90  # it has ended then
    assert when(paused(began()), takes=90) == T0 + 90
    assert when(paused(began()), takes=10) == T0 + 80


def test_a_pause_that_ends_long_after_the_copy_is_read_shortly_before_its_end() -> None:
    timer = TimerSet(1, "c0", T0, T0 + 3600)
    assert when(paused(began(), timer)) == T0 + 3595
    assert when(paused(began(), timer), given=around(ahead_s=20)) == T0 + 3580
    failed = ToolFailed(1, "c0", T0, 1, "busy", retry_at=T0 + 3600)
    assert when(paused(began(), failed)) == T0 + 3595
    assert when(paused(began(T0 + 1)), takes=3600) == T0 + 3596


def answered(
    step: int, prompt: int, cached: int, first_token_s: float, stored: float = 0.0
) -> State:
    """The newest of `step` turns, whose first one had 1,000 tokens and took 2 s to be read."""
    state = paused()
    state.read_tokens, state.read_s = 1000, 2.0
    fold(
        state,
        ModelResult(
            step,
            1,
            T0,
            calls=[Call("c0", "dig", "{}")],
            prompt_tokens=prompt,
            cached_tokens=cached,
            first_token_s=first_token_s,
            stored_s=stored,
        ),
    )
    fold(state, TimerSet(step, "c0", T0, T0 + 3600))
    return state


def test_a_prompt_that_takes_long_to_be_read_is_asked_for_so_much_sooner() -> None:
    # 2 ms a token, as the first turn said: this one computed less, and says less.
    assert when(answered(2, 10_000, 9500, 3.0)) == T0 + 3600 - 5 - 20
    # What was computed most of says most, without what storing the intent took.
    assert when(answered(2, 10_000, 2000, 9.0, stored=1.0)) == T0 + 3600 - 5 - 10
    # A touch that found nothing is the measure of the next one.
    state = answered(2, 10_000, 9500, 3.0)
    fold(state, Warmed(2, T0 + 1, "big", "r0", 10_000, 0, 1, seconds=30.0))
    assert context_rules.reads_s(state) == 30
    # However long it takes, the copy is not half as old as it may get when it is wanted.
    assert when(answered(2, 100_000, 99_500, 3.0)) == T0 + 3600 - LIVES_S / 2
    assert context_rules.reads_s(paused()) == 0


def test_a_pause_that_is_a_little_too_long_is_cheaper_to_bridge() -> None:
    timer = TimerSet(1, "c0", T0, T0 + 250)
    state = paused(began(), timer)
    assert when(state) == T0 + 80
    fold(state, touched(T0 + 80))
    assert when(state, T0 + 80) == T0 + 160
    fold(state, touched(T0 + 160))
    assert when(state, T0 + 160) == T0 + 250  # it lives until T0 + 260
    dear = around(Prices(fresh=1.0, cached=0.5, output=4.0))
    assert when(paused(began(), timer), given=dear) == T0 + 245


def test_after_it_was_read_again_the_pause_needs_nothing_more() -> None:
    state = paused(began(), TimerSet(1, "c0", T0, T0 + 3600))
    fold(state, touched(T0 + 3595, cached=0))
    at = when(state, T0 + 3596)
    assert at is not None
    assert at > T0 + 3600


def test_of_several_calls_the_last_one_ends_the_pause() -> None:
    state = paused(
        began(), TimerSet(1, "c0", T0, T0 + 3600), began(call="c1"), names=("sleep", "dig")
    )
    assert when(state, takes=10) == T0 + 3595
    assert when(state) == T0 + 80  # nobody knows when the other one ends
    fold(state, ToolResult(1, "c0", T0 + 1, "slept"))
    assert when(state, takes=90) == T0 + 90


def test_a_call_of_unknown_length_is_bridged_while_that_costs_less_than_the_loss() -> None:
    state = paused(began())
    made = 0
    while (at := when(state, T0 + 80 * made, around(touches=99))) is not None:
        made += 1
        assert at == pytest.approx(T0 + 80 * made)
        fold(state, touched(at))
    assert made == 9  # nine times a tenth is what the loss costs beyond
    assert when(paused(began()), given=around(Prices(fresh=1, cached=1, output=4))) is None


def test_a_copy_that_is_gone_is_not_computed_for_an_end_that_nobody_knows() -> None:
    assert when(paused(began()), T0 + 101) is None
    assert when(paused(began()), T0 + 101, takes=50) is None  # it should have ended


def test_touches_of_one_pause_are_bounded_and_the_next_one_has_its_own() -> None:
    state = paused(began())
    for at in (T0 + 80, T0 + 160, T0 + 240):
        fold(state, touched(at))
    assert when(state, T0 + 240) is None
    fold(state, ToolResult(1, "c0", T0 + 300, "dug"))
    fold(state, ModelIntent(2, 1, T0 + 300))
    again = ModelResult(
        2, 1, T0 + 301, calls=[Call("c1", "dig", "{}")], prompt_tokens=TOKENS, cached_tokens=TOKENS
    )
    fold(state, again)
    assert when(state, T0 + 301) == pytest.approx(T0 + 301 + 80)


def test_where_a_person_has_the_word_or_the_client_nothing_is_done() -> None:
    asked = ApprovalRequested(1, "c1", "mcpr_1", T0)
    state = paused(began(), asked, names=("dig", "sell"))
    assert when(state) is None
    assert when(paused(began(), names=("dig", "sell"))) == T0 + 80
    state = paused(began(), names=("dig", "theirs"))
    assert state.run is not None
    state.run.client_tools = frozenset({"theirs"})
    assert when(state) is None


def test_short_prompts_are_not_worth_it() -> None:
    state = paused(began())
    assert when(state, given=around(least_tokens=TOKENS + 1)) is None
    assert when(state, given=around(least_tokens=TOKENS)) == T0 + 80


def test_what_it_costs_is_bounded_and_never_takes_what_the_next_turn_needs() -> None:
    usd = PRICES.cost_usd(prompt=TOKENS, cached=TOKENS, output=1)
    state = paused(began())
    assert when(state, given=around(max_usd=usd * 1.5)) == T0 + 80
    fold(state, touched(T0 + 80, usd=usd))
    assert when(state, T0 + 80, around(max_usd=usd * 1.5)) is None
    fresh = PRICES.cost_usd(prompt=TOKENS, cached=0, output=1)
    later = paused(began(), TimerSet(1, "c0", T0, T0 + 3600))
    assert when(later, given=around(max_usd=fresh * 0.9)) is None
    for limits in (
        AgentLimits.model_validate({"max_cost_usd": usd / 2}),
        AgentLimits.model_validate({"conversation": {"max_cost_usd": usd / 2}}),
    ):
        found = keep_warm.next_touch(paused(began()), around(), limits, T0, lambda _: None)
        assert found is None


@pytest.mark.parametrize(
    ("kind", "turn", "least"),
    [
        ("tokens", 3000, TOKENS + 1),
        ("cost", 0.5, PRICES.cost_usd(prompt=TOKENS, cached=TOKENS, output=1)),
        ("seconds", 4, 0),
    ],
)
def test_of_a_tenant_s_budget_it_leaves_what_turns_may_need(
    kind: LimitKind, turn: float, least: float
) -> None:
    def given(left: float) -> Around:
        cap = Cap(kind, 9000, 9000 + left, turn, "tenant")
        return msgspec.structs.replace(around(), caps=(cap,))

    assert when(paused(began()), given=given(turn + least + 1e-6)) == T0 + 80
    assert when(paused(began()), given=given((turn + least) * 0.99)) is None
    assert when(paused(began()), given=given(-1)) is None


def test_a_touch_is_no_turn_of_a_budget_and_no_call() -> None:
    caps = (Cap("turns", 5, 5, 1, "tenant"), Cap("tool_calls", 5, 5, 0, "tenant"))
    assert when(paused(began()), given=msgspec.structs.replace(around(), caps=caps)) == T0 + 80


def test_a_touch_tells_how_long_the_engine_keeps_a_prompt_as_a_turn_does() -> None:
    state = paused(began())
    fold(state, touched(T0 + 80, cached=0))
    assert context_rules.copy_lives_s(state, LIVES_S) == 80
    held = paused(began(), touched(T0 + 250))
    assert context_rules.copy_lives_s(held, LIVES_S) == 250


def test_its_cost_is_the_response_s_and_the_conversation_s_and_it_is_no_turn() -> None:
    before = paused(began())
    state = paused(began(), touched(T0 + 80, usd=0.5), touched(T0 + 160, usd=0.25))
    assert state.run is not None
    assert (state.run.spent.cost_usd, state.total.cost_usd) == (0.75, 0.75)
    assert (state.run.spent.turns, state.total.turns, state.step) == (1, 1, 1)
    assert state.history == before.history
    facts = TurnFacts()
    for usd in (0.5, 0.25):
        facts.note(touched(T0, usd=usd))
    totals = facts.extension()["totals"]
    assert (totals["touches"], totals["touches_cost_usd"], totals["cost_usd"]) == (2, 0.75, 0.75)


def test_a_tool_s_time_is_known_after_three_calls_as_its_shorter_end() -> None:
    times = ToolTimes()
    for seconds in (30.0, 10.0):
        times.took("desk@1", "dig", seconds)
    assert times.takes_s("desk@1", "dig") is None
    for seconds in (20.0, 40.0):
        times.took("desk@1", "dig", seconds)
    assert times.takes_s("desk@1", "dig") == 20
    assert times.takes_s("desk@2", "dig") is None


# -- the worker --


def turn_that(*wanted: tuple[str, object], cached: int = 0) -> list[Scripted]:
    events: list[Scripted] = [ROUTED]
    for name, arguments in wanted:
        events += [CallStart(name), ArgumentsDelta(json.dumps(arguments))]
    if not wanted:
        events.append(TextDelta("done"))
    return [*events, Done("tool_calls" if wanted else "stop", TOKENS, cached, 20)]


class Mine:
    """An agent that digs, before an engine that does what the test says when it is touched."""

    def __init__(
        self,
        *turns: list[Scripted],
        model: str = "scripted",
        max_tokens: int | None = None,
        **keep: Any,
    ) -> None:
        """`max_tokens`: what its tenant may use."""
        budget = {"max_tokens": max_tokens} if max_tokens else None
        self.tenants = {"acme": TenantConfig.model_validate({"budget": budget})}
        self.clock = FakeClock()
        self.journal = MemoryJournal(clock=self.clock)
        self.ends = asyncio.Semaphore(0)
        self.digging = asyncio.Event()
        self.turns: list[ModelTurn] = []
        self.touches: list[ModelTurn] = []
        self.on_touch: Callable[[], list[Scripted]] = lambda: [
            ROUTED,
            Done("length", TOKENS + 30, TOKENS, 1),
        ]
        answers = iter(turns)

        def play(turn: ModelTurn) -> Iterable[Scripted]:
            if turn.spare:
                self.touches.append(turn)
                return self.on_touch()
            self.turns.append(turn)
            return next(answers)

        async def dig(depth: int) -> str:
            """Dig, until a test ends it."""
            self.digging.set()
            await self.ends.acquire()
            return f"dug {depth}"

        self.model = ScriptedModel(play)
        config = AgentConfig.model_validate(
            {
                "model": model,
                "reply_tool": False,
                "tools": ["builtin:sleep"],
                "context": {"cache_lives_s": LIVES_S, "keep_warm": keep},
                "limits": {"max_seconds": 100_000, "tool_timeout_s": 100_000},
            }
        )
        self.agents = Agents([resolve("desk", config, [from_function(dig)])])
        self.registry = CollectorRegistry()
        self.stack = AsyncExitStack()
        self.worker = self.build()

    def build(self) -> Worker:
        return Worker(
            journal=self.journal,
            agents=self.agents,
            models=self.model,
            prices={"scripted": PRICES},
            clock=self.clock,
            lease_s=1e6,  # time jumps here
            stop_grace_s=0.05,
            runs=RunMetrics(self.registry) if not self.stack._exit_callbacks else None,
            budgets=Budgets(self.tenants, self.clock.now),
        )

    async def __aenter__(self) -> Mine:
        await self.stack.enter_async_context(self.worker)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.ends.release()
        await self.stack.aclose()
        self.agents.close()

    async def ask(self) -> None:
        items = [{"role": "user", "content": "go"}]
        accepted = ResponseAccepted("r", self.clock.now(), items, tenant="acme")
        start = ConversationStarted("desk@1", self.clock.now(), "acme")
        await self.worker.accept("c", accepted, start=start)

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError("it never came to pass")

    async def passes(self, seconds: float) -> None:
        """Time passes, and whatever it wakes is done."""
        for _ in range(200):
            await asyncio.sleep(0)
        self.clock.advance(seconds)
        for _ in range(200):
            await asyncio.sleep(0)

    async def digs(self, calls: int, seconds: float) -> None:
        """The first calls of its tool, one after another, each taking so long."""
        for call in range(1, calls + 1):
            await self.until(self.digging.is_set)
            self.digging.clear()
            await self.passes(seconds)
            self.ends.release()
            await self.until(lambda call=call: len(self.turns) == call + 1)

    async def found(self, kind: type[E]) -> list[E]:
        log = [each.event for each in await self.journal.read("c")]
        return [event for event in log if isinstance(event, kind)]

    def count(self, outcome: str) -> float:
        labels = {"agent": "desk", "outcome": outcome}
        return self.registry.get_sample_value("warmloop_touches_total", labels) or 0.0


def messages(turn: ModelTurn) -> bytes:
    body = turn.body
    return body[body.index(b'"messages":[') : body.index(b'],"model":')]


async def test_while_a_tool_runs_the_prompt_is_touched_before_its_copy_is_old() -> None:
    async with Mine(turn_that(("dig", {"depth": 1})), turn_that()) as mine:
        await mine.ask()
        await mine.until(mine.digging.is_set)
        await mine.passes(79)
        assert mine.touches == []
        await mine.passes(1)
        assert len(mine.touches) == 1
        await mine.passes(80)
        assert len(mine.touches) == 2
        mine.ends.release()
        await mine.worker.run("c")
        events = await mine.found(Warmed)
        assert [event.cached_tokens for event in events] == [TOKENS, TOKENS]
        assert mine.count("warm") == 2


async def test_a_prompt_is_not_touched_for_what_the_tenant_s_next_turn_needs() -> None:
    # A turn uses 2,020 tokens, and a touch 2,031.
    turns = turn_that(("dig", {"depth": 1})), turn_that()
    async with Mine(*turns, max_tokens=7000) as mine:
        await mine.ask()
        await mine.until(mine.digging.is_set)
        for _ in range(4):
            await mine.passes(80)
        assert len(mine.touches) == 1
        mine.ends.release()
        await mine.worker.run("c")
        assert fold_all(await mine.journal.read("c")).last_status == "completed"


async def test_a_touch_asks_with_the_bytes_that_the_next_turn_begins_with() -> None:
    async with Mine(turn_that(("dig", {"depth": 1})), turn_that()) as mine:
        await mine.ask()
        await mine.until(mine.digging.is_set)
        await mine.passes(80)
        mine.ends.release()
        await mine.worker.run("c")
        (touch,), (_, after) = mine.touches, mine.turns
        assert messages(after).startswith(messages(touch))
        asked, then = json.loads(touch.body), json.loads(after.body)
        assert asked["max_tokens"] == 1
        rest = {k: v for k, v in then.items() if k not in ("messages", "max_tokens")}
        assert {k: v for k, v in asked.items() if k not in ("messages", "max_tokens")} == rest
        assert (touch.conversation, touch.tenant, touch.agent) == ("c", "acme", "desk")
        assert touch.urgency == "batch"


async def test_where_any_model_may_answer_the_one_that_has_the_prompt_is_touched() -> None:
    async with Mine(turn_that(("dig", {"depth": 1})), turn_that(), model="auto") as mine:
        await mine.ask()
        await mine.until(mine.digging.is_set)
        await mine.passes(80)
        mine.ends.release()
        await mine.worker.run("c")
        assert json.loads(mine.turns[0].body)["model"] == "auto"
        assert json.loads(mine.touches[0].body)["model"] == "scripted"


async def test_the_prompt_is_the_same_whether_it_was_touched_or_not() -> None:
    hashes = []
    for keep in ({"touches": 3}, {"least_tokens": TOKENS * 9}):
        async with Mine(turn_that(("dig", {"depth": 1})), turn_that(), **keep) as mine:
            await mine.ask()
            await mine.until(mine.digging.is_set)
            await mine.passes(80)
            touches = len(mine.touches)
            mine.ends.release()
            await mine.worker.run("c")
            hashes.append((touches, [e.prompt_sha256 for e in await mine.found(ModelIntent)]))
    assert [touches for touches, _ in hashes] == [1, 0]
    assert hashes[0][1] == hashes[1][1]


async def test_a_run_that_waits_for_a_timer_is_nowhere_until_shortly_before_its_end() -> None:
    async with Mine(turn_that(("sleep", {"seconds": 3600})), turn_that()) as mine:
        await mine.ask()
        await mine.until(lambda: len(mine.turns) == 1 and mine.worker.active == 0)
        await mine.passes(3590)
        assert (mine.worker.active, mine.touches) == (0, [])
        await mine.passes(5)
        assert len(mine.touches) == 1
        assert len(mine.turns) == 1
        await mine.passes(5)
        await mine.until(lambda: mine.worker.active == 0)
        assert len(mine.turns) == 2
        assert len(mine.touches) == 1


async def test_a_run_that_is_touched_in_the_middle_of_a_long_wait_is_let_go_of_again() -> None:
    async with Mine(turn_that(("sleep", {"seconds": 250})), turn_that()) as mine:
        await mine.ask()
        await mine.until(lambda: len(mine.turns) == 1 and mine.worker.active == 0)
        for touches in (1, 2):
            await mine.passes(80)
            await mine.until(lambda: mine.worker.active == 0)
            assert len(mine.touches) == touches
        await mine.passes(90)
        await mine.until(lambda: len(mine.turns) == 2)
        assert len(mine.touches) == 2


async def test_whoever_goes_on_after_a_crash_counts_on() -> None:
    mine = Mine(turn_that(("sleep", {"seconds": 250})), turn_that())
    async with mine:
        await mine.ask()
        await mine.until(lambda: len(mine.turns) == 1 and mine.worker.active == 0)
        await mine.passes(80)
        await mine.until(lambda: mine.worker.active == 0)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(mine.build())
        await mine.passes(79)
        assert len(mine.touches) == 1
        await mine.passes(1)
        assert len(mine.touches) == 2
        await mine.passes(90)
        await mine.until(lambda: len(mine.turns) == 2)
    state = fold_all(await mine.journal.read("c"))
    assert state.last_status == "completed"


async def test_where_there_is_no_time_to_spare_it_is_tried_again_and_then_let_be() -> None:
    async with Mine(turn_that(("dig", {"depth": 1})), turn_that()) as mine:
        mine.on_touch = lambda: [ModelError("no time", code=NO_TIME, retry=True)]
        await mine.ask()
        await mine.until(mine.digging.is_set)
        await mine.passes(80)
        assert len(mine.touches) == 1
        for _ in range(20):
            await mine.passes(1)
        assert len(mine.touches) == 5
        assert mine.count("refused") == 5
        mine.ends.release()
        await mine.worker.run("c")
        assert await mine.found(Warmed) == []


async def test_a_touch_that_fails_is_not_repeated_and_hurts_nobody() -> None:
    async with Mine(turn_that(("dig", {"depth": 1})), turn_that()) as mine:
        mine.on_touch = lambda: [ModelError("status 400", code="engine_refused", retry=False)]
        await mine.ask()
        await mine.until(mine.digging.is_set)
        await mine.passes(80)
        await mine.passes(10)
        assert len(mine.touches) == 1
        mine.ends.release()
        await mine.worker.run("c")
        assert fold_all(await mine.journal.read("c")).last_status == "completed"
        assert mine.count("failed") == 1


async def test_when_the_tool_ends_the_turn_does_not_wait_for_the_touch() -> None:
    async with Mine(turn_that(("dig", {"depth": 1})), turn_that()) as mine:
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        mine.on_touch = lambda: [never]
        await mine.ask()
        await mine.until(mine.digging.is_set)
        await mine.passes(80)
        assert len(mine.touches) == 1
        mine.ends.release()
        await mine.worker.run("c")
        assert len(mine.turns) == 2
        assert never.cancelled()
        assert mine.count("cut") == 1


async def test_when_the_timer_ends_the_turn_does_not_wait_for_the_touch_either() -> None:
    async with Mine(turn_that(("sleep", {"seconds": 3600})), turn_that()) as mine:
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        mine.on_touch = lambda: [never]
        await mine.ask()
        await mine.until(lambda: len(mine.turns) == 1 and mine.worker.active == 0)
        await mine.passes(3595)
        assert len(mine.touches) == 1
        await mine.passes(5)
        await mine.until(lambda: len(mine.turns) == 2)
        assert never.cancelled()


async def test_of_a_tool_whose_time_is_learnt_the_end_is_expected() -> None:
    rounds = [turn_that(("dig", {"depth": n})) for n in range(4)]
    async with Mine(*rounds, turn_that(), touches=1) as mine:
        await mine.ask()
        await mine.digs(3, 1000)
        mine.touches.clear()
        await mine.until(mine.digging.is_set)
        await mine.passes(994)
        assert mine.touches == []
        await mine.passes(1)
        assert len(mine.touches) == 1
        mine.ends.release()
        await mine.worker.run("c")


async def test_a_call_that_takes_longer_than_others_did_is_bridged() -> None:
    rounds = [turn_that(("dig", {"depth": n}), cached=TOKENS) for n in range(4)]
    async with Mine(*rounds, turn_that()) as mine:
        await mine.ask()
        await mine.digs(3, 10)
        await mine.until(mine.digging.is_set)
        await mine.passes(79)
        assert mine.touches == []
        await mine.passes(1)
        assert len(mine.touches) == 1
        mine.ends.release()
        await mine.worker.run("c")


async def test_a_cancelled_run_touches_nothing_more() -> None:
    async with Mine(turn_that(("dig", {"depth": 1}))) as mine:
        await mine.ask()
        await mine.until(mine.digging.is_set)
        await mine.worker.cancel("r")
        await mine.passes(500)
        assert mine.touches == []
