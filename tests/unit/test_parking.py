"""States kept in memory while another process may hold their conversation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import cast

from orchestrator.agents import Agents, resolve
from orchestrator.journal.base import Journal
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop.events import ConversationStarted, ResponseAccepted
from orchestrator.loop.state import State
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, says
from orchestrator.worker.parking import Parking
from orchestrator.worker.runner import Runner
from orchestrator.worker.worker import Worker
from serving.config import AgentConfig


def answer(turn: ModelTurn) -> Iterable[Scripted]:
    return says("heard")


def front(journal: Journal) -> tuple[Worker, ScriptedModel]:
    model = ScriptedModel(answer)
    agents = Agents([resolve("desk", AgentConfig(reply_tool=False), [])])
    return Worker(journal=journal, agents=agents, models=model), model


async def ask(worker: Worker, response_id: str, text: str) -> None:
    asked = ResponseAccepted(response_id, time.time(), [{"role": "user", "content": text}])
    ended = asyncio.Event()
    start = ConversationStarted("desk@1", 1.0)
    await worker.accept("c", asked, start=start, at_end=ended.set)
    await ended.wait()
    await asyncio.sleep(0.01)  # it lets go


async def test_what_another_front_door_deleted_is_not_in_the_next_prompt() -> None:
    journal = MemoryJournal()
    (one, model), (other, _) = front(journal), front(journal)
    async with one, other:
        await ask(one, "r1", "first")
        await ask(one, "r2", "swordfish")
        await other.purge_response("r2")
        await ask(one, "r3", "third")
    body = model.turns[-1].body.decode()
    assert "first" in body
    assert "swordfish" not in body


async def test_a_state_is_kept_while_nobody_else_holds_its_conversation() -> None:
    journal = MemoryJournal()
    parking = Parking(journal)
    state = State()
    idle = cast("Runner", SimpleNamespace(is_idle=True, state=state, prompt=None))
    for owner, kept in (("one", True), ("other", False)):
        held = await journal.lease("c", "one", 10.0)
        assert held
        parking.keep(held, idle)
        await journal.release(held)
        if owner != "one":
            between = await journal.lease("c", owner, 10.0)
            assert between
            await journal.release(between)
        again = await journal.lease("c", "one", 10.0)
        assert again
        assert ((await parking.load(again)).state is state) is kept
        await journal.release(again)
