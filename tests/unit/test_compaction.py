"""Prompts that are rewritten: when it pays, what stays, and that nothing else rewrites them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.agents import resolve
from orchestrator.loop.compaction import Facts, decide, expected_turns
from orchestrator.loop.context_rules import is_warm, place
from orchestrator.loop.events import (
    AnyEvent,
    Call,
    Compacted,
    ConversationStarted,
    HistoryImported,
    ModelFailed,
    ModelIntent,
    ModelResult,
    Notice,
    ResponseAccepted,
    ResponseFinished,
    ToolIntent,
    ToolResult,
    decode,
    encode,
)
from orchestrator.loop.history import items_of
from orchestrator.loop.machine import fold, fold_all, next_step
from orchestrator.loop.prompt import LEFT, Prompt
from orchestrator.loop.state import Around, CallModel, Compact, Finish, State
from serving.config.agent import AgentConfig, AgentLimits
from serving.config.context import ContextConfig
from serving.config.model import Prices

PRICES = Prices(fresh=1.0, cached=0.1, output=4.0)
LIMITS = AgentLimits(max_turns=1000, max_tool_calls=1000, remind_every=0)


def facts(**values: Any) -> Facts:
    base = {
        "prompt_tokens": 20_000,
        "head_tokens": 1000,
        "kept_tokens": 4000,
        "is_warm": True,
        "turns": 20.0,
        "prices": PRICES,
    }
    return Facts(**{**base, **values})


# -- the decision --


def test_a_long_session_pays_for_a_shorter_prompt_and_a_short_one_does_not() -> None:
    assert decide(facts(turns=20)).worth_it
    assert not decide(facts(turns=1)).worth_it


def test_figures_are_what_the_turns_would_cost() -> None:
    found = decide(facts(turns=3))
    assert found.as_it_is_usd == pytest.approx(3 * 20_000 * 0.1 / 1e6)
    fresh, later = 3000 * 1.0 + 1000 * 0.1, 2 * 4000 * 0.1
    assert found.rewritten_usd == pytest.approx((fresh + later) / 1e6)
    assert "20000 to 4000 tokens, warm, 3.0 turns" in found.reason


def test_after_the_engine_has_lost_the_prompt_rewriting_is_cheap() -> None:
    assert not decide(facts(turns=2, is_warm=True)).worth_it
    assert decide(facts(turns=2, is_warm=False)).worth_it


def test_a_summary_that_costs_more_than_it_saves_is_not_made() -> None:
    assert decide(facts(turns=8)).worth_it
    assert not decide(facts(turns=8, extra_fresh=16_000, extra_output=400)).worth_it


def test_the_gain_must_clear_the_margin_and_models_without_prices_are_weighed_by_time() -> None:
    assert not decide(facts(turns=20, margin=0.9)).worth_it
    assert decide(facts(turns=20, prices=Prices())).worth_it


@given(st.integers(100, 100_000), st.integers(1, 100_000), st.floats(1, 100), st.booleans())
def test_a_prompt_that_would_not_be_shorter_is_never_rewritten(
    prompt: int, kept: int, turns: float, warm: bool
) -> None:
    found = decide(facts(prompt_tokens=prompt, kept_tokens=kept, turns=turns, is_warm=warm))
    assert not (found.worth_it and kept >= prompt)
    assert not (found.worth_it and found.rewritten_usd >= found.as_it_is_usd)


def test_a_conversation_is_expected_to_go_on_as_long_as_it_has() -> None:
    assert [expected_turns(n, 4.0) for n in (0, 3, 10, 500)] == [4.0, 4.0, 10.0, 50.0]


# -- in the loop --


def talk(turns: int, *, prompt_tokens: int = 0, gap_s: float = 1.0) -> State:
    """A conversation of so many responses, each one answered by two turns with a call between."""
    state = State()
    fold(state, ConversationStarted("desk@1", 0.0))
    for n in range(turns):
        for event in response(n, n * gap_s, prompt_tokens or 1000 * (n + 1)):
            fold(state, event)
    return state


def response(n: int, at: float, tokens: int) -> list[AnyEvent]:
    step = 2 * n + 1
    call = Call(f"call_{step}_0", "search", json.dumps({"q": n}))
    text = f"question {n} " + "x" * 400
    return [
        ResponseAccepted(f"r{n}", at, [{"role": "user", "content": text}]),
        ModelIntent(step, 1, at),
        ModelResult(step, 1, at, calls=[call], prompt_tokens=tokens, cached_tokens=tokens - 100),
        ToolIntent(step, call.call_id, "key", at),
        ToolResult(step, call.call_id, at, "found " + "y" * 400),
        ModelIntent(step + 1, 1, at),
        ModelResult(step + 1, 1, at, text=f"answer {n}", prompt_tokens=tokens, output_tokens=9),
        ResponseFinished(f"r{n}", at, "completed"),
    ]


def around(strategy: str = "window", **values: Any) -> Around:
    context = ContextConfig(strategy=strategy, keep_turns=2)  # type: ignore[arg-type]
    return Around(context=context, prices=PRICES, **values)


def ask(state: State, at: float, where: Around) -> Any:
    fold(state, ResponseAccepted("next", at, [{"role": "user", "content": "and now?"}]))
    return next_step(state, LIMITS, {}, at, around=where)


def rendered(state: State) -> list[dict[str, Any]]:
    prompt = resolve("desk", AgentConfig(reply_tool=False, instructions="Be brief.")).prompt()
    prompt.extend(state.history)
    found: list[dict[str, Any]] = json.loads(b"[" + prompt.messages + b"]")
    return found


def test_a_long_conversation_is_cut_to_its_newest_turns_when_a_response_begins() -> None:
    state = talk(10)
    step = ask(state, 20.0, around())
    assert isinstance(step, Compact)
    event = step.event
    assert (event.why, event.keep_from) == ("priced", 19)
    assert event.rewritten_usd < event.as_it_is_usd
    assert event.kept_tokens < event.prompt_tokens
    fold(state, event)
    messages = rendered(state)
    assert messages[0]["content"] == "Be brief."
    assert messages[1] == {"role": "system", "content": LEFT}
    assert messages[2]["content"].startswith("question 9")
    assert messages[-1]["content"] == "and now?"
    assert isinstance(next_step(state, LIMITS, {}, 20.0, around=around()), CallModel)


def test_without_a_strategy_or_a_gain_nothing_is_rewritten() -> None:
    assert isinstance(ask(talk(10), 20.0, around("none")), CallModel)
    assert isinstance(ask(talk(2), 4.0, around()), CallModel)


def test_a_tool_loop_is_never_rewritten_for_a_price() -> None:
    state = talk(10)
    fold(state, ResponseAccepted("next", 20.0, []))
    call = Call("c", "search", "{}")
    fold(state, ModelIntent(21, 1, 20.0))
    fold(state, ModelResult(21, 1, 20.0, calls=[call], prompt_tokens=99_000))
    fold(state, ToolIntent(21, "c", "key", 20.0))
    fold(state, ToolResult(21, "c", 20.0, "out"))
    assert isinstance(next_step(state, LIMITS, {}, 21.0, around=around()), CallModel)


def test_a_full_context_is_rewritten_between_turns_and_the_task_stays() -> None:
    state = State()
    task = ResponseAccepted("r", 0.0, [{"role": "user", "content": "the task"}])
    fold(state, task)
    for n in range(1, 6):
        call = Call(f"call_{n}_0", "search", str(n))
        fold(state, ModelIntent(n, 1, 0.0))
        fold(state, ModelResult(n, 1, 0.0, calls=[call], prompt_tokens=1500 * n))
        fold(state, ToolIntent(n, call.call_id, "key", 0.0))
        fold(state, ToolResult(n, call.call_id, 0.0, "out"))
    where = around(context_tokens=8000, answer_tokens=500)
    step = next_step(state, LIMITS, {}, 1.0, around=where)
    assert isinstance(step, Compact)
    assert step.event.why == "overflow"
    fold(state, step.event)
    assert state.history[:2] == [step.event, task]
    calls = [each for each in rendered(state) if "tool_calls" in each]
    assert len(calls) == 2
    again = next_step(state, LIMITS, {}, 1.0, around=where)
    assert again == CallModel(6, 1), "once; what is left is asked"


def test_without_a_strategy_a_full_context_leads_to_a_last_answer() -> None:
    state = talk(3, prompt_tokens=7400)
    step = ask(state, 9.0, around("none", context_tokens=8000, answer_tokens=500))
    assert isinstance(step, CallModel)
    (notice,) = step.notices
    assert (notice.kind, notice.last) == ("overflow", True)


def refused(state: State, at: float) -> None:
    fold(state, ModelIntent(state.step + 1, 1, at))
    fold(state, ModelFailed(state.step, 1, at, "too long", "context_length_exceeded"))


def test_a_prompt_that_the_engine_refuses_as_too_long_is_shortened_once() -> None:
    state = talk(6)
    ask(state, 9.0, around())
    refused(state, 9.0)
    step = next_step(state, LIMITS, {}, 9.0, around=around())
    assert isinstance(step, Compact)
    assert step.event.why == "refused"
    fold(state, step.event)
    asked = next_step(state, LIMITS, {}, 9.0, around=around())
    assert isinstance(asked, CallModel)
    fold(state, ModelIntent(asked.step, asked.attempt, 9.0))
    fold(state, ModelFailed(asked.step, asked.attempt, 9.0, "too long", "context_length_exceeded"))
    ended = next_step(state, LIMITS, {}, 9.0, around=around())
    assert isinstance(ended, Finish)
    assert (ended.status, ended.code) == ("failed", "context_length_exceeded")


def test_a_client_may_ask_for_truncation_where_the_agent_has_no_strategy() -> None:
    state = talk(6)
    fold(state, ResponseAccepted("next", 9.0, [], {"truncation": "auto"}))
    refused(state, 9.0)
    assert isinstance(next_step(state, LIMITS, {}, 9.0, around=around("none")), Compact)


def test_outputs_that_a_client_brought_stay_with_their_calls() -> None:
    brought = {"type": "function_call_output", "call_id": "c", "output": "sunny"}
    history = [
        ResponseAccepted("r1", 0.0, [{"role": "user", "content": "weather?"}]),
        ModelResult(1, 1, 0.0, text="before"),
        ModelResult(2, 1, 0.0, calls=[Call("c", "weather", "{}")]),
        ResponseAccepted("r2", 0.0, [brought]),
        ModelResult(3, 1, 0.0, text="sunny"),
    ]
    assert place(history, 3) == 2
    assert place(history, 2) == 2
    assert place(history, 9) == len(history)


def brings(name: str, *, both: bool) -> ResponseAccepted:
    """A request with the output of a call, and with the call itself."""
    output = {"type": "function_call_output", "call_id": name, "output": "sunny"}
    call = {"type": "function_call", "call_id": name, "name": "weather", "arguments": "{}"}
    return ResponseAccepted(f"r{name}", 0.0, [call, output] if both else [output])


def test_a_client_that_brings_calls_with_their_outputs_does_not_keep_all_that_was_before() -> None:
    history: list[Any] = []
    for n in range(1, 6):
        history += [brings(f"c{n}", both=True), ModelResult(n, 1, 0.0, text=f"answer {n}")]
    assert place(history, 4) == 6


def test_an_output_stays_with_the_event_that_holds_its_call_wherever_that_is() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
    history = [
        HistoryImported("", "", [{"role": "user", "content": "hello"}]),
        HistoryImported("", "", [call]),
        brings("c", both=False),
        ModelResult(1, 1, 0.0, text="sunny"),
    ]
    assert place(history, 1) == 1


def test_a_conversation_learns_how_long_its_prompt_is_kept() -> None:
    state = State()

    def turn(at: float, cached: int) -> None:
        fold(state, ModelResult(1, 1, at, prompt_tokens=1000, cached_tokens=cached))

    turn(1.0, 0)
    assert is_warm(state, 300, 300)
    assert not is_warm(state, 302, 300)
    turn(900.0, 950)  # it was there after a quarter of an hour
    assert is_warm(state, 1700, 300)
    turn(3000.0, 0)  # and gone after 35 minutes
    assert not is_warm(state, 5200, 300)


# -- bytes that never change --

STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.text(max_size=6), st.booleans()), max_size=6
)


def log_of(steps: list[tuple[int, bool, str, bool]]) -> list[AnyEvent]:
    """Turns: how many calls, is a notice before, what is said, does a new request follow?"""
    log: list[AnyEvent] = [
        ConversationStarted("desk@1", 0.0),
        ResponseAccepted("r0", 0.0, [{"role": "user", "content": "go"}]),
    ]
    for step, (calls, told, said, ends) in enumerate(steps, 1):
        if told:
            log.append(Notice(step, "drift", f"Notice: {said}", 0.0))
        log.append(ModelIntent(step, 1, 0.0))
        made = [Call(f"call_{step}_{n}", "search", json.dumps(said)) for n in range(calls)]
        log.append(ModelResult(step, 1, 0.0, text=said, calls=made))
        for call in reversed(made):  # the fastest was the last one asked for
            log.append(ToolIntent(step, call.call_id, "key", 0.0))
            log.append(ToolResult(step, call.call_id, 0.0, said))
        if not calls or ends:
            log.append(ResponseFinished(f"r{step - 1}", 0.0, "completed"))
            log.append(
                ResponseAccepted(f"r{step}", 0.0, [{"role": "user", "content": said or "?"}])
            )
    return log


def prompt_of(state: State) -> Prompt:
    prompt = resolve("desk", AgentConfig(reply_tool=False, instructions="Go.")).prompt()
    prompt.extend(state.history)
    return prompt


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_every_turn_s_prompt_begins_with_the_one_before_also_after_a_crash(
    steps: list[tuple[int, bool, str, bool]],
) -> None:
    log = log_of(steps)
    living, growing = State(), prompt_of(State())
    before = b""
    for place_, event in enumerate(log, 1):
        fold(living, event)
        if isinstance(event, ModelIntent):
            growing.extend(living.history)
            assert growing.messages.startswith(before)
            before = growing.messages
            again = State()  # another process, which only has the journal's bytes
            for stored in log[:place_]:
                fold(again, decode(encode(stored)))
            assert prompt_of(again).messages == before
            assert prompt_of(again).sha256 == growing.sha256


@settings(max_examples=30, deadline=None)
@given(STEPS, st.integers(1, 7), st.text(max_size=9))
def test_a_rewriting_is_one_event_and_before_and_after_it_prompts_only_grow(
    steps: list[tuple[int, bool, str, bool]], keep_from: int, summary: str
) -> None:
    log = log_of(steps)
    state = fold_all([], State())
    for event in log:
        fold(state, event)
    growing = prompt_of(state)
    rewriting = Compacted(
        state.step + 1, 0.0, keep_from, "summary", "priced", text=summary, kept_tokens=9
    )
    more = log_of(steps)[1:]
    fold(state, rewriting)
    growing.extend(state.history)
    before = growing.messages
    assert before == prompt_of(state).messages
    for event in more:
        fold(state, event)
        growing.extend(state.history)
        assert growing.messages.startswith(before)
        before = growing.messages
    again = State()
    for event in [*log, rewriting, *more]:
        fold(again, decode(encode(event)))
    assert prompt_of(again).messages == before


def test_a_fork_of_a_rewritten_conversation_has_the_same_bytes() -> None:
    for summary in ("", "the bell was found"):
        state = talk(3)
        fold(state, Compacted(7, 9.0, 5, "summary", "priced", text=summary))
        fork = State()
        fold(fork, HistoryImported("c", "r2", items_of(state.history)))
        assert prompt_of(fork).messages == prompt_of(state).messages


def test_an_output_whose_call_leaves_the_prompt_leaves_with_it() -> None:
    state = State()
    fold(state, ConversationStarted("desk@1", 0.0))
    tools = {"tools": [{"type": "function", "name": "weather"}]}
    fold(state, ResponseAccepted("r1", 0.0, [{"role": "user", "content": "weather?"}], tools))
    fold(state, ModelIntent(1, 1, 0.0))
    fold(state, ModelResult(1, 1, 0.0, calls=[Call("call_1_0", "weather", "{}")]))
    fold(state, ResponseFinished("r1", 0.0, "completed"))
    brought = {"type": "function_call_output", "call_id": "call_1_0", "output": "sunny"}
    asked = {"role": "user", "content": "and at sea?"}
    fold(state, ResponseAccepted("r2", 0.0, [brought, asked], tools))
    for n in range(2, 6):
        call = Call(f"call_{n}_0", "search", str(n))
        fold(state, ModelIntent(n, 1, 0.0))
        fold(state, ModelResult(n, 1, 0.0, calls=[call]))
        fold(state, ToolIntent(n, call.call_id, "key", 0.0))
        fold(state, ToolResult(n, call.call_id, 0.0, "out"))
    fold(state, Compacted(6, 0.0, 5, "window", "overflow"))
    _, left, task, call_made, output = rendered(state)
    assert left["content"] == LEFT
    assert task == {"role": "user", "content": "and at sea?"}
    assert call_made["tool_calls"][0]["id"] == output["tool_call_id"] == "call_5_0"


def test_a_summary_s_cost_counts_in_the_conversation_s_budget() -> None:
    state = talk(3)
    fold(state, Compacted(7, 9.0, 5, "summary", "priced", text="so far", cost_usd=0.5))
    assert state.total.cost_usd == 0.5


def fork(turns: int) -> State:
    """A conversation that begins with what another had, and has so many responses of its own."""
    state = State()
    fold(state, ConversationStarted("desk@1", 0.0))
    old = [{"role": "user", "content": f"old {n} " + "x" * 900} for n in range(20)]
    fold(state, HistoryImported("c", "r", old))
    for n in range(turns):
        for event in response(n, float(n), 9000):
            fold(state, event)
    return state


@pytest.mark.parametrize("turns", [0, 3])
def test_a_fork_is_shortened_when_it_must_be(turns: int) -> None:
    state = fork(turns)
    ask(state, 9.0, around())
    refused(state, 9.0)
    step = next_step(state, LIMITS, {}, 9.0, around=around())
    assert isinstance(step, Compact)
    assert any(isinstance(each, HistoryImported) for each in step.replaced)
    fold(state, step.event)
    messages = rendered(state)
    assert messages[1]["content"] == LEFT
    assert not any(str(each["content"]).startswith("old") for each in messages)
    assert messages[-1]["content"] == "and now?"


def test_what_a_fork_begins_with_does_not_leave_for_a_price_before_it_has_turns_to_keep() -> None:
    assert isinstance(ask(fork(0), 9000.0, around()), CallModel)
    step = ask(fork(1), 9000.0, around())
    assert isinstance(step, Compact)
    assert [type(each) for each in step.replaced] == [HistoryImported]
