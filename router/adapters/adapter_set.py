"""Which adapters shall be where: a small value, the file that keeps it, and what is left to do.

    AdapterSet  loaded   at run time: each with its model and the folder that engines read
                leaving  (name, replica): unloaded, but that replica has not confirmed it yet

    plan(wanted, leaving, engines, sure) ──► steps: load this there, unload that there

A replica that was away while something changed is brought up to date when it is back; one that
starts anew begins without run-time adapters, and gets them all. `leaving` is written before
anything is loaded as well: a front door that dies half-way through a load finds what it must take
back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from serving import whole_file
from serving.config.stack import StackConfig
from serving.errors import ConfigError
from serving.tables.base import Engine

MAX_LEAVING = 4096
"""Unconfirmed removals that are remembered; a replica that is gone for good never confirms."""


class Wanted(msgspec.Struct, frozen=True):
    """An adapter that every replica of its model shall have."""

    name: str
    model: str
    folder: str
    """What engines are told to read."""


class Leaving(msgspec.Struct, frozen=True):
    """An adapter that a replica shall not have any more."""

    name: str
    replica: str


class AdapterSet(msgspec.Struct, frozen=True):
    """What was loaded at run time, and what has not been unloaded everywhere."""

    loaded: tuple[Wanted, ...] = ()
    leaving: tuple[Leaving, ...] = ()

    def get(self, name: str) -> Wanted | None:
        return next((each for each in self.loaded if each.name == name), None)

    def of_model(self, model: str) -> list[Wanted]:
        return [each for each in self.loaded if each.model == model]

    def with_loaded(self, wanted: Wanted) -> AdapterSet:
        """It is wanted from now on, instead of one of the same name, and leaves nowhere."""
        others = [each for each in self.loaded if each.name != wanted.name]
        staying = [each for each in self.leaving if each.name != wanted.name]
        return AdapterSet((*others, wanted), tuple(staying))

    def without(self, name: str, replicas: Iterable[str]) -> AdapterSet:
        """It is not wanted any more; these replicas may have it."""
        others = tuple(each for each in self.loaded if each.name != name)
        new = dict.fromkeys((*self.leaving, *(Leaving(name, replica) for replica in replicas)))
        return AdapterSet(others, tuple(new)[-MAX_LEAVING:])

    def confirmed(self, gone: Collection[Leaving]) -> AdapterSet:
        """These replicas do not have it any more."""
        return AdapterSet(self.loaded, tuple(each for each in self.leaving if each not in gone))


class AdapterFile:
    """Keeps an AdapterSet through restarts. Several front doors of one machine may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None

    def read(self) -> AdapterSet:
        """Empty when there is no file. Raises ConfigError when it cannot be understood."""
        try:
            stat = self._path.stat()
            found = msgspec.json.decode(self._path.read_bytes(), type=AdapterSet)
        except FileNotFoundError:
            return AdapterSet()
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(
                f"{self._path}: cannot be read ({error}); it lists the adapters loaded at run "
                "time: remove it, and load them again"
            ) from None
        self._seen = (stat.st_mtime_ns, stat.st_ino)
        return found

    def changed(self) -> bool:
        """True when somebody else has written it since we read or wrote it."""
        try:
            stat = self._path.stat()
        except OSError:
            return False
        return (stat.st_mtime_ns, stat.st_ino) != self._seen

    def write(self, value: AdapterSet) -> None:
        """Whole or not at all, and readable by its owner only. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        whole_file.write(self._path, msgspec.json.encode(value))
        stat = self._path.stat()
        self._seen = (stat.st_mtime_ns, stat.st_ino)


class KnownAdapters:
    """The names that can be asked for, as the router needs them for each turn."""

    def __init__(self, config: StackConfig) -> None:
        self._configured = config.adapters
        self._models = {name: name for name in config.models}
        self.parents: Mapping[str, str] = {}
        """Configured and loaded at run time: name → model."""
        self.owners: Mapping[str, str] = {}
        """The same, and each model's own name: nobody else's adapter may be called so."""
        self.leaving: frozenset[str] = frozenset()
        """Unloaded, though an engine may still list them."""
        self.problems: dict[str, str] = {}
        """Why an adapter is not everywhere where it should be, in a sentence."""
        self.take(AdapterSet())

    def take(self, value: AdapterSet) -> None:
        loaded = {each.name: each.model for each in value.loaded if each.model in self._models}
        self.parents = loaded | self._configured
        self.owners = {**self.parents, **self._models}
        self.leaving = frozenset(each.name for each in value.leaving) - self.parents.keys()


@dataclass(frozen=True, slots=True)
class Step:
    """Load `name` from `folder` into an engine; with no folder: unload it."""

    engine: Engine
    name: str
    folder: str | None


Sure = Mapping[tuple[str, str], str]
"""(replica, adapter) → the folder that this replica is known to have it from."""


def plan(
    wanted: Collection[Wanted],
    leaving: Collection[Leaving],
    engines: Collection[Engine],
    sure: Sure,
) -> Iterator[Step]:
    """What must be done, or at least looked at, so that every ready replica has what it should."""
    by_replica: dict[str, set[str]] = {}
    for gone in leaving:
        by_replica.setdefault(gone.replica, set()).add(gone.name)
    for engine in engines:
        if engine.state != "ready":
            continue
        for name in sorted(by_replica.get(engine.replica, ())):
            yield Step(engine, name, None)
        for each in wanted:
            if each.model != engine.model:
                continue
            known = sure.get((engine.replica, each.name))
            if known != each.folder or each.name not in engine.adapters:
                yield Step(engine, each.name, each.folder)
