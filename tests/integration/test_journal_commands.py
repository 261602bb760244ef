"""`warmloop journal export` and `purge`: over a journal that is in use, and one that is not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.clock import FakeClock
from orchestrator.commands import journal as journal_cli
from orchestrator.commands.approve import ask
from orchestrator.journal.base import Journal, JournalBusy, JournalFull
from orchestrator.journal.outside import logs_of
from orchestrator.journal.postgres import PostgresJournal
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.journal.stores import open_journal
from orchestrator.loop import purge
from orchestrator.loop.events import (
    AnyEvent,
    ConversationStarted,
    Purged,
    ResponseAccepted,
    ResponseFinished,
    encode,
)
from router.tenancy.access import OPERATOR_PATHS, PURGE
from serving.config import stack_file
from serving.config.stack import StackConfig
from serving.errors import ConfigError
from tests.contract.front_door import Front, front_door
from tests.postgres import Server

DAY_S = 86_400.0


@dataclass
class Kept:
    """A stack whose journal holds three conversations, of which one was deleted."""

    file: Path
    stack: StackConfig
    journal: Journal

    async def write(self, name: str, at: float) -> list[AnyEvent]:
        events: list[AnyEvent] = [
            ConversationStarted("desk@1", at),
            ResponseAccepted(f"resp_{name}", at, [{"content": "ü\n\u0000"}]),
            ResponseFinished(f"resp_{name}", at, "completed"),
        ]
        lease = await self.journal.lease(name, "a", 30)
        assert lease is not None
        await self.journal.append(lease, events)
        await self.journal.release(lease)
        return events


@pytest.fixture(params=["sqlite", "postgres"])
async def kept(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Kept]:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path))
    async with AsyncExitStack() as life:
        where = f"path: {tmp_path / 'journal.db'}"
        if request.param == "postgres":
            postgres: Server = request.getfixturevalue("postgres")
            where = f"url: {await life.enter_async_context(postgres.database())}"
        file = tmp_path / "stack.yaml"
        file.write_text(
            "name: kept\n"
            "models: {big: {engine: external, urls: ['http://127.0.0.1:9']}}\n"
            f"journal:\n  {where}\n"
        )
        stack = stack_file.load(file)
        journal = open_journal(stack)
        life.push_async_callback(journal.close)
        await journal.start()
        yield Kept(file, stack, journal)


async def exported(kept: Kept, *arguments: str) -> list[dict[str, object]]:
    command = ["export", *arguments, "-c", str(kept.file)]
    ran = await asyncio.to_thread(CliRunner().invoke, journal_cli.app, command)
    assert ran.exception is None, ran.exception
    return [json.loads(line) for line in ran.stdout.splitlines()]


async def test_logs_are_exported_as_they_are_stored_while_the_journal_is_in_use(
    kept: Kept,
) -> None:
    first, second = await kept.write("conv_1", 1.0), await kept.write("conv_2", 2.0)
    await kept.write("conv_3", 3.0)
    lease = await kept.journal.lease("conv_3", "a", 30)
    assert lease is not None
    gone = purge.whole(await kept.journal.read("conv_3"))
    await kept.journal.purge(lease, gone.events, gone.responses, whole=True)

    def lines(name: str, events: list[AnyEvent]) -> list[dict[str, object]]:
        return [
            {"conversation": name, "seq": seq, "event": json.loads(encode(event))}
            for seq, event in enumerate(events, 1)
        ]

    everything = await exported(kept, "--all")
    assert everything == [*lines("conv_1", first), *lines("conv_2", second)]
    assert await exported(kept, "conv_2") == lines("conv_2", second)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("conv_9", "no conversation 'conv_9' in .*looks like conv_"),
        ("resp_conv_1", "'resp_conv_1' is a response; its conversation is conv_1"),
        ("conv_2", "'conv_2' was deleted"),
    ],
)
async def test_what_cannot_be_exported_is_said_with_the_reason(
    kept: Kept, name: str, said: str
) -> None:
    await kept.write("conv_1", 1.0)
    await kept.write("conv_2", 1.0)
    lease = await kept.journal.lease("conv_2", "a", 30)
    assert lease is not None
    gone = purge.whole(await kept.journal.read("conv_2"))
    await kept.journal.purge(lease, gone.events, gone.responses, whole=True)
    async with logs_of(kept.stack) as logs:
        with pytest.raises(ConfigError, match=said):
            await logs.named(name)


async def test_conversations_are_listed_over_many_pages(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.journal.outside.PAGE", 2)
    names = [f"conv_{number}" for number in range(5)]
    for name in names:
        await kept.write(name, 1.0)
    async with logs_of(kept.stack) as logs:
        assert [name async for name in logs.names()] == names


@pytest.mark.parametrize("arguments", [[], ["conv_1", "--all"]])
def test_one_conversation_or_all_of_them(arguments: list[str]) -> None:
    ran = CliRunner().invoke(journal_cli.app, ["export", *arguments])
    assert isinstance(ran.exception, ConfigError)
    assert "the id of one, or --all" in str(ran.exception)


async def test_a_journal_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMLOOP_HOME", str(tmp_path))
    models = {"big": {"engine": "external", "urls": ["http://127.0.0.1:9"]}}
    stack = StackConfig.model_validate({"models": models})
    with pytest.raises(ConfigError, match="there is no journal"):
        async with logs_of(stack):
            pass
    assert not stack.journal_path.exists()
    stack.journal_path.parent.mkdir(parents=True)
    stack.journal_path.write_bytes(b"these are not the bytes you are looking for" * 100)
    with pytest.raises(JournalFull, match="cannot be read"):
        async with logs_of(stack) as logs:
            await logs.log("conv_1")


def purged(kept: Kept, *arguments: str) -> BaseException | None:
    command = ["purge", "-c", str(kept.file), "--yes", *arguments]
    return CliRunner().invoke(journal_cli.app, command).exception


async def test_old_conversations_are_deleted_when_no_stack_runs(kept: Kept) -> None:
    await kept.journal.close()
    long_ago, now = time.time() - 40 * DAY_S, time.time()
    for name, at in (("old", long_ago), ("young", now)):
        kept.journal = opened_at(kept.stack, at)
        await kept.journal.start()
        await kept.write(name, at)
        await kept.journal.close()
    assert await asyncio.to_thread(purged, kept, "--older-than", "30d") is None
    async with logs_of(kept.stack) as logs:
        assert await logs.log("young") != []
        with pytest.raises(ConfigError, match="'old' was deleted"):
            await logs.named("old")


def opened_at(stack: StackConfig, at: float) -> Journal:
    """The stack's journal, as of another time."""
    clock = FakeClock(at)
    if stack.journal.url is None:
        return SqliteJournal(stack.journal_path, clock=clock)
    return PostgresJournal(stack.journal, clock=clock)


