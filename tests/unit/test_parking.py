"""States kept in memory while another process may hold their conversation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.agents import Agents, resolve
from orchestrator.journal.base import Journal, Recorded
from orchestrator.journal.memory import MemoryJournal
from orchestrator.loop.events import ConversationStarted, ResponseAccepted
from orchestrator.loop.state import State
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Script, Scripted, ScriptedModel, says
from orchestrator.worker.parking import Parking
from orchestrator.worker.runner import Runner
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig
from serving.errors import BadRequest


def answer(turn: ModelTurn) -> Iterable[Scripted]:
    return says("heard")


def front(journal: Journal, script: Script = answer) -> tuple[Worker, ScriptedModel]:
    model = ScriptedModel(script)
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


class Counting(MemoryJournal):
    """Knows from where on logs were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read_after: list[int] = []

    async def read(self, conversation: str, after: int = 0) -> list[Recorded]:
        self.read_after.append(after)
        return await super().read(conversation, after)


async def test_a_look_into_an_idle_conversation_keeps_its_state() -> None:
    journal = Counting()
    worker, _ = front(journal)
    async with worker:
        await ask(worker, "r1", "first")
        await worker.run("c")
        journal.read_after.clear()
        await ask(worker, "r2", "second")
    assert 0 not in journal.read_after


async def test_a_request_that_is_refused_keeps_the_state_of_its_conversation() -> None:
    journal = Counting()
    worker, _ = front(journal)
    async with worker:
        await ask(worker, "r1", "first")
        word = {"type": "mcp_approval_response", "approval_request_id": "mcpr_x", "approve": True}
        with pytest.raises(BadRequest, match="no approval request"):
            await worker.accept("c", ResponseAccepted("r2", time.time(), [word]))
        journal.read_after.clear()
        await ask(worker, "r3", "third")
    assert 0 not in journal.read_after


async def test_what_is_purged_beside_a_run_that_ends_meanwhile_is_not_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = Counting()
    asked, gate, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def waits(turn: ModelTurn) -> Iterable[Scripted]:
        asked.set()
        return [gate.wait(), *says("heard")]

    worker, _ = front(journal, waits)
    purge = journal.purge

    async def late(*given: Any, **more: Any) -> None:
        await purge(*given, **more)
        gate.set()
        await ended.wait()
        await asyncio.sleep(0.01)  # it lets go

    async with worker:
        gate.set()
        await ask(worker, "r1", "first")
        gate.clear()
        asked.clear()
        second = ResponseAccepted("r2", time.time(), [{"role": "user", "content": "second"}])
        await worker.accept("c", second, at_end=ended.set)
        await asked.wait()
        monkeypatch.setattr(journal, "purge", late)
        await worker.purge_response("r1")
        journal.read_after.clear()
        await ask(worker, "r3", "third")
    assert journal.read_after[0] == 0


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
