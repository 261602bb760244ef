"""A replica is killed under 320 streams of all kinds, before a front door as users run it.

Three engines (simulated, processes of their own), `warmloop up`, its journal on disk: 200 streams
of plain text, 60 with tools, 40 of an agent that calls a tool and replies, and 20 of responses
without tools. When all are under way, an engine gets SIGKILL.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.integration.simulators import SimulatedProcess, simulators
from tests.integration.stacks import Stack, stack

PATIENCE_S = 240.0
"""For all of it together; on a quiet machine it takes a tenth of that."""
NUMBERS = {"text": 200, "tools": 60, "agent": 40, "bare": 20}
TOOL = {
    "type": "function",
    "function": {
        "name": "note",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "maxLength": 2000}},
            "required": ["text"],
            "additionalProperties": False,
        },
    },
}


def prose(kind: str, number: int) -> str:
    return f"{kind} {number}: " + " ".join(f"word{i}" for i in range(60)) + "."


def script(*steps: dict[str, Any]) -> str:
    return "go\nSIMULATE: " + json.dumps(steps)


@dataclass
class Seen:
    """One stream as its client saw it."""

    kind: str
    number: int
    replica: str = ""
    text: str = ""
    items: dict[str, str] = field(default_factory=dict)
    """Of an agent: its messages' deltas by item."""
    said: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False
    continued: bool = False
    error: dict[str, Any] | None = None
    final: dict[str, Any] | None = None
    """Of an agent: the response at the end."""
    broken: str = ""

    @property
    def right(self) -> bool:
        return self.done and self.error is None and self.text == prose(self.kind, self.number)


