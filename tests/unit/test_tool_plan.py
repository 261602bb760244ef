from __future__ import annotations

import json
from typing import Any

import pytest

from router.calls.forms import Call
from router.calls.plan import ToolPlans
from serving.config.router import ToolsConfig
from serving.protocol import CHAT, MESSAGES, parse
from tests.unit.tool_fakes import REPLIES, body, chat_tools, model, plan

PATHS = pytest.mark.parametrize("path", [CHAT, MESSAGES])


@PATHS
def test_the_same_tools_are_the_same_bytes_whoever_makes_the_plan(path: str) -> None:
    request = body(path)
    one, two = plan(path, REPLIES), plan(path, REPLIES)
    assert one is not two
    assert one.body(request, "m") == two.body(request, "m")


def test_the_tools_stay_the_same_whatever_the_choice() -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    sent = [
        json.loads(plan(of=REPLIES, tool_choice=choice).body(body(tool_choice=choice), "m"))
        for choice in ("auto", "required", "none", named)
    ]
    assert all(each["tools"] == sent[0]["tools"] for each in sent)
    assert sent[1]["vllm_xargs"] == {"warmloop_reply": 0}
    assert sent[3]["tool_choice"] == named


def test_plans_are_kept_by_their_bytes_and_bounded() -> None:
    plans = ToolPlans(ToolsConfig(max_known=2))

    def made(name: str) -> Any:
        return plans.plan(CHAT, parse(CHAT, body(tools=chat_tools(name))), model())

    first = made("weather")
    assert made("weather") is first
    made("pick")
    made("now")
    assert made("weather") is not first


@PATHS
def test_the_question_to_call_again_begins_with_what_the_engine_got(path: str) -> None:
    one = plan(path)
    sent = one.body(body(path, stream=True), "m")
    again = json.loads(one.again(sent, Call("c", "pick", '{"numbers": [1, 1]}'), ["twice"]))
    before = json.loads(sent)
    assert again["messages"][: len(before["messages"])] == before["messages"]
    assert again["tools"] == before["tools"]
    assert again["stream"] is False
    assert "twice" in json.dumps(again["messages"][-1])
