"""The states of conversations that nobody runs, kept so that the next turn need not read a log.

A cache, never the truth: the journal has all of it. It is bounded, and may be emptied at any time;
a conversation that is not in it costs disk, and no memory.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from orchestrator.journal.base import Journal, Lease
from orchestrator.loop.machine import fold_all
from orchestrator.loop.prompt import Prompt
from orchestrator.loop.state import State
from orchestrator.worker.runner import Runner

MAX_PARKED = 256
"""Idle conversations whose state is kept in memory; others are folded from the log again."""


@dataclass(slots=True)
class Parked:
    state: State = field(default_factory=State)
    prompt: Prompt | None = None
    """As far as it was rendered."""
    token: int = 0
    """Of the lease under which it was true."""


class Parking:
    """Idle states, the longest unused of them evicted first."""

    def __init__(self, journal: Journal, max_parked: int = MAX_PARKED) -> None:
        self._journal = journal
        self._max_parked = max_parked
        self._parked: OrderedDict[str, Parked] = OrderedDict()

    def __len__(self) -> int:
        return len(self._parked)

    def keep(self, lease: Lease, runner: Runner) -> None:
        """Only what the log says may be kept: an idle state has nothing that is not stored."""
        if runner.is_idle:
            self._put(lease, Parked(runner.state, runner.prompt))

    def put_back(self, lease: Lease, parked: Parked) -> None:
        """What `load` gave, when nothing was done with it."""
        if parked.state.run is None and parked.state.seq > 0:
            self._put(lease, parked)

    def _put(self, lease: Lease, parked: Parked) -> None:
        parked.token = lease.token
        self._parked[lease.conversation] = parked
        self._parked.move_to_end(lease.conversation)
        if len(self._parked) > self._max_parked:
            self._parked.popitem(last=False)

    def forget(self, conversation: str) -> None:
        self._parked.pop(conversation, None)

    async def load(self, lease: Lease) -> Parked:
        """The state as of now: the parked one, and what the log has beyond it.

        A token further than one beyond the parked one's says that another process has held the
        conversation meanwhile. It may have purged some of what was read: all is read again.
        """
        parked = self._parked.pop(lease.conversation, None) or Parked()
        if lease.token > parked.token + 1:
            parked = Parked()
        if lease.token > 1:  # the first lease ever is on an empty log
            recorded = await self._journal.read(lease.conversation, parked.state.seq)
            fold_all(recorded, parked.state)
        return parked
