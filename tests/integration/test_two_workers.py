"""Two front doors on one PostgreSQL that get requests for the same conversation at once: one of the
requests is the next, and what becomes of the other is the same as if it had come later."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from orchestrator.agents import Agents, resolve
from orchestrator.api.inbound import validate
from orchestrator.api.intake import Intake
from orchestrator.api.response_request import CreateRequest
from orchestrator.api.response_stream import at_end
from orchestrator.clock import SystemClock
from orchestrator.journal.base import ResponseRef
from orchestrator.journal.postgres import PostgresJournal
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.worker.acceptance import Admission
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig
from serving.config.journal import JournalConfig
from serving.errors import BadRequest, Conflict
from tests.postgres import Server

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


@dataclass
class Door:
    """A front door without HTTP. `late` holds requests back after their place was found."""

    journal: PostgresJournal
    worker: Worker
    model: ScriptedModel
    late: asyncio.Event = field(default_factory=asyncio.Event)
    looked: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.late.set()
        agents = Agents([resolve("desk", AgentConfig(reply_tool=False))])
        self.intake = Intake(self.journal, self, agents, SystemClock())

    async def accept(self, *given: Any, **named: Any) -> Admission:
        self.looked.set()
        await self.late.wait()
        return await self.worker.accept(*given, **named)

    async def ask(self, text: str, **fields: Any) -> ResponseRef:
        body = json.dumps({"model": "desk", "input": text, **fields}).encode()
        return await self.intake.accept(validate(CreateRequest, body), "", text)

    async def end(self, ref: ResponseRef) -> dict[str, Any]:
        async with asyncio.timeout(30):
            return await at_end(self.journal, ref)

    def prompt(self) -> str:
        """Of its newest turn."""
        return self.model.turns[-1].body.decode()


@dataclass
class World:
    one: Door
    other: Door
    hold: asyncio.Event
    """Until it is set, whoever is asked to `wait` says nothing."""

    async def late(self, text: str, **fields: Any) -> asyncio.Task[ResponseRef]:
        """A request at the other door that has looked at the log, and is not stored yet."""
        self.other.late.clear()
        self.other.looked.clear()
        asking = asyncio.ensure_future(self.other.ask(text, **fields))
        await self.other.looked.wait()
        return asking


@pytest.fixture
async def world(postgres: Server) -> AsyncIterator[World]:
    hold = asyncio.Event()

    def script(turn: ModelTurn) -> list[Scripted]:
        said = turn.body.decode()
        if "call it" in said and '"role":"tool"' not in said:
            return calls(("weather", {}))
        return [hold.wait(), *says("ok")] if "wait" in said else says("ok")

    async with AsyncExitStack() as life:
        url = await life.enter_async_context(postgres.database())
        doors = []
        for _ in range(2):
            journal = PostgresJournal(JournalConfig(url=url))
            life.push_async_callback(journal.close)
            await journal.start()
            model = ScriptedModel(script)
            agents = Agents([resolve("desk", AgentConfig(reply_tool=False))])
            worker = Worker(journal=journal, agents=agents, models=model)
            await life.enter_async_context(worker)
            doors.append(Door(journal, worker, model))
        life.callback(hold.set)
        yield World(doors[0], doors[1], hold)


@pytest.mark.parametrize("running", [True, False])
async def test_of_two_that_follow_the_same_response_the_one_that_is_late_is_a_fork(
    world: World, running: bool
) -> None:
    first = await world.one.ask("one")
    await world.one.end(first)
    asking = await world.late("three", previous_response_id=first.response_id)
    second = await world.one.ask(
        "two, wait" if running else "two", previous_response_id=first.response_id
    )
    if not running:
        await world.one.end(second)
    world.other.late.set()
    third = await asking
    assert (await world.other.end(third))["status"] == "completed"

    assert second.conversation == first.conversation
    assert third.conversation != first.conversation
    assert "one" in world.other.prompt()
    assert "three" in world.other.prompt()
    assert "two" not in world.other.prompt()
    world.hold.set()
    assert (await world.one.end(second))["status"] == "completed"


async def test_two_in_one_conversation_are_refused_or_follow_each_other(world: World) -> None:
    first = await world.one.ask("one")
    await world.one.end(first)
    asking = await world.late("three", conversation=first.conversation)
    second = await world.one.ask("two, wait", conversation=first.conversation)
    world.other.late.set()
    with pytest.raises(Conflict, match="has a response in progress; wait for it") as refused:
        await asking
    assert (refused.value.code, refused.value.param) == ("conversation_locked", "conversation")

    world.hold.set()
    await world.one.end(second)
    third = await world.other.ask("three", conversation=first.conversation)
    await world.other.end(third)
    assert third.conversation == first.conversation
    assert "two, wait" in world.other.prompt()


async def test_who_is_late_must_answer_the_calls_that_have_opened_meanwhile(world: World) -> None:
    first = await world.one.ask("one")
    await world.one.end(first)
    asking = await world.late("three", conversation=first.conversation)
    second = await world.one.ask("call it", conversation=first.conversation, tools=[WEATHER])
    assert (await world.one.end(second))["output"][0]["type"] == "function_call"
    world.other.late.set()
    with pytest.raises(BadRequest, match="No tool output found for function call"):
        await asking


async def test_a_conversation_may_change_doors_the_moment_its_response_has_ended(
    world: World,
) -> None:
    doors = (world.one, world.other)
    last = await world.one.ask("one")
    for number in range(10):
        await doors[number % 2].end(last)
        door = doors[(number + 1) % 2]
        following = await door.ask("and", previous_response_id=last.response_id)
        assert following.conversation == last.conversation
        last = following
    await doors[0].end(last)


async def test_of_many_at_once_one_goes_on_and_each_other_is_a_fork(world: World) -> None:
    first = await world.one.ask("one")
    await world.one.end(first)
    doors = [world.one, world.other] * 6
    asked = [
        door.ask(f"number {number}", previous_response_id=first.response_id)
        for number, door in enumerate(doors)
    ]
    refs = await asyncio.gather(*asked)
    for ref in refs:
        assert (await world.one.end(ref))["status"] == "completed"
    places = [ref.conversation for ref in refs]
    assert places.count(first.conversation) == 1
    assert len(set(places)) == len(places)
