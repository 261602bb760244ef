"""One task, asked of one model through /v1/responses, as any client that runs its own tools would.

    instructions, examples, the task ─► response ─┬─ calls ─► run here, in the task's folder
                    ▲                             │             │ their outputs
                    └── previous_response_id ─────┼─────────────┘
                                                  └─ text ─► judged, with the files

The loop, its journal and its routing are the stack's; the tools are ours, because only then is
nothing asked of the stack but its public API, and each task has files of its own.

Prompts begin with a number of their model and round. Without it a model that is asked second would
find in the cache of a shared engine what the first one paid for: often the whole conversation.
"""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from benchmarks.agents_attempt import (
    Attempt,
    GaveUp,
    Item,
    Limits,
    Spent,
    ended_well,
    refused_by_stack,
    text_of,
)
from benchmarks.agents_folder import Folder
from benchmarks.agents_tasks import RIGHT, Task, Verdict, judge, play
from benchmarks.agents_tools import Told, call, definitions
from serving.config.sections import nearest
from serving.errors import ConfigError

INSTRUCTIONS = (
    "You work on the files of one folder with the tools. Look things up; never guess. Change only "
    "what the task asks for. At the end reply with one line that holds nothing but the answer, or "
    "'done' where the task is to change files."
)
SAME_CALLS = 3
"""The same calls so many times in a row are a circle: nobody waits for its end."""
OUTCOMES = "/v1/warmloop/outcomes"


