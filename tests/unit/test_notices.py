"""What the loop tells a model that comes near a limit, goes in circles, or is at it for long."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from orchestrator.agents import resolve
from orchestrator.loop.events import (
    AnyEvent,
    Call,
    Compacted,
    ConversationStarted,
    ModelFailed,
    ModelIntent,
    ModelResult,
    Notice,
    ResponseAccepted,
    ResponseFinished,
    ToolIntent,
    ToolResult,
)
from orchestrator.loop.machine import fold, fold_all, next_step
from orchestrator.loop.state import CallModel, Finish, Refuse, RunTools, State
from orchestrator.worker.turn_settings import without_tools
from serving.config.agent import AgentConfig, AgentLimits

Model = Callable[[int, State], list[tuple[str, str]] | str]
"""What it answers at a step: calls (name, arguments), or text."""


class Loop:
    """The loop without its effects: every call gives `results(call)`, every turn takes a second."""

    def __init__(self, model: Model, **limits: Any) -> None:
        self.limits = AgentLimits.model_validate(limits)
        self.model = model
        self.now = 0.0
        self.log: list[AnyEvent] = []
        self.state = State()
        self.cost_usd = 0.0
        self.results: Callable[[Call], str] = lambda call: f"{call.call_id} done"
        self.emit(ConversationStarted("desk@1", 0.0))

    def emit(self, event: AnyEvent) -> None:
        self.log.append(event)
        fold(self.state, event)

    def ask(self, response_id: str = "r") -> Finish:
        items = [{"role": "user", "content": "Find the bell."}]
        self.emit(ResponseAccepted(response_id, self.now, items))
        while True:
            step = next_step(self.state, self.limits, {}, self.now)
            match step:
                case CallModel():
                    self.turn(step)
                case RunTools():
                    for action in step.actions:
                        call = action.call
                        self.emit(ToolIntent(step.step, call.call_id, "key", self.now))
                        self.emit(ToolResult(step.step, call.call_id, self.now, self.results(call)))
                case Refuse():
                    for call in step.calls:
                        self.emit(
                            ToolResult(step.step, call.call_id, self.now, step.said, "refused")
                        )
                    self.emit(step.notice)
                case Finish():
                    if step.limit:
                        self.emit(step.limit)
                    self.emit(ResponseFinished(response_id, self.now, step.status, step.code))
                    return step
                case _:
                    raise AssertionError(step)

    def turn(self, step: CallModel) -> None:
        for notice in step.notices:
            self.emit(notice)
        self.emit(ModelIntent(step.step, step.attempt, self.now))
        self.now += 1
        said = self.model(step.step, self.state)
        calls = said if isinstance(said, list) else []
        self.emit(
            ModelResult(
                step.step,
                step.attempt,
                self.now,
                text="" if calls else str(said),
                calls=[Call(f"call_{step.step}_{n}", *each) for n, each in enumerate(calls)],
                prompt_tokens=90,
                output_tokens=10,
                cost_usd=self.cost_usd,
            )
        )

    @property
    def told(self) -> list[tuple[str, int, bool]]:
        return [(each.kind, each.step, each.last) for each in self.log if isinstance(each, Notice)]


def searches(step: int, state: State) -> list[tuple[str, str]] | str:
    """Goes on for ever, until it is told that this is its last turn."""
    if state.run is not None and state.run.last is not None:
        return "what I know"
    return [("search", json.dumps({"n": step}))]


def stubborn(step: int, state: State) -> list[tuple[str, str]]:
    return [("search", json.dumps({"n": step}))]


def test_a_model_is_warned_once_and_then_asked_for_a_last_answer() -> None:
    loop = Loop(searches, max_turns=5, remind_every=0)
    ended = loop.ask()
    assert ended.status == "completed"
    assert loop.told == [("turns", 5, True)]
    loop = Loop(searches, max_turns=10, remind_every=0)
    ended = loop.ask()
    assert loop.told == [("turns", 9, False), ("turns", 10, True)]
    assert ended.limit is not None
    assert (ended.limit.kind, ended.limit.answered) == ("turns", True)


def test_every_budget_ends_with_an_answer_and_is_not_passed() -> None:
    for values, kind in (
        ({"max_tokens": 1000}, "tokens"),
        ({"max_cost_usd": 1.25}, "cost"),
        ({"max_tool_calls": 7}, "tool_calls"),
        ({"max_seconds": 10}, "seconds"),
        ({"conversation": {"max_tokens": 1000}}, "tokens"),
    ):
        loop = Loop(searches, **{"max_turns": 99, "remind_every": 0, **values})
        loop.cost_usd = 0.125
        ended = loop.ask()
        assert ended.status == "completed", values
        assert [(told, last) for told, _, last in loop.told] == [(kind, False), (kind, True)]
        assert loop.state.total.turns <= 10


def test_a_model_that_calls_tools_instead_of_a_last_answer_is_cut() -> None:
    loop = Loop(stubborn, max_turns=3, remind_every=0)
    ended = loop.ask()
    assert (ended.status, ended.code) == ("incomplete", "max_turns")
    assert sum(isinstance(each, ToolIntent) for each in loop.log) == 2


def test_without_a_last_answer_a_limit_just_cuts() -> None:
    loop = Loop(searches, max_turns=3, last_answer=False, warn_at=1)
    assert loop.ask().code == "max_turns"
    assert loop.told == []


def test_the_same_call_is_noticed_the_second_time_and_not_run_the_third() -> None:
    def repeats(step: int, state: State) -> list[tuple[str, str]] | str:
        return "enough" if state.run and state.run.last else [("search", "{}")]

    loop = Loop(repeats)
    loop.results = lambda call: call.call_id  # other results: only the calls are the same
    assert loop.ask().status == "completed"
    assert loop.told == [("same_call", 3, False), ("same_call", 4, True)]
    results = [each.outcome for each in loop.log if isinstance(each, ToolResult)]
    assert results == ["ok", "ok", "refused"]


def test_going_in_circles_is_noticed_though_no_call_repeats_in_a_row() -> None:
    def circles(step: int, state: State) -> list[tuple[str, str]] | str:
        return "enough" if state.run and state.run.last else [("search", str(step % 2))]

    loop = Loop(circles)
    loop.results = lambda call: f"nothing for {call.arguments}"
    assert loop.ask().status == "completed"
    assert loop.told == [
        ("same_state", 4, False),
        ("same_state", 5, False),
        ("same_state", 6, True),
    ]


def test_other_results_of_the_same_calls_are_no_circle() -> None:
    loop = Loop(lambda step, state: "done" if step == 9 else [("search", str(step % 2))])
    assert loop.ask().status == "completed"
    assert loop.told == []


def test_a_storm_of_calls_does_not_run_and_the_second_one_is_the_last() -> None:
    def storms(step: int, state: State) -> list[tuple[str, str]] | str:
        if state.run and state.run.last:
            return "enough"
        return [("search", f"{step}:{n}") for n in range(9)]

    loop = Loop(storms, max_calls_a_turn=8)
    assert loop.ask().status == "completed"
    assert loop.told == [("storm", 2, False), ("storm", 3, True)]
    assert not [each for each in loop.log if isinstance(each, ToolIntent)]


def test_a_long_run_is_reminded_of_its_task_every_few_turns() -> None:
    loop = Loop(lambda s, state: "done" if s == 8 else [("search", str(s))], remind_every=3)
    loop.ask()
    assert loop.told == [("drift", 4, False), ("drift", 7, False)]
    (first, _) = [each for each in loop.log if isinstance(each, Notice)]
    assert "Find the bell." in first.text


def test_what_is_used_up_for_the_whole_conversation_is_so_for_its_next_response() -> None:
    loop = Loop(searches, conversation={"max_turns": 4}, remind_every=0)
    assert loop.ask("r1").status == "completed"
    again = loop.ask("r2")
    assert (again.status, again.code) == ("incomplete", "conversation_max_turns")


def test_a_notice_never_comes_between_a_call_and_its_result() -> None:
    """A crash left one of two calls in doubt; the other, fresh one is refused for a loop."""
    loop = Loop(searches)
    loop.emit(ResponseAccepted("r", 0.0, [{"role": "user", "content": "go"}]))
    for step in (1, 2, 3):
        pair = [Call(f"call_{step}_{n}", "search", str(n)) for n in range(2)]
        loop.emit(ModelIntent(step, 1, 0.0))
        loop.emit(ModelResult(step, 1, 0.0, calls=pair))
        loop.emit(ToolIntent(step, f"call_{step}_0", "key", 0.0))
        if step < 3:
            loop.emit(ToolIntent(step, f"call_{step}_1", "key", 0.0))
            for n in range(2):
                loop.emit(ToolResult(step, f"call_{step}_{n}", 0.0, "out"))
    refuse = next_step(loop.state, loop.limits, {"search": "pure"}, 1.0)
    assert isinstance(refuse, Refuse)
    assert [call.call_id for call in refuse.calls] == ["call_3_1"]
    loop.emit(ToolResult(3, "call_3_1", 1.0, refuse.said, "refused"))
    loop.emit(refuse.notice)
    again = next_step(loop.state, loop.limits, {"search": "pure"}, 1.0)
    assert isinstance(again, RunTools), "the one in doubt still runs"
    loop.emit(ToolResult(3, "call_3_0", 1.0, "out"))
    assert [type(each) for each in loop.state.history[-3:]] == [ToolResult, ToolResult, Notice]
    assert isinstance(next_step(loop.state, loop.limits, {}, 1.0), CallModel)


def test_after_a_crash_at_any_event_the_same_notices_are_given() -> None:
    whole = Loop(searches, max_turns=6, remind_every=2)
    whole.ask()
    for cut in range(2, len(whole.log)):
        from_log = State()
        for event in whole.log[:cut]:
            fold(from_log, event)
        step = next_step(from_log, whole.limits, {}, whole.now)
        rest = [each for each in whole.log[cut:] if isinstance(each, Notice)]
        if isinstance(step, CallModel) and isinstance(whole.log[cut], Notice):
            texts = [each.text for each in step.notices]
            assert texts == [each.text for each in rest][: len(texts)]


def test_a_last_turn_keeps_its_tools_in_place_and_may_not_call_them() -> None:
    replying = resolve("desk", AgentConfig(reply_tool=True))
    last = without_tools(replying.settings, {})
    before, after = replying.prompt().body({}), replying.prompt().body(last)
    assert json.loads(before)["tools"] == json.loads(after)["tools"]
    assert json.loads(after)["tool_choice"]["function"]["name"] == "reply"
    tools = {"tools": [{"type": "function", "function": {"name": "search"}}]}
    assert without_tools(tools, {}) == {"tool_choice": "none"}
    assert without_tools({}, {}) == {}, "engines refuse a choice between no tools"


def test_notices_are_part_of_the_prompt_from_then_on() -> None:
    loop = Loop(searches, max_turns=5, remind_every=2)
    loop.ask()
    prompt = resolve("desk", AgentConfig(reply_tool=False)).prompt()
    prompt.extend(fold_all([], loop.state).history)
    messages = json.loads(b"[" + prompt.messages + b"]")
    said = [m["role"] for m in messages if str(m["content"]).startswith("Notice:")]
    assert said == ["user", "system"]


def test_what_was_said_before_a_refused_turn_is_not_said_again_after_the_rewriting() -> None:
    loop = Loop(lambda step, state: [("search", "{}")])
    loop.emit(ResponseAccepted("r", 0.0, [{"role": "user", "content": "go"}]))
    limits = AgentLimits(remind_every=2)
    for step in (1, 2):
        call = Call(f"call_{step}_0", "search", "{}")
        loop.emit(ModelIntent(step, 1, 0.0))
        loop.emit(ModelResult(step, 1, 0.0, calls=[call]))
        loop.emit(ToolIntent(step, call.call_id, "key", 0.0))
        loop.emit(ToolResult(step, call.call_id, 0.0, "out"))
    asked = next_step(loop.state, limits, {}, 1.0)
    assert isinstance(asked, CallModel)
    assert [each.kind for each in asked.notices] == ["same_call", "drift"]
    for notice in asked.notices:
        loop.emit(notice)
    loop.emit(ModelIntent(3, 1, 1.0))
    loop.emit(ModelFailed(3, 1, 1.0, "too long", "context_length_exceeded"))
    loop.emit(Compacted(4, 1.0, 2, "window", "refused"))
    assert next_step(loop.state, limits, {}, 1.0) == CallModel(4, 1)
