"""Rolling restarts: every engine of a model replaced, one after another, and no turn fails.

    first the new one   new one ready ──▶ an old one drains ──▶ gone ──▶ the next new one ...
    in place            an old one drains ──▶ gone ──▶ new one ready ──▶ the next old one ...

The first way never has fewer engines than before, and needs room for one more. In place needs none,
and is one engine short meanwhile: with one replica the model is away for as long as a start takes.
Serve does the replacing (a redeploy with a surge of one replica, or of none); each new replica
waits until there is room for it (`EngineReplica._wait_for_room`), since Serve would not wait for
those that drain. Here it is decided how, and followed through the directory, in rounds: engines
carry the number of the restart that they came with.

A new engine that cannot start is tried again with growing pauses, like any other. Until it starts,
the old ones go on serving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from serving.cluster.commands import Order
from serving.config.model import ModelConfig
from serving.config.sections import nearest
from serving.preflight import GIB, memory_gib
from serving.tables.base import Engine

Deploy = Callable[[str, int, bool], None]
"""(model, round, surge): begin to replace; returns at once."""
Free = Callable[[], tuple[float, float]]
"""Free memory in bytes, free GPUs."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a restart goes, or `refusal`: why it does not."""

    surge: bool = True
    says: str = ""
    refusal: str = ""


def choose(name: str, model: ModelConfig, count: int, in_place: bool, free: Free) -> Way:
    """`count` engines serve now."""
    one_less = f"{count - 1} of {count} engines serve meanwhile"
    gap = "no engine serves meanwhile, and turns are refused with 503 until the new one is ready"
    if in_place:
        return Way(False, f"in place: {one_less if count > 1 else gap}")
    memory_bytes, gpus = free()
    lacking = ""
    if model.gpus > gpus:
        lacking = f"it takes {model.gpus:g} GPUs, and {gpus:g} are free"
    elif not model.gpus and memory_gib(model) * GIB > memory_bytes:
        lacking = (
            f"it takes {memory_gib(model):.1f} GiB of memory, "
            f"and {memory_bytes / GIB:.1f} GiB are available"
        )
    if not lacking:
        return Way(True, "the new engine first, then the old one drains: no turn is refused")
    if count > 1:
        return Way(False, f"there is no room for one engine more ({lacking}): in place, {one_less}")
    return Way(
        refusal=f"models.{name}: there is no room for a second engine ({lacking}); "
        f"free some, or restart it in place with --in-place: {gap}"
    )


@dataclass(slots=True)
class _Going:
    """One restart on its way."""

    order: Order
    round: int
    wanted: int
    seen: Mapping[str, str]


class Restarts:
    """Takes orders, and says of each what happens. One restart at a time for each model."""

    def __init__(self, models: Mapping[str, ModelConfig], deploy: Deploy, free: Free) -> None:
        self._models = models
        self._deploy = deploy
        self._free = free
        self._round = 0
        self._going: dict[str, _Going] = {}

    def ask(self, order: Order, engines: Sequence[Engine]) -> None:
        """Begin, or refuse with a sentence."""
        try:
            self._begin(order, engines)
        except Exception as error:  # whatever Ray raises: a restart must not end the cluster
            order.say(f"Ray did not take it: {error!r}", "failed")

    def _begin(self, order: Order, engines: Sequence[Engine]) -> None:
        name = order.restart.model
        model = self._models.get(name)
        if model is None:
            order.say(f"{name!r} is no model of ours; {nearest(name, [*self._models])}", "failed")
            return
        if name in self._going:
            order.say(f"{name} is being restarted already; wait for its end", "failed")
            return
        mine = [e for e in engines if e.model == name and e.state == "ready"]
        way = choose(name, model, len(mine), order.restart.in_place, self._free)
        if way.refusal:
            order.say(way.refusal, "failed")
            return
        order.say(way.says)
        self._round += 1
        seen = {e.replica: e.state for e in engines}
        self._deploy(name, self._round, way.surge)
        self._going[name] = _Going(order, self._round, model.first_replicas, seen)

    def take(self, engines: Sequence[Engine]) -> None:
        """The directory's newest snapshot."""
        for name, going in list(self._going.items()):
            mine = [e for e in engines if e.model == name]
            _say_changes(going, mine)
            new = [e for e in mine if e.round >= going.round]
            ready = [e.replica for e in new if e.state == "ready"]
            old = [e for e in mine if e.round < going.round and e.state != "dead"]
            if len(ready) >= going.wanted and not old:
                going.order.say(f"{name} is restarted: {', '.join(ready)}", "done")
                del self._going[name]
            elif failed := [e for e in new if e.state == "dead"]:
                still = sum(e.state == "ready" for e in mine)
                going.order.say(
                    f"the new engine cannot start: {failed[0].reason}\n{still} engine"
                    f"{'s' * (still != 1)} of {name} go on serving. It is tried again by itself, "
                    "and the restart goes on when it starts; see warmloop status",
                    "failed",
                )
                del self._going[name]


def _say_changes(going: _Going, engines: Sequence[Engine]) -> None:
    now = {e.replica: e.state for e in engines}
    for engine in engines:
        if going.seen.get(engine.replica) != engine.state and engine.state != "dead":
            why = f": {engine.reason}" if engine.reason not in ("", engine.state) else ""
            going.order.say(f"{engine.replica} is {engine.state}{why}")
    for replica in going.seen.keys() - now.keys():
        if replica.rpartition("-")[0] == going.order.restart.model:
            going.order.say(f"{replica} is gone")
    going.seen = now
