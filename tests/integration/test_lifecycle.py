"""Engines that are restarted, killed, stopped and hung under load, in one real stack on a real Ray.

The engines are simulated; Ray, the replicas, the front door and the `warmloop` command are not.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from orchestrator import supervisor
from tests.integration.load import PATIENCE_S, Outcome, ask, client, steady
from tests.integration.stacks import Stack, eventually, stack

pytestmark = pytest.mark.ray

SLOW = {"decode_tokens_per_s": 30}
READS_SLOWLY = {"prefill_tokens_per_s": 2000, "decode_tokens_per_s": 1000}
SOON = {"pause_s": 0.2, "max_pause_s": 3.0}
BACK_S = 120.0


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without this file the engine of `solo` cannot start."""
    path = tmp_path_factory.mktemp("solo") / "arguments"
    path.write_text("")
    return path


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, arguments: Path) -> Iterator[Stack]:
    simulated = {"engine": "simulated", "simulator": SLOW, "restart": SOON}
    models = {
        "pair": {**simulated, "replicas": 2},
        "solo": {
            **simulated,
            "hung_after_s": 5,
            "logs": {"keep": 4},
            "extra_args": [f"@{arguments}"],
        },
        "elastic": {
            **simulated,
            "max_running": 2,
            "autoscale": {"max_replicas": 2, "up_delay_s": 1, "down_delay_s": 3},
        },
        "reader": {
            **simulated,
            "simulator": READS_SLOWLY,
            "autoscale": {"max_replicas": 2, "up_delay_s": 1, "down_delay_s": 3},
        },
    }
    with stack(tmp_path_factory.mktemp("stack"), models=models) as made:
        made.up()
        yield made


def engines(up: Stack, model: str, state: str = "ready") -> dict[str, dict[str, Any]]:
    """What the front door says of a model's engines in that state, by replica."""
    health = supervisor.get_json(f"{up.url()}/health") or {"engines": []}
    return {
        e["replica"]: e for e in health["engines"] if (e["model"], e["state"]) == (model, state)
    }


def process(up: Stack, engine: dict[str, Any]) -> psutil.Process:
    port = engine["url"].rpartition(":")[2]
    return eventually(lambda: up.process("serving.simulator", "--port", port), "its process")


def standing(up: Stack, model: str, count: int = 1) -> dict[str, dict[str, Any]]:
    """The engines of a model, once there are as many as there should be."""

    def all_of_them() -> dict[str, dict[str, Any]]:
        found = engines(up, model)
        return found if len(found) == count else {}

    found: dict[str, dict[str, Any]] = eventually(
        all_of_them, f"{count} engines of {model}", BACK_S
    )
    return found


def replaced(up: Stack, model: str, old: set[str], count: int) -> set[str]:
    """Wait until `count` engines serve and none of `old` does."""

    def new() -> set[str]:
        now = set(engines(up, model))
        return now if len(now) == count and not now & old else set()

    return eventually(new, f"{count} new engines of {model}", BACK_S)


