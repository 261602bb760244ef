"""The process that is killed: journal, worker, agents with every kind of tool, clients, a person.

Clients open one session after the other, and send again what was not acknowledged, with the same
Idempotency-Key. A session asks its agent for all that can be interrupted: one call, three at
once, one that needs approval, one that waits, one that fails at first, one that nobody can ask
what it did, one that another agent makes for it. The person allows most of what is asked, and
never lets a call in doubt run again.

Everything outside of this process is the ledger's (`kills_ledger.py`).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.agents import Agents, resolve
from orchestrator.journal.base import Journal
from orchestrator.journal.postgres import PostgresJournal
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.loop.events import ConversationStarted, ResponseAccepted
from orchestrator.loop.machine import fold_all
from orchestrator.model import ModelTurn, TextDelta
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.tools.base import NOT_DONE, Later, ToolContext, ToolError, tool
from orchestrator.tools.children import agent_tools
from orchestrator.tools.functions import from_function
from orchestrator.worker.worker import Worker
from serving.config.agent import AgentConfig, AgentLimits
from serving.config.journal import JournalConfig
from serving.errors import WarmloopError

LANES = 16
"""Sessions at a time."""
TOOL_S = 0.01
"""Before a tool has its effect, and after: moments at which it can be killed."""
TIMER_S = 0.15
PARK_S = 0.05
"""Less than a timer: the run is let go of and woken."""
LEASE_S = 1.0
"""What a dead process's conversations wait for, where several processes share a journal."""


@dataclass(frozen=True)
class Place:
    """Where a run of kills lies."""

    folder: Path
    postgres_url: str = ""

    @property
    def socket(self) -> str:
        return str(self.folder / "ledger.sock")

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.jsonl"

    def journal(self) -> Journal:
        if self.postgres_url:
            return PostgresJournal(JournalConfig(url=self.postgres_url))
        return SqliteJournal(self.folder / "journal.db")


def conversation(session: int) -> str:
    return f"conv_{session}"


class World:
    """The ledger, asked from the killed process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._lock = asyncio.Lock()

    @classmethod
    async def of(cls, place: Place) -> World:
        return cls(*await asyncio.open_unix_connection(place.socket, limit=2**22))

    async def say(self, do: str, **line: Any) -> dict[str, Any]:
        """Returns when the ledger has it."""
        async with self._lock:
            self._writer.write(json.dumps({"do": do, **line}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await self._reader.readline())
            return answer

    def close(self) -> None:
        self._writer.close()


def tools_of(world: World) -> dict[str, list[Any]]:
    """One tool of each kind, by agent; all know who asks, so that the ledger can say so."""

    async def run(context: ToolContext, n: int, name: str, session: int = -1) -> bool:
        if session < 0:
            session = int(context.conversation.removeprefix("conv_"))
        await asyncio.sleep(TOOL_S)
        said = await world.say("run", key=context.key, tool=name, session=session, n=n)
        await asyncio.sleep(TOOL_S)
        return bool(said["first"])

    @tool(kind="idempotent")
    async def book(n: int, context: ToolContext) -> str:
        """Book, once for each key."""
        await run(context, n, "book")
        return f"booked {n}"

    @tool(kind="idempotent", requires_approval=True)
    async def refund(n: int, context: ToolContext) -> str:
        """Refund, once for each key, when a person allows it."""
        await run(context, n, "refund")
        return f"refunded {n}"

    @tool(kind="idempotent")
    async def flaky(n: int, context: ToolContext) -> str:
        """Book, but not the first time."""
        if context.attempt == 1:
            raise ToolError("busy", "try again", retry_after_ms=20, transient=True)
        await run(context, n, "flaky")
        return f"booked {n} at last"

    async def found(key: str) -> Any:
        return "charged" if (await world.say("find", key=key))["found"] else NOT_DONE

    @tool(kind="queryable", lookup=found)
    async def charge(n: int, context: ToolContext) -> str:
        """Charge; whoever has the key can ask whether it happened."""
        await run(context, n, "charge")
        return "charged"

    @tool(kind="pure")
    async def look(n: int) -> str:
        """Look something up."""
        await asyncio.sleep(0.002 * n)
        return f"looked at {n}"

    @tool(kind="unsafe")
    async def pay(n: int, context: ToolContext) -> str:
        """Pay, as often as it is called."""
        await run(context, n, "pay")
        return f"paid {n}"

    @tool(kind="pure")
    async def rest(n: int) -> Later:
        """Wait."""
        return Later(time.time() + TIMER_S, f"rested {n}")

    @tool(kind="idempotent")
    async def deliver(session: int, n: int, context: ToolContext) -> str:
        """Deliver, once for each key; a child's tool, which must be told whose call it is."""
        await run(context, n, "deliver", session)
        return f"delivered {n}"

    clerk = (book, refund, flaky, charge, look, pay, rest)
    return {"clerk": [from_function(each) for each in clerk], "helper": [from_function(deliver)]}


