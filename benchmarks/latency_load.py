"""Latency benchmark, what is asked: the same turns of the stack and of the bare engine, by turns.

    warm    sessions that go on: each turn finds the last one's prompt in the engine's cache
    cold    a new session and an empty cache, each time
    tools   an agent that calls a tool and answers (the stack alone: nobody stands beside it)

In each round both arms ask the same. The bare arm sends the bytes that the stack's prompt has,
rendered here from the same agent and history and held against the journal's hash of them, with a
cache of its own (`cache_salt`). N sessions ask at once, and wait for each other before the next
round. The first round warms up, and is not kept.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from benchmarks.harness.stats import by_turns
from benchmarks.latency_budget import Asked, Budget, bare_turn, stack_turns
from benchmarks.latency_client import chat, responses
from benchmarks.latency_stack import DESK, TALK, Stack
from orchestrator.loop.events import (
    AnyEvent,
    ModelIntent,
    ModelResult,
    ResponseAccepted,
    ResponseFinished,
)
from orchestrator.loop.prompt import Prompt
from orchestrator.loop.state import Shown

Arm = Literal["stack", "bare"]
Kind = Literal["warm", "cold", "tools"]
ARMS: tuple[Arm, Arm] = ("stack", "bare")
FORCED = {"type": "function", "name": "look_up"}
CALL = {"calls": [{"name": "look_up", "arguments": {"item": "bell"}}]}
SIMULATE = "SIMULATE: " + json.dumps([CALL, {"text": "A bell costs 12.90 EUR."}])
"""What a simulated engine does; a real one takes it for noise."""
SALT = b',"cache_salt":"bare"}'
IDLE_S = 0.05
ASKS = (
    "Which bell would you put on a bicycle for a child, and what does it cost with a pump?",
    "A customer wants three chains by Friday. Is that possible, and what do I tell them now?",
    "How many pumps are on the shelf, and where would I find the bells if I came today?",
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One request that was measured."""

    arm: Arm
    kind: Kind
    sessions: int
    place: tuple[int, int]
    """Its round, and its session."""
    asked: Asked
    budgets: tuple[Budget, ...]
    """Of the stack's response: one for each of its model's turns."""


@dataclass(frozen=True, slots=True)
class JournalClock:
    """What the journal itself says of one round: durable appends for each response."""

    kind: Kind
    sessions: int
    seconds: float
    appends: float


@dataclass(slots=True)
class Session:
    """One conversation in the stack, and its twin that asks the engine."""

    conversation: str
    twin: Prompt
    history: list[Shown] = field(default_factory=list)
    said: str = ""

    def goes_on(self, said: str, answer: str) -> None:
        """The next question, after what was answered to the last one."""
        if self.history:
            self.history.append(ModelResult(len(self.history), 1, 0.0, answer))
        message = {"type": "message", "role": "user", "content": said}
        self.history.append(ResponseAccepted("twin", 0.0, [message]))
        self.twin.extend(self.history)
        self.said = said


