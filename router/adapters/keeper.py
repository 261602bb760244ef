"""Keeps engines in step with the set of adapters: asks what each has, loads and unloads.

    tend, each second    ready, but lacks a wanted one            ─► load it there
                         still has one that left while it was away ─► unload it there
                         did not do it                             ─► again, after a growing pause

Engines are asked before they are told: `/v1/models` says what each has, and from which folder. So
every step may be repeated, by this front door or by another one, and is nothing where nothing is to
do. Changes go one at a time (`alone`), also among the front doors of one machine: what one of them
has begun must not look left behind to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import aiohttp

from router.adapters.adapter_set import (
    AdapterFile,
    AdapterSet,
    KnownAdapters,
    Leaving,
    Step,
    Wanted,
    plan,
)
from router.placing.health import Clock
from serving.config.stack import StackConfig
from serving.engines import adapter_for
from serving.errors import AdapterError, ConfigError, EngineError, Unavailable
from serving.models import weights
from serving.models.adapter_store import STORE, accept, sweep
from serving.models.adapters import base_of
from serving.models.model_cards import adapters_in, cards
from serving.owned_task import OwnedTask
from serving.tables.base import Engine, EngineTable

TEND_S = 1.0
SWEEP_S = 60.0
SEEN_S = 10.0
"""How long to wait for the table to show what was done; turns go by the table."""
LOCK_POLL_S = 0.05
BACKOFF_MAX_S = 60.0
FAILURES = (EngineError, aiohttp.ClientError, TimeoutError, ValueError)
"""What an engine that does not do it raises."""

_log = logging.getLogger("warmloop.adapters")


@dataclass(frozen=True, slots=True)
class _Wait:
    """A step that failed: when to try again, the pause that led there, and why (seconds)."""

    until_s: float
    pause_s: float
    said: str


class Keeper:
    """The set of run-time adapters, its file, and the task that carries it out."""

    def __init__(
        self,
        config: StackConfig,
        table: EngineTable,
        known: KnownAdapters,
        folder: Path,
        *,
        clock: Clock = time.monotonic,
        tend_s: float = TEND_S,
    ) -> None:
        """`folder` is the stack's. Raises ConfigError when its file cannot be read."""
        self._config = config
        self._table = table
        self._known = known
        self._file = AdapterFile(folder / "adapters.json")
        self._store = folder / STORE / "run-time"
        self._clock = clock
        self._tend_s = tend_s
        self._http: aiohttp.ClientSession | None = None
        self._task = OwnedTask()
        self._sure: dict[tuple[str, str], str] = {}
        self._waits: dict[tuple[str, str], _Wait] = {}
        self._of_config: dict[str, Wanted] = {}
        self._refused: dict[str, str] = {}
        self._next_sweep_s = clock() + SWEEP_S
        self._turn = asyncio.Lock()
        self._lock_path = folder / "adapters.lock"
        self.set = self._file.read()
        known.take(self.set)

    async def start(self) -> None:
        """Begin to tend; returns at once. Idempotent."""
        if not self._task.started and self._is_needed():
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
            self._task.start(self._tend_on, "adapters")

    async def stop(self) -> None:
        """Idempotent."""
        await self._task.stop()
        if self._http is not None:
            await self._http.close()

    def _is_needed(self) -> bool:
        return bool(self.set.loaded or self.set.leaving) or any(
            model.takes_adapters for model in self._config.models.values()
        )

    def ready(self, model: str) -> list[Engine]:
        return [e for e in self._table.snapshot() if e.model == model and e.state == "ready"]

    # -- the set --

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """Nobody else changes the set, or an engine's adapters, within the block."""
        async with self._turn:
            with self._writing():
                self._lock_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                lock = self._lock_path.open("a")
            with lock:  # closing it lets go of it; the kernel does when we die
                while not _locked(lock):  # noqa: ASYNC110  the other one may be another process
                    await asyncio.sleep(LOCK_POLL_S)
                self.reread()
                yield

    def change(self, evolve: Callable[[AdapterSet], AdapterSet]) -> None:
        """Write down what is wanted from now on. Raises Unavailable when that cannot be done."""
        value = evolve(self.set)
        with self._writing():
            self._file.write(value)
        self._take(value)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(
                f"the list of adapters cannot be written: {error.strerror}; make room, or mend the "
                f"rights of {self._lock_path.parent}",
                code="adapters_unavailable",
                retry_after_s=5,
            ) from None

    def reread(self) -> None:
        """Another front door may have written it. Raises Unavailable when it is broken."""
        try:
            if self._file.changed():
                self._take(self._file.read())
        except ConfigError as error:
            raise Unavailable(str(error), code="adapters_unavailable") from None

    def _take(self, value: AdapterSet) -> None:
        self.set = value
        self._known.take(value)

    # -- files --

    async def accepted(self, name: str, folder: Path, model: str) -> Wanted:
        """The adapter, checked and copied for engines to read. Raises AdapterError."""
        base = await self._base(model)
        max_rank = self._config.models[model].lora.max_rank
        kept = await asyncio.to_thread(accept, name, folder, self._store, max_rank, base)
        return Wanted(name, model, str(kept))

    async def _base(self, model: str) -> dict[str, Any] | None:
        """The base's config.json: from its weights, or from where an engine says they are."""
        config = self._config.models[model]
        if (folder := await asyncio.to_thread(weights.cached, config)) is not None:
            return base_of(folder)
        for engine in self.ready(model):
            with contextlib.suppress(*FAILURES):
                for card in await cards(self._session, engine.url):
                    root = card.get("root")
                    if card.get("id") == engine.served_name and isinstance(root, str):
                        return base_of(Path(root))
        return None

    # -- engines --

    async def do(self, step: Step) -> None:
        """Bring one engine to what `step` wants, whatever it has now. Raises `FAILURES`."""
        engine, name = step.engine, step.name
        timeout_s = self._config.models[engine.model].lora.load_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._bring(step)
        except TimeoutError:
            raise TimeoutError(f"it did not answer within load_timeout_s: {timeout_s:g}") from None
        leaving = Leaving(name, engine.replica)
        if step.folder is None and leaving in self.set.leaving:
            self.change(lambda value: value.confirmed([leaving]))

    async def _bring(self, step: Step) -> None:
        engine, name, place = step.engine, step.name, (step.engine.replica, step.name)
        adapter = adapter_for(engine.speaks)
        has = adapters_in(await cards(self._session, engine.url), engine.served_name)
        if name in has and has[name] != step.folder:
            self._sure.pop(place, None)
            await adapter.unload_adapter(self._session, engine.url, name)
            del has[name]
        if step.folder is None:
            return
        if name not in has:
            await adapter.load_adapter(self._session, engine.url, name, Path(step.folder))
        self._sure[place] = step.folder

    async def attempt(self, step: Step) -> None:
        """`do`; a failure is noted, and tried again by `tend` after a growing pause."""
        place = (step.engine.replica, step.name)
        before = self._waits.get(place)
        try:
            await self.do(step)
        except FAILURES as error:
            what = "unload" if step.folder is None else "load"
            said = f"{step.engine.replica} did not {what} it: {reason(error)}"
            if before is None or before.said != said:
                _log.warning("adapter %s: %s", step.name, said)
            pause_s = min(BACKOFF_MAX_S, 2 * before.pause_s if before else self._tend_s)
            self._waits[place] = _Wait(self._clock() + pause_s, pause_s, said)
        else:
            self._waits.pop(place, None)
        self._tell_problems()

    async def tend(self) -> None:
        """One look at all engines, and what it takes to bring them up to date."""
        async with self.alone():
            engines = self._table.snapshot()
            self._forget(engines)
            # A newer configuration may have given the name, or the model, another meaning.
            loaded = [w for w in self.set.loaded if self._known.owners.get(w.name) == w.model]
            wanted = (*await self._configured(), *loaded)
            # Engines side by side, one engine's adapters in order: each load is work for it.
            by_engine: dict[str, list[Step]] = {}
            for step in plan(wanted, self.set.leaving, engines, self._sure):
                wait = self._waits.get((step.engine.replica, step.name))
                if wait is None or wait.until_s <= self._clock():
                    by_engine.setdefault(step.engine.replica, []).append(step)
            await asyncio.gather(*map(self._in_order, by_engine.values()))
            self._tell_problems()
            if self._clock() >= self._next_sweep_s and not (self._waits or self.set.leaving):
                self._next_sweep_s = self._clock() + SWEEP_S
                await asyncio.to_thread(sweep, self._store, {Path(w.folder) for w in wanted})

    async def seen(self, name: str, replicas: Collection[str], *, there: bool) -> None:
        """Wait until the table lists the adapter at these replicas, or no more; within reason."""

        def differs() -> bool:
            engines = [e for e in self._table.snapshot() if e.replica in replicas]
            return any((name in e.adapters) is not there for e in engines if e.state == "ready")

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SEEN_S):
                while differs():  # noqa: ASYNC110  the table does not announce
                    await asyncio.sleep(0.02)

    async def _in_order(self, steps: Sequence[Step]) -> None:
        for step in steps:
            await self.attempt(step)

    async def _tend_on(self) -> None:
        while True:
            try:
                await self.tend()
            except Exception:
                _log.exception("adapters could not be tended")
            await asyncio.sleep(self._tend_s)

    async def _configured(self) -> Collection[Wanted]:
        """The configured adapters of external engines; our own replicas load theirs themselves."""
        for model, config in self._config.models.items():
            if config.engine != "external" or not self.ready(model):
                continue
            for name in config.adapters.keys() - self._of_config.keys():
                try:
                    self._of_config[name] = await self.accepted(name, config.adapters[name], model)
                    self._refused.pop(name, None)
                except AdapterError as error:
                    self._refused[name] = str(error)
        return self._of_config.values()

    def _forget(self, engines: Collection[Engine]) -> None:
        """What was known of replicas that are gone, or not ready: they may come back empty."""
        ready = {e.replica for e in engines if e.state == "ready"}
        for notes in (self._sure, self._waits):
            for place in [place for place in notes if place[0] not in ready]:
                del notes[place]

    def _tell_problems(self) -> None:
        stuck = {name: wait.said for (_, name), wait in self._waits.items()}
        self._known.problems = {**self._refused, **stuck}

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise RuntimeError("start() was not called")
        return self._http


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def reason(error: BaseException) -> str:
    """What went wrong, in words."""
    return str(error) or type(error).__name__
