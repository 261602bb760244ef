"""By when is a turn wanted, and how urgently? Two headers, and what happens when time is up.

    x-warmloop-deadline-s: 20            seconds from the request's arrival
    x-warmloop-urgency: interactive      or batch: after all interactive ones

At the deadline the turn is cancelled wherever it is: in the queue, or in the engine, whose
connection is closed. The client gets 504 `deadline_exceeded`, or, where an answer has begun, an
error event. A spare turn, for which nobody waits, ends in the same way as soon as anybody comes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from types import TracebackType

from router.tenancy.tenants import Tenant
from router.turn import NO_TIME, Urgency
from serving.errors import BadRequest, DeadlineExceeded, Unavailable

DEADLINE_HEADER = "x-warmloop-deadline-s"
URGENCY_HEADER = "x-warmloop-urgency"
LONGEST_S = 86_400.0


def seconds_of(headers: Mapping[str, str], default_s: float | None) -> float | None:
    """How many seconds after its arrival the turn is no longer wanted. Raises BadRequest."""
    text = headers.get(DEADLINE_HEADER)
    if text is None:
        return default_s
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_S:
        raise BadRequest(
            f"{DEADLINE_HEADER}: {text[:40]!r} is no number of seconds above 0 and up to "
            f"{LONGEST_S:.0f}; send e.g. 30",
            param=DEADLINE_HEADER,
        )
    return seconds


def urgency_of(headers: Mapping[str, str], tenant: Tenant) -> Urgency:
    """What the client asks for, within what its tenant may. Raises BadRequest."""
    text = headers.get(URGENCY_HEADER, "interactive")
    if text not in ("interactive", "batch"):
        raise BadRequest(
            f"{URGENCY_HEADER}: {text[:40]!r} is neither interactive nor batch; send one of them",
            param=URGENCY_HEADER,
        )
    return "batch" if text == "batch" or tenant.batch_only else "interactive"


class _Cut:
    """A block that is cancelled when its time is up, and then says why: it raises `why()`."""

    def __init__(self, seconds: float | None, why: Callable[[], Exception]) -> None:
        self._timeout = asyncio.timeout(seconds)
        self._why = why

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self._why() from None


class Spare(_Cut):
    """A block that ends when somebody else's turn comes, and then says so."""

    def __init__(self) -> None:
        super().__init__(None, _no_time)

    def give_way(self) -> None:
        """Cancel the block."""
        self._timeout.reschedule(asyncio.get_running_loop().time())


def _no_time() -> Unavailable:
    return Unavailable("somebody's turn has come", code=NO_TIME)


_FOREVER = nullcontext()


def until(
    deadline_s: float | None, clock: Callable[[], float]
) -> AbstractAsyncContextManager[None]:
    """A block that ends at the deadline, by `clock`. Raises DeadlineExceeded."""
    if deadline_s is None:
        return _FOREVER
    left_s = deadline_s - clock()
    if left_s <= 0:
        raise exceeded()
    return _Cut(left_s, exceeded)


def exceeded() -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the deadline of the request ({DEADLINE_HEADER}, or admission.deadline_s) has passed, and "
        "its work was stopped"
    )
