"""Writes a golden journal with the code of the checkout that it is run in.

    python tests/golden/make.py tests/golden/journal-NAME.sql     as SQLite
    python tests/golden/make.py tests/golden/postgres-NAME.sql    as PostgreSQL

Run it when the schema or the events change, before a release, and commit what it wrote: the file of
an older release stays as it is for ever. What the fold of each must give is in `folds.json`, which
`test_golden_journals.py` holds against today's code.
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from orchestrator.journal.base import Journal
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.loop import events as ev

MESSAGE = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "héllo"}]}
FUNCTION = {"type": "function", "name": "ask_client", "parameters": {"type": "object"}}


def item(text: str) -> dict[str, object]:
    return {**MESSAGE, "content": [{"type": "input_text", "text": text}]}


def finished() -> list[ev.AnyEvent]:
    """Two responses: parallel calls, a superseded attempt, every outcome; then a reply."""
    calls = [ev.Call(f"call_1_{n}", "look", f'{{"n": {n}}}') for n in range(4)]
    reply = ev.Call("call_3_0", "reply", '{"text": "the end"}')
    outcomes = ("ok", "error", "timeout", "outcome_unknown")
    return [
        ev.ConversationStarted("desk@2", 100.0, "acme", {"who": "me"}),
        ev.ResponseAccepted("resp_1", 101.0, [MESSAGE], {"model": "desk"}, "", "key-1", "acme"),
        ev.ModelIntent(1, 1, 101.0, "tool-call", "ab" * 32),
        ev.ModelRouted(1, 1, "big", "big-0", "home", 64),
        ev.OutputDelta(1, 1, "text", "let me"),
        ev.ModelFailed(1, 1, 102.0, "the process ended", "superseded", True, True, 12),
        ev.ModelIntent(1, 2, 103.0, "tool-call", "ab" * 32),
        ev.OutputDelta(1, 2, "call", '{"n"', "call_1_0", "look"),
        ev.OutputDelta(1, 2, "arguments", ": 0}", "call_1_0"),
        ev.ModelResult(1, 2, 104.0, "let me look", calls, "tool_calls", 90, 64, 20, 0.5, 0.9, 1.0),
        *(ev.ToolIntent(1, each.call_id, f"c:1:{each.call_id}", 104.0) for each in calls),
        *(
            ev.ToolResult(1, each.call_id, 105.0 - n, f"result {n}", outcome, 0.25)
            for n, (each, outcome) in enumerate(zip(calls, outcomes, strict=True))
        ),
        ev.ModelIntent(2, 1, 106.0),
        ev.ModelResult(2, 1, 107.0, "done", [], "stop", 150, 128, 5),
        ev.ResponseFinished("resp_1", 107.0, "completed"),
        ev.ResponseAccepted("resp_2", 108.0, [item("and?")], {"instructions": "Brief."}, "resp_1"),
        ev.ModelIntent(3, 1, 108.0, "finalise"),
        ev.ModelResult(3, 1, 109.0, "the end", [reply], "tool_calls", 170, 160, 8),
        ev.ResponseFinished("resp_2", 109.0, "completed"),
    ]


def limited() -> list[ev.AnyEvent]:
    """A fork that ran into a limit, and a response that was cancelled with a call open."""
    call = ev.Call("call_2_0", "ask_client", "{}")
    return [
        ev.ConversationStarted("big", 200.0),
        ev.HistoryImported("finished", "resp_1", [MESSAGE]),
        ev.ResponseAccepted("resp_3", 201.0, [item("go")], {"max_output_tokens": 5}),
        ev.ModelIntent(1, 1, 201.0),
        ev.ModelFailed(1, 1, 202.0, "no engine", "engine_unavailable", retry=True),
        ev.LimitReached("seconds", 60.5, 60.0, 262.0),
        ev.ResponseFinished("resp_3", 262.0, "incomplete", "max_seconds", "out of time"),
        ev.ResponseAccepted("resp_4", 300.0, [item("again")], {"tools": [FUNCTION]}),
        ev.ModelIntent(2, 1, 300.0),
        ev.ModelResult(2, 1, 301.0, "", [call], "tool_calls", 10, 0, 4),
        ev.CancelRequested("resp_4", 302.0),
        ev.ResponseFinished("resp_4", 302.0, "cancelled"),
    ]


def unfinished() -> list[ev.AnyEvent]:
    """A process died inside a tool."""
    call = ev.Call("call_1_0", "look", "{}")
    return [
        ev.ConversationStarted("desk@2", 400.0),
        ev.ResponseAccepted("resp_5", 401.0, [MESSAGE], {"store": False, "background": True}),
        ev.ModelIntent(1, 1, 401.0),
        ev.ModelResult(1, 1, 402.0, "", [call], "tool_calls", 10, 0, 4),
        ev.ToolIntent(1, "call_1_0", "c:1:call_1_0", 402.0),
    ]


def decided() -> list[ev.AnyEvent]:
    """A call that failed for a while, a timer, a long result, and a person's decision."""
    calls = [ev.Call(f"call_1_{n}", name, "{}") for n, name in enumerate(("buy", "wait", "read"))]
    asked = {"type": "mcp_approval_response", "approval_request_id": "apr_1", "approve": True}
    return [
        ev.ConversationStarted("desk@2", 500.0),
        ev.ResponseAccepted("resp_6", 501.0, [MESSAGE]),
        ev.ModelIntent(1, 1, 501.0),
        ev.CallReady(1, 1, calls[2]),
        ev.ToolIntent(1, "call_1_2", "c:1:call_1_2", 501.5, 1, "3", "00-ab-cd-01"),
        ev.ModelResult(1, 1, 502.0, "", calls, "tool_calls", 10, 0, 4),
        ev.ToolProgress(1, "call_1_2", 502.0, "half"),
        ev.ToolFailed(1, "call_1_2", 502.5, 1, "busy", "rate_limited", 503.0),
        ev.TimerSet(1, "call_1_1", 502.5, 900.0, "woken"),
        ev.ApprovalRequested(1, "call_1_0", "apr_1", 502.5, "required", "buy", "{}"),
        ev.ToolIntent(1, "call_1_2", "c:1:call_1_2", 503.0, 2),
        ev.ResultKept(1, "call_1_2", "a long text"),
        ev.ToolResult(1, "call_1_2", 504.0, "a long", "ok", 0.5, "", 0.25, {"left": 3.0}, True),
        ev.ToolResult(1, "call_1_1", 900.0, "woken"),
        ev.ResponseFinished("resp_6", 901.0, "completed"),
        ev.ResponseAccepted("resp_7", 950.0, [asked]),
        ev.ApprovalDecided("apr_1", "call_1_0", 950.0, True, "fine"),
        ev.ToolIntent(1, "call_1_0", "c:1:call_1_0", 951.0),
        ev.ToolResult(1, "call_1_0", 952.0, "bought"),
        ev.ModelIntent(2, 1, 952.0),
        ev.ModelResult(2, 1, 953.0, "done"),
        ev.ResponseFinished("resp_7", 953.0, "completed"),
        ev.Purged("response_accepted", 7, {"at": 954.0}),
    ]


