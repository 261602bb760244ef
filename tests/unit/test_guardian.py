"""The guardian, with real processes: whatever dies, nothing below it stays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from serving.engines import guardian

# A command like an engine at its worst: a child in a session of its own, a double-forked orphan
# that ignores SIGTERM, and then it sleeps. Each writes its process id into a file of its own.
STUBBORN = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def note(name):
    (folder / (name + ".tmp")).write_text(str(os.getpid()))
    (folder / (name + ".tmp")).rename(folder / (name + ".pid"))
if os.fork() == 0:
    os.setsid(); note("session"); time.sleep(600)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN); note("orphan"); time.sleep(600)
note("command"); print("up", flush=True); time.sleep(600)
"""
CHECKOUT = Path(guardian.__file__).parents[2]
OWNER = f"""
import pathlib, sys, time
sys.path.insert(0, {str(CHECKOUT)!r})
from serving.engines import guardian
guarded = guardian.spawn(sys.argv[2:], None, pathlib.Path(sys.argv[1]), grace_s=0.3)
print(guarded.pid, flush=True); time.sleep(600)
"""
NAMES = ("command", "session", "orphan")


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Poll: what another process does has no event to wait for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def gone(pids: list[int]) -> Callable[[], bool]:
    return lambda: not any(map(psutil.pid_exists, pids))


def pids_in(folder: Path) -> list[int]:
    until(lambda: all((folder / f"{name}.pid").exists() for name in NAMES))
    return [int((folder / f"{name}.pid").read_text()) for name in NAMES]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for path in tmp_path.glob("*.pid"):  # only after a failed test there is something left
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)


@pytest.fixture
def stubborn(folder: Path) -> list[str]:
    script = folder / "stubborn.py"
    script.write_text(textwrap.dedent(STUBBORN))
    return [sys.executable, str(script), str(folder)]


@pytest.fixture
def guarded(folder: Path, stubborn: list[str]) -> Iterator[guardian.Guarded]:
    tree = guardian.spawn(stubborn, None, folder / "log", grace_s=0.3)
    yield tree
    tree.close()


