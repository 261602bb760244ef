"""How long do calls of a tool take, as far as this process has seen?

Of each agent's tools the newest times are kept; what is said is the shorter end of them, since who
is ready a little too early loses less than who comes too late. Bounded: the tools that were not
used for the longest are forgotten. Nothing of it must survive: a new process learns again.
"""

from __future__ import annotations

from collections import OrderedDict, deque

KEPT = 16
"""Times of one tool."""
LEAST = 3
"""With fewer nothing is said."""
SHARE = 0.25
MAX_TOOLS = 4096


class ToolTimes:
    """Of all agents of a process."""

    def __init__(self) -> None:
        self._times: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def took(self, agent: str, tool: str, seconds: float) -> None:
        """A call of that tool has run."""
        key = agent, tool
        times = self._times.setdefault(key, deque(maxlen=KEPT))
        times.append(seconds)
        self._times.move_to_end(key)
        if len(self._times) > MAX_TOOLS:
            self._times.popitem(last=False)

    def takes_s(self, agent: str, tool: str) -> float | None:
        """A quarter of its calls took less; None while too few are known."""
        times = self._times.get((agent, tool), ())
        return sorted(times)[int(SHARE * len(times))] if len(times) >= LEAST else None
