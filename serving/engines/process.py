"""EngineProcess: one engine under a guardian, from its launch to its drained end.

    start ──▶ wait_ready ──▶ (serves) ──▶ stop
                 │ died first: EngineError with its last log lines
                 └ its port was taken meanwhile: started again on another one

A free port may be taken between asking for it and the engine's own bind, and whoever took it may
even answer like an engine. So an engine only counts as ready when the process that listens on the
port belongs to its own tree.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import aiohttp
import psutil

from serving.engines import guardian, kv_endpoints, start_failures
from serving.engines.base import EngineAdapter, EngineSpec
from serving.engines.ports import free_port
from serving.errors import EngineError

POLL_S = 0.2
PORT_ATTEMPTS = 3
LAST_LINES = 15
CAUSE_LINES = 150
"""Of the end of a log, where its cause of death is looked for: a trace or three of vLLM's."""
LOG_TAIL_BYTES = 256 * 1024
_PORT_TAKEN = re.compile(r"address already in use", re.IGNORECASE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# `(EngineCore pid=12) ERROR 11-22 21:30:00 [core.py:12] text` → `text`, as vLLM writes;
# `[2026-11-22 21:30:00 TP0] text` → `text`, as SGLang does.
_PREFIX = re.compile(
    r"^(\(\w+ pid=\d+\) ?)?([A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]+\] ?)?"
    r"(\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^\]]*\] ?)?"
)
_PROGRESS_BAR = re.compile(r"\d+%( Completed \||\|)")
_CHATTER = re.compile(r"^(\(\w+ pid=\d+\) ?)?(INFO|DEBUG) \d\d-\d\d ")


class EngineProcess:
    """Owns one engine; the engine dies with the process that holds this object."""

    def __init__(self, adapter: EngineAdapter, http: aiohttp.ClientSession) -> None:
        self._adapter = adapter
        self._http = http
        self._spec: EngineSpec | None = None
        self._log = Path()
        self._tree: guardian.Guarded | None = None

    @property
    def spec(self) -> EngineSpec:
        """What was started; its port may differ from the one asked for."""
        if self._spec is None:
            raise RuntimeError("the engine was not started")
        return self._spec

    def start(self, spec: EngineSpec, log_path: Path) -> None:
        """Launch the engine, at once; raises EngineError if its environment is missing."""
        command = self._adapter.command(spec)
        self._spec, self._log = spec, log_path
        # What an earlier engine said must not end up in the reason for this one's death.
        for path in (log_path, _before(log_path)):
            path.unlink(missing_ok=True)
        # An engine is thousands of modules, imported by each of its processes: where our own start
        # keeps no bytecode, theirs does (SGLang imports in 8 s of CPU instead of 18).
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", **command.env}
        self._tree = guardian.spawn(command.argv, env, log_path)

    async def wait_ready(self, timeout_s: float) -> None:
        """Return once the engine answers for its model.

        Raises EngineError, with its last log lines, when it dies first or time is up; it is then
        ended, in both cases.
        """
        started = time.monotonic()
        attempts = 1
        try:
            while not await self._is_ready():
                waited_s = time.monotonic() - started
                if self._tree is None or (status := self._tree.poll()) is not None:
                    if attempts < PORT_ATTEMPTS and _PORT_TAKEN.search(_tail(self._log)):
                        attempts += 1
                        self.start(_elsewhere(self.spec), self._log)
                        continue
                    raise self._failure(
                        f"ended with status {status} after {waited_s:.0f} s", status
                    )
                if waited_s > timeout_s:
                    raise self._failure(f"was not ready after ready_timeout_s: {timeout_s:.0f}")
                await asyncio.sleep(POLL_S)
        except BaseException:
            await self._close()
            raise

    def alive(self) -> bool:
        return self._tree is not None and self._tree.poll() is None

    def failure(self) -> EngineError:
        """Why an engine that was ready is not alive any more, with its last log lines."""
        status = self._tree.poll() if self._tree is not None else None
        return self._failure(f"ended with status {status}", status)

    async def stop(self, drain_s: float) -> None:
        """Let running requests finish for up to `drain_s`, then end the engine. Idempotent.

        Whoever calls has taken the engine out of the table before, so that nothing new arrives.
        """
        deadline = time.monotonic() + drain_s
        while time.monotonic() < deadline and await self.busy():  # noqa: ASYNC110 it is remote
            await asyncio.sleep(POLL_S)
        await self._close()

    async def _close(self) -> None:
        if self._tree is not None:
            await asyncio.to_thread(self._tree.close)
        if self._spec is not None and self._spec.kv is not None:
            kv_endpoints.remove(self._spec.kv)

    async def busy(self) -> bool:
        """True while it runs or queues requests; False when it does not answer."""
        if not self.alive():
            return False
        try:
            load = await self._adapter.load(self._http, self.spec.url)
        except (aiohttp.ClientError, TimeoutError):
            return False  # it does not answer; there is nothing to wait for
        return load.running + load.waiting > 0

    async def _is_ready(self) -> bool:
        try:
            if not await self._adapter.ready(self._http, self.spec.url):
                return False
        except (aiohttp.ClientError, TimeoutError):
            return False
        return await asyncio.to_thread(self._listens)

    def _listens(self) -> bool:
        """True when the engine's port is held by a process of its own tree."""
        if self._tree is None:
            return False
        for pid in guardian.descendants(self._tree.pid):
            try:
                connections = psutil.Process(pid).net_connections("tcp")
            except psutil.Error:
                continue
            for one in connections:
                if one.status == psutil.CONN_LISTEN and one.laddr.port == self.spec.port:
                    return True
        return False

    def _failure(self, what: str, status: int | None = None) -> EngineError:
        said = _tail(self._log).splitlines()
        lines = "\n".join(f"    {line}" for line in meaningful(said))
        why = start_failures.cause("\n".join(said[-CAUSE_LINES:]), status)
        return EngineError(
            f"the engine of {self.spec.model} {what}{f': {why}' if why else ''}; "
            f"its last words:\n{lines}\n(whole log: {self._log})"
        )


def _elsewhere(spec: EngineSpec) -> EngineSpec:
    """The same engine on other ports: which of them was taken, its log does not say."""
    kv = spec.kv
    if kv is not None:
        kv_endpoints.remove(kv)
        kv = kv_endpoints.on(spec.host)
    return replace(spec, port=free_port(spec.host), kv=kv)


def meaningful(lines: Iterable[str], count: int = LAST_LINES) -> list[str]:
    """The last lines that tell a person something.

    Left out: empty lines, progress bars, repetitions, log prefixes, and the indented lines of
    tracebacks; what remains of a traceback is its exception. INFO lines only count where nothing
    speaks of an error.
    """
    kept: list[str] = []
    chatter: set[str] = set()
    for line in lines:
        plain = _COLOUR.sub("", line.rstrip().rpartition("\r")[2])
        text = _PREFIX.sub("", plain)
        if not text.strip() or text[0].isspace() or _PROGRESS_BAR.search(text):
            continue
        if text.startswith(("Traceback (", "During handling of", "The above exception")):
            continue
        if text in kept:
            continue
        kept.append(text[:500])
        if _CHATTER.match(plain):
            chatter.add(kept[-1])
    loud = [text for text in kept if text not in chatter]
    return (loud if any("error" in text.lower() for text in loud) else kept)[-count:]


def _before(log: Path) -> Path:
    return log.with_name(log.name + ".1")


def _tail(log: Path) -> str:
    """The end of a log; of its predecessor too when it has only just begun."""
    text = ""
    for path in (log, _before(log)):
        if len(text) < LOG_TAIL_BYTES and path.exists():
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
                text = file.read().decode(errors="replace") + text
    return text
