"""Agents that begin with what their caller was shown: the same bytes, warm, once, and bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from orchestrator.clock import FakeClock
from orchestrator.journal.base import Account, Fenced, Lease
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop.events import (
    AnyEvent,
    HistoryImported,
    ModelIntent,
    ModelResult,
    ModelRouted,
    Purged,
    ResponseAccepted,
    ResponseFinished,
    ToolResult,
)
from orchestrator.loop.machine import fold_all
from orchestrator.model import ModelTurn
from orchestrator.tools.children import MAX_DEPTH, ids_of
from serving.config.agent import AgentConfig
from tests.integration.simulated_agents import World, world

CHILD = ids_of("c:1:call_1_0").conversation
SECRET = "swordfish "
LONG = SECRET * 800
"""2,000 tokens."""
FORKS = [{"calls": [{"name": "twin", "arguments": {"task": "look into it"}}]}, {"text": "done"}]


def config(**changes: Any) -> AgentConfig:
    """Caller and child have the same instructions and tools: the head of the same prompt."""
    return AgentConfig.model_validate(
        {
            "model": "big",
            "reply_tool": False,
            "instructions": "You are thorough.",
            "tools": ["agent:twin"],
            "tool_settings": {"twin": {"fork": True}},
            **changes,
        }
    )


@asynccontextmanager
async def office(
    engines: int = 1,
    caller: dict[str, Any] | None = None,
    child: dict[str, Any] | None = None,
    prefill_tokens_per_s: float = 1e6,
) -> AsyncIterator[World]:
    configs = {"desk": config(**(caller or {})), "twin": config(**(child or {}))}
    async with world(configs, {}, engines, prefill_tokens_per_s) as made:
        yield made


def messages(turn: ModelTurn) -> bytes:
    body = turn.body
    return body[body.index(b'"messages":[') : body.index(b'],"model":')]


def asked(made: World, agent: str) -> list[ModelTurn]:
    return [turn for turn in made.heard.turns if turn.agent == agent]


async def run(made: World, script: Sequence[Any] = FORKS) -> None:
    async with made.running() as worker:
        await made.ask(worker, LONG, script)
        await worker.run("c")


@pytest.mark.parametrize("reply_tool", [False, True])
async def test_a_child_s_prompt_begins_with_the_bytes_of_its_caller_s(*, reply_tool: bool) -> None:
    same = {"reply_tool": reply_tool}
    async with office(caller=same, child=same) as made:
        async with made.running() as worker:
            await made.ask(worker, "hello", [{"text": "hello yourself"}])
            await worker.run("c")
            await made.ask(worker, LONG, FORKS, "r2")
            await worker.run("c")
        _, caller, *_ = asked(made, "desk")
        child = asked(made, "twin")[0]
        assert messages(child).startswith(messages(caller))
        rest = messages(child)[len(messages(caller)) :]
        assert json.loads(b"[" + rest[1:] + b"]") == [{"role": "user", "content": "look into it"}]
        ours, theirs = (json.loads(turn.body) for turn in (caller, child))
        assert ours["tools"] == theirs["tools"]


async def test_a_child_that_has_no_reply_tool_is_not_shown_calls_of_it() -> None:
    async with office(caller={"reply_tool": True}) as made, made.running() as worker:
        await made.ask(worker, "hello", [{"text": "hello yourself"}])
        await worker.run("c")
        await made.ask(worker, LONG, FORKS, "r2")
        await worker.run("c")
        (child,) = asked(made, "twin")
        shown = json.loads(child.body)["messages"]
        assert [each["role"] for each in shown] == ["system", "user", "assistant", "user", "user"]
        assert shown[2] == {"role": "assistant", "content": "hello yourself"}


async def test_a_child_finds_its_caller_s_prompt_in_the_cache_of_the_same_engine() -> None:
    # Computing it elsewhere would take a quarter of a second: far more than is as good as nothing.
    async with office(engines=4, prefill_tokens_per_s=8000) as made:
        await run(made)
        caller, child = [await made.found(ModelResult, each) for each in ("c", CHILD)]
        assert child[0].cached_tokens > 0.97 * caller[0].prompt_tokens
        ours, theirs = [await made.found(ModelRouted, each) for each in ("c", CHILD)]
        assert theirs[0].replica == ours[0].replica
        assert theirs[0].predicted_cached_tokens > 0.97 * caller[0].prompt_tokens


async def test_without_a_fork_only_the_head_is_warm() -> None:
    async with office(caller={"tool_settings": {}}) as made:
        await run(made)
        caller, child = [await made.found(ModelResult, each) for each in ("c", CHILD)]
        assert child[0].cached_tokens < 0.2 * caller[0].prompt_tokens
        assert await made.found(HistoryImported, CHILD) == []


async def test_children_of_one_turn_share_what_it_was_shown() -> None:
    twice = [{"name": "twin", "arguments": {"task": task}} for task in ("left", "right")]
    async with office() as made:
        await run(made, [{"calls": twice}, {"text": "done"}])
        (caller, _) = await made.found(ModelResult)
        for call in ("call_1_0", "call_1_1"):
            (child,) = await made.found(ModelResult, ids_of(f"c:1:{call}").conversation)
            assert child.cached_tokens > 0.97 * caller.prompt_tokens
        outputs = [result.outcome for result in await made.found(ToolResult)]
        assert outputs == ["ok", "ok"]


class Dies(MemoryJournal):
    """Its process dies in the moment when the first turn of a forked child is to begin: the turn is
    not stored, nor is anything else of the child."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.is_dying = asyncio.Event()
        self.is_dead = asyncio.Event()

    async def append(
        self,
        lease: Lease,
        events: Sequence[AnyEvent],
        *,
        durable: bool = True,
        account: Account | None = None,
    ) -> int:
        begins = any(isinstance(event, ModelIntent) for event in events)
        if lease.conversation == CHILD and begins and not self.is_dead.is_set():
            self.is_dying.set()
            await self.is_dead.wait()
            raise Fenced("the process is dead")
        return await super().append(lease, events, durable=durable, account=account)


