"""The agents' benchmark from end to end: real HTTP, the real loop and journal, a scripted model."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import agents
from benchmarks.agents_run import instructions
from benchmarks.agents_tasks import SAY, load
from orchestrator import supervisor
from orchestrator.agents import Agents
from orchestrator.api.intake import Intake
from orchestrator.api.routes import build_routes
from orchestrator.clock import SystemClock
from orchestrator.journal.sqlite import SqliteJournal
from orchestrator.model import ModelError, ModelTurn
from orchestrator.model_scripted import Scripted, ScriptedModel, calls, says
from orchestrator.worker.worker import Worker
from router import counting
from router.dispatch import Router
from router.http import api
from serving.config.stack import StackConfig
from serving.tables.static_table import StaticTable
from tests.contract.front_door import served
from tests.integration.stacks import eventually
from tests.integration.stacks import stack as stack_file

ASKED, EXAMPLES = load()
BY_ASK = {task.ask: task for task in ASKED}
MODELS = ("able", "clumsy", "forgetful")


def script(turn: ModelTurn) -> Iterable[Scripted]:
    """Reads the task and how far it has come from the prompt, as a model does."""
    body = json.loads(turn.body)
    messages = body["messages"]
    at = max(i for i, message in enumerate(messages) if message["role"] == "user")
    task = BY_ASK[messages[at]["content"]]
    done = sum(message["role"] == "tool" for message in messages[at:])
    if body["model"] == "clumsy":
        return _clumsy(task.kind, done)
    if body["model"] == "forgetful" and task.kind != "look_up":
        return says("done")
    ((name, arguments),) = task.solution[done].items()
    return says(arguments) if name == SAY else calls((name, arguments))


def _clumsy(kind: str, done: int) -> Iterable[Scripted]:
    """Another way to fail for each kind of task."""
    if kind == "look_up":
        return says("I would say 12345.")
    if kind == "compute":
        return calls(("read_file", {"path": "/etc/passwd"}))
    if kind == "files":
        return [ModelError("the engine is on fire", code="server_error", retry=False)]
    if kind == "edit" and done == 0:
        return calls(("erase_all", {}))  # the stack itself refuses it
    if kind == "edit":
        return calls(("write_file", {"path": f"{done}.txt", "text": "x"}))
    return says("")


@asynccontextmanager
async def stack(folder: Path) -> AsyncIterator[tuple[str, ScriptedModel]]:
    """A front door over a scripted model, and the model."""
    external = {"engine": "external", "urls": ["http://127.0.0.1:9"]}
    config = StackConfig.model_validate(
        {"models": dict.fromkeys(MODELS, external), "front": {"drain_s": 0.1}}
    )
    clock, model, known = SystemClock(), ScriptedModel(script), Agents([], ["auto", *MODELS])
    journal = SqliteJournal(folder / "journal.db")
    worker = Worker(journal=journal, agents=known, models=model, delta_batch_s=0.0)
    router = Router(config, StaticTable(config), sink=lambda _: None)
    intake = Intake(journal, worker, known, clock, models_of=lambda _: config.models.values())
    count = partial(counting.count, router)
    routes = build_routes(journal, worker, intake, config, clock, count=count)
    async with AsyncExitStack() as life:
        life.push_async_callback(journal.close)
        await life.enter_async_context(worker)
        app = api.build(router, extra_routes=[routes])
        yield await life.enter_async_context(served(app)), model


async def bench(*arguments: str) -> int:
    """The command itself, on a thread of its own: it has its own loop."""
    return await asyncio.to_thread(agents.main, arguments)


def report(folder: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((folder / "agents.json").read_text(encoding="utf-8"))
    return found


async def test_a_model_that_does_as_the_reference_solves_every_task(tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with stack(tmp_path) as (url, model):
        ended = await bench("--url", url, "--models", "able", "--at-once", "4", "--out", str(out))
    assert ended == 0
    (summary,) = report(out)["figures"]["models"]
    assert summary["errors"] == {}
    assert summary["solved"]["value"] == 1.0
    assert summary["tasks"] == len(ASKED)
    steps = sum(len(task.solution) for task in ASKED)
    assert len(model.turns) == steps
    assert summary["turns"]["value"] == pytest.approx(steps / len(ASKED))
    assert summary["tool_errors"]["value"] == 0
    # 100 tokens of prompt a turn, 80 of them cached, as the script says
    assert summary["cached"]["value"] == pytest.approx(4 * summary["fresh"]["value"])
    assert (out / "agents.png").stat().st_size > 10_000


async def test_each_attempt_can_be_read_as_it_went(tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with stack(tmp_path) as (url, _):
        names = ("--models", "able,forgetful", "--tasks", "mean-north")
        await bench("--url", url, *names, "--out", str(out))
    lines = (out / "agents.jsonl").read_text(encoding="utf-8").splitlines()
    able, forgetful = sorted(map(json.loads, lines), key=lambda each: str(each["model"]))
    assert (able["error"], forgetful["error"]) == ("", "wrong answer")
    computed, said = able["steps"][-2:]
    assert computed == {"calculate": '{"expression":"89.8 / 5"}', "told": "17.96"}
    assert said == {"said": "17.96"}
    assert forgetful["steps"] == [{"said": "done"}]


async def test_conversations_begin_with_instructions_and_examples_and_grow_at_their_end(
    tmp_path: Path,
) -> None:
    task = next(task for task in ASKED if task.name == "bill-with-discount")
    async with stack(tmp_path) as (url, model):
        options = ("--url", url, "--models", "able", "--tasks", task.name, "--salt", "17")
        await bench(*options, "--out", str(tmp_path / "out"))
    bodies = [json.loads(turn.body) for turn in model.turns]
    first, last = bodies[0]["messages"], bodies[-1]["messages"]
    assert first[0] == {"role": "system", "content": instructions(17, "able", 0)}
    shown = sum(len(each.solution) - 1 for each in EXAMPLES)
    assert [message["role"] for message in first].count("tool") == shown
    assert first[-1] == {"role": "user", "content": task.ask}
    for before, after in pairwise(bodies):
        assert after["messages"][: len(before["messages"])] == before["messages"]
        assert after["tools"] == before["tools"]
    results = [message["content"] for message in last[len(first) :] if message["role"] == "tool"]
    assert results[-1] == "335.75"
    assert len(results) == 4


async def test_no_model_and_no_round_finds_in_a_cache_what_another_one_computed(
    tmp_path: Path,
) -> None:
    async with stack(tmp_path) as (url, model):
        options = ("--url", url, "--models", "able,forgetful", "--tasks", "price*,cost*")
        await bench(*options, "--rounds", "2", "--out", str(tmp_path / "out"))
    firsts = [json.loads(turn.body)["messages"][0]["content"] for turn in model.turns]
    assert len(set(firsts)) == 4
    assert len({len(each) for each in firsts}) == 1
    assert len({each.partition(". ")[2] for each in firsts}) == 1
    assert len({each.partition(". ")[0][:13] for each in firsts}) == 1  # the run's own digits


async def test_each_way_to_fail_is_a_kind_of_error_and_costs_only_its_own_task(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    async with stack(tmp_path) as (url, _):
        ended = await bench(
            *("--url", url, "--models", "able,clumsy", "--at-once", "4", "--turns", "5"),
            *("--out", str(out)),
        )
    assert ended == 0
    figures = report(out)["figures"]
    able, clumsy = figures["models"]
    assert able["solved"]["value"] == 1.0
    assert clumsy["solved"]["value"] == 0.0
    found: dict[str, Counter[str]] = {}
    for each in figures["attempts"]:
        if each["model"] == "clumsy":
            found.setdefault(each["kind"], Counter())[each["error"]] += 1
    assert set(found["look_up"]) == {"wrong answer"}
    assert set(found["compute"]) == {"loop"}
    assert set(found["files"]) == {"failed: server_error"}
    assert set(found["edit"]) == {"turns"}
    refused = [e["tool_errors"] for e in figures["attempts"] if e["error"] == "turns"]
    assert refused == [1] * len(refused)
    assert set(found["several"]) == {"failed: empty_answer"}
    answered_by = [e["answered_by"] for e in figures["attempts"] if e["error"].startswith("failed")]
    assert answered_by == [{}] * len(answered_by)
    refused = [e["tool_errors"] for e in figures["attempts"] if e["error"] == "loop"]
    assert refused == [2] * len(refused)  # the third call, which closes the circle, is not made


async def test_a_model_that_got_worse_is_found_and_one_that_did_not_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, now = tmp_path / "base", tmp_path / "now"
    async with stack(tmp_path) as (url, _):
        common = ("--url", url, "--at-once", "4")
        assert await bench(*common, "--models", "able", "--out", str(base)) == 0
        written = base / "agents.json"
        same = await bench(
            *common, "--models", "able", "--out", str(now), "--against", str(written)
        )
        assert await bench(*common, "--models", "forgetful", "--out", str(now)) == 0
    assert same == 0
    worse = json.loads((now / "agents.json").read_text(encoding="utf-8"))
    for each in worse["figures"]["attempts"]:  # as if the same model had changed
        each["model"] = "able"
    (now / "agents.json").write_text(json.dumps(worse))
    capsys.readouterr()
    ended = await bench("--against", str(written), "--recorded", str(now / "agents.json"))
    assert ended == 1
    assert "significantly worse: able: solved" in capsys.readouterr().out


async def test_a_model_that_the_stack_does_not_have_is_said_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with stack(tmp_path) as (url, model):
        ended = await bench("--url", url, "--models", "able,clumsey", "--out", str(tmp_path / "o"))
    assert ended == 2
    assert model.turns == []
    assert "'clumsey' is not there; did you mean 'clumsy'?" in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.ray
def test_a_stack_that_is_started_for_it_has_the_policies_as_agents_and_ends_with_it(
    tmp_path: Path,
) -> None:
    """Simulated engines make their answers up: nothing is solved, and everything is asked."""
    model = {"engine": "simulated", "prices": {"fresh": 1.0, "cached": 0.1, "output": 4.0}}
    sections = {tier: {**model, "tier": tier} for tier in ("frontier", "small")}
    with stack_file(tmp_path, models=sections) as made:
        command = [sys.executable, "-m", "benchmarks.agents", "--config", str(made.config)]
        command += ["--models", "frontier", "--policies", "small,race", "--turns", "3"]
        command += ["--tasks", "price-of-helmet", "--out", str(tmp_path / "out")]
        ended = subprocess.run(
            command, env=made.env, capture_output=True, text=True, timeout=240, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr + made.logs()
        eventually(lambda: not made.processes(), "the stack is gone")
    attempts = report(tmp_path / "out")["figures"]["attempts"]
    assert [each["model"] for each in attempts] == ["frontier", "auto-small", "auto-race"]
    assert all(each["fresh"] > 0 and each["cost_usd"] > 0 for each in attempts), attempts
    assert set(attempts[0]["answered_by"]) == {"frontier"}


def test_one_that_is_ended_takes_the_stack_that_it_started_with_it(tmp_path: Path) -> None:
    models = {"big": {"engine": "external", "urls": ["http://127.0.0.1:9"]}}
    with stack_file(tmp_path, models=models) as made:
        asked = ("--config", str(made.config), "--models", "big", "--tasks", "price-of-helmet")
        bench = made.start("bench", "agents", *asked, "--out", str(tmp_path / "out"))
        run_file = supervisor.run_file_path(made.home / "stacks" / made.name)
        eventually(run_file.exists, "the stack has begun")
        bench.terminate()
        assert bench.wait(240) == 130, made.logs()
        eventually(lambda: not made.processes(), "the stack is gone")
