"""Which adapters shall be where: the set, its file, and the steps that are left to do."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from router.adapters.adapter_set import (
    MAX_LEAVING,
    AdapterFile,
    AdapterSet,
    KnownAdapters,
    Leaving,
    Wanted,
    plan,
)
from serving.errors import ConfigError
from tests.unit.fakes import engine, stack

POLITE = Wanted("polite", "big", "/kept/polite-1")
TERSE = Wanted("terse", "big", "/kept/terse-1")


def steps(
    *engines: object, wanted: object = (POLITE,), leaving: object = (), sure: object = None
) -> list[tuple[str, str, str | None]]:
    found = plan(wanted, leaving, engines, sure or {})  # type: ignore[arg-type]
    return [(step.engine.replica, step.name, step.folder) for step in found]


def test_a_ready_replica_that_lacks_an_adapter_gets_it() -> None:
    sure = {("big-0", "polite"): POLITE.folder}
    has, lacks = engine("big-0", adapters=("polite",)), engine("big-1")
    assert steps(has, lacks, sure=sure) == [("big-1", "polite", "/kept/polite-1")]


def test_one_that_is_not_ready_waits_and_another_model_gets_nothing() -> None:
    assert steps(engine("big-0", state="starting"), engine("tiny-0", "tiny")) == []


def test_a_replica_that_came_back_empty_is_seen_by_what_it_lists() -> None:
    sure = {("big-0", "polite"): POLITE.folder}
    assert steps(engine("big-0"), sure=sure) == [("big-0", "polite", "/kept/polite-1")]


def test_one_whose_contents_nobody_knows_is_looked_at() -> None:
    listed = engine("big-0", adapters=("polite",))
    assert steps(listed) == [("big-0", "polite", "/kept/polite-1")]
    assert steps(listed, sure={("big-0", "polite"): "/kept/polite-0"}) != []


def test_what_left_while_a_replica_was_away_is_unloaded_there_and_only_there() -> None:
    leaving = (Leaving("terse", "big-0"),)
    replicas = engine("big-0", adapters=("terse",)), engine("big-1", adapters=("terse",))
    assert steps(*replicas, wanted=(), leaving=leaving) == [("big-0", "terse", None)]
    away = engine("big-0", state="dead")
    assert steps(away, wanted=(), leaving=leaving) == []


def test_what_is_wanted_again_leaves_nowhere() -> None:
    value = AdapterSet().with_loaded(POLITE).with_loaded(TERSE).without("polite", ["big-0"])
    assert value.loaded == (TERSE,)
    assert value.leaving == (Leaving("polite", "big-0"),)
    again = value.with_loaded(POLITE)
    assert again == AdapterSet((TERSE, POLITE))
    assert value.confirmed([Leaving("polite", "big-0")]) == AdapterSet((TERSE,))


def test_removals_that_nobody_confirms_are_bounded() -> None:
    value = AdapterSet().without("polite", [f"big-{n}" for n in range(MAX_LEAVING + 9)])
    assert len(value.leaving) == MAX_LEAVING
    assert value.leaving[-1].replica == f"big-{MAX_LEAVING + 8}"
    assert value.without("polite", ["big-50"]) == value


def test_the_set_survives_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "adapters.json"
    value = AdapterSet((POLITE,), (Leaving("terse", "big-0"),))
    mine, other = AdapterFile(path), AdapterFile(path)
    assert mine.read() == AdapterSet()
    mine.write(value)
    assert not mine.changed()
    assert other.changed()
    assert other.read() == value
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    other.write(AdapterSet())
    assert mine.changed()
    assert [child.name for child in path.parent.iterdir()] == ["adapters.json"]


@pytest.mark.parametrize("text", ["", "{", '{"loaded": 5}', '{"loaded": [{"name": "a"}]}'])
def test_a_file_that_cannot_be_understood_says_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / "adapters.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"adapters\.json: cannot be read .*remove it"):
        AdapterFile(path).read()


def test_names_that_can_be_asked_for_follow_the_set() -> None:
    config = stack()
    model = config.models["big"].model_copy(update={"adapters": {"fixed": Path("/a")}})
    known = KnownAdapters(config.model_copy(update={"models": {"big": model}}))
    assert known.parents == {"fixed": "big"}
    known.take(AdapterSet((POLITE,), (Leaving("terse", "big-0"), Leaving("polite", "big-1"))))
    assert known.parents == {"fixed": "big", "polite": "big"}
    assert known.leaving == {"terse"}
    assert known.owners == {"fixed": "big", "polite": "big", "big": "big"}
