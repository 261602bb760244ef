"""Approvals as the official openai package sees them: asked for, decided, once."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import openai
import pytest
from openai.types.responses import Response
from openai.types.responses.response_input_param import ResponseInputParam
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.api.waiting import waiting_in
from orchestrator.commands import approve as approve_cli
from orchestrator.loop.events import ToolIntent
from router.tenancy.tenants import Tenant
from serving.config.tenancy import OPERATOR
from serving.errors import ConfigError, EngineError
from tests.contract.front_door import Front, calls, replies, says

REFUND = ("refund", '{"amount": 5}')


def decision(asked: str, *, approve: bool = True, reason: str = "") -> ResponseInputParam:
    item = {"type": "mcp_approval_response", "approval_request_id": asked, "approve": approve}
    return cast(ResponseInputParam, [{**item, **({"reason": reason} if reason else {})}])


def approvals(response: Response) -> list[str]:
    return [item.id for item in response.output if item.type == "mcp_approval_request"]


def outputs(response: Response) -> list[Any]:
    return [
        item.model_dump()["output"]
        for item in response.output
        if item.type == "function_call_output"
    ]


async def asking(front: Front, *others: tuple[str, str]) -> Response:
    """A response that waits for a person."""
    front.model.will(calls(REFUND, *others))
    return await front.client.responses.create(model="clerk", input="refund five")


async def test_a_call_that_needs_approval_ends_the_response_with_what_waits(front: Front) -> None:
    response = await asking(front, ("add", '{"a": 1, "b": 2}'))
    assert response.status == "completed"
    (asked,) = (item for item in response.output if item.type == "mcp_approval_request")
    assert (asked.name, asked.arguments, asked.server_label) == (*REFUND, "warmloop")
    assert outputs(response) == ["3"]  # the other call has run


async def test_an_approved_call_runs_and_the_loop_goes_on(front: Front) -> None:
    response = await asking(front)
    front.model.will(replies("done"))
    after = await front.client.responses.create(
        model="clerk",
        previous_response_id=response.id,
        input=decision(approvals(response)[0]),
    )
    assert outputs(after) == ["refunded 5"]
    assert after.output_text == "done"
    assert front.model.turns[-1].body.count(b"refunded 5") == 1


async def test_a_refused_call_is_told_to_the_model_with_the_reason(front: Front) -> None:
    response = await asking(front)
    front.model.will(replies("sorry"))
    after = await front.client.responses.create(
        model="clerk",
        previous_response_id=response.id,
        input=decision(approvals(response)[0], approve=False, reason="too much"),
    )
    assert "refused by a person: too much" in outputs(after)[0]
    assert after.output_text == "sorry"


async def test_a_decision_counts_once_even_when_two_come_at_the_same_time(front: Front) -> None:
    response = await asking(front)
    front.model.will(replies("done"))

    async def decide(*, approve: bool) -> Response | openai.APIStatusError:
        try:
            return await front.client.responses.create(
                model="clerk",
                previous_response_id=response.id,
                input=decision(approvals(response)[0], approve=approve),
            )
        except openai.APIStatusError as error:
            return error

    came = await asyncio.gather(decide(approve=True), decide(approve=True))
    refused = [each for each in came if isinstance(each, openai.APIStatusError)]
    assert [each.status_code for each in refused] == [409]
    again = await decide(approve=False)
    assert isinstance(again, openai.ConflictError)
    assert again.code == "approval_already_decided"


async def test_new_input_has_to_wait_for_the_decision_or_bring_it(front: Front) -> None:
    response = await asking(front)
    asked = approvals(response)[0]
    with pytest.raises(openai.BadRequestError, match=asked):
        await front.client.responses.create(
            model="clerk", previous_response_id=response.id, input="and now?"
        )
    front.model.will(replies("both"))
    both = [*decision(asked), {"role": "user", "content": "and hurry"}]
    after = await front.client.responses.create(
        model="clerk", previous_response_id=response.id, input=cast(ResponseInputParam, both)
    )
    assert after.output_text == "both"
    body = front.model.turns[-1].body.decode()
    assert body.index("refunded 5") < body.index("and hurry")


async def test_what_was_never_asked_cannot_be_decided(front: Front) -> None:
    front.model.will(says("hello"))
    response = await front.client.responses.create(model="desk", input="hello")
    for more in ({"previous_response_id": response.id}, {}):
        with pytest.raises(openai.BadRequestError, match="no approval request 'mcpr_x'"):
            await front.client.responses.create(model="desk", input=decision("mcpr_x"), **more)


async def test_with_two_waiting_each_may_be_decided_by_itself(front: Front) -> None:
    response = await asking(front, ("refund", '{"amount": 6}'))
    first, second = approvals(response)
    one = await front.client.responses.create(
        model="clerk", previous_response_id=response.id, input=decision(second)
    )
    assert outputs(one) == ["refunded 6"]
    assert one.output_text == ""
    front.model.will(replies("done"))
    # By the response that asked, though another one came since.
    two = await front.client.responses.create(
        model="clerk", previous_response_id=response.id, input=decision(first)
    )
    assert two.output_text == "done"
    body = front.model.turns[-1].body.decode()
    assert "refunded 5" in body
    assert "refunded 6" in body


async def test_a_stream_tells_of_the_request_and_a_watcher_sees_progress(front: Front) -> None:
    front.model.will(calls(("count_down", '{"start": 2}'), REFUND))
    stream = await front.client.responses.create(model="clerk", input="go", stream=True)
    events = [event.model_dump() async for event in stream]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    progress = [e["value"] for e in events if e["type"] == "warmloop:tool_progress"]
    assert progress == ["2", "1", "0"]
    added = [e["item"]["type"] for e in events if e["type"] == "response.output_item.added"]
    assert added.count("mcp_approval_request") == 1


async def test_a_call_continues_the_request_s_trace(front: Front) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    front.model.will(calls(("add", '{"a": 1, "b": 2}')), replies("3"))
    response = await front.client.responses.create(
        model="clerk",
        input="add",
        extra_headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
    )
    ref = await front.journal.find_response(response.id)
    assert ref is not None
    log = [each.event for each in await front.journal.read(ref.conversation)]
    (intent,) = (event for event in log if isinstance(event, ToolIntent))
    assert intent.traceparent.split("-")[1] == trace
    assert "00f067aa0ba902b7" not in intent.traceparent


async def test_decisions_are_listed_among_a_response_s_input(front: Front) -> None:
    response = await asking(front)
    front.model.will(replies("done"))
    after = await front.client.responses.create(
        model="clerk",
        previous_response_id=response.id,
        input=decision(approvals(response)[0]),
    )
    page = await front.client.responses.input_items.list(after.id)
    assert [item.type for item in page.data] == ["mcp_approval_response"]


async def test_the_command_line_says_a_person_s_word(front: Front) -> None:
    response = await asking(front)
    asked = approvals(response)[0]
    front.model.will(replies("done"))

    def say(*, approve: bool) -> str:
        return approve_cli.decide(front.url, asked, approve=approve, reason="")

    after = await asyncio.to_thread(say, approve=True)
    # A stream from the beginning ends when the response does.
    async for _ in await front.client.responses.retrieve(after, stream=True):
        pass
    found = await front.client.responses.retrieve(after)
    assert outputs(found) == ["refunded 5"]
    with pytest.raises(EngineError, match="has been decided"):
        await asyncio.to_thread(say, approve=False)


async def test_the_command_line_lists_what_waits_and_nothing_that_was_decided(
    front: Front,
) -> None:
    first, second = await asking(front), await asking(front, REFUND)
    front.model.will(says("nothing to ask"))
    await front.client.responses.create(model="desk", input="hello")
    front.model.will(replies("done"))
    await front.client.responses.create(
        model="clerk", previous_response_id=first.id, input=decision(approvals(first)[0])
    )

    waiting = await asyncio.to_thread(lambda: list(approve_cli.waiting(front.url)))
    assert [each["id"] for each in waiting] == approvals(second)
    assert {each["response_id"] for each in waiting} == {second.id}
    now = waiting[0]["requested_at"] + 7300
    approval, told = approve_cli.lines(waiting[0], now)
    assert approval == approvals(second)[0]
    assert told.split("   ") == [
        'refund({"amount": 5})',
        "clerk@1",
        waiting[0]["conversation"],
        "for 2 h",
    ]


async def test_the_commands_reach_a_front_door_elsewhere(front: Front) -> None:
    (asked,) = approvals(await asking(front))
    front.model.will(replies("done"))

    async def warmloop(*arguments: str) -> str:
        ran = await asyncio.to_thread(CliRunner().invoke, cli.app, arguments)
        assert ran.exception is None, ran.output
        return ran.output

    listed = await warmloop("approvals", "--url", f"{front.url}/v1")
    assert listed.splitlines()[0] == asked
    assert 'refund({"amount": 5})' in listed.splitlines()[1]
    assert "it goes on in resp_" in await warmloop("approve", asked, "--url", front.url)
    assert "nothing waits" in await warmloop("approvals", "--url", front.url)


async def test_more_than_one_page_waits(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.api.waiting.PAGE", 2)
    asked = [approvals(await asking(front))[0] for _ in range(5)]
    waiting = await asyncio.to_thread(lambda: list(approve_cli.waiting(front.url)))
    assert [each["id"] for each in waiting] == asked


async def test_what_waits_is_shown_to_its_tenant_and_to_the_operator(front: Front) -> None:
    response = await asking(front)
    ref = await front.journal.find_response(response.id)
    assert ref is not None
    log = await front.journal.read(ref.conversation)
    for name, count in (("", 1), ("acme", 0), (OPERATOR, 1)):
        assert len(waiting_in(ref.conversation, log, Tenant(name=name))) == count


def test_a_listed_call_is_short_and_moves_no_cursor() -> None:
    waits = {
        "id": "mcpr_r_call_1_0",
        "name": "refund",
        "arguments": '{"why": "\x9b2J\u202e' + "x" * 500,
        "reason": "outcome_unknown",
        "agent": "clerk@1",
        "conversation": "conv_1",
        "tenant": "",
        "requested_at": 0.0,
    }
    _, told = approve_cli.lines(waits, 30.0)
    assert told.isprintable()
    assert told.startswith('in doubt: refund({"why": "·2J·')
    assert len(told) < 160
    assert told.endswith("for 30 s")


def test_what_is_no_approval_is_refused_with_an_example() -> None:
    with pytest.raises(ConfigError, match="looks like mcpr_"):
        approve_cli.decide("http://127.0.0.1:9", "resp_1", approve=True, reason="")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_client_is_told_in_words_what_waits(front: Front, stream: bool) -> None:
    front.model.will(calls(REFUND))
    asked: Any = {"model": "clerk", "messages": [{"role": "user", "content": "refund five"}]}
    if stream:
        chunks = await front.client.chat.completions.create(**asked, stream=True)
        said = "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])
    else:
        answer = await front.client.chat.completions.create(**asked)
        said = answer.choices[0].message.content or ""
    assert 'waits for a person: refund({"amount": 5}); warmloop approve mcpr_' in said
