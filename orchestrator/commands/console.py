"""What a person sees in the terminal: live events of a run, the table of its turns, the fleet.

Everything here reads the public HTTP API, so it shows a stack on another machine as well.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from orchestrator.supervisor import RunFile, get_json
from serving.config.stack import StackConfig
from serving.errors import ConfigError, UpstreamError, WarmloopError
from serving.protocol import SseSplitter

Json = Mapping[str, Any]

PIPE_COLUMNS = 120
RECONNECTS = 20
RECONNECT_PAUSE_S = 0.5
RECONNECT_TRIES = 240


def terminal() -> Console:
    """A console on stdout; where that is a file or a pipe, wide enough for the tables."""
    out = Console()
    return out if out.is_terminal else Console(width=PIPE_COLUMNS)


def key_header() -> dict[str, str]:
    """What says who we are, where $WARMLOOP_API_KEY has a key."""
    key = os.environ.get("WARMLOOP_API_KEY", "")
    return {"authorization": f"Bearer {key}"} if key else {}


def first_agent(base: str) -> str:
    """The first agent that the stack offers, else `auto`."""
    listed = (get_json(f"{base}/v1/models", headers=key_header()) or {}).get("data", [])
    return next((m["id"] for m in listed if m.get("owned_by") == "warmloop-agent"), "auto")


def print_usage(out: Console, url: str, stack: StackConfig) -> None:
    """How to talk to the stack, ready to paste."""
    name = next(iter(stack.agents), "auto")
    out.print(
        f"\n[bold]{stack.name} is ready at {url}[/bold]  (Ctrl-C, or warmloop down, stops it)\n"
    )
    text = f"""warmloop run "What are the opening hours?" --agent {name}

curl {url}/v1/responses -H 'content-type: application/json' \\
  -d '{{"model": "{name}", "input": "What are the opening hours?"}}'

from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="none")
print(client.responses.create(model="{name}", input="What are the opening hours?").output_text)
"""
    out.print(text, highlight=False, markup=False)


async def follow(out: Console, base: str, model: str, task: str) -> dict[str, Any]:
    """Run `task` as a streamed response, print its events, return the final response object.

    Raises WarmloopError when the front door refuses the request or goes away for good. A stream
    that is cut in the middle (the front door restarts) is taken up again where it ended.
    """
    body = {"model": model, "input": task, "stream": True, "background": True}
    view = RunView(out)
    response_id = ""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=900)
    async with aiohttp.ClientSession(timeout=timeout, headers=key_header()) as http:
        for _ in range(RECONNECTS):
            if response_id:
                query = {"stream": "true", "starting_after": str(view.last_sequence)}
                request = http.get(f"{base}/v1/responses/{response_id}", params=query)
            else:
                request = http.post(f"{base}/v1/responses", json=body)
            try:
                async with request as answer:
                    if answer.status in (400, 401, 404):
                        raise ConfigError(await _message(answer))
                    if answer.status > 400:
                        raise UpstreamError(await _message(answer))
                    splitter = SseSplitter()
                    async for chunk in answer.content.iter_any():
                        for sse in splitter.feed(chunk):
                            event = msgspec.json.decode(sse.data)
                            view.show(event)
                            response_id = response_id or event.get("response", {}).get("id", "")
                            if view.response is not None:
                                return view.response
            except aiohttp.InvalidURL:
                raise ConfigError(f"--url: {base!r} is not a URL; write http://HOST:PORT") from None
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                if not response_id:
                    raise WarmloopError(f"{base} cannot be reached: {error}") from None
                out.print("[yellow]the connection was cut; taking it up again[/yellow]")
                await _until_reachable(http, base)
    raise WarmloopError(f"{response_id}: the stream was cut {RECONNECTS} times; giving up")


async def _until_reachable(http: aiohttp.ClientSession, base: str) -> None:
    for _ in range(RECONNECT_TRIES):
        try:
            async with http.get(f"{base}/health") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(RECONNECT_PAUSE_S)
    raise WarmloopError(f"{base} did not come back")


async def _message(answer: aiohttp.ClientResponse) -> str:
    raw = await answer.read()
    try:
        return str(msgspec.json.decode(raw)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"status {answer.status}: {raw[:200].decode(errors='replace')}"


class RunView:
    """Prints the streaming events of one response as they come."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self.last_sequence = -1
        self.response: dict[str, Any] | None = None

    def show(self, event: Mapping[str, Any]) -> None:
        self.last_sequence = max(self.last_sequence, event.get("sequence_number", -1))
        kind = event["type"]
        if kind == "response.output_text.delta":
            self._out.print(event["delta"], end="", markup=False, highlight=False)
        elif kind == "response.output_text.done":
            self._out.print()
        elif kind == "response.output_item.done":
            self._item(event["item"])
        elif kind in FINAL:
            self.response = dict(event["response"])
            self._end(self.response)

    def _item(self, item: Json) -> None:
        if item["type"] == "function_call":
            line = f"→ {item['name']}({item['arguments']})"
            self._out.print(line, style="cyan", markup=False, highlight=False)
        elif item["type"] == "function_call_output":
            output = str(item["output"]).strip().replace("\n", "\n  ")
            self._out.print(f"← {output}", style="green", markup=False, highlight=False)

    def _end(self, response: Json) -> None:
        if response["status"] == "completed":
            return
        detail = response.get("error") or response.get("incomplete_details") or {}
        why = detail.get("message") or detail.get("reason") or ""
        self._out.print(f"{response['status']}: {why}", style="red", markup=False)


