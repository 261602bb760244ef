"""Claims: this process's own word that it deals with a conversation.

There is one claim a conversation at a time, so a conversation has one response in progress. What
other processes may do with it is not said here but by its lease (`leases.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.journal.base import Lease
from orchestrator.worker.runner import Runner


@dataclass(slots=True, eq=False)
class Claim:
    """One conversation, from the moment that somebody here deals with it to its release."""

    conversation: str
    done: asyncio.Future[None]
    lease: Lease | None = None
    runner: Runner | None = None
    task: asyncio.Task[None] | None = None
    cancel_id: str = ""
    patient: bool = False
    """Somebody waits for its end, whichever process brings it about."""
    again: bool = False
    """Look into the log once more after this claim: something came while it was letting go."""
    at_end: Callable[[], None] | None = None

    @property
    def fenced(self) -> bool:
        return self.runner is not None and self.runner.fenced


class Claims:
    """All claims of a worker, by conversation."""

    def __init__(self) -> None:
        self._held: dict[str, Claim] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Claim]:
        """A snapshot: claims come and go while somebody iterates."""
        return iter(list(self._held.values()))

    def get(self, conversation: str) -> Claim | None:
        return self._held.get(conversation)

    def take(self, conversation: str) -> Claim:
        """Nobody else may have it now."""
        claim = Claim(conversation, asyncio.get_running_loop().create_future())
        self._held[conversation] = claim
        return claim

    def drop(self, claim: Claim) -> None:
        if self._held.get(claim.conversation) is claim:
            del self._held[claim.conversation]