TURNS = (
    [("book", 0)],
    [("book", 1), ("charge", 2), ("look", 3)],
    [("pay", 4)],
    [("rest", 5), ("book", 6)],
    [("refund", 7)],
    [("flaky", 8)],
    [("charge", 9), ("pay", 10)],
    [("helper", 11), ("book", 12)],
)
"""What a session's model asks for: tool, and which call of the session it is. `helper` is another
agent, whose own call it then is."""


def script_of(world: World) -> Any:
    def script(turn: ModelTurn) -> Iterator[Scripted]:
        messages = json.loads(turn.body)["messages"]
        at = sum("tool_calls" in each for each in messages)
        if turn.agent == "helper":
            session = int(messages[-1 - 2 * at]["content"])
            return iter(
                says("it is done") if at else calls(("deliver", {"session": session, "n": 11}))
            )
        session = int(turn.conversation.removeprefix("conv_"))
        body = turn.body.decode()
        asked = world.say("asked", session=session, turn=at, body=body)
        if at == len(TURNS):
            return iter([asked, *says(f"done with {session}")])
        routed, *wanted = calls(
            *(
                (name, {"task": str(session)} if name == "helper" else {"n": n})
                for name, n in TURNS[at]
            )
        )
        said = TextDelta("I shall ")
        pause_s = 0.001 * ((session + at) % 8)
        return iter([asked, routed, said, asyncio.sleep(pause_s), *wanted])

    return script


async def run(place: Place, *, new_sessions: bool) -> None:
    """Work on all that is open; `new_sessions`: and begin more, until killed."""
    world = await World.of(place)
    journal = place.journal()
    await journal.start()
    limits = AgentLimits(max_turns=100, max_tool_calls=100, same_call=99)
    said = {"instructions": "Do as you are told.", "reply_tool": False, "limits": limits}
    configs = {
        "clerk": AgentConfig(**said, tools=("agent:helper",)),
        "helper": AgentConfig(**said, description="Delivers."),
    }
    tools = tools_of(world)
    tools["clerk"] += agent_tools("clerk", configs["clerk"], configs)
    agents = Agents([resolve(name, config, tools[name]) for name, config in configs.items()])
    async with Worker(
        journal=journal,
        agents=agents,
        models=ScriptedModel(script_of(world), keep_turns=False),
        lease_s=LEASE_S,
        delta_batch_s=0.001,
        park_s=PARK_S,
    ) as worker:
        client = Client(world, journal, worker)
        lanes = [client.session(number) for number in (await world.say("where"))["open"]]
        idle = LANES - len(lanes) if new_sessions else 0
        lanes += [client.session(None) for _ in range(idle)]
        if new_sessions:
            lanes = [client.lane(first) for first in lanes]
        await asyncio.gather(*lanes)
    await journal.close()
    world.close()


class Client:
    """Who uses the agent, and the person who decides."""

    def __init__(self, world: World, journal: Journal, worker: Worker) -> None:
        self._world = world
        self._journal = journal
        self._worker = worker

    async def lane(self, first: Any) -> None:
        """One session after the other, for ever."""
        await first
        while True:
            await self.session(None)

    async def session(self, number: int | None) -> None:
        """One session (None: a new one), to the answer; it may have begun in another life."""
        if number is None:
            number = (await self._world.say("begin"))["session"]
        name = conversation(number)
        items = [{"type": "message", "role": "user", "content": f"Session {number}, please."}]
        await self._ask(name, f"resp_{name}", items)
        while decision := await self._decision(name, number):
            approval_id = decision["approval_request_id"]
            await self._ask(name, f"resp_{name}_{approval_id}", [decision])
        await self._world.say("told", session=number)

    async def _ask(self, name: str, response_id: str, items: list[dict[str, Any]]) -> None:
        now = time.time()
        accepted = ResponseAccepted(response_id, now, items, idempotency_key=response_id)
        start = ConversationStarted("clerk@1", now)
        while True:
            with suppress(WarmloopError):  # busy: what was interrupted goes on by itself
                await self._worker.accept(name, accepted, start=start)
                break
            await self._journal.wait(name, await self._end(name), 0.05)
        while not await self._is_over(name):
            await self._journal.wait(name, await self._end(name), 0.5)

    async def _end(self, name: str) -> int:
        log = await self._journal.read(name)
        return log[-1].seq if log else 0

    async def _is_over(self, name: str) -> bool:
        return fold_all(await self._journal.read(name)).run is None

    async def _decision(self, name: str, number: int) -> dict[str, Any] | None:
        """What the person says to the first call that waits."""
        state = fold_all(await self._journal.read(name))
        for open_call in state.waiting.values():
            allowed = open_call.reason == "required" and number % 5 != 0
            return {
                "type": "mcp_approval_response",
                "approval_request_id": open_call.approval_id,
                "approve": allowed,
                "reason": "" if allowed else "not today",
            }
        return None
