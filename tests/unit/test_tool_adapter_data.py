"""The made-up tool calls that the adapter is trained on and checked with."""

from __future__ import annotations

import itertools
import re

import jsonschema
import pytest

from benchmarks import everyday_questions
from examples.tool_adapter import data

GROUPS = 150


def normal(text: str) -> str:
    """Without what renaming changes: case, separators, order of words."""
    return " ".join(sorted(re.findall(r"[a-z0-9]+", re.sub(r"([A-Z])", r" \1", text).lower())))


def training_groups() -> list[data.Group]:
    return list(itertools.islice(data.training(7), GROUPS))


def held_out_and_validation() -> list[data.Example]:
    return [*data.held_out(2027), *data.validation(7, 100)]


def test_there_are_many_training_tools_over_many_domains() -> None:
    training, validation = data.splits()
    assert len(training) >= 150
    assert len({tool.domain for tool in training}) >= 30
    assert len({tool.name for tool in (*training, *validation)}) == len(training) + len(validation)


def test_held_out_tools_share_nothing_with_the_training_catalogue() -> None:
    known, held_out = data.catalogue("train"), data.catalogue("held_out")
    for part in ("name", "domain", "about"):
        ours = {normal(getattr(tool, part)) for tool in held_out}
        assert not ours & {normal(getattr(tool, part)) for tool in known}, part
    asks = {ask for tool in held_out for ask in tool.asks}
    assert not asks & {ask for tool in known for ask in tool.asks}


def test_validation_tools_are_of_domains_that_training_does_not_see() -> None:
    training, validation = data.splits()
    assert not {tool.domain for tool in training} & {tool.domain for tool in validation}
    descriptions = {tool.about.rstrip(".").lower() for tool in validation}
    shown = [
        tool["function"]["description"].lower()
        for group in training_groups()
        for tool in group.tools
    ]
    assert not [text for text in shown for about in descriptions if about in text]


def test_no_small_talk_of_the_check_is_trained_on() -> None:
    known = {normal(question) for question, _ in data.small_talk("train")}
    asked = {normal(question) for question, _ in data.small_talk("held out")}
    assert len(known) > 100
    assert not known & asked


def test_the_everyday_questions_and_their_tools_are_in_none_of_the_data() -> None:
    names = {normal(tool["function"]["name"]) for tool in everyday_questions.TOOLS}
    abouts = {normal(tool["function"]["description"]) for tool in everyday_questions.TOOLS}
    questions = {normal(question.text) for question in everyday_questions.QUESTIONS}
    groups = training_groups()
    offered = [tool for group in groups for tool in group.tools]
    examples = [*(e for group in groups for e in group.branches), *held_out_and_validation()]
    assert not names & {normal(tool["function"]["name"]) for tool in offered}
    assert not abouts & {normal(tool["function"]["description"]) for tool in offered}
    catalogues = (*data.catalogue("train"), *data.catalogue("held_out"))
    assert not names & {normal(tool.name) for tool in catalogues}
    asked = {
        normal(message["content"])
        for example in examples
        for message in example.messages
        if message["role"] == "user"
    }
    talk = (*data.small_talk("train"), *data.small_talk("held out"))
    assert not questions & (asked | {normal(question) for question, _ in talk})


def test_every_call_names_an_offered_tool_and_is_valid_under_its_schema() -> None:
    examples = [e for group in training_groups() for e in group.branches]
    for example in (*examples, *held_out_and_validation()):
        functions = {tool["function"]["name"]: tool["function"] for tool in example.tools}
        assert len(functions) == len(example.tools)
        assert all(re.fullmatch(r"[A-Za-z][\w-]{0,63}", name) for name in functions)
        calls = [c["function"] for m in example.messages for c in m.get("tool_calls", ())]
        assert calls[-1]["name"] == example.decision
        for call in calls:
            schema = functions[call["name"]]["parameters"]
            jsonschema.Draft202012Validator(schema).validate(call["arguments"])
            order = [key for key in schema["properties"] if key in call["arguments"]]
            assert list(call["arguments"]) == order  # the grammar has no other


def test_the_conversations_of_a_group_are_over_the_same_tools() -> None:
    for group in training_groups():
        assert len(group.branches) == data.BRANCHES
        assert all(example.tools is group.tools for example in group.branches)


def test_calls_and_replies_are_both_frequent() -> None:
    examples = [e for group in training_groups() for e in group.branches]
    replies = sum(example.decision == data.REPLY for example in examples) / len(examples)
    assert 0.3 < replies < 0.5
    held_out = data.held_out(2027)
    none = sum(example.decision == data.REPLY for example in held_out) / len(held_out)
    assert len(held_out) >= 200
    assert 0.2 < none < 0.3


@pytest.mark.parametrize("seed", [0, 7])
def test_the_data_follows_from_the_seed(seed: int) -> None:
    def some(number: int) -> list[data.Group]:
        return list(itertools.islice(data.training(number), 5))

    assert some(seed) == some(seed)
    assert some(seed) != some(seed + 1)
    assert data.held_out(seed) == data.held_out(seed)
