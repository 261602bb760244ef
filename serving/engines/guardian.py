"""The guardian: owns one process tree, and leaves nothing of it behind, however its owner ends.

    owner ──spawn()──▶ witness ──▶ keeper ──▶ command ──▶ its children, their children …
      └───── pipe ────────┘  └─ pipe ─┘  └─ output ─▶ log file

Engines start helpers that outlive them (vLLM's EngineCore survives a SIGKILL of its server), that
leave their session (setsid) and their parent (double fork). So:

- The owner holds the write end of a pipe. When it dies, by SIGKILL too, the kernel closes the pipe.
- The keeper is a child subreaper: whatever is orphaned below it becomes its own child, never
  init's, so a walk over parent ids finds all of it.
- Pipe closed, or SIGTERM: SIGTERM to every descendant, a grace period, then SIGKILL until none is
  left. When the command ends by itself, what it left behind is ended in the same way.
- The keeper itself may be killed (Ray kills the direct children of a worker that exits). The
  witness, a second subreaper above it, then inherits the tree and kills it; and when the witness
  is killed, the keeper sees *its* pipe close. Only both at the same moment leave orphans; even then
  the command itself dies (PR_SET_PDEATHSIG), only its descendants may not.

The command's output goes to a log file of bounded size: at the cap it becomes `NAME.1`, and a new
one begins. A command that is spoken to (`spawn(..., spoken=True)`) has its owner at the other end
of stdin and stdout, and only its stderr is logged. Exit status: the command's own, 128 + N when
signal N ended it, 127 when it could not be started.

Only the standard library, so that it starts in some 20 ms:
    python -m serving.engines.guardian --fd N [--grace S] [--log FILE] [--spoken] -- COMMAND...
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

GRACE_S = 5.0
LOG_BYTES = 8 * 2**20
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Guarded:
    """A guardian seen from its owner: what runs below it lives as long as this object's pipe.

    The pipe is not inherited by programs that the owner starts; a bare fork() without exec would
    keep it open, and so the tree alive.
    """

    def __init__(self, process: subprocess.Popen[bytes], pipe: int, grace_s: float) -> None:
        self.stdin = process.stdin
        """Of a command that is spoken to; whoever uses these two closes them."""
        self.stdout = process.stdout
        self._process = process
        self._pipe = pipe
        self._grace_s = grace_s

    @property
    def pid(self) -> int:
        """The witness's process id: the root of the whole tree."""
        return self._process.pid

    def poll(self) -> int | None:
        """The command's exit status, or None while anything of its tree is still there."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until the whole tree is gone; raises TimeoutError."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"process {self.pid} is still there after {timeout_s} s") from None

    def terminate(self) -> None:
        """Begin to end the tree, and return at once."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def close(self) -> int:
        """End the tree and wait for it: the grace period and a little more at most."""
        self.terminate()
        try:
            return self.wait(self._grace_s + 10)
        except TimeoutError:
            # Stopped or stuck in the kernel. The keeper notices when the witness dies.
            self._process.kill()
            return self.wait()


def spawn(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    log: Path,
    grace_s: float = GRACE_S,
    *,
    cwd: Path | None = None,
    spoken: bool = False,
) -> Guarded:
    """Start `argv` under a guardian of its own. `env` None means ours; `log` gets its output, or
    only its stderr when it is `spoken` to."""
    log.parent.mkdir(parents=True, exist_ok=True)
    read, write = os.pipe()
    # By path, isolated and without site: the guardian needs nothing but the standard library, and
    # must not run what the command's PYTHON* variables or the working folder would bring in.
    line = [sys.executable, "-I", "-S", __file__, "--fd", str(read), "--grace", str(grace_s)]
    line += ["--spoken"] if spoken else []
    try:
        process = subprocess.Popen(
            [*line, "--log", str(log), "--", *argv],
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE if spoken else subprocess.DEVNULL,
            stdout=subprocess.PIPE if spoken else None,
            pass_fds=[read],
            start_new_session=True,  # a Ctrl-C in the terminal is the owner's to handle
        )
    except BaseException:
        os.close(write)
        raise
    finally:
        os.close(read)
    return Guarded(process, write, grace_s)


class BoundedLog:
    """A log file that never holds more than twice `limit` bytes, its predecessor included."""

    def __init__(self, path: Path, limit: int = LOG_BYTES) -> None:
        self._path = path
        self._limit = limit
        self._file = self._open()

    def write(self, data: bytes) -> None:
        # A full disk must not take the engine down: its output is lost, it is not.
        with contextlib.suppress(OSError):
            if self._file.tell() + len(data) > self._limit:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                full, self._file = self._file, self._open()
                full.close()
            self._file.write(data)

    def close(self) -> None:
        self._file.close()

    def _open(self) -> BinaryIO:
        file: BinaryIO = self._path.open("ab", buffering=0)
        # Says to whoever tidies up that this log is still written. It ends with the last process
        # that has the file, and the command is not one of them.
        with contextlib.suppress(OSError):  # not all file systems have locks
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return file


