"""A command as an MCP transport: one JSON message a line on its stdin and stdout, under a guardian.

The guardian owns the whole process tree: a front door that is killed leaves no server behind, and a
server's own children go with it. Its stderr goes to a bounded log. Ending follows the protocol:
stdin closes, the server has a moment to leave by itself, then SIGTERM, then SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import mcp_types
from mcp.shared._context_streams import create_context_streams
from mcp.shared.message import SessionMessage

from orchestrator.mcp.failures import ServerLost
from serving.engines import guardian

INHERITED = ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TZ", "USER")
"""What a server may see of the front door's environment, besides what it is configured to get."""
LEAVE_S = 1.0
GRACE_S = 2.0
LAST_WORDS_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Command:
    """What to start, and with what."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path | None
    log: Path
    max_message_bytes: int


@asynccontextmanager
async def stdio_transport(command: Command) -> AsyncIterator[tuple[object, object]]:
    """The streams of a fresh process. Raises ServerLost when it ends, with what it said last."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    began_at = command.log.stat().st_size if command.log.exists() else 0
    tree = guardian.spawn(
        command.argv,
        {**inherited, **command.env},
        command.log,
        GRACE_S,
        cwd=command.cwd,
        spoken=True,
    )
    try:
        async with _Pipes(tree, command, began_at) as pipes:
            yield pipes.incoming, pipes.outgoing
    finally:
        with anyio.CancelScope(shield=True):
            await _end(tree)


class _Pipes:
    """The two tasks between a process's pipes and a session's streams."""

    def __init__(self, tree: guardian.Guarded, command: Command, began_at: int) -> None:
        self._tree = tree
        self._command = command
        self._began_at = began_at
        self._group = anyio.create_task_group()
        self._to_session, self.incoming = create_context_streams[SessionMessage | Exception](0)
        self.outgoing, self._from_session = create_context_streams[SessionMessage](0)

    async def __aenter__(self) -> _Pipes:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=self._command.max_message_bytes)
        self._reading, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._tree.stdout
        )
        writing, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, self._tree.stdin
        )
        self._writer = asyncio.StreamWriter(writing, protocol, None, loop)
        await self._group.__aenter__()
        self._group.start_soon(self._read, reader)
        self._group.start_soon(self._write, self._writer)
        return self

    async def __aexit__(self, *error: object) -> bool | None:
        try:
            self._group.cancel_scope.cancel()
            return await self._group.__aexit__(*error)  # type: ignore[arg-type]
        finally:
            self._writer.close()  # its stdin ends: the protocol's way to say goodbye
            self._reading.close()
            for stream in (self._to_session, self.incoming, self.outgoing, self._from_session):
                stream.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        limit = self._command.max_message_bytes
        while True:
            try:
                line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                break
            except asyncio.LimitOverrunError:
                raise ServerLost(
                    f"it sent a message of more than {limit} bytes (max_message_bytes)"
                ) from None
            try:
                message = mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValueError:
                continue  # servers print all kinds of things on stdout; it is none of ours
            await self._to_session.send(SessionMessage(message))
        with anyio.CancelScope(shield=True):  # the session ends now, and shall hear why
            await self._to_session.aclose()
            said = await anyio.to_thread.run_sync(self._last_words)
        raise ServerLost(said)

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        async with self._from_session:
            async for item in self._from_session:
                text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                writer.write(text.encode() + b"\n")
                with suppress(ConnectionError):  # the reader sees its end, and says so
                    await writer.drain()

    def _last_words(self) -> str:
        try:
            said = f"its process ended with status {self._tree.wait(GRACE_S)}"
        except TimeoutError:
            said = "it closed its stdout"
        with suppress(OSError), self._command.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(min(size, max(self._began_at, size - LAST_WORDS_BYTES)))
            lines = log.read().decode(errors="replace").strip().splitlines()
            if lines:
                said += f"; its last words: {' / '.join(lines[-3:])[-500:]}"
        return said


async def _end(tree: guardian.Guarded) -> None:
    """Wait for the end of the tree, however often this task is cancelled meanwhile."""
    ending = asyncio.ensure_future(asyncio.to_thread(_stop, tree))
    cancelled: asyncio.CancelledError | None = None
    while not ending.done():
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _stop(tree: guardian.Guarded) -> None:
    with suppress(TimeoutError):
        tree.wait(LEAVE_S)
    tree.close()