class Load:
    """Asks, and keeps what was measured. `tick` hears of each round."""

    def __init__(self, stack: Stack, tick: Callable[[], None] = lambda: None) -> None:
        self.turns: list[Turn] = []
        self.clocks: list[JournalClock] = []
        self._stack = stack
        self._tick = tick
        self._bare = 0
        self._answers: dict[str, str] = {}

    async def pairs(self, kind: Kind, sessions: int, rounds: int, after: int = 0) -> None:
        """`warm` or `cold` turns of both arms, of sessions that begin here. `after`: so many rounds
        of this kind have been before."""
        talks: list[Session] = []
        begun = -1
        for number, arm in by_turns(rounds + 1, ARMS):
            if number != begun:
                begun = number
                if kind == "cold" or not talks:
                    talks = [await self._begin() for _ in range(sessions)]
                for place, talk in enumerate(talks):
                    # Nobody has asked this before: or the engine would have its answer, too.
                    which = f"Customer {place} of {sessions}, question {after + number + 1}."
                    said = f"{which} {ASKS[number % len(ASKS)]}"
                    talk.goes_on(said, self._answers.get(talk.conversation, ""))
            if kind == "cold":
                await self._stack.forget()
            ask = self._stack_round if arm == "stack" else self._bare_round
            found = await ask(kind, number, talks)
            if number:
                self.turns += [replace(t, place=(after + number, t.place[1])) for t in found]
            self._tick()

    async def tools(self, rounds: int) -> None:
        """One session's responses with a call in each."""
        talk = await self._begin()
        for number in range(rounds + 1):
            talk.said = f"Customer 0, question {number}. What does a bell cost?\n{SIMULATE}"
            found = await self._stack_round("tools", number, [talk])
            self.turns += found if number else []
            self._tick()

    # -- the stack --

    async def _begin(self) -> Session:
        async with self._stack.http.post(
            f"{self._stack.front}/v1/conversations", json={}
        ) as answer:
            answer.raise_for_status()
            return Session((await answer.json())["id"], self._stack.agent.prompt())

    async def _stack_round(self, kind: Kind, number: int, talks: Sequence[Session]) -> list[Turn]:
        before = await self._idle()
        asked = await asyncio.gather(*(self._ask_stack(kind, talk) for talk in talks))
        after = await self._stack.journal_clock()
        if number:
            seconds, appends = ((b - a) / len(talks) for a, b in zip(before, after, strict=True))
            self.clocks.append(JournalClock(kind, len(talks), seconds, appends))
        turns = []
        for place, (talk, (times, response)) in enumerate(zip(talks, asked, strict=True)):
            budgets = await self._budgets(kind, talk, times, response)
            turns.append(Turn("stack", kind, len(talks), (number, place), times, budgets))
        return turns

    async def _idle(self) -> tuple[float, int]:
        """What the journal's clock says, and then a pause, the same for both arms: nobody is to be
        found warm from a request just before."""
        said = await self._stack.journal_clock()
        await asyncio.sleep(IDLE_S)
        return said

    async def _ask_stack(self, kind: Kind, talk: Session) -> tuple[Asked, str]:
        agent = {"model": DESK, "tool_choice": FORCED} if kind == "tools" else {"model": TALK}
        body = {**agent, "conversation": talk.conversation, "input": talk.said, "stream": True}
        stack = self._stack
        times, response = await responses(stack.http, stack.front, json.dumps(body).encode())
        return times, response["id"]

    async def _budgets(
        self, kind: Kind, talk: Session, times: Asked, response_id: str
    ) -> tuple[Budget, ...]:
        """Of a response that has ended; what it said is kept for its twin."""
        events = of_response(await self._stack.events(talk.conversation), response_id)
        intents = [each for each in events if isinstance(each, ModelIntent)]
        if kind != "tools" and [each.prompt_sha256 for each in intents] != [talk.twin.sha256]:
            raise SystemExit("both arms must ask the same: the prompts' hashes differ")
        seen = [
            exchange
            for each in intents
            for exchange in self._stack.relay.taken(f"{response_id}-{each.step}-{each.attempt}")
        ]
        routed = self._stack.routed(response_id)
        if len(seen) < len(intents) or len(routed) < len(intents):
            raise SystemExit(f"{response_id}: not all its turns were seen by relay and log")
        said = [each.text for each in events if isinstance(each, ModelResult)]
        self._answers[talk.conversation] = said[-1]
        return tuple(stack_turns(times, events, seen, routed))

    # -- the bare engine --

    async def _bare_round(self, kind: Kind, number: int, talks: Sequence[Session]) -> list[Turn]:
        bodies = [talk.twin.body({})[:-1] + SALT for talk in talks]
        await self._idle()
        asked = await asyncio.gather(*map(self._ask_engine, bodies))
        return [
            Turn("bare", kind, len(talks), (number, place), times, (budget,))
            for place, (times, budget) in enumerate(asked)
        ]

    async def _ask_engine(self, body: bytes) -> tuple[Asked, Budget]:
        self._bare += 1
        name, relay = f"bare-{self._bare}", self._stack.relay
        times, usage = await chat(self._stack.http, relay.url, body, {"x-request-id": name})
        (seen,) = relay.taken(name)
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        tokens = usage["prompt_tokens"], cached, usage["completion_tokens"]
        return times, bare_turn(times, seen, tokens)


def of_response(log: Sequence[AnyEvent], response_id: str) -> list[AnyEvent]:
    """From a response's acceptance to its end."""
    found: list[AnyEvent] = []
    for event in log:
        if isinstance(event, ResponseAccepted) and event.response_id == response_id:
            found = [event]
        elif found:
            found.append(event)
            if isinstance(event, ResponseFinished):
                break
    return found