class Guard:
    """The loop of witness and keeper: wait for a reason to stop, then leave no descendant."""

    def __init__(self, child: int, owner_fd: int, wakeup_fd: int) -> None:
        self._child = child
        self._status: int | None = None
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(owner_fd, selectors.EVENT_READ, self._owner_gone)
        self._selector.register(wakeup_fd, selectors.EVENT_READ, self._signalled)

    def pump(self, output: int, log: BoundedLog | None) -> None:
        """Copy what the command prints into `log`, or drop it."""

        def copy(fd: int) -> None:
            data = os.read(fd, 65536)
            if not data:
                self._selector.unregister(fd)
            elif log is not None:
                log.write(data)

        self._selector.register(output, selectors.EVENT_READ, copy)

    def run(self, grace_s: float, *, child_asks_the_rest: bool = False) -> int:
        """Return the child's exit status once no descendant is left.

        Every descendant gets SIGTERM, or only the child when it hands that on itself; after
        `grace_s` every descendant gets SIGKILL.
        """
        self._children_left()  # one that ended before its signal could be caught sends no other
        while self._status is None and not self._stopping:
            self._turn(None)
        if child_asks_the_rest and self._status is None:
            _kill(self._child, signal.SIGTERM)
        else:
            for pid in descendants(os.getpid()):
                _kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while self._children_left():
            if time.monotonic() >= deadline:
                # Again and again: a process may have forked between the walk and the signal.
                for pid in descendants(os.getpid()):
                    _kill(pid, signal.SIGKILL)
            self._turn(0.02)
        while self._turn(0):  # what is still in the pipe are its last words
            pass
        return 0 if self._status is None else self._status

    def _turn(self, timeout_s: float | None) -> bool:
        events = self._selector.select(timeout_s)
        for key, _ in events:
            key.data(key.fd)
        return bool(events)

    def _owner_gone(self, fd: int) -> None:
        # The owner never writes; readable means end of file.
        self._stopping = True
        self._selector.unregister(fd)

    def _signalled(self, fd: int) -> None:
        if any(number in _STOP_SIGNALS for number in os.read(fd, 4096)):
            self._stopping = True
        self._children_left()

    def _children_left(self) -> bool:
        """Reap what has ended; True while there is a child, adopted ones included."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._child:
                code = os.waitstatus_to_exitcode(status)
                self._status = code if code >= 0 else 128 - code


def descendants(root: int) -> list[int]:
    """Process ids of everything below `root`, by parent ids in /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 a thousand entries; Path objects cost
        if not name.isdigit():
            continue
        try:
            stat = Path(f"/proc/{name}/stat").read_bytes()
        except OSError:
            continue  # gone meanwhile
        # "pid (comm) state ppid …"; comm may hold spaces and brackets.
        parent = int(stat[stat.rindex(b")") + 2 :].split()[1])
        children.setdefault(parent, []).append(int(name))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _prctl(option: int, value: int) -> None:
    # Not fatal: where prctl is refused, the pipe and the walk over /proc still do most of the work.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _catch_signals() -> int:
    """Turn signals into bytes on a pipe, and return the end to read."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (*_STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return read


def _let_go_of_stdio() -> None:
    """Point our own stdin and stdout nowhere: only the command may hold the ends of those pipes,
    so that its owner sees them close when it ends."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)


def _keep(
    argv: Sequence[str], owner_fd: int, grace_s: float, log: BoundedLog | None, *, spoken: bool
) -> int:
    """The keeper's life: start the command, copy its output, end with its status."""
    wakeup = _catch_signals()
    keeper = os.getpid()

    def in_child() -> None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:  # it died before the line above
            os._exit(127)

    output, output_write = os.pipe()
    try:
        command = subprocess.Popen(
            argv,
            stdin=None if spoken else subprocess.DEVNULL,
            stdout=None if spoken else output_write,
            stderr=output_write if spoken else subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=in_child,  # noqa: PLW1509 there is one thread here
        )
    except OSError as error:
        if log is not None:
            log.write(f"guardian: cannot start {argv[0]}: {error.strerror}\n".encode())
        return 127
    os.close(output_write)
    if spoken:
        _let_go_of_stdio()
    guard = Guard(command.pid, owner_fd, wakeup)
    guard.pump(output, log)
    status = guard.run(grace_s)
    command.returncode = status  # reaped by the guard; Popen need not look for it
    return status


def main(args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="guardian")
    parser.add_argument("--fd", type=int, required=True, help="read end of the owner's pipe")
    parser.add_argument("--grace", type=float, default=GRACE_S, help="seconds before SIGKILL")
    parser.add_argument("--log", type=Path, help="where the command's output goes")
    parser.add_argument("--log-bytes", type=int, default=LOG_BYTES, help="size cap of a log file")
    parser.add_argument("--spoken", action="store_true", help="the owner has stdin and stdout")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(args)
    log = BoundedLog(given.log, given.log_bytes) if given.log else None
    os.set_inheritable(given.fd, False)

    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    keeper_fd, witness_pipe = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        os.close(witness_pipe)
        os.close(given.fd)
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        os._exit(_keep(given.command, keeper_fd, given.grace, log, spoken=given.spoken))
    os.close(keeper_fd)
    if given.spoken:
        _let_go_of_stdio()
    guard = Guard(keeper, given.fd, _catch_signals())
    # The keeper has its whole grace period before it is killed itself.
    return guard.run(given.grace + 2, child_asks_the_rest=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
