"""What a built-in tool may ask of the run that it works for."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchestrator.journal.base import Journal
from orchestrator.loop.events import HistoryImported, ModelResult, ResultKept, ToolResult
from orchestrator.loop.state import Shown
from orchestrator.tools.base import ChildRuns
from orchestrator.worker.run_log import RunLog

NOTE = "note"
MAX_NOTES = 200
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

    async def notes(self) -> list[str]:
        """From the log, which keeps also what has left the prompt; the newest so many."""
        written: dict[str, str] = {}
        found: list[str] = []
        for recorded in await self._journal.read(self._book.lease.conversation):
            event = recorded.event
            if isinstance(event, ModelResult):
                written |= {c.call_id: c.arguments for c in event.calls if c.name == NOTE}
            elif isinstance(event, ToolResult) and event.outcome == "ok":
                arguments = written.pop(event.call_id, "")
                if arguments:
                    found.append(msgspec.json.decode(arguments)["text"])
        return found[-MAX_NOTES:]

    def history(self) -> Sequence[Shown]:
        """What the model was shown before the turn whose calls are running now."""
        state = self._book.state
        history = state.history
        if state.run is not None and state.run.phase == "asking":
            return list(history)  # the turn is still being written
        for place in range(len(history) - 1, -1, -1):
            if isinstance(history[place], ModelResult):
                return history[:place]
        return history
