"""Requests that bring tools of an MCP server that the operator opened to them: the official client,
a real server by stdio, a scripted model. Every item and event is parsed by the client, and every
stream is read again: the log alone makes it."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import BaseModel
from openai.types.responses import Response, ResponseStreamEvent

from orchestrator.clock import SystemClock
from orchestrator.mcp.listing import take
from orchestrator.mcp.servers import McpServers
from orchestrator.mcp.tools import McpTools
from serving.config.agent import AgentConfig
from serving.config.mcp import McpConfig
from tests.contract.front_door import DESK, Front, calls, front_door, says
from tests.mcp_world import TOOLS

WORLD = Path(__file__).parents[1] / "mcp_world.py"
NOTE = ("note", '{"text": "x"}')
PUT = ("put", '{"text": "y"}')
ADD = ("world_add", '{"a": 1, "b": 2}')
"""The agents here have an `add` of their own."""


@asynccontextmanager
async def open_front(
    folder: Path,
    desk: AgentConfig = DESK,
    opened: Any = True,
    *,
    running: bool = True,
    **server: Any,
) -> AsyncIterator[Front]:
    """A front door with the server `world`, and one that is not for requests. One that is not
    `running` is known from the last start."""
    command = [sys.executable, str(WORLD), str(folder)]
    world = {"command": command, "in_requests": opened, **server}
    closed = {"command": ["never", "started"]}
    config = McpConfig.model_validate({"servers": {"world": world, "closed": closed}})
    servers = McpServers(config, folder / "stack")
    if running:
        servers["world"].start()
    else:
        servers["world"].listing = take("world", TOOLS, config.servers["world"])
    try:
        offers = McpTools(servers, SystemClock())
        async with front_door(folder / "journal.db", [desk], offers) as front:
            yield front
    finally:
        await servers.stop()


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with open_front(tmp_path) as running:
        yield running


@pytest.fixture
async def quiet(tmp_path: Path) -> AsyncIterator[Front]:
    """Where no call goes to the server."""
    async with open_front(tmp_path, running=False) as running:
        yield running


def world(**fields: Any) -> Any:
    return {"type": "mcp", "server_label": "world", **fields}


def approved(item: Any) -> Any:
    """A person's yes to what waits."""
    return {"type": "mcp_approval_response", "approval_request_id": item.id, "approve": True}


def ledger(folder: Path) -> list[str]:
    written = folder / "ledger"
    return written.read_text().split() if written.exists() else []


def names(front: Front, turn: int = -1) -> list[str]:
    """What the model was given to call in that turn."""
    body = json.loads(front.model.turns[turn].body)
    return [each["function"]["name"] for each in body.get("tools", ())]


def kinds(response: Response) -> list[str]:
    return [item.type for item in response.output]


async def streamed(front: Front, **request: Any) -> list[ResponseStreamEvent]:
    """The events of a request, parsed; they are the same when they are read again."""
    stream = await front.client.responses.create(
        **{"model": "desk", "input": "go", "stream": True, **request}
    )
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for event in events:
        assert isinstance(event, BaseModel)
        for unknown in (event.model_extra or {}, *extras(getattr(event, "item", None))):
            assert not unknown, f"{event.type} has fields that OpenAI does not know"
    assert isinstance(events[0].response, Response)  # type: ignore[union-attr]
    again = await front.client.responses.retrieve(events[0].response.id, stream=True)  # type: ignore[union-attr]
    assert [event async for event in again] == events
    return events


def extras(item: BaseModel | None) -> list[dict[str, Any]]:
    is_mcp = item is not None and str(getattr(item, "type", "")).startswith("mcp_")
    return [item.model_extra or {}] if item is not None and is_mcp else []


def types(events: list[ResponseStreamEvent]) -> list[str]:
    """In order; deltas that follow each other count as one."""
    return [kind.removeprefix("response.") for kind, _ in groupby(each.type for each in events)]


