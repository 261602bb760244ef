"""Gateway benchmark, a replica dies: what becomes of 320 streams when one of four is killed?

The engines are simulated ones that speak word by word; the busiest is killed (SIGKILL) when every
stream has begun. Half of the streams are plain text, half have a grammar (`response_format`), which
nobody but the engine can take up in the middle. Counted, for each kind:

    whole    the text to its last word, and [DONE]
    error    an error event, after which the stream ends
    cut      the connection ends, and nothing says why
    wrong    [DONE], after a text that is not the whole one
    refused  another status than 200
    hung     no end within 30 s of the kill
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import aiohttp

from benchmarks.gateway_doors import Door
from benchmarks.gateway_engine import CHAT_PATH, MODEL
from serving.engines import adapter_for
from serving.engines.ports import free_port

STREAMS = 320
ENGINES = 4
WORDS = 80
WORDS_PER_S = 20
HANG_S = 30.0
OUTCOMES = ("whole", "error", "cut", "wrong", "refused", "hung")
KINDS = ("plain", "grammar")
_BEGIN_S = 60.0


@dataclass(frozen=True)
class Killed:
    """How one door's streams ended: kind → outcome → count."""

    on_the_killed: int
    """Streams that the killed engine had under way."""
    outcomes: dict[str, dict[str, int]]


@contextmanager
def engines(log: IO[bytes]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Four simulated engines, by URL."""
    with ExitStack() as stack:
        started: dict[str, subprocess.Popen[bytes]] = {}
        for seed in range(ENGINES):
            port = free_port()
            argv = [sys.executable, "-m", "serving.simulator", "--port", str(port)]
            argv += ["--model", MODEL, "--seed", str(seed), "--max-running", str(STREAMS)]
            argv += ["--decode-tokens-per-s", str(WORDS_PER_S)]
            process = stack.enter_context(
                subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log)
            )
            stack.callback(process.kill)
            started[f"http://127.0.0.1:{port}"] = process
        for process in started.values():
            assert process.stdout is not None
            if not process.stdout.readline():
                raise SystemExit("a simulated engine did not start")
        yield started


async def measure(door: Door, replicas: dict[str, subprocess.Popen[bytes]]) -> Killed:
    """Kills one of `replicas`."""
    begun = 0
    everyone_began = asyncio.Event()

    def on_begin() -> None:
        nonlocal begun
        begun += 1
        if begun == STREAMS:
            everyone_began.set()

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=timeout
    ) as http:
        asking = {
            asyncio.ensure_future(_ask(http, door, i, on_begin)): KINDS[i % 2]
            for i in range(STREAMS)
        }
        try:
            await asyncio.wait_for(everyone_began.wait(), _BEGIN_S)
        except TimeoutError:
            print(f"{door.name}: {begun} of {STREAMS} streams began in {_BEGIN_S:.0f} s")
        loads = {url: await adapter_for("vllm").load(http, url) for url in replicas}
        running = {url: load.running for url, load in loads.items()}
        busiest = max(running, key=lambda url: running[url])
        os.kill(replicas[busiest].pid, signal.SIGKILL)
        rest_s = WORDS / WORDS_PER_S
        await asyncio.wait(asking, timeout=rest_s + HANG_S)
        outcomes = {kind: Counter(dict.fromkeys(OUTCOMES, 0)) for kind in KINDS}
        for task, kind in asking.items():
            outcomes[kind][task.result() if task.done() else "hung"] += 1
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return Killed(running[busiest], {kind: dict(count) for kind, count in outcomes.items()})


async def _ask(http: aiohttp.ClientSession, door: Door, number: int, on_begin: Any) -> str:
    """One stream, to its end; returns its outcome."""
    text = " ".join(f"w{i:02d}" for i in range(WORDS))
    script = json.dumps({"text": text})
    body: dict[str, Any] = {
        "model": door.model,
        "stream": True,
        "messages": [{"role": "user", "content": f"Stream {number}.\nSIMULATE: {script}"}],
    }
    if KINDS[number % 2] == "grammar":
        body["response_format"] = {"type": "json_object"}
    heard: list[str] = []
    try:
        async with http.post(f"http://127.0.0.1:{door.port}{CHAT_PATH}", json=body) as answer:
            if answer.status != 200:
                on_begin()
                return "refused"
            async for line in answer.content:
                if line.startswith(b"data: [DONE]"):
                    return "whole" if "".join(heard) == text else "wrong"
                if not line.startswith(b"data: "):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    return "error"
                for choice in event.get("choices", ()):
                    if content := choice["delta"].get("content"):
                        heard.append(content)
                        if len(heard) == 1:
                            on_begin()
    except (aiohttp.ClientError, ValueError):
        pass
    return "cut"