async def write(journal: Journal) -> None:
    await journal.start()
    logs = {"finished": finished(), "limited": limited(), "open": unfinished()}
    if hasattr(ev, "ApprovalDecided"):  # not in 0.1.0
        logs["decided"] = decided()
    for name, events in logs.items():
        lease = await journal.lease(name, "golden", 10)
        assert lease is not None
        for event in events:
            await journal.append(lease, [event])
        await journal.release(lease)
    await journal.close()


def sqlite() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        asyncio.run(write(SqliteJournal(path)))
        connection = sqlite3.connect(path)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            return "\n".join([*connection.iterdump(), f"PRAGMA user_version={version};", ""])
        finally:
            connection.close()


async def postgres() -> str:
    from orchestrator.journal.postgres import PostgresJournal
    from serving.config.journal import JournalConfig
    from tests.postgres import Server

    server = Server()
    try:
        async with server.database() as url:
            await write(PostgresJournal(JournalConfig(url=url)))
            command = [server._bin / "pg_dump", "--inserts", "--no-owner", "--no-comments", url]
            dump = await asyncio.to_thread(subprocess.check_output, command, text=True)
    finally:
        server.close()
    # Without what is for psql alone, and what says nothing of the journal.
    idle = ("--", "\\", "SET ", "SELECT pg_catalog.set_config")
    lines = [line for line in dump.splitlines() if line and not line.startswith(idle)]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    file = Path(sys.argv[1])
    text = asyncio.run(postgres()) if file.name.startswith("postgres-") else sqlite()
    file.write_text(text, encoding="utf-8")
