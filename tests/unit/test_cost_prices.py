"""Price lists are dated, sourced and whole; a machine's hour becomes prices of tokens."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cost_prices
from benchmarks.cost_prices import Machine, Rates, Speed
from serving.errors import ConfigError
from serving.tables.base import Tier

LISTED: dict[str, Any] = {
    "name": "somebody",
    "date": "2026-11-01",
    "source": "a page",
    "frontier": "large",
    "small": "little",
    "usd_per_million": {
        "large": {"fresh": 2, "cached": 0.2, "written": 2.5, "output": 10},
        "little": {"fresh": 0.1, "cached": 0.01, "output": 0.5},
    },
}


def folder(path: Path, listed: Any) -> Path:
    (path / "somebody.json").write_text(json.dumps(listed))
    return path


def test_every_list_that_is_shipped_says_of_when_and_from_where_it_is() -> None:
    lists = cost_prices.hosted()
    assert len(lists) >= 3
    for each in lists:
        assert each.date is not None
        assert datetime.date(2026, 1, 1) < each.date
        assert "http" in each.source
        assert 0 < each.of("small").fresh < each.of("frontier").fresh
        for rates in each.usd_per_million.values():
            assert 0 < rates.cached < rates.fresh < rates.output
    machines = cost_prices.hours()
    assert "http" in machines.source
    assert machines.usd_per_hour[machines.usual] > 0


def test_tokens_that_are_written_to_a_cache_have_their_own_price_only_where_one_is_used() -> None:
    rates = Rates(fresh=2, cached=0.2, written=2.5, output=10)
    assert rates.with_cache().fresh == 2.5
    assert rates.without_cache().fresh == 2
    assert Rates(fresh=2, cached=0.2, output=10).with_cache().fresh == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": ""}, "source"),
        ({"date": "last week"}, "date"),
        ({"small": "tiny"}, "small: 'tiny' has no price"),
        ({"usd_per_million": {"large": {"fresh": -1}}}, "usd_per_million.large.fresh"),
        ({"prices": 1}, "prices"),
    ],
)
def test_a_list_that_is_wrong_is_refused_by_file_and_field(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"somebody\.json") as refused:
        cost_prices.hosted(folder(tmp_path, {**LISTED, **change}))
    assert said in str(refused.value)


def test_a_file_that_is_no_json_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "somebody.json").write_text("{")
    with pytest.raises(ConfigError, match=r"somebody\.json: is no price list"):
        cost_prices.hosted(tmp_path)


def test_an_hour_is_shared_out_over_the_tokens_that_it_computes() -> None:
    speed = Speed(fresh=1000, cached=100_000, output=100)
    tiers: tuple[Tier, ...] = ("frontier", "small")
    machine = Machine(
        "ours", 3.6, dict.fromkeys(tiers, 0.5), dict.fromkeys(tiers, speed), measured=True
    )
    rates = machine.price_list().of("frontier")
    # 1.80 USD buy an hour of this engine: 3.6 million fresh tokens.
    assert rates.fresh == pytest.approx(0.5)
    assert rates.cached == pytest.approx(0.005)
    assert rates.output == pytest.approx(5)
    assert machine.usd_per_month == pytest.approx(3.6 * 730)
    seconds = speed.seconds(fresh=500, cached=50_000, output=100)
    assert rates.cost_usd(prompt=50_500, cached=50_000, output=100) == pytest.approx(
        seconds * 1.8 / 3600
    )