FINAL = ("response.completed", "response.failed", "response.incomplete", "response.cancelled")


def turns_of(responses: Iterable[Json]) -> list[Json]:
    """Every turn of these responses, in order, as the API's `warmloop.turns` tells them."""
    return [turn for response in responses for turn in response.get("warmloop", {})["turns"]]


def print_turns(out: Console, responses: Sequence[Json]) -> None:
    """One row a turn, then the totals of all. Costs in millionths of a US dollar, as they were and
    as they would have been without a cache."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run")
    for name in ("model", "replica"):
        table.add_column(name, no_wrap=True)
    for name in ("prompt", "cached", "output", "s", "µ$", "no cache"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", min_width=15)
    for number, response in enumerate(responses, start=1):
        for turn in turns_of([response]):
            table.add_row(str(number), *_row(turn))
        table.add_section()
    table.add_row("all", "", "", *_totals(turns_of(responses)), style="bold")
    out.print(table)


def _row(turn: Json) -> list[str]:
    model = str(turn["model"])
    replica = str(turn["replica"]).removeprefix(f"{model}-")
    return [model, replica, *_totals([turn]), turn["reason"].replace("->", " → ")]


def _totals(turns: Sequence[Json]) -> list[str]:
    def total(key: str) -> float:
        return sum(float(turn[key]) for turn in turns)

    prompt, cached = total("prompt_tokens"), total("cached_tokens")
    share = f" {cached / prompt:.0%}" if prompt else ""
    return [
        f"{prompt:,.0f}",
        f"{cached:,.0f}{share}",
        f"{total('output_tokens'):,.0f}",
        f"{total('seconds'):.1f}",
        f"{total('cost_usd') * 1e6:,.1f}",
        f"{total('uncached_cost_usd') * 1e6:,.1f}",
    ]


def print_status(out: Console, run: RunFile, health: Json) -> None:
    """The fleet as the front door sees it."""
    out.print(f"[bold]{run.name}[/bold] {run.state} at {run.url} (pid {run.pid})")
    table = Table()
    columns = ("model", "replica", "state", "restarts", "running", "waiting", "KV", "hit rate")
    for name in columns:
        table.add_column(name)
    for engine in health["engines"]:
        queried = engine["queried_tokens"]
        table.add_row(
            engine["model"],
            engine["replica"],
            "ejected" if engine["ejected"] and engine["state"] == "ready" else engine["state"],
            str(engine["restarts"]),
            str(engine["running"]),
            str(engine["waiting"]),
            f"{engine['kv_usage']:.0%}",
            f"{engine['hit_tokens'] / queried:.0%}" if queried else "-",
        )
    out.print(table)
    for engine in health["engines"]:
        if why := _why(engine, time.time()):
            out.print(why, markup=False, highlight=False, soft_wrap=True)
    for adapter in health.get("adapters", ()):
        line = f"adapter {adapter['name']} of {adapter['model']}: on {adapter['ready_replicas']}"
        out.print(f"{line} ready replicas  {adapter['problem']}".rstrip(), markup=False)
    out.print(f"sessions: {health['sessions']}")


def _why(engine: Json, now: float) -> str:
    """Why an engine is not ready, with its last words, and when it is tried again."""
    if not engine["reason"]:
        return ""
    again = ""
    if engine["retry_at"]:
        at = time.strftime("%H:%M:%S", time.localtime(engine["retry_at"]))
        again = f", started again at {at} (in {max(0.0, engine['retry_at'] - now):.0f} s)"
    return f"{engine['replica']} is {engine['state']}{again}: {engine['reason']}"
