"""Connections to real MCP servers, over stdio and HTTP: kept, lost, made again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.mcp.failures import Declined, McpFailure, NotSent, OutcomeOpen, TimedOut
from orchestrator.mcp.result import as_text
from orchestrator.mcp.server import McpServer
from orchestrator.mcp.servers import McpServers
from serving.config.mcp import McpConfig
from serving.engines import ports

WORLD = Path(__file__).parents[1] / "mcp_world.py"
TOOLS = ["add", "change", "die", "environment", "fail", "large", "meta", "mixed", "note", "put"]
Connect = Callable[..., Awaitable[McpServer]]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 another process's doing has no event
            await asyncio.sleep(0.01)


class HttpWorld:
    """The server on a port, started and killed by hand."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.port = ports.free_port("127.0.0.1")
        self._line = [sys.executable, str(WORLD), str(folder), "--port", str(self.port), *flags]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._line)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@asynccontextmanager
async def servers(folder: Path, **config: Any) -> AsyncIterator[McpServer]:
    parsed = McpConfig.model_validate({"servers": {"world": config}})
    them = McpServers(parsed, folder / "stack", {**os.environ, "WORLD_TOKEN": "hush"})
    them.start()
    try:
        yield them["world"]
    finally:
        await them.stop()


def stdio(folder: Path, *flags: str) -> list[str]:
    return [sys.executable, str(WORLD), str(folder), *flags]