def run(argv: list[str], log: Path) -> int:
    return guardian.spawn(argv, None, log).wait(20)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_sigkill_of_the_owner_ends_the_whole_tree(folder: Path, stubborn: list[str]) -> None:
    with subprocess.Popen(
        [*python(OWNER), str(folder / "log"), *stubborn], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        witness = int(owner.stdout.readline())
        pids = pids_in(folder)
        owner.kill()
    until(gone([witness, *pids]))


def test_closing_ends_the_whole_tree_and_waits_for_it(
    folder: Path, guarded: guardian.Guarded
) -> None:
    pids = pids_in(folder)
    assert guarded.poll() is None
    assert guarded.close() == 128 + signal.SIGTERM
    assert gone(pids)()
    assert guarded.close() == guarded.poll() == 128 + signal.SIGTERM


def test_sigterm_to_the_guardian_ends_the_whole_tree(
    folder: Path, guarded: guardian.Guarded
) -> None:
    pids = pids_in(folder)
    os.kill(guarded.pid, signal.SIGTERM)
    guarded.wait(10)
    assert gone(pids)()


@pytest.mark.parametrize("generation", [0, 1], ids=["witness", "keeper"])
def test_sigkill_of_either_half_of_the_guardian_ends_the_whole_tree(
    folder: Path, guarded: guardian.Guarded, generation: int
) -> None:
    pids = pids_in(folder)
    [keeper] = [p.pid for p in psutil.Process(guarded.pid).children()]
    os.kill([guarded.pid, keeper][generation], signal.SIGKILL)
    until(gone([keeper, *pids]))
    assert guarded.wait(10) != 0


def test_what_a_command_leaves_behind_ends_with_it(folder: Path, stubborn: list[str]) -> None:
    tree = guardian.spawn(stubborn, None, folder / "log", grace_s=0.3)
    pids = pids_in(folder)
    os.kill(pids[0], signal.SIGKILL)
    assert tree.wait(10) == 128 + signal.SIGKILL
    assert gone(pids)()


def test_a_command_gets_its_grace_period_to_end_in_order(tmp_path: Path) -> None:
    polite = (
        "import signal, sys, time\n"
        "def end(*_): time.sleep(0.2); print('said goodbye'); sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True); time.sleep(600)"
    )
    log = tmp_path / "log"
    tree = guardian.spawn(python(polite), None, log)
    until(lambda: log.exists() and "up\n" in log.read_text())
    assert tree.close() == 7
    assert log.read_text() == "up\nsaid goodbye\n"


def test_the_exit_status_is_the_commands_own(tmp_path: Path) -> None:
    assert run(python("raise SystemExit(3)"), tmp_path / "log") == 3
    assert run(python("pass"), tmp_path / "log") == 0


EARLY = f"""
import os, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from serving.engines.guardian import Guard, _catch_signals
child = os.fork()
if child == 0:
    os._exit(7)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has reaped it
owner, _ = os.pipe()
raise SystemExit(Guard(child, owner, _catch_signals()).run(1.0))
"""


def test_a_child_that_ended_before_its_signal_could_be_caught_is_noticed() -> None:
    assert subprocess.run(python(EARLY), timeout=60, check=False).returncode == 7


def test_a_command_that_cannot_start_says_so_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run([str(tmp_path / "nothing")], log) == 127
    assert "cannot start" in log.read_text()
    assert "No such file" in log.read_text()


def test_output_and_errors_go_to_the_log_to_the_last_line(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log"
    run(python("import sys; print('out'); sys.stdout.flush(); sys.exit('last words')"), log)
    assert log.read_text() == "out\nlast words\n"


def test_the_environment_given_is_the_commands_whole_environment(tmp_path: Path) -> None:
    log = tmp_path / "log"
    guardian.spawn(python("import os; print(os.environ.get('A'))"), {"A": "1"}, log).wait(20)
    assert log.read_text() == "1\n"


def test_the_log_never_holds_more_than_twice_its_cap(tmp_path: Path) -> None:
    with contextlib.closing(guardian.BoundedLog(tmp_path / "log", limit=1000)) as log:
        for number in range(100):
            log.write(f"{number:099d}\n".encode())
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"log", "log.1"}
    assert max(sizes.values()) <= 1000
    assert (tmp_path / "log").read_bytes().endswith(b"99\n")


def test_waiting_for_a_tree_that_stays_is_a_timeout(guarded: guardian.Guarded) -> None:
    with pytest.raises(TimeoutError, match="still there"):
        guarded.wait(0.05)


def test_the_owner_may_have_several_trees_and_end_one(tmp_path: Path) -> None:
    sleep = python("import time; print('up', flush=True); time.sleep(600)")
    trees = [guardian.spawn(sleep, None, tmp_path / f"log{n}", grace_s=0.3) for n in range(2)]
    until(lambda: all((tmp_path / f"log{n}").exists() for n in range(2)))
    trees[0].close()
    assert trees[1].poll() is None
    trees[1].close()


def test_the_guardian_starts_fast_and_needs_only_the_standard_library() -> None:
    loaded = "import sys, serving.engines.guardian as g; print(*sys.modules)"
    done = subprocess.run(python(loaded), capture_output=True, text=True, check=True)
    assert not {"aiohttp", "pydantic", "yaml", "asyncio"} & set(done.stdout.split())


ECHO = """
import os, sys
for line in sys.stdin:
    print("heard", line.strip(), flush=True)
    print("noted", file=sys.stderr, flush=True)
"""


def test_a_command_that_is_spoken_to_answers_its_owner_and_only_its_stderr_is_logged(
    folder: Path,
) -> None:
    tree = guardian.spawn(python(ECHO), None, folder / "log", cwd=folder, spoken=True)
    assert tree.stdin is not None
    assert tree.stdout is not None
    with tree.stdin, tree.stdout:
        tree.stdin.write(b"hello\n")
        tree.stdin.flush()
        assert tree.stdout.readline() == b"heard hello\n"
        tree.stdin.close()
        assert tree.wait(10) == 0
        assert tree.stdout.read() == b""
    assert (folder / "log").read_text() == "noted\n"


def test_the_owner_sees_the_end_of_a_spoken_command_at_once(folder: Path) -> None:
    # Its child lives on through the grace period; the pipes do not wait for that.
    code = "import os, time; os.fork() or (os.close(1), time.sleep(600)); os.kill(os.getpid(), 9)"
    tree = guardian.spawn(python(code), None, folder / "log", grace_s=0.3, spoken=True)
    assert tree.stdin is not None
    assert tree.stdout is not None
    with tree.stdin, tree.stdout:
        assert tree.stdout.read() == b""
        assert tree.wait(10) == 128 + signal.SIGKILL
