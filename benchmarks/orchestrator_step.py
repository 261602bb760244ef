"""Our side of `benchmarks.orchestrator`: the loop of `rivals/workload.py` on worker and journal.

    python -m benchmarks.orchestrator_step CASE FOLDER SESSIONS AT_ONCE STEPS

    warmloop  a step = model intent, model result, tool intent, tool result: all journaled, fsynced
              where the worker promises it; the prompt rendered over the history, arguments checked
    bare      the same script, rendering, checking and tool, without journal and worker
    sqlite    two fsynced transactions of so many bytes a step and nothing else, in one thread: what
              the file system and SQLite take of it on this machine, now

The model is scripted and the tool does nothing, so what is left is ours. CPU is of the whole
process (the journal's writer thread too). The journal is a real file; its fsyncs are real.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import uvloop

from benchmarks.rivals import workload
from orchestrator.agents import Agent, Agents, resolve
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.loop.events import (
    AnyEvent,
    ConversationStarted,
    ModelResult,
    ResponseAccepted,
    ToolResult,
)
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.tools.base import Ready, ToolContext, tool
from orchestrator.tools.functions import from_function
from orchestrator.tools.toolbox import Ran
from orchestrator.worker.answer import Answer
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig, AgentLimits

One = Callable[[str], Awaitable[None]]
Close = Callable[[], Awaitable[None]]


@tool(kind="pure")
async def look_up(
    item: Annotated[str, "name of the item"], count: Annotated[int, "how many"] = 1
) -> str:
    """Find an item's price."""
    return workload.looked_up(item, count)


def agent_of(tools: list[Any]) -> Agent:
    """An agent with limits that do not get in the way."""
    limits = AgentLimits(
        max_turns=10**6, max_tool_calls=10**6, max_tokens=10**12, same_call=10**6, max_seconds=10**6
    )
    config = AgentConfig(instructions=workload.INSTRUCTIONS, reply_tool=False, limits=limits)
    return resolve("bench", config, [from_function(each) for each in tools])


def play(steps: int) -> Callable[[ModelTurn], list[Scripted]]:
    """The scripted model: so many tool calls for each conversation, then an answer."""
    asked: Counter[str] = Counter()

    def script(turn: ModelTurn) -> list[Scripted]:
        at = asked[turn.conversation]
        asked[turn.conversation] += 1
        return says("done") if at == steps else calls((workload.TOOL, workload.arguments(at)))

    return script


async def warmloop(folder: Path, steps: int) -> tuple[One, Close]:
    agent = agent_of([look_up])
    journal = SqliteJournal(folder / "journal.db")
    model = ScriptedModel(play(steps), keep_turns=False)
    worker = await Worker(journal=journal, agents=Agents([agent]), models=model).__aenter__()
    done: list[str] = []

    async def one(name: str) -> None:
        accepted = ResponseAccepted(f"resp_{name}", time.time(), workload.past())
        await worker.accept(name, accepted, start=ConversationStarted(agent.key, time.time()))
        await worker.run(name)
        done.append(name)

    async def close() -> None:
        # What was measured must have happened.
        assert not await journal.due(time.time() + 10**6, 1)
        log = await journal.read(done[-1])
        assert sum(isinstance(each.event, ToolResult) for each in log) == steps
        assert sum(isinstance(each.event, ModelResult) for each in log) == steps + 1
        await worker.__aexit__(None, None, None)
        await journal.close()

    return one, close


async def bare(folder: Path, steps: int) -> tuple[One, Close]:
    agent = agent_of([look_up])
    model = ScriptedModel(play(steps), keep_turns=False)

    async def one(name: str) -> None:
        history: list[Any] = [ResponseAccepted(name, 0.0, workload.past())]
        prompt = agent.prompt()
        for step in range(1, steps + 2):
            prompt.extend(history)
            answer = Answer(step, 1)
            turn = ModelTurn(prompt.body({}), name, name, "tool-call")
            async for event in model.turn(turn):
                answer.feed(event)
            text, wanted, done = answer.whole()
            history.append(ModelResult(step, 1, 0.0, text, wanted, done.finish_reason))
            for call in wanted:
                ready = agent.tools.prepare(call)
                assert isinstance(ready, Ready)
                ran = await agent.tools.run(ready, ToolContext(""), agent.limits)
                assert isinstance(ran, Ran)
                result: AnyEvent = ToolResult(step, call.call_id, 0.0, ran.output)
                history.append(result)

    async def close() -> None:
        return None

    return one, close


async def sqlite(folder: Path, steps: int) -> tuple[One, Close]:
    connection = sqlite3.connect(folder / "floor.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE e (c TEXT, s INTEGER, p TEXT, PRIMARY KEY (c, s))")
    insert = "INSERT INTO e VALUES (?,?,?),(?,?,?)"

    async def one(name: str) -> None:
        for seq in range(0, steps * 4, 2):
            connection.execute(insert, (name, seq, "x" * 250, name, seq + 1, "x" * 250))

    async def close() -> None:
        connection.close()

    return one, close


CASES = {"warmloop": warmloop, "bare": bare, "sqlite": sqlite}

if __name__ == "__main__":
    case = CASES[sys.argv.pop(1)]
    print(json.dumps(workload.measure(case, uvloop.run)), flush=True)