class Asker:
    """Asks tasks of a running stack."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        limits: Limits,
        examples: Sequence[Task] = (),
        *,
        salt: int = 0,
        report: bool = False,
        heard: Callable[[Attempt, Sequence[Item]], None] = lambda *_: None,
    ) -> None:
        """`salt` keeps this run from what earlier ones left in caches; `report` tells the stack of
        each answer whether it was right: `auto` learns from it. `heard` gets each attempt with what
        was called, told and said in it."""
        self._http = http
        self._url = url.rstrip("/")
        self._worked = worked(examples)
        self._limits = limits
        self._salt = salt
        self._report = report
        self._heard = heard

    async def known(self, models: Sequence[str]) -> None:
        """Raises ConfigError for a model that the stack does not have."""
        try:
            async with self._http.get(f"{self._url}/v1/models") as answer:
                listed = [each["id"] for each in (await answer.json())["data"]]
        except (aiohttp.ClientError, ValueError, KeyError) as error:
            raise ConfigError(f"--url: {self._url} does not answer as a stack: {error}") from None
        for name in models:
            if name.partition("@")[0] not in [*listed, "auto"]:
                raise ConfigError(f"--models: {name!r} is not there; {nearest(name, listed)}")

    async def attempt(self, task: Task, model: str, number: int = 0) -> Attempt:
        """Ask once; every failure is a kind of error in what is returned."""
        spent = Spent()
        began = time.monotonic()
        with TemporaryDirectory(prefix="warmloop-agent-") as place:
            verdict = RIGHT
            try:
                async with asyncio.timeout(self._limits.seconds):
                    head = [_message("system", instructions(self._salt, model, number))]
                    head += [*self._worked, _message("user", task.ask)]
                    answer = await self._converse(model, head, task.furnish(Path(place)), spent)
                verdict = judge(task, Path(place), answer)
            except GaveUp as gave_up:
                verdict = gave_up.verdict
            except TimeoutError:
                verdict = Verdict("time", f"not done in {self._limits.seconds:.0f} s")
        seconds = time.monotonic() - began
        if self._report:
            await self._tell(spent.responses, solved=not verdict.wrong)
        taken = asdict(spent)
        del taken["responses"], taken["steps"]
        attempt = Attempt(
            model=model,
            task=task.name,
            kind=task.kind,
            round=number,
            fingerprint=task.fingerprint(),
            error=verdict.wrong,
            why=verdict.why,
            seconds=seconds,
            **taken,
        )
        self._heard(attempt, spent.steps)
        return attempt

    async def _converse(
        self, model: str, head: Sequence[Item], folder: Folder, spent: Spent
    ) -> str:
        """The final answer. Raises GaveUp."""
        body: dict[str, Any] = {
            "model": model,
            "tools": definitions(),
            "temperature": 0,
            "max_output_tokens": self._limits.output_tokens,
        }
        sent: dict[str, Any] = {"input": head}
        before: list[list[tuple[str, str]]] = []
        for _ in range(self._limits.turns):
            response = await self._ask({**body, **sent})
            spent.note(response)
            ended_well(response)
            output = response["output"]
            calls = [item for item in output if item["type"] == "function_call"]
            answered = {i["call_id"]: i for i in output if i["type"] == "function_call_output"}
            spent.tool_calls += len(calls)
            spent.tool_errors += sum(map(refused_by_stack, answered.values()))
            open_calls = [call for call in calls if call["call_id"] not in answered]
            if not open_calls:
                spent.steps.append({"said": text_of(output)})
                return text_of(output)
            before.append([(call["name"], call["arguments"]) for call in open_calls])
            if len(before) >= SAME_CALLS and all(b == before[-1] for b in before[-SAME_CALLS:]):
                name, arguments = before[-1][0]
                raise GaveUp("loop", f"{SAME_CALLS} times in a row: {name} {arguments}")
            told = [_run(folder, call) for call in open_calls]
            spent.tool_errors += sum(each.refused for each in told)
            spent.steps += [
                {call["name"]: call["arguments"], "told": each.text}
                for call, each in zip(open_calls, told, strict=True)
            ]
            sent = {
                "previous_response_id": response["id"],
                "input": [
                    _output(call["call_id"], each)
                    for call, each in zip(open_calls, told, strict=True)
                ],
            }
        raise GaveUp("turns", f"no answer within {self._limits.turns} turns")

    async def _ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            async with self._http.post(f"{self._url}/v1/responses", json=body) as answer:
                said: dict[str, Any] = await answer.json(content_type=None)
                if answer.status != 200:
                    error = said.get("error") or {}
                    raise GaveUp(f"http {answer.status}", str(error.get("message", said)))
                return said
        except (aiohttp.ClientError, ValueError) as error:
            raise GaveUp("connection", str(error) or type(error).__name__) from None

    async def _tell(self, responses: Sequence[str], *, solved: bool) -> None:
        for each in responses:  # of models that are not `auto` there is nothing to report: 404
            body = {"request_id": each, "success": solved}
            with suppress(aiohttp.ClientError):  # the attempt itself is over
                async with self._http.post(f"{self._url}{OUTCOMES}", json=body):
                    pass


def instructions(salt: int, model: str, number: int) -> str:
    """What a conversation begins with: as many digits whatever they are, then the same words."""
    digits = f"{salt % 10**6:06d}{zlib.crc32(model.encode()) % 10**4:04d}{number % 100:02d}"
    return f"Folder {digits}. {INSTRUCTIONS}"


def worked(examples: Sequence[Task]) -> list[Item]:
    """Solved tasks as items of a conversation; tools say in them what they say when they run."""
    items: list[Item] = []
    for task in examples:
        with TemporaryDirectory(prefix="warmloop-agent-") as place:
            done, answer = play(task.furnish(Path(place)), task.solution)
        items.append(_message("user", task.ask))
        for name, arguments, told in done:
            call_id = f"call_{len(items)}"
            asked = {"type": "function_call", "call_id": call_id, "name": name}
            items.append({**asked, "arguments": json.dumps(arguments)})
            items.append(_output(call_id, told))
        items.append(_message("assistant", answer))
    return items


async def ask_all(
    asker: Asker,
    tasks: Sequence[Task],
    models: Sequence[str],
    *,
    rounds: int = 1,
    at_once: int = 1,
    done: Callable[[Attempt], None] = lambda _: None,
) -> list[Attempt]:
    """Every task of every model, models by turns, so that what drifts hits all of them alike."""
    slots = asyncio.Semaphore(at_once)

    async def one(task: Task, model: str, number: int) -> Attempt:
        async with slots:
            attempt = await asker.attempt(task, model, number)
        done(attempt)
        return attempt

    asked: list[asyncio.Task[Attempt]] = []
    async with asyncio.TaskGroup() as group:
        for place, (task, number) in enumerate((t, n) for n in range(rounds) for t in tasks):
            turn = models if place % 2 == 0 else models[::-1]
            asked += [group.create_task(one(task, model, number)) for model in turn]
    return [each.result() for each in asked]


def _message(role: str, text: str) -> Item:
    return {"type": "message", "role": role, "content": text}


def _output(call_id: str, told: Told) -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": told.text}


def _run(folder: Folder, asked: Item) -> Told:
    try:
        arguments = json.loads(asked["arguments"])
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return Told("error: the arguments are no JSON object", refused=True)
    return call(folder, asked["name"], arguments)
