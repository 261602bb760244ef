"""The end of a replica that serves: nothing new, nothing cut.

    told the directory ──▶ every front door has heard ──▶ quiet for a moment ──▶ over
                             │ a turn that was already on its way is served like any other
                             └ the limit: what still runs is cut

A front door hears of it through a long poll, so a turn may still come for an instant; and one that
was sent may not be in the engine's own figures yet. So the engine lives on until it has been idle
for `QUIET_S` without a break, and until every front door that is there has asked for news since.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

POLL_S = 0.2
QUIET_S = 1.0
HEARD_S = 10.0
"""A front door that has not asked for so long is not waited for."""


class Line(Protocol):
    """What must be known to end a replica well."""

    async def busy(self) -> bool:
        """Does the engine run or queue anything?"""

    async def heard(self) -> bool:
        """Does every front door know that it shall send nothing more?"""

    async def left_s(self) -> float:
        """What an order from above leaves, e.g. when the whole stack stops; else infinite."""


async def until_quiet(
    line: Line,
    limit_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> bool:
    """Wait until nothing runs and nothing can come; False when the limit came first."""
    began_s = quiet_s = clock()
    while clock() - began_s < limit_s and await line.left_s() > 0:
        if await line.busy():
            quiet_s = clock()
        elif clock() - quiet_s >= QUIET_S and (clock() - began_s >= HEARD_S or await line.heard()):
            return True
        await sleep(POLL_S)
    return False