@pytest.mark.parametrize(("model", "count"), [("pair", 2), ("solo", 1)])
async def test_a_rolling_restart_under_load_replaces_every_engine_and_fails_no_turn(
    up: Stack, model: str, count: int
) -> None:
    old = set(standing(up, model, count))
    async with steady(up.url(), model, sessions=8, words=20) as load:
        await load.more(16)
        done = await asyncio.to_thread(up.run, "restart", model, "-c", str(up.config))
        await load.more(16)
    async with steady(up.url(), model, sessions=8, words=20, named="new") as later:
        await later.more(16)
    print(f"{len(load.turns)} turns, {len(load.failed)} failed\n{done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert load.failed + later.failed == []
    new = set(engines(up, model))
    assert len(new) == count
    assert not new & old
    assert load.replicas & old, "turns ran when the restart began"
    assert later.replicas == new, "every new engine takes sessions"
    for replica in old:
        gone, ready = done.stderr.index(f"{replica} is gone"), done.stderr.index("is ready")
        assert ready < gone, "the new one was ready before the old one went"


@pytest.mark.full
async def test_in_place_each_engine_ends_before_its_successor_and_no_turn_fails(up: Stack) -> None:
    old = set(standing(up, "pair", 2))
    most = 0
    late: dict[str, asyncio.Task[Outcome]] = {}

    async def watch(http: aiohttp.ClientSession) -> None:
        """Count the engines that live, and be a front door that has not heard of a drain yet."""
        nonlocal most
        while True:
            living = {
                **await asyncio.to_thread(engines, up, "pair"),
                **(leaving := await asyncio.to_thread(engines, up, "pair", "draining")),
            }
            most = max(most, len(living))
            for replica, engine in leaving.items():
                if replica not in late:
                    turn = ask(http, engine["url"], "pair", stream=True, words=90, session="late")
                    late[replica] = asyncio.create_task(turn)
            await asyncio.sleep(0.05)

    async with client() as http, steady(up.url(), "pair", sessions=8, words=20) as load:
        watching = asyncio.create_task(watch(http))
        done = await asyncio.to_thread(
            up.run, "restart", "pair", "--in-place", "-c", str(up.config)
        )
        await load.more(16)
        watching.cancel()
        served = {replica: await turn for replica, turn in late.items()}
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 2 engines serve meanwhile" in done.stderr
    assert load.failed == []
    assert not set(engines(up, "pair")) & old
    assert most == 2
    assert served.keys() == old
    assert all(turn.well for turn in served.values()), "a turn that came late was served"


async def test_a_restart_that_cannot_be_is_refused_with_a_sentence(up: Stack) -> None:
    done = up.run("restart", "piar", "-c", str(up.config))
    assert done.returncode == 2
    assert "'piar' is not in this stack; did you mean 'pair'?" in done.stderr


async def test_kill_9_of_an_engine_under_32_streams_lets_each_go_on_at_the_other(
    up: Stack,
) -> None:
    old = standing(up, "pair", 2)
    victim = next(iter(old.values()))
    begun = asyncio.Semaphore(0)
    async with client() as http:
        turns = [
            asyncio.create_task(
                ask(
                    http,
                    up.url(),
                    "pair",
                    stream=True,
                    words=450,
                    session=f"k{n}",
                    on_begin=begun.release,
                )
            )
            for n in range(32)
        ]
        # Not by the engines' own counts: those are read each second, and streams end meanwhile.
        async with asyncio.timeout(PATIENCE_S):
            for _ in turns:
                await begun.acquire()
        process(up, victim).kill()
        seen = await asyncio.gather(*turns)
    assert any(turn.replica == victim["replica"] for turn in seen), "the victim had some of them"
    assert [turn for turn in seen if not turn.well] == []
    await asyncio.to_thread(replaced, up, "pair", {victim["replica"]}, 2)
    # Of sessions that are new: those that have a home stay there.
    async with steady(up.url(), "pair", sessions=8, words=5, named="fresh") as load:
        await load.more(24)
    assert load.failed == []
    assert load.replicas - old.keys(), "the new one takes turns"


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (signal.SIGUSR1, r"hung: it holds \d+ requests? and has produced nothing for \d+ s"),
        pytest.param(
            signal.SIGSTOP, r"hung: it has not answered for \d+ s", marks=pytest.mark.full
        ),
    ],
)
async def test_an_engine_that_produces_nothing_is_found_and_replaced(
    up: Stack, number: signal.Signals, why: str
) -> None:
    (old,) = standing(up, "solo").values()
    process(up, old).send_signal(number)
    async with client() as http:
        turn = asyncio.create_task(
            ask(http, up.url(), "solo", stream=True, words=20, session="hung")
        )

        def dead() -> Any:
            return engines(up, "solo", "dead").get(old["replica"])

        found = await asyncio.to_thread(eventually, dead, "it is told dead", BACK_S)
        assert re.search(why, found["reason"]), found["reason"]
        seen = await turn
        assert seen.well or seen.said_so, seen
    await asyncio.to_thread(replaced, up, "solo", {old["replica"]}, 1)


def test_an_engine_that_crashes_five_times_in_a_row_still_comes_back(up: Stack) -> None:
    for _ in range(5):
        (one,) = standing(up, "solo").values()
        process(up, one).kill()
        replaced_from = {one["replica"]}
        eventually(lambda: not set(engines(up, "solo")) & replaced_from, "it is out", BACK_S)  # noqa: B023
    waiting = eventually(
        lambda: [e for e in engines(up, "solo", "dead").values() if e["retry_at"]], "a pause"
    )
    assert waiting[0]["reason"].startswith("the engine of solo ended with status 137")
    (back,) = standing(up, "solo").values()
    assert back["restarts"] >= 5


def test_status_says_why_an_engine_cannot_start_and_when_it_is_tried_again(
    up: Stack, arguments: Path
) -> None:
    (old,) = standing(up, "solo").values()
    arguments.unlink()
    try:
        process(up, old).kill()

        def shown() -> str:
            said = up.run("status", "-c", str(up.config)).stdout
            return said if "started again at" in said and "No such file" in said else ""

        said = eventually(shown, "status says why", BACK_S)
        assert re.search(
            r"solo-\w+ is dead, started again at [\d:]+ \(in \d s\): the engine of solo ended with "
            r"status 2 after \d+ s; its last words:\n.*\n.*No such file",
            said,
        ), said
    finally:
        arguments.write_text("")
    replaced(up, "solo", {old["replica"]}, 1)


