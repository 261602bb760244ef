"""The directory: which engines there are in the cluster, kept true by leases.

    replica ── register ──▶ entry ── renew, each second, with its load ──▶ entry
                              │ leave: it ended in good order              ──▶ gone
                              └ lease ran out: it was killed, or its node  ──▶ gone

A replica that could not start leaves an entry `dead` with the reason, under a long lease, so that
`warmloop status` can say why. `Directory` is the pure part; `DirectoryActor` wraps it as the one
named actor of the cluster. The actor keeps nothing on disk: after a restart it is empty, `renew`
answers False, and the replicas register again, all within a second.

Whoever watches gets a whole snapshot: at once when an engine comes, goes or changes state, else
each second with fresh loads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from serving.table import Engine, EngineLoad, EngineState

NAME = "warmloop-directory"
NAMESPACE = "warmloop"
LEASE_S = 3.0
"""Three missed renewals: longer than a busy machine's hiccup, shorter than a client's patience."""
FAILURE_LEASE_S = 300.0
MAX_FAILURES = 20
"""Failed starts that are remembered, all models together; the oldest go first."""
SWEEP_S = 0.25


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All engines at one moment. `version` changes with membership and states, not with load."""

    version: int
    engines: tuple[Engine, ...]


def encode(snapshot: Snapshot) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(snapshot)


def decode(line: bytes) -> Snapshot:
    """What `encode` wrote; raises msgspec.DecodeError."""
    return _DECODER.decode(line)


_DECODER = msgspec.json.Decoder(Snapshot)


class Directory:
    """Entries under leases. Not thread-safe; time comes from `clock` (seconds, monotonic)."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, first_version: int = 0
    ) -> None:
        self._clock = clock
        self._version = first_version
        self._entries: dict[str, Engine] = {}
        self._expires_s: dict[str, float] = {}

    @property
    def version(self) -> int:
        return self._version

    def register(self, engine: Engine, lease_s: float = LEASE_S) -> None:
        """Enter an engine, or say what changed about it; also renews its lease."""
        before = self._entries.get(engine.replica)
        self._entries[engine.replica] = engine
        self._expires_s[engine.replica] = self._clock() + lease_s
        if before is None or replace(before, load=engine.load) != engine:
            self._version += 1
        dead = [e for e in self._entries.values() if e.state == "dead"]
        # What once failed is no news any more when a later start of the same model succeeded.
        stale = [e for e in dead if engine.state == "ready" and e.model == engine.model]
        for old in stale or dead[:-MAX_FAILURES]:
            self.leave(old.replica)

    def renew(self, replica: str, load: EngineLoad, lease_s: float = LEASE_S) -> bool:
        """Extend a lease. False: the replica is not known (any more) and must register again."""
        self.sweep()
        engine = self._entries.get(replica)
        if engine is None:
            return False
        self._entries[replica] = replace(engine, load=load)
        self._expires_s[replica] = self._clock() + lease_s
        return True

    def leave(self, replica: str) -> None:
        """Forget an engine; one that is not known is no mistake."""
        if self._entries.pop(replica, None) is not None:
            del self._expires_s[replica]
            self._version += 1

    def sweep(self) -> None:
        """Drop what has not renewed in time."""
        now_s = self._clock()
        for replica in [r for r, due_s in self._expires_s.items() if due_s <= now_s]:
            self.leave(replica)

    def snapshot(self) -> Snapshot:
        """All live entries, ordered by model and replica."""
        self.sweep()
        ordered = sorted(self._entries.values(), key=lambda e: (e.model, e.replica))
        return Snapshot(self._version, tuple(ordered))


class DirectoryActor:
    """The directory as a Ray actor; plain methods, one event loop."""

    def __init__(self) -> None:
        # A restarted actor must not repeat a version that a watcher already holds.
        self._directory = Directory(first_version=time.time_ns() // 1000)
        self._changed = asyncio.Event()
        self._sweeper: asyncio.Task[None] | None = None

    async def register(self, engine: Engine, lease_s: float = LEASE_S) -> None:
        with self._noticing():
            self._directory.register(engine, lease_s)

    async def renew(self, replica: str, load: EngineLoad, lease_s: float = LEASE_S) -> bool:
        with self._noticing():
            return self._directory.renew(replica, load, lease_s)

    async def leave(self, replica: str) -> None:
        with self._noticing():
            self._directory.leave(replica)

    async def snapshot(self) -> Snapshot:
        return self._directory.snapshot()

    async def watch(self, version: int, wait_s: float = 1.0) -> Snapshot:
        """The snapshot as soon as its version is not `version`, at the latest after `wait_s`."""
        if self._sweeper is None:
            # Not in __init__: the actor's event loop may not run yet there.
            self._sweeper = asyncio.create_task(self._sweep())
        deadline = asyncio.get_running_loop().time() + wait_s
        while self._directory.version == version:
            changed = self._changed
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                break
        return self._directory.snapshot()

    async def _sweep(self) -> None:
        """A lease that runs out is news too, though nobody calls."""
        while True:
            await asyncio.sleep(SWEEP_S)
            with self._noticing():
                self._directory.sweep()

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Wake the watchers when the version changes within the block."""
        before = self._directory.version
        yield
        if self._directory.version != before:
            self._changed.set()
            self._changed = asyncio.Event()


def connect() -> Any:
    """The cluster's directory actor, created if there is none. Blocks; Ray must be connected."""
    import ray

    return (
        ray.remote(DirectoryActor)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=10_000,  # a watcher that waits takes one
        )
        .remote()
    )


def failed(engine: Engine, reason: str) -> Engine:
    """The entry of an engine that could not start, or died."""
    state: EngineState = "dead"
    return replace(engine, state=state, reason=reason, load=EngineLoad())
