"""The latency benchmark: recorded instants become parts that add up, and figures of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.harness.stats import Interval
from benchmarks.latency import judged
from benchmarks.latency_budget import (
    PARTS,
    Asked,
    Budget,
    Claim,
    Exchange,
    Routed,
    bare_turn,
    cover,
    stack_turns,
)
from benchmarks.latency_figures import Case, Compared, cases, compared, figures
from benchmarks.latency_load import Turn
from benchmarks.latency_relay import engine_times
from orchestrator.loop.events import (
    AnyEvent,
    Call,
    ModelFailed,
    ModelIntent,
    ModelResult,
    ResponseAccepted,
    ResponseFinished,
    ToolIntent,
    ToolResult,
)

ASKED = Asked(sent=100.0, first_event=100.1, first_text=101.7, ended=104.0)
ONE_TURN: list[AnyEvent] = [
    ResponseAccepted("resp_1", 100.25, []),
    ModelIntent(1, 1, 100.5),
    ModelResult(1, 1, 103.0, "yes", prompt_tokens=100, cached_tokens=96, output_tokens=8),
    ResponseFinished("resp_1", 103.25, "completed"),
]
SEEN = Exchange(101.25, 101.75, 102.75, queue_s=0.125, prefill_s=0.25, decode_s=0.875)
ROUTED = {(1, 1): Routed(waited_s=0.125, total_s=2.0)}


def parts(**seconds: float) -> dict[str, float]:
    return dict.fromkeys(PARTS, 0.0) | {
        key.replace("_", " "): each for key, each in seconds.items()
    }


def test_each_instant_belongs_to_the_first_claim_that_has_it() -> None:
    claims = [Claim("decode", 2, 4), Claim("tool", 3, 5), Claim("router", 0, 4.5)]
    assert cover(1, 6, claims) == parts(decode=2, tool=1, router=1, rest=1)


@pytest.mark.parametrize("claim", [Claim("tool", 0, 1), Claim("tool", 6, 9), Claim("tool", 4, 3)])
def test_claims_outside_or_backwards_get_nothing(claim: Claim) -> None:
    assert cover(1, 6, [claim]) == parts(rest=5)


def test_a_turn_of_the_stack_is_told_apart_down_to_the_engine() -> None:
    (turn,) = stack_turns(ASKED, ONE_TURN, [SEEN], ROUTED)
    assert turn.parts == parts(
        network=0.25,
        to_begin=0.25,
        to_ask=0.5,
        queue=0.125 + 0.125,
        prefill=0.25,
        server=0.125 + 0.125,
        decode=0.875,
        router=0.125 + 0.25,
        orchestration=0.25,
        to_end=0.75,
    )
    assert sum(turn.parts.values()) == turn.whole_s == 4.0
    assert turn.stack_s == 0.25 + 0.25 + 0.5 + 0.375 + 0.25 + 0.75
    assert (turn.prompt_tokens, turn.cached_tokens, turn.output_tokens) == (100, 96, 8)


def test_what_a_silent_engine_does_before_its_first_byte_is_not_guessed() -> None:
    silent = replace(SEEN, queue_s=None)
    (turn,) = stack_turns(ASKED, ONE_TURN, [silent], ROUTED)
    assert turn.parts["first token"] == 0.5
    assert turn.parts["decode"] == 1.0
    assert turn.parts["prefill"] == turn.parts["server"] == 0.0
    assert sum(turn.parts.values()) == turn.whole_s


def test_an_engine_that_claims_more_than_passed_is_cut() -> None:
    boasts = replace(SEEN, queue_s=0.25, prefill_s=9.0, decode_s=9.0)
    turn = bare_turn(Asked(101.0, 101.75, None, 103.0), boasts, (100, 96, 8))
    assert turn.parts == parts(network=0.5, queue=0.25, prefill=0.25, decode=1.0)


TOOL_TURNS: list[AnyEvent] = [
    ResponseAccepted("resp_1", 100.25, []),
    ModelIntent(1, 1, 100.5),
    ModelResult(1, 1, 101.0, calls=[Call("call_1_0", "look_up", "{}")]),
    ToolIntent(1, "call_1_0", "key", 101.25),
    ToolResult(1, "call_1_0", 102.25, json.dumps({"began": 101.5})),
    ModelIntent(2, 1, 102.5),
    ModelResult(2, 1, 103.0, "done"),
    ResponseFinished("resp_1", 103.25, "completed"),
]
TWICE = {(1, 1): Routed(0.0, 0.25), (2, 1): Routed(0.0, 0.25)}


def test_a_turn_ends_with_its_tools_and_the_turns_are_the_whole() -> None:
    call, answer = stack_turns(ASKED, TOOL_TURNS, [], TWICE)
    assert call.parts == parts(
        network=0.25,
        to_begin=0.25,
        to_ask=0.25,
        router=0.25,
        orchestration=0.25,
        to_call=0.25,
        tool=0.75,
    )
    assert answer.parts == parts(orchestration=0.5, to_ask=0.25, router=0.25, to_end=0.75)
    assert call.whole_s + answer.whole_s == ASKED.ended - ASKED.sent


def test_a_tool_that_does_not_say_when_it_began_has_the_storing_of_its_intent_too() -> None:
    events = [
        ToolResult(1, "call_1_0", 102.25, "12.90 EUR") if isinstance(each, ToolResult) else each
        for each in TOOL_TURNS
    ]
    call, _ = stack_turns(ASKED, events, [], TWICE)
    assert (call.parts["tool"], call.parts["to call"]) == (1.0, 0.0)


def test_a_call_that_runs_while_its_turn_is_written_counts_once() -> None:
    began = json.dumps({"began": 100.75})
    events: list[AnyEvent] = [
        *TOOL_TURNS[:2],
        ToolIntent(1, "call_1_0", "key", 100.75),
        TOOL_TURNS[2],
        ToolResult(1, "call_1_0", 101.5, began),
        *TOOL_TURNS[5:],
    ]
    call, _ = stack_turns(ASKED, events, [], TWICE)
    assert call.parts["router"] == 0.25
    assert call.parts["tool"] == 0.5
    assert sum(call.parts.values()) == call.whole_s


def test_what_nobody_knows_of_is_the_rest() -> None:
    again = [
        *ONE_TURN[:2],
        ModelFailed(1, 1, 101.0, "cut", retry=True),
        ModelIntent(1, 2, 101.5),
        ModelResult(1, 2, 103.0, "yes"),
        ONE_TURN[3],
    ]
    (turn,) = stack_turns(ASKED, again, [], {(1, 2): Routed(0.0, 1.0)})
    assert turn.parts["rest"] == 1.0
    assert turn.parts["to ask"] == 0.5
    assert sum(turn.parts.values()) == turn.whole_s
    (unseen,) = stack_turns(ASKED, ONE_TURN, [], {})
    assert unseen.parts["rest"] == 2.5


@pytest.mark.parametrize("events", [[], ONE_TURN[:3], ONE_TURN[1:]])
def test_half_a_log_is_refused(events: list[AnyEvent]) -> None:
    with pytest.raises(ValueError, match="from its ResponseAccepted to its end"):
        stack_turns(ASKED, events, [], {})


TIMES = {"time_to_first_token_ms": 250.0, "generation_time_ms": 500.0, "queue_time_ms": 2.0}
EVENTS = [
    {"choices": [{"delta": {"content": 'say "metrics"'}}], "metrics": None},
    {"choices": [], "usage": {}, "metrics": TIMES},
]


@pytest.mark.parametrize("size", [7, 10_000])
def test_the_engines_own_times_are_read_however_the_stream_was_cut(size: int) -> None:
    body = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in EVENTS)
    body += b"data: [DONE]\n\n"
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert engine_times(head + chunked) == (0.002, 0.25, 0.5)
    assert engine_times(b"HTTP/1.1 200 OK\r\n\r\n" + body) == (0.002, 0.25, 0.5)


def test_an_engine_that_says_nothing_has_no_times() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    partly = {"metrics": TIMES | {"queue_time_ms": None}}
    for body in (b"", b'data: {"choices":[]}\n\n', b"data: %s\n\n" % json.dumps(partly).encode()):
        assert engine_times(head + body) == (None, None, None)


def turn(arm: str, number: int, whole_s: float, cached: int = 96, kind: str = "warm") -> Turn:
    budget = Budget(whole_s, parts(decode=whole_s - 0.25, network=0.25), 100, cached, 8)
    asked = Asked(0.0, 0.1, whole_s / 2, whole_s)
    return Turn(arm, kind, 1, (number, 0), asked, (budget,))  # type: ignore[arg-type]


def test_the_turns_about_the_median_and_the_slowest_add_up() -> None:
    case = Case("stack", "warm", 1)
    found = figures(case, [turn("stack", n, 1.0 + n) for n in range(10)])
    assert found.turns == 10
    assert found.whole.p50 == 6.0
    assert sum(found.at_p50.values()) == pytest.approx(5.5)
    assert sum(found.at_p99.values()) == pytest.approx(10.0)
    assert sum(found.mean.values()) == pytest.approx(5.5)
    assert found.cached_share == 0.96
    assert found.first_text is not None
    assert found.first_text.p50 == 3.0


def test_a_response_with_a_call_is_a_turn_that_calls_and_one_that_answers() -> None:
    budgets = (Budget(1.0, parts(tool=1.0)), Budget(2.0, parts(decode=2.0)))
    tools = replace(turn("stack", 1, 3.0, kind="tools"), budgets=budgets)
    found = cases([tools, turn("bare", 1, 1.0), turn("stack", 1, 1.0)])
    assert [(case.kind, case.arm) for case in found] == [
        ("warm", "bare"),
        ("warm", "stack"),
        ("call", "stack"),
        ("answer", "stack"),
    ]
    call, answer = ((figures(case, each)) for case, each in [*found.items()][2:])
    assert (call.whole.p50, answer.whole.p50) == (1.0, 2.0)
    assert call.first_event is not None
    assert answer.first_event is None
    assert call.first_text is None


def test_pairs_that_were_not_the_same_work_are_left_out() -> None:
    ours = [turn("stack", 1, 1.25), turn("stack", 2, 2.5), turn("stack", 3, 9.0, cached=0)]
    theirs = [turn("bare", 3, 1.0), turn("bare", 2, 2.0), turn("bare", 1, 1.0)]
    found = compared(ours, theirs)
    assert (found.pairs, found.left_out) == (2, 1)
    assert found.share == Interval(0.25, 0.25, 0.25)
    assert found.added_s.value == pytest.approx(0.375)


@pytest.mark.parametrize(("share", "missed"), [(0.049, False), (0.051, True)])
def test_only_a_real_engine_is_judged(share: float, missed: bool) -> None:
    none = Interval(0.0, 0.0, 0.0)
    beside = {Case("stack", "warm", 1): Compared(9, 0, Interval(share, 0.0, 0.1), none, none, None)}
    (bar,) = judged(beside, 1, simulated=False)
    assert bar.missed is missed
    assert judged(beside, 1, simulated=True) == []