def test_the_log_of_a_killed_engine_is_kept_and_found_and_they_are_bounded(up: Stack) -> None:
    (old,) = standing(up, "solo").values()
    process(up, old).kill()
    (new,) = replaced(up, "solo", {old["replica"]}, 1)
    said = up.run("logs", "solo", "--lines", "3", "-c", str(up.config))
    assert said.returncode == 0, said.stderr
    assert f"{old['replica']} | simulated engine ready on {old['url']}" in said.stdout
    assert f"{new} | simulated engine ready on" in said.stdout
    assert re.search(rf"▶ {old['replica']}  ended .*{old['replica']}\.log", said.stdout)
    assert re.search(rf"▶ {new}  running .*{new}\.log", said.stdout)
    kept = list((up.home / "stacks" / up.name / "logs").glob("solo-*.log"))
    assert len(kept) <= 4
    assert up.run("logs", "sola", "-c", str(up.config)).returncode == 2


async def test_a_queue_brings_a_second_replica_and_its_end_takes_it_away(up: Stack) -> None:
    standing(up, "elastic")
    async with steady(up.url(), "elastic", sessions=12, words=30) as load:
        await asyncio.to_thread(
            eventually, lambda: len(engines(up, "elastic")) == 2, "a second one", BACK_S
        )
        await load.more(24)
        assert len(load.replicas) == 2
    # A little load while one of them goes.
    async with steady(up.url(), "elastic", sessions=1, words=5) as less:
        await asyncio.to_thread(
            eventually, lambda: len(engines(up, "elastic")) == 1, "one is left", BACK_S
        )
        await less.more(3)
    assert load.failed + less.failed == []


async def test_a_queue_that_only_the_front_door_sees_brings_a_second_replica_too(up: Stack) -> None:
    """Prompts of a second of prefill: an engine gets one at a time, and its own queue is empty."""
    standing(up, "reader")
    most_waiting = 0

    def two() -> bool:
        nonlocal most_waiting
        found = engines(up, "reader")
        most_waiting = max(most_waiting, *(e["waiting"] for e in found.values()), 0)
        return len(found) == 2

    async with steady(up.url(), "reader", sessions=8, words=5, fresh_bytes=8000) as load:
        await asyncio.to_thread(eventually, two, "a second one", BACK_S)
        await load.more(16)
        assert len(load.replicas) == 2
    await asyncio.to_thread(
        eventually, lambda: len(engines(up, "reader")) == 1, "one is left", BACK_S
    )
    assert load.failed == []
    assert most_waiting <= 2, "the engines' own queues asked for nobody"


@pytest.mark.full
def test_a_killed_replica_is_replaced_though_it_dies_while_its_engine_starts(
    up: Stack, arguments: Path
) -> None:
    (old,) = standing(up, "solo").values()
    arguments.write_text("--start-s\n8\n")
    try:
        for _ in range(4):
            worker = eventually(lambda: replica_of(up, "solo"), "a replica")
            eventually(lambda: below(worker, "serving.simulator"), "its engine starts")  # noqa: B023
            mine = worker.children(recursive=True)
            worker.kill()
            eventually(lambda: not any(p.is_running() for p in mine), "its engine ended too")  # noqa: B023
    finally:
        arguments.write_text("")
    replaced(up, "solo", {old["replica"]}, 1)


def replica_of(up: Stack, model: str) -> psutil.Process | None:
    """Ray's worker for a replica of this model (its title hides its environment)."""
    cluster = up.process("serving.cluster")
    for process in cluster.children(recursive=True) if cluster else ():
        if f"ray::ServeReplica:{model}:" in " ".join(command_line(process)):
            return process
    return None


def below(process: psutil.Process, word: str) -> bool:
    """Does a descendant have this word in its command line?"""
    try:
        lines = [command_line(child) for child in process.children(recursive=True)]
    except psutil.Error:
        return False
    return any(word in line and not any("guardian" in part for part in line) for line in lines)


def command_line(process: psutil.Process) -> list[str]:
    """Empty when it has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def test_a_sigkill_of_the_cluster_under_load_leaves_no_process(up: Stack) -> None:
    """The last one here: the stack ends."""
    cluster = up.process("serving.cluster")
    assert cluster is not None
    below_it = cluster.children(recursive=True)
    assert len(below_it) > 15
    async with steady(up.url(), "pair", sessions=8, words=20) as load:
        await load.more(8)
        before = len(load.turns)
        cluster.kill()
        await asyncio.to_thread(
            eventually, lambda: not any(p.is_running() for p in below_it), "all have ended", 30
        )
        await load.more(8)
    assert all(turn.well or turn.said_so or turn.broken for turn in load.turns[before:])
    await asyncio.to_thread(eventually, lambda: not up.processes(), "the stack has ended", 60)