@pytest.fixture(params=["stdio", "stdio-2025", "http", "http-2025"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[McpServer]:
    protocol = "handshake" if request.param.endswith("2025") else "auto"
    common = {"protocol": protocol, "timeout_s": 20}
    if request.param.startswith("stdio"):
        async with servers(tmp_path, command=stdio(tmp_path), **common) as server:
            assert await server.listed(20)
            yield server
        return
    there = HttpWorld(tmp_path)
    there.start()
    try:
        url = f"http://127.0.0.1:{there.port}/mcp"
        async with servers(tmp_path, url=url, **common) as server:
            assert await server.listed(20)
            yield server
    finally:
        there.kill()


async def call(server: McpServer, tool: str, **arguments: Any) -> str:
    return as_text(await server.call(tool, arguments, timeout_s=20))


def ledger(folder: Path) -> list[str]:
    path = folder / "ledger"
    return path.read_text().splitlines() if path.exists() else []


async def test_all_pages_of_tools_are_listed_but_those_that_no_grammar_can_hold(
    world: McpServer, caplog: pytest.LogCaptureFixture
) -> None:
    listing = await world.listed(0)
    assert listing is not None
    assert [tool.name for tool in listing.tools][: len(TOOLS)] == TOOLS
    assert "bad" not in [tool.name for tool in listing.tools]
    assert (listing.server, listing.server_version) == ("world", "1.2")
    add = listing.tools[0]
    assert (add.read_only, add.idempotent) == (True, False)
    assert add.output_schema is not None


async def test_results_of_every_kind_become_text(world: McpServer) -> None:
    assert await call(world, "add", a=1, b=2) == '{"sum":3}'
    assert (await call(world, "mixed")).splitlines() == [
        "before",
        "[image: image/png, 3000 bytes]",
        "[resource file:///a.txt]",
        "inside",
        "[resource report at file:///report.pdf: the whole]",
    ]
    failed = await world.call("fail", {}, timeout_s=20)
    assert (failed.is_error, as_text(failed)) == (True, "the printer is on fire")


async def test_a_result_that_breaks_the_tools_own_promise_is_declined(world: McpServer) -> None:
    with pytest.raises(Declined, match="its answer cannot be used"):
        await call(world, "wrong")
    assert await call(world, "add", a=1, b=1) == '{"sum":2}'


async def test_what_the_loop_knows_of_a_call_goes_with_it(world: McpServer) -> None:
    meta = {"traceparent": "00-abc", "warmloop/idempotency-key": "c:1:x"}
    said = json.loads(as_text(await world.call("meta", {}, timeout_s=20, meta=meta)))
    assert said.items() >= meta.items()


async def test_a_change_of_tools_makes_a_new_version(world: McpServer, tmp_path: Path) -> None:
    before = await world.listed(0)
    extra = [{"name": "zoo", "inputSchema": {"type": "object"}}]
    (tmp_path / "extra.json").write_text(json.dumps(extra))
    await call(world, "change")
    await until(lambda: world.listing != before)
    assert world.listing is not None
    assert world.listing.tools[-1].name == "zoo"


async def test_a_call_that_takes_too_long_is_cancelled_at_the_server(
    world: McpServer, tmp_path: Path
) -> None:
    (tmp_path / "hold").touch()
    with pytest.raises(TimedOut, match=r"no result within 0\.5 s"):
        await world.call("wait", {}, timeout_s=0.5)
    await until(lambda: ledger(tmp_path) == ["wait", "cancelled"])
    assert await call(world, "add", a=1, b=1) == '{"sum":2}'


async def test_progress_of_a_call_is_heard(world: McpServer, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    heard: list[tuple[float, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        heard.append((done, message))
        if len(heard) == 3:
            (tmp_path / "hold").unlink()

    assert as_text(await world.call("wait", {}, timeout_s=20, progress=progress)) == "waited"
    assert heard[:3] == [(1, "round 1"), (2, "round 2"), (3, "round 3")]


async def test_sigkill_in_the_middle_of_a_call_leaves_its_outcome_open(
    world: McpServer, tmp_path: Path
) -> None:
    beside = asyncio.create_task(call(world, "wait"))
    (tmp_path / "hold").touch()
    await until(lambda: "wait" in ledger(tmp_path))
    with pytest.raises(OutcomeOpen):
        await call(world, "die", text="x")
    with pytest.raises(OutcomeOpen):
        await beside


async def test_a_stdio_server_that_died_is_started_again(tmp_path: Path) -> None:
    async with servers(tmp_path, command=stdio(tmp_path)) as server:
        assert await server.listed(20)
        with contextlib.suppress(OutcomeOpen):
            await call(server, "die", text="x")
        assert await call(server, "add", a=2, b=2) == '{"sum":4}'


async def test_nothing_of_a_servers_processes_is_left_when_it_is_stopped(tmp_path: Path) -> None:
    async with servers(tmp_path, command=stdio(tmp_path)) as server:
        assert await server.listed(20)
        pid = int((tmp_path / "pid").read_text())
        tree = [psutil.Process(pid), *psutil.Process(pid).parents()[:2]]
    assert not any(each.is_running() for each in tree)


async def test_a_server_sees_its_configured_environment_and_no_more(tmp_path: Path) -> None:
    env = {"TOKEN": "$WORLD_TOKEN", "MODE": "test"}
    async with servers(tmp_path, command=stdio(tmp_path), env=env) as server:
        assert await server.listed(20)
        seen = json.loads(await call(server, "environment"))
    assert (seen["TOKEN"], seen["MODE"]) == ("hush", "test")
    assert "PYTEST_CURRENT_TEST" not in seen


async def test_an_http_server_that_is_down_refuses_at_once_and_is_found_when_it_is_back(
    tmp_path: Path,
) -> None:
    there = HttpWorld(tmp_path)
    there.start()
    try:
        url = f"http://127.0.0.1:{there.port}/mcp"
        async with servers(tmp_path, url=url) as server:
            assert await server.listed(20)
            there.kill()
            with pytest.raises(McpFailure):
                await server.call("add", {"a": 1, "b": 1}, timeout_s=1)
            with pytest.raises(NotSent, match=r"ConnectError|it is (down|connecting)"):
                await server.call("add", {"a": 1, "b": 1}, timeout_s=1)
            there.start()
            await until(lambda: server.state == "up")
            assert await call(server, "add", a=1, b=1) == '{"sum":2}'
    finally:
        there.kill()


@pytest.mark.parametrize("flags", [(), ("--json",)])
@pytest.mark.parametrize("protocol", ["auto", "handshake"])
async def test_an_answer_over_http_that_is_too_long_fails_its_call_and_names_the_limit(
    tmp_path: Path, flags: tuple[str, ...], protocol: str
) -> None:
    there = HttpWorld(tmp_path, *flags)
    there.start()
    try:
        url = f"http://127.0.0.1:{there.port}/mcp"
        limits = {"max_message_bytes": 20_000, "protocol": protocol}
        async with servers(tmp_path, url=url, **limits) as server:
            assert await server.listed(20)
            with pytest.raises(Declined, match=r"20000 byte.*max_message_bytes"):
                await call(server, "large", size=100_000)
            assert await call(server, "large", size=1000) == "x" * 1000
    finally:
        there.kill()


async def test_tools_are_known_from_the_last_time_while_a_server_hangs(tmp_path: Path) -> None:
    async with servers(tmp_path, command=stdio(tmp_path)) as server:
        before = await server.listed(20)
    hung = stdio(tmp_path, "--hang")
    async with servers(tmp_path, command=hung, connect_timeout_s=0.3) as server:
        assert await server.listed(0) == before
        await until(lambda: server.state == "down")
        assert server.last_error == "it did not answer within 0.3 s"
        with pytest.raises(NotSent, match=r"^it is (down|connecting)$"):
            await server.call("add", {"a": 1, "b": 1}, timeout_s=0.1)


async def test_a_server_that_starts_slowly_is_waited_for_only_where_it_was_never_seen(
    tmp_path: Path,
) -> None:
    slow = stdio(tmp_path, "--slow-start", "1")
    async with servers(tmp_path, command=slow) as server:
        assert await server.listed(0) is None
        assert await server.listed(20) is not None


async def test_a_command_that_cannot_start_says_why(tmp_path: Path) -> None:
    code = "import sys; sys.exit('no licence')"
    async with servers(tmp_path, command=[sys.executable, "-c", code]) as server:
        await until(lambda: server.state == "down")
        assert server.last_error == "its process ended with status 1; its last words: no licence"


async def test_a_message_over_the_limit_ends_the_connection_and_says_so(tmp_path: Path) -> None:
    command = stdio(tmp_path)
    async with servers(tmp_path, command=command, max_message_bytes=100_000) as server:
        assert await server.listed(20)
        with pytest.raises(OutcomeOpen):
            await call(server, "large", size=200_000)
        assert "more than 100000 bytes" in server.last_error or await _said(server, "100000")


async def _said(server: McpServer, text: str) -> bool:
    await until(lambda: text in server.last_error)
    return True


async def test_a_front_door_that_is_killed_leaves_no_server_behind(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {str(WORLD.parents[1])!r})
from orchestrator.mcp.servers import McpServers
from serving.config.mcp import McpConfig
async def main():
    config = McpConfig.model_validate({{"servers": {{"world": {{"command": sys.argv[2:]}}}}}})
    servers = McpServers(config, Path(sys.argv[1]) / "stack")
    servers.start()
    assert await servers["world"].listed(20)
    print("up", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    line = [sys.executable, "-c", code, str(tmp_path), *stdio(tmp_path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as front:  # noqa: ASYNC220 it starts at once
        assert front.stdout is not None
        assert await asyncio.to_thread(front.stdout.readline) == b"up\n"
        server = psutil.Process(int((tmp_path / "pid").read_text()))
        front.send_signal(signal.SIGKILL)
    await until(lambda: not server.is_running())
