"""How a rolling restart is chosen and followed, and how it is ordered."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from serving.cluster import commands
from serving.cluster.commands import Line, Order
from serving.cluster.restart import Restarts, choose
from serving.config.model import ModelConfig
from serving.errors import EngineError
from serving.tables.base import Engine

GIB = 2.0**30
CPU = ModelConfig(engine="simulated", memory_gib=3, replicas=2)
GPU = ModelConfig(engine="simulated", gpus=1, replicas=1)


def engine(name: str, round_: int = 0, **changes: object) -> Engine:
    made = Engine(f"small-{name}", "small", "http://127.0.0.1:1", "small", round=round_)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_new_one_comes_first_where_there_is_room() -> None:
    assert choose("small", CPU, 2, False, lambda: (4 * GIB, 0)).surge
    assert choose("small", GPU, 1, False, lambda: (0, 1)).surge


def test_without_room_several_are_restarted_in_place_and_it_is_said() -> None:
    way = choose("small", CPU, 2, False, lambda: (2 * GIB, 0))
    assert not way.surge
    assert way.says == (
        "there is no room for one engine more (it takes 3.0 GiB of memory, and 2.0 GiB are "
        "available): in place, 1 of 2 engines serve meanwhile"
    )


def test_without_room_a_single_one_is_refused_unless_told_to_accept_the_gap() -> None:
    way = choose("small", GPU, 1, False, lambda: (0, 0))
    assert "it takes 1 GPUs, and 0 are free" in way.refusal
    assert "--in-place: no engine serves meanwhile" in way.refusal
    way = choose("small", GPU, 1, True, lambda: (0, 0))
    assert not way.surge
    assert "turns are refused with 503 until the new one is ready" in way.says


@pytest.fixture
def deployed() -> list[tuple[str, int, bool]]:
    return []


@pytest.fixture
def restarts(deployed: list[tuple[str, int, bool]]) -> Restarts:
    def deploy(model: str, round_: int, surge: bool) -> None:
        deployed.append((model, round_, surge))

    return Restarts({"small": CPU}, deploy, lambda: (9 * GIB, 0))


def order(tmp_path: Path, model: str = "small") -> Order:
    return Order(commands.Restart(model), tmp_path / f"{len(list(tmp_path.iterdir()))}.log")


def said(order: Order) -> list[Line]:
    lines = order.answer.read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Line) for line in lines]


def test_it_ends_when_all_are_new_and_the_old_ones_are_gone(
    tmp_path: Path, restarts: Restarts, deployed: list[tuple[str, int, bool]]
) -> None:
    old = (engine("a"), engine("b"))
    restarts.ask(asked := order(tmp_path), old)
    assert deployed == [("small", 1, True)]
    new = engine("c", 1), engine("d", 1)
    other = Engine("other-1", "other", "", "other")
    leaving = replace(old[1], state="draining", reason="finishing its turns")
    for engines in (
        (*old, other),
        (*old, replace(new[0], state="starting")),
        (*old, new[0]),
        (new[0], replace(old[0], state="draining"), old[1]),
        (*new, leaving),
    ):
        restarts.take(engines)
        assert not said(asked)[-1].end
    restarts.take((*new, engine("z", state="dead")))
    assert said(asked)[-1] == Line("small is restarted: small-c, small-d", "done")
    assert [line.text for line in said(asked)][1:-1] == [
        "small-c is starting",
        "small-c is ready",
        "small-a is draining",
        "small-d is ready",
        "small-b is draining: finishing its turns",
        "small-a is gone",
        "small-b is gone",
    ]


def test_a_new_engine_that_cannot_start_fails_it_and_the_old_ones_are_said_to_serve(
    tmp_path: Path, restarts: Restarts
) -> None:
    old = (engine("a"), engine("b"))
    restarts.ask(asked := order(tmp_path), old)
    restarts.take((*old, engine("c", 1, state="dead", reason="out of luck")))
    last = said(asked)[-1]
    assert last.end == "failed"
    assert "cannot start: out of luck" in last.text
    assert "2 engines of small go on serving" in last.text
    restarts.ask(again := order(tmp_path), old)
    assert not said(again)[-1].end, "so it may be asked for again"


def test_two_restarts_of_one_model_do_not_run_at_once(tmp_path: Path, restarts: Restarts) -> None:
    restarts.ask(order(tmp_path), (engine("a"),))
    restarts.ask(second := order(tmp_path), (engine("a"),))
    assert said(second) == [Line("small is being restarted already; wait for its end", "failed")]


def test_a_redeploy_that_ray_refuses_fails_the_restart_and_nothing_else(tmp_path: Path) -> None:
    def deploy(*_: object) -> None:
        raise RuntimeError("no")

    restarts = Restarts({"small": CPU}, deploy, lambda: (9 * GIB, 0))
    restarts.ask(asked := order(tmp_path), (engine("a"),))
    assert said(asked)[-1] == Line("Ray did not take it: RuntimeError('no')", "failed")
    restarts.take((engine("a"),))


def test_an_unknown_model_is_refused_with_the_nearest(tmp_path: Path, restarts: Restarts) -> None:
    restarts.ask(asked := order(tmp_path, "smal"), ())
    assert said(asked) == [Line("'smal' is no model of ours; did you mean 'small'?", "failed")]


def test_an_order_goes_through_the_folder_and_its_answer_comes_back(tmp_path: Path) -> None:
    commands.open_(tmp_path)
    (tmp_path / commands.FOLDER / "0.json").write_text("nonsense")
    heard: list[Line] = []

    def ask() -> None:
        heard.extend(commands.ask(tmp_path, commands.Restart("small", True), lambda: True))

    asking = threading.Thread(target=ask)
    asking.start()
    orders: list[Order] = []
    while not orders:
        orders = commands.take(tmp_path)
    assert orders[0].restart == commands.Restart("small", True)
    orders[0].say("one")
    orders[0].say("two", "done")
    asking.join(30)
    assert heard == [Line("one"), Line("two", "done")]
    assert list((tmp_path / commands.FOLDER).iterdir()) == []
    assert commands.take(tmp_path) == []


def test_an_order_to_a_stack_that_ends_does_not_wait_for_ever(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="still starting"):
        next(commands.ask(tmp_path, commands.Restart("small"), lambda: True))
    commands.open_(tmp_path)
    with pytest.raises(EngineError, match="ended meanwhile"):
        next(commands.ask(tmp_path, commands.Restart("small"), lambda: False))
    assert oct((tmp_path / commands.FOLDER).stat().st_mode)[-3:] == "700"