async def test_a_crash_between_fork_and_first_turn_repeats_nothing() -> None:
    async with office() as made:
        made.journal = journal = Dies(made.clock)
        async with made.running() as worker:
            await made.ask(worker, LONG, FORKS)
            await made.until(journal.is_dying.is_set, "the child is begun")
            await worker.stop()
            journal.is_dead.set()
        assert asked(made, "twin") == []
        assert await made.found(ToolResult) == []
        begun = await made.log(CHILD)
        assert [type(event) for event in begun][1:] == [HistoryImported, ResponseAccepted]
        async with made.running() as worker:
            await worker.run("c")
        assert (await made.log(CHILD))[:3] == begun
        assert len(await made.found(ResponseAccepted, CHILD)) == 1
        assert len(asked(made, "twin")) == 1
        (result,) = await made.found(ToolResult)
        assert result.outcome == "ok"
        caller, child = [await made.found(ModelResult, each) for each in ("c", CHILD)]
        assert child[0].cached_tokens > 0.97 * caller[0].prompt_tokens


async def test_a_deleted_caller_takes_along_what_its_fork_has_of_it() -> None:
    async with office() as made, made.running() as worker:
        await made.ask(worker, LONG, FORKS)
        await worker.run("c")
        (imported,) = await made.found(HistoryImported, CHILD)
        assert SECRET in json.dumps(imported.items)
        await worker.purge_response("r")
        await made.until(lambda: is_gone(made, CHILD), "the fork is gone")
        assert SECRET.strip() not in repr(await made.log(CHILD))


async def is_gone(made: World, conversation: str) -> bool:
    return all(isinstance(event, Purged) for event in await made.log(conversation))


def nested(depth: int) -> list[Any]:
    """A child, that forks one, that forks one ..."""
    if depth == 0:
        return [{"text": "bottom"}]
    task = f"SIMULATE: {json.dumps(nested(depth - 1))}"
    return [{"calls": [{"name": "twin", "arguments": {"task": task}}]}, {"text": "done"}]


async def test_forks_of_forks_end_at_the_same_depth_and_all_of_it_is_the_caller_s_cost() -> None:
    async with office() as made:
        await run(made, nested(MAX_DEPTH + 1))
        conversations, key = ["c"], "c:1:call_1_0"
        while log := await made.log(ids_of(key).conversation):
            conversations.append(ids_of(key).conversation)
            step = next(event.step for event in log if isinstance(event, ModelResult))
            key = f"{conversations[-1]}:{step}:call_{step}_0"
        assert len(conversations) == 1 + MAX_DEPTH
        (deepest,) = await made.found(ToolResult, conversations[-1])
        assert (deepest.outcome, deepest.code) == ("error", "too_deep")
        results = [await made.found(ModelResult, each) for each in conversations]
        for above, below in pairwise(results):
            assert below[0].cached_tokens > 0.97 * above[0].prompt_tokens
        state = fold_all(await made.journal.read("c"))
        assert state.last_status == "completed"
        spent = sum(result.cost_usd for each in results for result in each)
        assert state.total.cost_usd == pytest.approx(spent)


async def test_a_fork_has_its_own_limits_and_its_caller_s_time() -> None:
    notes = {"calls": [{"name": "note", "arguments": {"text": "a clue"}}]}
    task = f"SIMULATE: {json.dumps([notes, {'text': 'done'}])}"
    forks = [{"calls": [{"name": "twin", "arguments": {"task": task}}]}, {"text": "done"}]
    tools = {"tools": ["agent:twin", "builtin:note"]}
    limits = {"limits": {"max_tokens": 2100, "last_answer": False}}
    async with office(caller=tools, child={**tools, **limits}) as made:
        await run(made, forks)
        (ended,) = await made.found(ResponseFinished, CHILD)
        assert (ended.status, ended.code) == ("incomplete", "max_tokens")
        (result,) = await made.found(ToolResult)
        assert result.partial
        (begun,) = await made.found(ResponseAccepted, CHILD)
        (asked_for,) = await made.found(ResponseAccepted)
        limits_of = made.agents.get("desk").limits
        assert begun.at + begun.request["deadline_s"] == asked_for.at + limits_of.max_seconds
