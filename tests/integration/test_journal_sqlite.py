"""What only a file can do: be found again, be held by another process, be full."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.journal.base import JournalBusy, JournalFull, Lease
from orchestrator.journal.sqlite import WAL_BYTES, SqliteJournal
from orchestrator.loop.events import ModelIntent, ResponseAccepted, ToolResult


async def leased(journal: SqliteJournal, owner: str = "a") -> Lease:
    lease = await journal.lease("c", owner, 10)
    assert lease is not None
    return lease


async def test_what_was_stored_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.db"
    journal = SqliteJournal(path)
    written = [ResponseAccepted("r", 1.0, [{"content": "ü\u0000\n"}]), ModelIntent(1, 1, 2.0)]
    await journal.append(await leased(journal), written)
    await journal.close()
    journal = SqliteJournal(path)
    assert [each.event for each in await journal.read("c")] == written
    assert await journal.wait("c", 1, 5) is True
    assert [ref.response_id for ref in await journal.due(float("inf"), 9)] == ["r"]
    await journal.close()


async def test_a_restart_voids_leases_but_never_lowers_a_fence(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    before = await leased(journal, "the dead")
    await journal.close()
    journal = SqliteJournal(path)
    after = await leased(journal, "the heir")  # long before the ten seconds are over
    assert after.token > before.token
    await journal.close()


async def test_a_second_journal_on_the_file_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    code = (
        "import sys; from pathlib import Path; from orchestrator.journal.sqlite import *\n"
        "from orchestrator.journal.base import JournalBusy\n"
        "try: SqliteJournal(Path(sys.argv[1]))\n"
        "except JournalBusy as busy: print(busy); sys.exit(busy.exit_code)"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(  # noqa: ASYNC221 - nothing else runs on this loop
        [sys.executable, "-c", code, path], cwd=root, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2, result.stderr
    with pytest.raises(JournalBusy) as caught:
        SqliteJournal(path)
    for message in (result.stdout, str(caught.value)):
        assert str(path) in message
        assert f"process {os.getpid()}" in message
    await journal.close()
    await SqliteJournal(path).close()


async def test_a_wal_of_full_size_holds_what_was_stored_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    await journal.append(await leased(journal), [ModelIntent(1, 1, 1.0)])
    assert (tmp_path / "journal.db-wal").stat().st_size == WAL_BYTES
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in ("journal.db", "journal.db-wal"):  # what a dead process leaves behind
        shutil.copy(tmp_path / name, killed / name)
    await journal.close()
    journal = SqliteJournal(killed / "journal.db")
    assert [each.event for each in await journal.read("c")] == [ModelIntent(1, 1, 1.0)]
    assert await journal.append(await leased(journal), [ModelIntent(2, 1, 2.0)]) == 2
    await journal.close()


async def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"these are not the bytes you are looking for" * 100)
    with pytest.raises(JournalFull, match="cannot be used as a journal"):
        SqliteJournal(path)
    assert path.read_bytes().startswith(b"these are not")


@pytest.fixture
def small_files() -> Iterator[int]:
    """The system refuses to let any file of this process grow beyond a limit."""
    limit = 256 * 1024
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


async def test_a_full_disk_acknowledges_nothing_and_heals_by_itself(
    tmp_path: Path, small_files: int
) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    lease = await leased(journal)
    big = ToolResult(1, "call", 1.0, "x" * 10_000)
    stored = 0
    try:
        while stored < 200:
            stored = await journal.append(lease, [big, big])
    except JournalFull:
        pass
    assert 0 < stored < 200
    assert (tmp_path / "journal.db-wal").stat().st_size <= small_files
    with pytest.raises(JournalFull):
        await journal.append(lease, [big, big])
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert await journal.append(lease, [ModelIntent(7, 1, 1.0)]) == stored + 1
    await journal.close()
    journal = SqliteJournal(tmp_path / "journal.db")
    recorded = await journal.read("c")
    assert [each.seq for each in recorded] == list(range(1, stored + 2))
    assert recorded[-1].event == ModelIntent(7, 1, 1.0)
    await journal.close()


async def test_a_closed_journal_refuses_instead_of_waiting_for_ever(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    lease = await leased(journal)
    await journal.close()
    await journal.close()
    with pytest.raises(JournalFull, match="closed"):
        await journal.append(lease, [ModelIntent(1, 1, 1.0)])