async def test_a_file_that_another_process_holds_is_that_one_s_to_purge(
    kept: Kept,
) -> None:
    said = await asyncio.to_thread(purged, kept, "--older-than", "30d")
    if kept.stack.journal.url is None:
        assert isinstance(said, JournalBusy)
    else:
        assert said is None


@pytest.mark.parametrize("older_than", ["0d", "30", "a month"])
def test_a_time_that_is_none_is_refused_by_the_option_s_name(older_than: str) -> None:
    ran = CliRunner().invoke(journal_cli.app, ["purge", "--older-than", older_than])
    assert isinstance(ran.exception, ConfigError)
    assert str(ran.exception).startswith(f"--older-than: {older_than!r} is no time")


async def test_a_stack_that_runs_deletes_what_is_old(tmp_path: Path) -> None:
    async with front_door(tmp_path / "journal.db") as front:
        said = await front.client.responses.create(model="desk", input="swordfish")
        ref = await front.journal.find_response(said.id)
        assert ref is not None
        assert await older_than(front, 3600) == 0
        async with asyncio.timeout(60):
            while not await older_than(front, 0.001):  # noqa: ASYNC110  nobody rings a bell
                await asyncio.sleep(0.01)
        log = await front.journal.read(ref.conversation)
        assert all(isinstance(each.event, Purged) for each in log)


async def older_than(front: Front, seconds: float) -> int:
    url = f"{front.url}{PURGE}?older_than_s={seconds}"
    answer = await asyncio.to_thread(ask, url, {})
    return int(answer["purged"])


def test_only_the_operator_purges_what_is_everybody_s() -> None:
    assert PURGE in OPERATOR_PATHS