@dataclass
class Crowd:
    """All clients."""

    url: str
    http: aiohttp.ClientSession
    begun: int = 0

    async def ask(self, kind: str, number: int) -> Seen:
        seen = Seen(kind, number)
        make = {
            "text": self._text,
            "tools": self._tools,
            "agent": self._agent,
            "bare": self._bare,
        }[kind]
        path, body = make(number)
        headers = {"x-session-id": f"{kind}-{number}"}
        try:
            async with self.http.post(self.url + path, json=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                seen.replica = answer.headers.get("x-warmloop-replica", "")
                self.begun += 1
                async for line in answer.content:
                    self._line(seen, line)
        except (aiohttp.ClientError, TimeoutError) as error:
            seen.broken = repr(error)
        return seen

    def _text(self, number: int) -> tuple[str, dict[str, Any]]:
        messages = [{"role": "user", "content": script({"text": prose("text", number)})}]
        return "/v1/chat/completions", {"model": "big", "stream": True, "messages": messages}

    def _tools(self, number: int) -> tuple[str, dict[str, Any]]:
        call = {"calls": [{"name": "note", "arguments": {"text": prose("tools", number)}}]}
        messages = [{"role": "user", "content": script(call)}]
        body = {"model": "big", "stream": True, "messages": messages, "tools": [TOOL]}
        return "/v1/chat/completions", body | {"tool_choice": "required"}

    def _agent(self, number: int) -> tuple[str, dict[str, Any]]:
        steps = [
            {"calls": [{"name": "charge", "arguments": {"amount": number}}]},
            {"calls": [{"name": "reply", "arguments": {"text": prose("agent", number)}}]},
        ]
        return "/v1/responses", {"model": "clerk", "stream": True, "input": script(*steps)}

    def _bare(self, number: int) -> tuple[str, dict[str, Any]]:
        asked = script({"text": prose("bare", number)})
        return "/v1/responses", {"model": "big", "stream": True, "input": asked}

    def _line(self, seen: Seen, line: bytes) -> None:
        seen.continued = seen.continued or line.startswith(b": warmloop continued on ")
        if line.startswith(b"data: [DONE]"):
            seen.done = True
        elif line.startswith(b"data: "):
            self._event(seen, json.loads(line[6:]))

    def _event(self, seen: Seen, event: dict[str, Any]) -> None:
        seen.said.append(event)
        seen.error = event.get("error") if "type" not in event else seen.error
        for choice in event.get("choices", ()):
            seen.text += choice["delta"].get("content") or ""
        if event.get("type") == "response.output_text.delta":
            item = event["item_id"]
            seen.items[item] = seen.items.get(item, "") + event["delta"]
        elif event.get("type") in ("response.completed", "response.failed", "response.incomplete"):
            seen.final, seen.done = event["response"], True


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def kill_when_all_run(
    crowd: Crowd, count: int, ledger: Path, engine: SimulatedProcess
) -> None:
    """When all streams have begun, and the agents have had their tool's result."""
    while crowd.begun < count or len(lines(ledger)) < NUMBERS["agent"]:  # noqa: ASYNC110 others' doing
        await asyncio.sleep(0.05)
    engine.kill()


async def run(made: Stack, engines: list[SimulatedProcess], ledger: Path) -> list[Seen]:
    limits = aiohttp.ClientTimeout(total=PATIENCE_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=limits, connector=connector) as http:
        crowd = Crowd(made.url(), http)
        count = sum(NUMBERS.values())
        killing = asyncio.create_task(kill_when_all_run(crowd, count, ledger, engines[0]))
        every = [crowd.ask(kind, i) for kind, many in NUMBERS.items() for i in range(many)]
        async with asyncio.timeout(PATIENCE_S):
            seen = await asyncio.gather(*every)
            await killing
    return list(seen)


async def test_a_replica_killed_under_320_streams_loses_no_text_and_no_agent(
    tmp_path: Path,
) -> None:
    speed = {"decode_tokens_per_s": 8.0, "prefill_tokens_per_s": 200_000.0}
    tools = str(Path(__file__).parent / "tools")
    async with simulators(3, **speed) as engines:
        urls = [f"http://127.0.0.1:{each.port}" for each in engines]
        models = {"big": {"engine": "external", "urls": urls}}
        agents = {"clerk": {"model": "big", "tools": ["ledger_tools:charge"], "tool_path": tools}}
        with stack(tmp_path, models=models, agents=agents) as made:
            ledger = tmp_path / "ledger"
            made.extra_env["WARMLOOP_TEST_LEDGER"] = str(ledger)
            await asyncio.to_thread(made.up)
            seen = await run(made, engines, ledger)
            log = made.logs()
            turns = records(made)

    by_kind = {kind: [each for each in seen if each.kind == kind] for kind in NUMBERS}
    dead = "big-0"
    assert [each.broken for each in seen if each.broken] == [], log
    met = {kind: sum(each.replica == dead for each in many) for kind, many in by_kind.items()}
    continued = sum(each.continued for each in by_kind["text"])
    # Cut in the middle, or before their first byte: then they were tried again, and no error.
    agents = [turn for turn in turns if turn["request_id"].startswith("resp_")]
    moved = sum(bool(turn.get("error")) or turn.get("attempts", 0) > 1 for turn in agents)
    print(f"on the dead one: {met}; continued {continued}; turns of responses moved {moved}")
    assert min(met["text"], met["tools"], moved) > 5

    wrong = [each for each in by_kind["text"] if not each.right]
    assert wrong == [], log
    assert continued == met["text"], "those that were there went on, and no others"

    for each in by_kind["tools"]:
        if each.replica == dead:
            assert each.error is not None, each
            assert {"message", "type", "code"} <= each.error.keys()
            assert not each.done
        else:
            assert each.done, each
            assert each.error is None

    for each in by_kind["agent"] + by_kind["bare"]:
        final = each.final
        assert final is not None, each.said[-1:]
        assert final["status"] == "completed", final
        said = prose(each.kind, each.number)
        assert final["output"][-1]["content"][0]["text"] == said
        assert each.items[final["output"][-1]["id"]] == said, "no delta came twice"
    charged = sorted(f"charge {i}" for i in range(NUMBERS["agent"]))
    assert sorted(lines(ledger)) == charged, "no call ran twice"


def records(made: Stack) -> list[dict[str, Any]]:
    """The front door's log line of each turn."""
    folder = made.home / "stacks" / made.name / "logs"
    every = [line for path in folder.rglob("*.log") for line in lines(path)]
    return [json.loads(line) for line in every if line.startswith("{") and '"route"' in line]
