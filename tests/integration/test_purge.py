"""Deleted is deleted: nothing that was said can be read in the store, and the rest goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.agents import Agents, resolve
from orchestrator.clock import FakeClock
from orchestrator.journal.base import Journal
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.loop.events import ConversationStarted, Purged, ResponseAccepted, ResponseFinished
from orchestrator.model import ModelTurn
from orchestrator.model_scripted import Script, Scripted, ScriptedModel, says
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig
from serving.errors import NotFound
from tests.stores import opened

SECRET = "swordfish"


class Desk:
    """A worker over a real store."""

    def __init__(
        self, journal: Journal, clock: FakeClock, script: Script, **options: float
    ) -> None:
        self.journal, self.clock = journal, clock
        self.model = ScriptedModel(script)
        config = AgentConfig(instructions="Be brief.", reply_tool=False)
        agents = Agents([resolve("desk", config, [])])
        self.worker = Worker(
            journal=journal, agents=agents, models=self.model, clock=clock, **options
        )

    async def ask(
        self, response_id: str, conversation: str = "c", *, text: str = SECRET, store: bool = True
    ) -> None:
        items = [{"role": "user", "content": text}]
        asked = ResponseAccepted(
            response_id, self.clock.now(), items, {"store": store}, idempotency_key=response_id
        )
        start = ConversationStarted("desk@1", self.clock.now(), metadata={"about": text})
        await self.worker.accept(conversation, asked, start=start)
        await self.worker.run(conversation)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["sqlite", "postgres"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[Journal]:
    async with opened(request.param, request, tmp_path, clock) as journal:
        yield journal


def echo(turn: ModelTurn) -> Iterable[Scripted]:
    return says(f"{SECRET}, you say" if SECRET.encode() in turn.body else "you say")


@asynccontextmanager
async def desk(journal: Journal, clock: FakeClock, **options: float) -> AsyncIterator[Desk]:
    made = Desk(journal, clock, echo, **options)
    async with made.worker:
        yield made


async def test_a_deleted_response_is_not_found_and_the_conversation_goes_on_without_it(
    store: Journal, clock: FakeClock
) -> None:
    async with desk(store, clock) as running:
        await running.ask("r1", text="first")
        await running.ask("r2", text="second")
        await running.worker.purge_response("r2")
        assert await store.find_response("r2") is None
        with pytest.raises(NotFound):
            await running.worker.purge_response("r2")
        await running.ask("r3", text="third")
        body = running.model.turns[-1].body.decode()
        assert "first" in body
        assert "second" not in body
        log = await store.read("c")
        assert [each.seq for each in log] == list(range(1, len(log) + 1))


async def test_a_deleted_response_that_others_stand_on_leaves_their_prompts_as_they_were(
    store: Journal, clock: FakeClock
) -> None:
    async with desk(store, clock) as running:
        await running.ask("r1", text="first")
        await running.ask("r2", text="second")
        before = running.model.turns[-1].body
        await running.worker.purge_response("r1")
        assert await store.find_response("r1") is None
        await running.ask("r3", text="third")
        after = running.model.turns[-1].body
        shown = before[: before.rindex(b"second")]
        assert after.startswith(shown)


async def test_a_deleted_conversation_takes_no_more_requests_and_no_keys(
    store: Journal, clock: FakeClock
) -> None:
    async with desk(store, clock) as running:
        await running.ask("r1")
        await running.worker.purge_conversation("c")
        assert all(isinstance(each.event, Purged) for each in await store.read("c"))
        assert await store.find_response("r1") is None
        assert await store.find_idempotent("r1") is None
        with pytest.raises(NotFound):
            await running.ask("r2")
        with pytest.raises(NotFound):
            await running.worker.purge_conversation("c")


async def test_deleting_what_runs_cancels_it_first(store: Journal, clock: FakeClock) -> None:
    gate = asyncio.Event()
    made = Desk(store, clock, lambda turn: [gate.wait(), *says("never")])
    async with made.worker:
        asking = asyncio.create_task(made.ask("r1"))
        await until(lambda: bool(made.model.turns))
        await made.worker.purge_conversation("c")
        await asking
        log = await store.read("c")
        assert all(isinstance(each.event, Purged) for each in log)
        assert [each.event.of for each in log][-1] == "response_finished"  # type: ignore[union-attr]


async def test_what_is_not_to_be_stored_goes_some_time_after_its_end(
    store: Journal, clock: FakeClock
) -> None:
    async with desk(store, clock, unstored_s=60) as running:
        await running.ask("r1", "c1", store=False)
        await running.ask("r2", "c2")
        running.clock.advance(59)
        assert await running.worker.sweep() == 0
        assert await store.find_response("r1") is not None
        await gone(running, "r1")
        assert all(isinstance(each.event, Purged) for each in await store.read("c1"))
        assert await store.find_response("r2") is not None


async def test_what_is_older_than_the_retention_goes_in_the_background(
    store: Journal, clock: FakeClock
) -> None:
    async with desk(store, clock, retention_s=1000) as running:
        for number in range(60):  # more than one batch
            await running.ask(f"r{number}", f"c{number}")
        running.clock.advance(900)
        await running.ask("young", "c0")
        running.clock.advance(150)
        for number in range(1, 60):
            await gone(running, f"r{number}")
        assert await store.find_response("young") is not None
        assert any(isinstance(each.event, ResponseFinished) for each in await store.read("c0"))


async def until(condition: Callable[[], bool], clock: FakeClock | None = None) -> None:
    async with asyncio.timeout(60):
        while not condition():
            if clock is not None:
                clock.advance(1)
            await asyncio.sleep(0.01)


async def gone(running: Desk, response_id: str) -> None:
    async with asyncio.timeout(60):
        while await running.journal.find_response(response_id) is not None:
            running.clock.advance(1)
            await asyncio.sleep(0.01)


async def test_nothing_that_was_purged_can_be_read_in_the_sqlite_files(
    tmp_path: Path, clock: FakeClock
) -> None:
    journal = SqliteJournal(tmp_path / "journal.db", clock=clock)
    async with desk(journal, clock) as running:
        for number in range(20):
            # Long ones lie on pages of their own, short ones share them.
            text = f"{SECRET} " * (1 if number % 2 else 2000)
            await running.ask(f"r{number}", f"c{number}", text=text)
        await running.ask("kept", "kept", text="marigold")
        assert SECRET in found_in(tmp_path)
        for number in range(20):
            await running.worker.purge_conversation(f"c{number}")
        running.clock.advance(2)
        await until(lambda: SECRET not in found_in(tmp_path), running.clock)
        assert "marigold" in found_in(tmp_path)
        await running.ask("later", "later", text="after the scrub")
    await journal.close()
    assert SECRET not in found_in(tmp_path)
    again = SqliteJournal(tmp_path / "journal.db")
    assert await again.find_response("later") is not None
    await again.close()


def found_in(folder: Path) -> str:
    """All bytes of all files of the journal."""
    return "".join(
        each.read_bytes().decode("latin-1") for each in folder.iterdir() if each.is_file()
    )
