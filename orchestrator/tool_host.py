"""What a built-in tool may ask of the run that it works for."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.events import HistoryImported, ModelResult, ResultKept
from orchestrator.journal import Journal
from orchestrator.run_log import RunLog
from orchestrator.state import Shown
from orchestrator.tools import ChildRuns

MAX_FORKS = 16
"""A fork of a fork of ...: so many logs are looked into for a result."""


class RunHost:
    """A `ToolHost` over a conversation's log."""

    def __init__(self, journal: Journal, book: RunLog, children: ChildRuns | None) -> None:
        self.children = children
        self._journal = journal
        self._book = book

    async def kept(self, handle: str) -> str | None:
        """A result that was too long to be shown; in a fork also one of the original's."""
        conversation = self._book.lease.conversation
        for _ in range(MAX_FORKS):
            source = ""
            for recorded in reversed(await self._journal.read(conversation)):
                event = recorded.event
                if isinstance(event, ResultKept) and event.call_id == handle:
                    return event.text
                if isinstance(event, HistoryImported):
                    source = event.source
            if not source:
                break
            conversation = source
        return None

    def history(self) -> Sequence[Shown]:
        """What the model was shown before the turn whose calls are running now."""
        history = self._book.state.history
        for place in range(len(history) - 1, -1, -1):
            if isinstance(history[place], ModelResult):
                return history[:place]
        return history
