"""Appends are timed by whether they wait for the disk, and counted when nothing was stored."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from orchestrator.journal.base import Fenced, Journal, JournalFull
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.journal.watch import watched
from orchestrator.loop.events import ConversationStarted
from orchestrator.worker.journal_metrics import JournalMetrics


def page(registry: CollectorRegistry) -> list[str]:
    return generate_latest(registry).decode().splitlines()


async def test_a_journals_appends_are_timed_apart_by_their_durability(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    journal: Journal = SqliteJournal(tmp_path / "j.db", watch=JournalMetrics(registry))
    lease = await journal.lease("conv", "me", 10.0)
    assert lease is not None
    await journal.append(lease, [ConversationStarted("desk@1", 0.0)])
    await journal.append(lease, [ConversationStarted("desk@1", 0.0)], durable=False)
    await journal.append(lease, [ConversationStarted("desk@1", 0.0)], durable=False)
    await journal.close()
    assert 'warmloop_journal_append_seconds_count{durable="true"} 1.0' in page(registry)
    assert 'warmloop_journal_append_seconds_count{durable="false"} 2.0' in page(registry)


@pytest.mark.parametrize(("error", "failures"), [(JournalFull("full"), 1.0), (Fenced("no"), 0.0)])
async def test_only_what_could_not_be_stored_is_a_failure(
    error: Exception, failures: float
) -> None:
    registry = CollectorRegistry()
    storing: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    storing.set_exception(error)
    with pytest.raises(type(error)):
        await watched(JournalMetrics(registry), storing, durable=True)
    assert f"warmloop_journal_failures_total {failures}" in page(registry)
    assert 'warmloop_journal_append_seconds_count{durable="true"} 0.0' in page(registry)
