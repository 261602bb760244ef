"""The directory: which engines there are in the cluster, kept true by leases.

    replica ── register, each second, with its state and load ──▶ entry
                 │ leave: it ended in good order                 ──▶ gone
                 └ lease ran out: it was killed, or its node     ──▶ gone

A replica that could not start leaves an entry `dead` with the reason, under a long lease, so that
`warmloop status` can say why. `Directory` is the pure part; `DirectoryActor` wraps it as the one
named actor of the cluster. The actor keeps nothing on disk: after a restart it is empty, until the
replicas have registered again, all within a second.

Whoever watches gets a whole snapshot: at once when an engine comes, goes or changes state, else
each second with fresh loads. A watcher that gives its name (the feed of a front door) says with
each call what it has heard so far: a replica that drains can ask whether all of them know. It may
say where its front door listens, so that front doors find each other, and what waits there, so that
replicas can ask for company. And the cluster that is about to end says here how long a drain may
still take.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from serving.cluster.front_queues import FrontQueues, Queue, Queues
from serving.tables.base import Engine, EngineLoad, EngineState

NAME = "warmloop-directory"
NAMESPACE = "warmloop"
LEASE_S = 6.0
"""Six missed renewals: longer than the hiccups of a machine at twenty times its load (seen: 3 to
4 s), shorter than a client's patience. Only a replica whose own process was killed is noticed so
late; its engine is then gone too, and the first turn that meets it ejects it."""
FAILURE_LEASE_S = 300.0
MAX_FAILURES = 20
"""Failed starts that are remembered, all models together; the oldest go first."""
SWEEP_S = 0.25
WATCHER_LEASE_S = 5.0
"""A watcher calls each second; one that is silent for so long is gone."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All engines at one moment. `version` changes with membership and states, not with load."""

    version: int
    engines: tuple[Engine, ...]
    fronts: tuple[str, ...] = ()
    """URLs of the front doors that follow this directory."""


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
        self._fronts: dict[str, tuple[str, float]] = {}
        """Watcher → where its front door listens, and when that is believed no more."""

    @property
    def version(self) -> int:
        return self._version

    def register(self, engine: Engine, lease_s: float = LEASE_S) -> None:
        """Enter an engine, or say what changed about it; also renews its lease."""
        self.sweep()
        before = self._entries.get(engine.replica)
        self._entries[engine.replica] = engine
        self._expires_s[engine.replica] = self._clock() + lease_s
        if before is None or replace(before, load=engine.load) != engine:
            self._version += 1
        dead = [e for e in self._entries.values() if e.state == "dead"]
        # What once failed is no news any more when a later start of the same model succeeded.
        began = engine.state == "ready" and (before is None or before.state != "ready")
        stale = [e for e in dead if began and e.model == engine.model]
        for old in stale or dead[:-MAX_FAILURES]:
            self.leave(old.replica)

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
        for watcher in [w for w, (_, due_s) in self._fronts.items() if due_s <= now_s]:
            del self._fronts[watcher]
            self._version += 1

    def watched(self, watcher: str, front: str, lease_s: float) -> None:
        """A watcher is there, on behalf of the front door at this URL."""
        if watcher not in self._fronts:
            self._version += 1
        self._fronts[watcher] = (front, self._clock() + lease_s)

    def snapshot(self) -> Snapshot:
        """All live entries, ordered by model and replica."""
        self.sweep()
        ordered = sorted(self._entries.values(), key=lambda e: (e.model, e.replica))
        fronts = sorted({front for front, _ in self._fronts.values()})
        return Snapshot(self._version, tuple(ordered), tuple(fronts))


class DirectoryActor:
    """The directory as a Ray actor; plain methods, one event loop."""

    def __init__(self) -> None:
        # A restarted actor must not repeat a version that a watcher already holds.
        self._directory = Directory(first_version=time.time_ns() // 1000)
        self._changed = asyncio.Event()
        self._sweeper: asyncio.Task[None] | None = None
        self._heard: dict[str, tuple[int, float]] = {}
        """Watcher → the version that it holds, and when it said so."""
        self._close_by_s = math.inf
        self._queues = FrontQueues(time.monotonic)

    async def waiting(self, model: str) -> Queue:
        """What waits for this model in all front doors."""
        return self._queues.of(model)

    async def heard(self, version: int) -> bool:
        """Does every watcher with a name that is there hold `version`, or a later one?

        True when the cluster is ending: its front doors ended first, and say nothing more.
        """
        if self._close_by_s < math.inf:
            return True
        oldest_s = time.monotonic() - WATCHER_LEASE_S
        self._heard = {name: held for name, held in self._heard.items() if held[1] >= oldest_s}
        return all(held >= version for held, _ in self._heard.values())

    async def close_within(self, drain_s: float) -> None:
        """The whole cluster is about to end: no drain may take longer than this."""
        self._close_by_s = time.monotonic() + drain_s

    async def left_s(self) -> float:
        """Seconds that `close_within` leaves; infinite when the cluster is not ending."""
        return self._close_by_s - time.monotonic()

    async def register(self, engine: Engine, lease_s: float = LEASE_S) -> int:
        """Returns the version that has it."""
        with self._noticing():
            self._directory.register(engine, lease_s)
        return self._directory.version

    async def leave(self, replica: str) -> None:
        with self._noticing():
            self._directory.leave(replica)

    async def snapshot(self) -> Snapshot:
        return self._directory.snapshot()

    async def watch(
        self,
        version: int,
        wait_s: float = 1.0,
        watcher: str = "",
        front: str = "",
        queues: Queues | None = None,
    ) -> Snapshot:
        """The snapshot as soon as its version is not `version`, at the latest after `wait_s`.

        `front` is the URL of the front door that the watcher works for, if others may know it, and
        `queues` what waits there.
        """
        if watcher:
            self._heard[watcher] = (version, time.monotonic())
            self._queues.told(watcher, queues or {}, WATCHER_LEASE_S)
        if watcher and front:
            with self._noticing():
                self._directory.watched(watcher, front, WATCHER_LEASE_S)
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
            # Beside Ray's own records: whatever other node dies, the list of engines stays.
            resources={"node:__internal_head__": 0.001},
            max_restarts=-1,
            max_concurrency=10_000,  # a watcher that waits takes one
        )
        .remote()
    )


def failed(engine: Engine, reason: str) -> Engine:
    """The entry of an engine that could not start, or died."""
    state: EngineState = "dead"
    return replace(engine, state=state, reason=reason, load=EngineLoad())