async def test_a_call_is_one_item_from_the_models_first_byte_to_its_result(
    front: Front, tmp_path: Path
) -> None:
    front.model.will(calls(NOTE), says("done"))
    events = await streamed(front, tools=[world(require_approval="never")])
    assert types(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "output_item.done",
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    response: Response = events[-1].response  # type: ignore[union-attr]
    listed, call, message = response.output
    assert listed.type == "mcp_list_tools"
    assert listed.server_label == "world"
    assert {tool.name for tool in listed.tools} >= {"add", "note"}
    assert call.type == "mcp_call"
    assert (call.server_label, call.name, call.arguments) == ("world", *NOTE)
    assert (call.status, call.output, call.error) == ("completed", "noted", None)
    assert message.type == "message"
    assert response.tools[0].type == "mcp"
    assert ledger(tmp_path) == ["x"]
    assert await front.client.responses.retrieve(response.id) == response


async def test_a_call_that_fails_says_why(front: Front) -> None:
    front.model.will(calls(("fail", "{}")), says("oh"))
    events = await streamed(front, tools=[world(require_approval="never")])
    assert "mcp_call.failed" in types(events)
    _, call, _ = events[-1].response.output  # type: ignore[union-attr]
    assert (call.status, call.output) == ("failed", None)
    assert "the printer is on fire" in str(call.error.content)


async def test_without_a_word_on_approvals_every_call_waits_and_runs_once_it_is_allowed(
    front: Front, tmp_path: Path
) -> None:
    front.model.will(calls(NOTE), says("done"))
    asked = await front.client.responses.create(model="desk", input="go", tools=[world()])
    assert kinds(asked) == ["mcp_list_tools", "mcp_approval_request"]
    request = asked.output[1]
    assert request.type == "mcp_approval_request"
    assert (request.server_label, request.name, request.arguments) == ("world", *NOTE)
    assert ledger(tmp_path) == []
    decision: Any = {"type": "mcp_approval_response", "approval_request_id": request.id}
    events = await streamed(
        front, input=[{**decision, "approve": True}], previous_response_id=asked.id
    )
    answered: Response = events[-1].response  # type: ignore[union-attr]
    assert kinds(answered) == ["mcp_call", "message"]
    call = answered.output[0]
    assert call.type == "mcp_call"
    assert (call.name, call.output, call.approval_request_id) == ("note", "noted", request.id)
    assert ledger(tmp_path) == ["x"]
    with pytest.raises(openai.ConflictError):
        await front.client.responses.create(
            model="desk", input=[{**decision, "approve": True}], previous_response_id=asked.id
        )


async def test_a_refused_call_is_shown_as_failed_and_never_runs(
    front: Front, tmp_path: Path
) -> None:
    front.model.will(calls(NOTE), says("well"))
    asked = await front.client.responses.create(model="desk", input="go", tools=[world()])
    decision: Any = {
        "type": "mcp_approval_response",
        "approval_request_id": asked.output[1].id,
        "approve": False,
        "reason": "too dear",
    }
    answered = await front.client.responses.create(
        model="desk", input=[decision], previous_response_id=asked.id, tools=[world()]
    )
    call = answered.output[0]
    assert call.type == "mcp_call"
    assert call.status == "failed"
    assert "too dear" in str(call.error)
    assert ledger(tmp_path) == []


@pytest.mark.parametrize("where", ["server", "agent"])
async def test_never_does_not_relax_what_the_operator_wants_to_see(
    tmp_path: Path, where: str
) -> None:
    desk, server = DESK, {"require_approval": ["note"]}
    if where == "agent":
        settings: Any = {"note": {"requires_approval": True}}
        desk = AgentConfig(
            model="big", reply_tool=False, tools=("mcp:world",), tool_settings=settings
        )
        server = {}
    async with open_front(tmp_path, desk, **server) as front:
        front.model.will(calls(NOTE, ADD), says("done"))
        response = await front.client.responses.create(
            model="desk", input="go", tools=[world(require_approval="never")]
        )
    waiting = [item.name for item in response.output if item.type == "mcp_approval_request"]
    assert waiting == ["note"]
    assert ledger(tmp_path) == []


@pytest.mark.parametrize(
    ("allowed", "given"),
    [
        (["put", "note"], ["note", "put"]),
        ({"tool_names": ["note"]}, ["note"]),
        ({"read_only": True}, ["world_add"]),
        ({"tool_names": ["note"], "read_only": True}, []),
    ],
)
async def test_a_request_may_want_fewer_tools(quiet: Front, allowed: Any, given: list[str]) -> None:
    front = quiet
    front.model.will(says("ok"))
    response = await front.client.responses.create(
        model="desk", input="go", tools=[world(allowed_tools=allowed)]
    )
    listed = response.output[0]
    assert listed.type == "mcp_list_tools"
    assert [tool.name for tool in listed.tools] == [each.removeprefix("world_") for each in given]
    assert [name for name in names(front) if name in ("world_add", "note", "put")] == given


async def test_what_an_agent_has_of_that_server_gives_way_for_the_response(tmp_path: Path) -> None:
    desk = AgentConfig(model="big", reply_tool=False, tools=("mcp:world",))
    async with open_front(tmp_path, desk, running=False) as front:
        first = await front.client.responses.create(
            model="desk", input="go", tools=[world(allowed_tools=["add"])]
        )
        await front.client.responses.create(model="desk", input="on", previous_response_id=first.id)
    assert "note" not in names(front, 0)
    assert {"world_add", "note"} <= set(names(front, 1))


async def test_tools_are_of_their_request_and_a_list_is_shown_once(quiet: Front) -> None:
    front = quiet
    front.model.will(says("a"), says("b"), says("c"))
    tools = [world(require_approval="never")]
    first = await front.client.responses.create(model="desk", input="go", tools=tools)
    second = await front.client.responses.create(
        model="desk", input="on", tools=tools, previous_response_id=first.id
    )
    third = await front.client.responses.create(
        model="desk", input="on", previous_response_id=second.id
    )
    assert [kinds(each) for each in (first, second, third)] == [
        ["mcp_list_tools", "message"],
        ["message"],
        ["message"],
    ]
    assert names(front, 0) == names(front, 1)
    assert "note" not in names(front, 2)


async def test_a_bare_model_may_be_asked_with_it_where_it_is_named(tmp_path: Path) -> None:
    async with open_front(tmp_path, opened=["big"]) as front:
        front.model.will(calls(ADD), says("3"))
        response = await front.client.responses.create(
            model="big", input="go", tools=[world(require_approval="never")]
        )
        assert response.output_text == "3"
        with pytest.raises(openai.BadRequestError, match="requests to 'desk' may name") as refused:
            await front.client.responses.create(model="desk", input="go", tools=[world()])
    assert refused.value.param == "tools[0].server_label"


@pytest.mark.parametrize(
    ("tool", "param", "said"),
    [
        (world(server_label="closed"), "server_label", "'closed' is not a server that requests"),
        (world(server_label="nobody"), "server_label", "'nobody' is not a server that requests"),
        (world(server_url="https://x.example/?key=hush"), "server_url", "is not the address"),
        (world(authorization="hush"), "authorization", "is not taken from a request"),
        (world(headers={"X-Key": "hush"}), "headers", "is not taken from a request"),
        (world(connector_id="connector_gmail"), "connector_id", "is not taken from a request"),
        (world(allowed_tools=["notes"]), "allowed_tools", "did you mean 'note'"),
        (
            world(require_approval={"always": {"tool_names": ["zoo"]}}),
            "require_approval.always.tool_names",
            "'zoo' is not among the tools of 'world'",
        ),
        (world(require_approval="sometimes"), "require_approval", ""),
    ],
)
async def test_what_is_not_a_clients_to_say_is_refused_and_nothing_is_kept(
    quiet: Front, tool: Any, param: str, said: str
) -> None:
    front = quiet
    made = await front.client.conversations.create()
    with pytest.raises(openai.BadRequestError) as refused:
        await front.client.responses.create(
            model="desk", input="go", tools=[tool], conversation=made.id
        )
    assert str(refused.value.param).startswith(f"tools[0].{param}")
    assert said in refused.value.message
    assert "hush" not in refused.value.message
    assert front.model.turns == []
    assert len(await front.journal.read(made.id)) == 1


async def test_a_function_of_the_client_cannot_take_the_name_of_a_tool(quiet: Front) -> None:
    front = quiet
    mine = {"type": "function", "name": "note", "parameters": {"type": "object", "properties": {}}}
    with pytest.raises(openai.BadRequestError, match="'note' is a tool of the agent"):
        await front.client.responses.create(model="desk", input="go", tools=[world(), mine])
    with pytest.raises(openai.BadRequestError, match="two 'mcp' tools name 'world'"):
        await front.client.responses.create(model="desk", input="go", tools=[world(), world()])


async def test_a_function_of_the_client_cannot_take_a_call_that_waits(
    front: Front, tmp_path: Path
) -> None:
    front.model.will(calls(NOTE), says("done"))
    asked = await front.client.responses.create(model="desk", input="go", tools=[world()])
    decision = approved(asked.output[1])
    mine = {"type": "function", "name": "note", "parameters": {"type": "object", "properties": {}}}
    decides: Any = {"model": "desk", "input": [decision], "previous_response_id": asked.id}
    with pytest.raises(openai.BadRequestError, match="'note' is a tool of the agent"):
        await front.client.responses.create(**decides, tools=[mine])
    answered = await front.client.responses.create(**decides)
    assert kinds(answered) == ["mcp_call", "message"]
    assert ledger(tmp_path) == ["x"]


async def test_a_call_that_was_shown_as_the_agents_own_stays_so(tmp_path: Path) -> None:
    """Though the request that brings the decision names the server: each item keeps its answer."""
    own = AgentConfig(model="big", reply_tool=False, tools=("mcp:world",))
    async with open_front(tmp_path, own, require_approval=["note"]) as front:
        front.model.will(calls(NOTE), says("done"))
        made = await front.client.conversations.create()
        place: Any = {"model": "desk", "conversation": made.id}
        asked = await front.client.responses.create(**place, input="go")
        assert kinds(asked) == ["function_call", "mcp_approval_request"]
        events = await streamed(front, **place, input=[approved(asked.output[1])], tools=[world()])
        answered: Response = events[-1].response  # type: ignore[union-attr]
        assert kinds(answered) == ["function_call_output", "message"]
        more: Any = [{"role": "user", "content": "more"}]
        await front.client.conversations.items.create(made.id, items=more)
    assert ledger(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("choice", "first", "given"),
    [
        ({"type": "function", "name": "world_add"}, "world_add", None),
        (world(name="add"), "world_add", None),
        (world(), "required", ["note", "world_add"]),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [world()]},
            "auto",
            ["note", "world_add"],
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [world(name="note")]},
            "required",
            ["note"],
        ),
    ],
)
async def test_a_choice_may_name_a_tool_of_the_server(
    quiet: Front, choice: Any, first: str, given: list[str] | None
) -> None:
    front = quiet
    tools = [world(require_approval="never", allowed_tools=["add", "note"])]
    response = await front.client.responses.create(
        model="desk", input="go", tools=tools, tool_choice=choice
    )
    body = json.loads(front.model.turns[0].body)
    named = body["tool_choice"]
    assert (named if isinstance(named, str) else named["function"]["name"]) == first
    own = ["add", "count_down", "note", "refund", "world_add"]
    assert names(front) == (own if given is None else given)
    assert (
        response.tool_choice
        == type(response)
        .model_validate({**response.model_dump(), "tool_choice": choice})
        .tool_choice
    )


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (world(server_label="closed"), "'closed' is not among the request's 'mcp' tools"),
        (world(name="nota"), "did you mean 'note'"),
        (world(name="put"), "'put' is not among what the request has of 'world'"),
    ],
)
async def test_a_choice_of_what_the_request_has_not_is_refused(
    quiet: Front, choice: Any, said: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as refused:
        await quiet.client.responses.create(
            model="desk", input="go", tools=[world(allowed_tools=["note"])], tool_choice=choice
        )
    assert refused.value.param == "tool_choice"


async def test_items_that_a_client_sends_back_make_the_prompt_that_it_had(front: Front) -> None:
    front.model.will(calls(NOTE, PUT), calls(("fail", "{}")), says("done"), says("again"))
    tools = [world(require_approval="never")]
    question: Any = {"role": "user", "content": "go"}
    first = await front.client.responses.create(
        model="desk", input=[question], tools=tools, store=False
    )
    sent_back = [item.model_dump(exclude_none=True) for item in first.output]
    await front.client.responses.create(
        model="desk", input=[question, *sent_back, question], tools=tools, store=False
    )
    before, after = (json.loads(turn.body)["messages"] for turn in front.model.turns[-2:])
    assert after[: len(before)] == before
    assert (
        front.model.turns[-1]
        .body.partition(b'"messages":[')[2]
        .startswith(
            front.model.turns[-2].body.partition(b'"messages":[')[2].partition(b'],"model"')[0]
        )
    )


async def test_another_process_shows_the_same_events_and_goes_on_with_a_decision(
    tmp_path: Path,
) -> None:
    async with open_front(tmp_path) as front:
        front.model.will(calls(ADD, NOTE))
        approval = {"never": {"tool_names": ["add"]}}
        events = await streamed(front, tools=[world(require_approval=approval)])
    asked: Response = events[-1].response  # type: ignore[union-attr]
    assert kinds(asked) == ["mcp_list_tools", "mcp_call", "mcp_approval_request"]
    async with open_front(tmp_path) as front:
        again = await front.client.responses.retrieve(asked.id, stream=True)
        assert [event async for event in again] == events
        decision: Any = {
            "type": "mcp_approval_response",
            "approval_request_id": asked.output[2].id,
            "approve": True,
        }
        answered = await front.client.responses.create(
            model="desk", input=[decision], previous_response_id=asked.id
        )
    assert kinds(answered) == ["mcp_call", "message"]
    assert ledger(tmp_path) == ["x"]


async def test_a_server_that_is_closed_to_requests_meanwhile_is_not_called(tmp_path: Path) -> None:
    async with open_front(tmp_path) as front:
        front.model.will(calls(NOTE))
        asked = await front.client.responses.create(model="desk", input="go", tools=[world()])
    async with open_front(tmp_path, opened=False) as front:
        decision: Any = {
            "type": "mcp_approval_response",
            "approval_request_id": asked.output[1].id,
            "approve": True,
        }
        answered = await front.client.responses.create(
            model="desk", input=[decision], previous_response_id=asked.id
        )
    call = answered.output[0]
    assert call.type == "mcp_call"
    assert call.status == "failed"
    assert ledger(tmp_path) == []


async def test_the_items_of_a_conversation_can_be_listed_and_deleted(front: Front) -> None:
    made = await front.client.conversations.create()
    front.model.will(calls(NOTE), says("done"), calls(NOTE), says("end"))
    tools = [world(require_approval="never")]
    await front.client.responses.create(model="desk", input="go", tools=tools, conversation=made.id)
    items = (await front.client.conversations.items.list(made.id, order="asc")).data
    assert [each.type for each in items] == ["message", "mcp_list_tools", "mcp_call", "message"]
    await front.client.conversations.items.delete(str(items[-1].id), conversation_id=made.id)
    waits = await front.client.responses.create(
        model="desk", input="on", tools=[world()], conversation=made.id
    )
    shown = json.loads(front.model.turns[-1].body)["messages"]
    assert [each["role"] for each in shown] == ["system", "user", "assistant", "tool", "user"]
    [request] = [item for item in waits.output if item.type == "mcp_approval_request"]
    with pytest.raises(openai.ConflictError, match="waits"):
        await front.client.conversations.items.delete(request.id, conversation_id=made.id)
    with pytest.raises(openai.BadRequestError, match="No decision found"):
        await front.client.conversations.items.create(
            made.id, items=[{"role": "user", "content": "more"}]
        )
    with pytest.raises(openai.BadRequestError, match="items run nothing") as refused:
        await front.client.conversations.items.create(made.id, items=[approved(request)])
    assert refused.value.param == "items[0]"
    await front.client.conversations.items.delete(str(items[0].id), conversation_id=made.id)
    decision = approved(request)
    await front.client.responses.create(model="desk", input=[decision], conversation=made.id)
    shown = json.loads(front.model.turns[-1].body)["messages"]
    roles = ["system", "assistant", "tool", "user", "assistant", "tool"]
    assert [each["role"] for each in shown] == roles


async def test_a_prompt_that_is_written_anew_has_the_names_that_the_model_used(
    front: Front,
) -> None:
    """The agent has an `add` of its own, which was not called."""
    made = await front.client.conversations.create()
    place: Any = {"model": "desk", "conversation": made.id}
    front.model.will(calls(ADD, NOTE), says("done"), says("end"))
    tools = [world(require_approval={"never": {"tool_names": ["add"]}})]
    asked = await front.client.responses.create(**place, input="go", tools=tools)
    await front.client.responses.create(**place, input=[approved(asked.output[-1])])
    items = (await front.client.conversations.items.list(made.id, order="asc")).data
    assert [each.name for each in items if each.type == "mcp_call"] == ["add", "note"]
    await front.client.conversations.items.delete(str(items[-1].id), conversation_id=made.id)
    await front.client.responses.create(**place, input="on")
    shown = json.loads(front.model.turns[-1].body)["messages"]
    made_calls = [call for each in shown for call in each.get("tool_calls", ())]
    assert [call["function"]["name"] for call in made_calls] == ["world_add", "note"]


async def test_an_item_that_comes_back_in_its_conversation_is_another_one(front: Front) -> None:
    made = await front.client.conversations.create()
    place: Any = {"model": "desk", "conversation": made.id}
    front.model.will(calls(NOTE), says("done"), says("end"))
    tools = [world(require_approval="never")]
    first = await front.client.responses.create(**place, input="go", tools=tools)
    back: Any = first.output[1].model_dump(exclude_none=True)
    await front.client.responses.create(**place, input=[back, {"role": "user", "content": "on"}])
    items = (await front.client.conversations.items.list(made.id, order="asc")).data
    ids = [str(each.id) for each in items]
    assert len({*ids}) == len(ids)
    paged = front.client.conversations.items.list(made.id, limit=1, order="asc")
    assert [each.id async for each in paged] == ids
    [original, copy] = [str(each.id) for each in items if each.type == "mcp_call"]
    await front.client.conversations.items.delete(copy, conversation_id=made.id)
    left = (await front.client.conversations.items.list(made.id, order="asc")).data
    assert [each.id for each in left] == [each for each in ids if each != copy]
    assert original in ids
