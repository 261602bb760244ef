"""What the router itself costs in a simulation: CPU by what it does, and bytes of what it knows.

Simulated engines and agents run in the same thread. So each entry into the router is timed, by the
thread's own clock: calls, the pieces of a wait, and timers that it has set on the loop.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextvars import Context
from types import FunctionType, ModuleType, TracebackType
from typing import Any, TypeVar, TypeVarTuple

from benchmarks.virtual_time import VirtualLoop

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")
TIMERS = "timers"


class Meter:
    """CPU seconds by name. `with meter("began"): ...`; `await meter.through("place", coroutine)`"""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.counted = True
        """False while a simulation warms up."""

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    def add(self, name: str, seconds: float) -> None:
        if self.counted:
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def __call__(self, name: str) -> _Span:
        return _Span(self, name)

    async def through(self, name: str, steps: Coroutine[Any, Any, Result]) -> tuple[Result, float]:
        """The result, and the CPU seconds that it took; what others do meanwhile is not counted."""
        piecewise = _Pieces(steps)
        try:
            return await piecewise, piecewise.seconds
        finally:
            self.add(name, piecewise.seconds)


class _Span:
    __slots__ = ("_meter", "_name", "_since")

    def __init__(self, meter: Meter, name: str) -> None:
        self._meter = meter
        self._name = name

    def __enter__(self) -> None:
        self._since = time.thread_time()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._meter.add(self._name, time.thread_time() - self._since)


class _Pieces:
    """An awaitable that times the steps of another."""

    def __init__(self, steps: Coroutine[Any, Any, Any]) -> None:
        self._steps = steps
        self.seconds = 0.0

    def __await__(self) -> Generator[Any, Any, Any]:
        got: Any = None
        error: BaseException | None = None
        while True:
            since = time.thread_time()
            try:
                waits_for = self._steps.send(got) if error is None else self._steps.throw(error)
            except StopIteration as done:
                return done.value
            finally:
                self.seconds += time.thread_time() - since
            got = error = None
            try:
                got = yield waits_for
            except BaseException as thrown:  # it is the coroutine's to deal with
                error = thrown


def metered(meter: Meter) -> Callable[[], VirtualLoop]:
    """Makes loops on which the router's own timers count."""

    class Metered(VirtualLoop):
        def call_at(
            self,
            when: float,
            callback: Callable[[*Arguments], object],
            *args: *Arguments,
            context: Context | None = None,
        ) -> asyncio.TimerHandle:
            owner = type(getattr(callback, "__self__", None)).__module__
            if not owner.startswith("router."):
                return super().call_at(when, callback, *args, context=context)

            def timed() -> None:
                with meter(TIMERS):
                    callback(*args)

            return super().call_at(when, timed, context=context)

    return Metered


_NOT_HELD = (type, ModuleType, FunctionType, asyncio.AbstractEventLoop)


def held_bytes(roots: Iterable[object]) -> int:
    """All that can be reached from these objects, each once: what they keep in memory."""
    seen: set[int] = set()
    waiting = list(roots)
    total = 0
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, _NOT_HELD):
            continue
        seen.add(id(each))
        total += sys.getsizeof(each)
        waiting.extend(gc.get_referents(each))
    return total
