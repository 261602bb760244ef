from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.calls.forms import Call
from router.calls.plan import ToolPlan
from router.calls.reader import Arguments, Begin, End, Seen, Text, ToolReader
from serving.errors import InvalidToolCall
from tests.unit.tool_fakes import GUARDED, REPLIES, plan

ROME = '{"city": "Rome"}'
TWICE = '{"numbers": [1, 1]}'


class Retry:
    """Answers with what it was given, in turn, and keeps what it was asked."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = [*answers]
        self.asked: list[tuple[Call, list[str]]] = []

    async def __call__(self, call: Call, problems: list[str]) -> str | None:
        self.asked.append((call, problems))
        return self.answers.pop(0)


async def read(
    of: ToolPlan, *steps: tuple[str, str], retry: Retry | None = None, whole: bool = False
) -> list[Seen]:
    reader = ToolReader(of, retry or Retry(), whole=whole)
    do: dict[str, Callable[[str], Awaitable[list[Seen]]]] = {
        "text": reader.text,
        "call": lambda name: reader.call(f"id_{name}", name),
        "arguments": reader.arguments,
        "end": reader.end,
    }
    return [seen for kind, value in steps for seen in await do[kind](value)]


def call(name: str, *pieces: str) -> list[tuple[str, str]]:
    return [("call", name), *[("arguments", piece) for piece in pieces]]


async def test_arguments_that_the_grammar_holds_stream_as_they_come() -> None:
    seen = await read(plan(of=GUARDED), *call("weather", '{"city": ', '"Rome"}'), ("end", "stop"))
    assert seen == [
        Begin(0, "id_weather", "weather"),
        Arguments(0, '{"city": '),
        Arguments(0, '"Rome"}'),
        End("tool_calls"),
    ]


@pytest.mark.parametrize(("of", "name"), [(GUARDED, "pick"), ({}, "weather")])
async def test_else_the_name_is_told_at_once_and_arguments_when_checked(
    of: dict[str, Any], name: str
) -> None:
    arguments = {"pick": '{"numbers": [1, 2]}', "weather": ROME}[name]
    reader = ToolReader(plan(of=of), Retry(), whole=False)
    assert await reader.call("c", name) == [Begin(0, "c", name)]
    assert await reader.arguments(arguments) == []
    assert await reader.end("tool_calls") == [Arguments(0, arguments), End("tool_calls")]


@pytest.mark.parametrize("whole", [True, False])
async def test_a_call_that_does_not_fit_is_asked_for_once_more(whole: bool) -> None:
    retry = Retry('{"numbers": [1, 2]}')
    seen = await read(
        plan(of=GUARDED), *call("pick", TWICE), ("end", "stop"), retry=retry, whole=whole
    )
    assert seen == [
        Begin(0, "id_pick", "pick"),
        Arguments(0, '{"numbers": [1, 2]}'),
        End("tool_calls"),
    ]
    [(asked, problems)] = retry.asked
    assert asked == Call("id_pick", "pick", TWICE)
    assert problems


@pytest.mark.parametrize("answer", [None, TWICE, "", '{"numbers": [1'])
@pytest.mark.parametrize("whole", [True, False])
async def test_one_that_does_not_fit_again_is_a_failure(answer: str | None, whole: bool) -> None:
    with pytest.raises(InvalidToolCall, match="pick"):
        await read(
            plan(of=GUARDED),
            *call("pick", TWICE),
            ("end", "stop"),
            retry=Retry(answer),
            whole=whole,
        )


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("reason", ["length", "abort", "content_filter"])
@pytest.mark.parametrize("pieces", [[], ['{"numbers": [1'], ["{"]])
async def test_a_call_that_was_cut_off_is_not_asked_for_and_not_passed_on(
    whole: bool, reason: str, pieces: list[str]
) -> None:
    seen = await read(plan(of=GUARDED), *call("pick", *pieces), ("end", reason), whole=whole)
    assert seen[-1] == End(reason)
    assert not any(isinstance(each, Arguments) for each in seen)


async def test_calls_before_the_one_that_was_cut_off_stay() -> None:
    seen = await read(
        plan(of=GUARDED),
        *call("weather", ROME),
        *call("pick", '{"num'),
        ("end", "length"),
        whole=True,
    )
    assert seen == [Begin(0, "id_weather", "weather"), Arguments(0, ROME), End("length")]


@pytest.mark.parametrize(
    ("reason", "called", "told"),
    [
        ("stop", True, "tool_calls"),
        ("tool_calls", True, "tool_calls"),
        ("length", True, "length"),
        ("stop", False, "stop"),
        ("tool_calls", False, "stop"),
        ("length", False, "length"),
        ("abort", False, "abort"),
    ],
)
@pytest.mark.parametrize("choice", ["auto", "required", "none", "named"])
async def test_the_finish_reason_says_what_happened(
    reason: str, called: bool, told: str, choice: str
) -> None:
    given: Any = choice
    if choice == "named":
        given = {"type": "function", "function": {"name": "weather"}}
    steps = call("weather", ROME) if called else [("text", "words")]
    answer = read(plan(of=GUARDED, tool_choice=given), *steps, ("end", reason))
    if choice == "none" and called:
        with pytest.raises(InvalidToolCall, match="tool_choice"):
            await answer
    elif choice in ("required", "named") and told == "stop":
        with pytest.raises(InvalidToolCall, match="no call"):
            await answer
    else:
        assert (await answer)[-1] == End(told)


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_a_tool_that_nobody_offered_is_a_failure(choice: str) -> None:
    with pytest.raises(InvalidToolCall, match="'launch'"):
        await read(plan(tool_choice=choice), *call("launch", "{}"), ("end", "stop"))


async def test_a_tool_other_than_the_named_one_is_a_failure() -> None:
    named = {"type": "function", "function": {"name": "pick"}}
    with pytest.raises(InvalidToolCall, match="tool_choice"):
        await read(plan(tool_choice=named), *call("weather", ROME), ("end", "stop"))


@pytest.mark.parametrize("pieces", [[], [""], [" "], ["{}"]])
@pytest.mark.parametrize("of", [{}, GUARDED])
@pytest.mark.parametrize("whole", [True, False])
async def test_no_arguments_are_an_empty_object(
    pieces: list[str], of: dict[str, Any], whole: bool
) -> None:
    seen = await read(plan(of=of), *call("now", *pieces), ("end", "stop"), whole=whole)
    written = "".join(each.text for each in seen if isinstance(each, Arguments))
    assert json.loads(written) == {}


@pytest.mark.parametrize("whole", [True, False])
async def test_parallel_calls_are_bounded(whole: bool) -> None:
    steps = [step for _ in range(10) for step in call("weather", ROME)]
    seen = await read(plan(of=GUARDED), *steps, ("end", "stop"), whole=whole)
    assert [each.place for each in seen if isinstance(each, Begin)] == [*range(8)]
    assert [each.place for each in seen if isinstance(each, Arguments)] == [*range(8)]


async def test_a_client_that_wants_no_parallel_calls_gets_one() -> None:
    steps = [*call("weather", ROME), *call("now", "{}")]
    one = plan(parallel_tool_calls=False)
    seen = await read(one, *steps, ("end", "stop"))
    assert [each.name for each in seen if isinstance(each, Begin)] == ["weather"]


async def test_a_reply_is_text_while_it_is_written() -> None:
    steps = call("reply", '{"te', 'xt": "Hel', "lo \\", "n\\ud83d", '\\ude00"}')
    seen = await read(plan(of=REPLIES), *steps, ("end", "tool_calls"))
    assert seen == [Text("Hel"), Text("lo "), Text("\n"), Text("😀"), End("stop")]


async def test_a_reply_beside_calls_is_text_beside_calls() -> None:
    steps = [*call("reply", '{"text": "Look:"}'), *call("weather", ROME)]
    seen = await read(plan(of=REPLIES), *steps, ("end", "tool_calls"))
    assert seen[0] == Text("Look:")
    assert seen[1:] == [Begin(0, "id_weather", "weather"), Arguments(0, ROME), End("tool_calls")]


@pytest.mark.parametrize("arguments", ["", "{}", '{"message": "Hello"}', "Hello", '{"text": 5}'])
async def test_a_reply_without_text_is_a_failure_and_not_an_empty_answer(arguments: str) -> None:
    with pytest.raises(InvalidToolCall, match="reply"):
        await read(plan(of=REPLIES), *call("reply", arguments), ("end", "tool_calls"))
    assert await read(plan(of=REPLIES), *call("reply", arguments), ("end", "length")) == [
        End("length")
    ]


async def test_an_empty_reply_is_an_empty_answer() -> None:
    seen = await read(plan(of=REPLIES), *call("reply", '{"text": ""}'), ("end", "tool_calls"))
    assert seen == [End("stop")]


async def test_text_after_a_call_comes_after_it() -> None:
    steps = [*call("pick", '{"numbers": []}'), ("text", "Done."), ("end", "stop")]
    seen = await read(plan(of=GUARDED), *steps)
    assert seen[1:] == [Arguments(0, '{"numbers": []}'), Text("Done."), End("tool_calls")]


async def test_text_that_was_held_back_comes_before_the_call_that_follows_it() -> None:
    steps = [("text", "Use `"), *call("weather", ROME), ("end", "stop")]
    seen = await read(plan(), *steps)
    assert seen == [
        Text("Use "),
        Text("`"),
        Begin(0, "id_weather", "weather"),
        Arguments(0, ROME),
        End("tool_calls"),
    ]


@pytest.mark.parametrize("choice", ["auto", {"type": "allowed_tools", "allowed_tools": {}}])
async def test_a_pseudo_call_is_a_call(choice: Any) -> None:
    text = f'```json\n{{"name": "weather", "arguments": {ROME}}}\n```'
    seen = await read(plan(tool_choice=choice), *[("text", char) for char in text], ("end", "stop"))
    begin, *rest = seen
    assert isinstance(begin, Begin)
    assert begin.call_id.startswith("call_")
    assert rest == [Arguments(0, ROME), End("tool_calls")]


@pytest.mark.parametrize("whole", [True, False])
async def test_a_broken_pseudo_call_is_asked_for_and_one_cut_off_is_dropped(whole: bool) -> None:
    broken = ("text", '{"name": "weather", "arguments": {"city": "Ro')
    seen = await read(plan(), broken, ("end", "stop"), retry=Retry(ROME), whole=whole)
    assert seen[-2:] == [Arguments(0, ROME), End("tool_calls")]
    assert await read(plan(), broken, ("end", "length"), whole=whole) == [End("length")]


async def test_a_pseudo_call_of_the_reply_tool_is_text() -> None:
    of = {"auto_text": "reply"}
    text = ("text", '{"name": "reply", "arguments": {"text": "Hello"}}')
    assert await read(plan(of=of), text, ("end", "stop")) == [Text("Hello"), End("stop")]


async def test_text_beside_a_reply_under_our_grammar_is_an_engines_half_parsed_call() -> None:
    steps = [("text", '<tool_call>\n{"name": "weather", "arg'), ("end", "length")]
    assert await read(plan(of=REPLIES), *steps) == [End("length")]


@pytest.mark.parametrize("whole", [True, False])
async def test_a_call_that_is_written_into_the_text_of_a_reply_is_a_call(whole: bool) -> None:
    inside = f'Let me see: {{"name": "weather", "arguments": {ROME}}}'
    arguments = json.dumps({"text": inside})
    seen = await read(
        plan(of=REPLIES), *call("reply", *arguments), ("end", "tool_calls"), whole=whole
    )
    text = "".join(each.text for each in seen if isinstance(each, Text))
    assert text.strip() == "Let me see:"
    assert seen[-2:] == [Arguments(0, ROME), End("tool_calls")]


async def test_text_under_a_choice_that_has_none_is_an_engines_half_parsed_call() -> None:
    steps = [("text", "<tool_call>"), *call("weather", ROME), ("end", "stop")]
    seen = await read(plan(tool_choice="required"), *steps)
    assert not any(isinstance(each, Text) for each in seen)


TEXTS = st.text(max_size=6) | st.sampled_from(
    ["{", '{"name": "weather", "arguments": {"city": "x"}}', "```json\n", "}", "<tool_call>"]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("text"), TEXTS),
        st.tuples(st.just("call"), st.sampled_from(["weather", "pick", "now", "reply"])),
        st.tuples(st.just("arguments"), st.sampled_from([ROME, TWICE, "{}", '{"ci', 'ty": "R"}'])),
    ),
    max_size=12,
)
PLANS = [
    plan(of=of, tool_choice=choice)
    for of in ({}, GUARDED, REPLIES, {"auto_text": "reply"})
    for choice in ("auto", "required", "none")
]


@given(
    st.sampled_from(PLANS), STEPS, st.sampled_from(["stop", "length", "tool_calls"]), st.booleans()
)
def test_whatever_an_engine_sends_calls_are_valid_or_the_turn_fails(
    of: ToolPlan, steps: list[tuple[str, str]], reason: str, whole: bool
) -> None:
    retry = Retry(*['{"numbers": [1]}', ROME] * 6)
    try:
        seen = asyncio.run(read(of, *steps, ("end", reason), retry=retry, whole=whole))
    except InvalidToolCall:
        return
    assert [type(each) for each in seen].count(End) == 1
    assert isinstance(seen[-1], End)
    begun = [each for each in seen if isinstance(each, Begin)]
    assert [each.place for each in begun] == [*range(len(begun))]
    for each in begun:
        pieces = [a.text for a in seen if isinstance(a, Arguments) and a.place == each.place]
        cut = reason == "length" and each is begun[-1]
        assert cut or of.registered[each.name].problems("".join(pieces)) == []
    if seen[-1] == End("tool_calls"):
        assert begun
