"""What tokens and hours cost: dated price lists as files, and one's own machine as a price list.

    prices/NAME.json          a hosted API: USD per million tokens, its frontier and its small model
    prices/hours/NAME.json    rented machines: USD per hour
    Machine + Speed           one's own engines: the hour, shared out over the tokens it computes

A hosted list may have a fourth price beside the three of a stack: `written`, for prompt tokens that
go into the provider's cache. It counts where the cache is used, in the place of `fresh`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError, model_validator

from serving.config.model import Prices
from serving.config.sections import Frozen
from serving.errors import ConfigError
from serving.tables.base import Tier

FOLDER = Path(__file__).parent / "prices"
HOURS_A_MONTH = 730

Listed = TypeVar("Listed", bound=Frozen)


class Rates(Prices):
    """US dollars per million tokens."""

    written: float | None = Field(default=None, ge=0)
    """Prompt tokens that are put into the cache; None: as `fresh`."""

    def with_cache(self) -> Prices:
        """What fresh tokens cost to somebody who uses the cache."""
        fresh = self.fresh if self.written is None else self.written
        return Prices(fresh=fresh, cached=self.cached, output=self.output)

    def without_cache(self) -> Prices:
        """... and to somebody who does not."""
        return Prices(fresh=self.fresh, cached=self.fresh, output=self.output)


class PriceList(Frozen):
    """What two models cost somewhere, as of a day."""

    name: str
    date: datetime.date | None
    """None for one's own machine: its speed was measured, or assumed, in this run."""
    source: str = Field(min_length=1)
    note: str = ""
    frontier: str
    small: str
    usd_per_million: Mapping[str, Rates]

    @model_validator(mode="after")
    def _has_both(self) -> PriceList:
        for tier, model in (("frontier", self.frontier), ("small", self.small)):
            if model not in self.usd_per_million:
                raise ValueError(f"{tier}: {model!r} has no price in usd_per_million; add one")
        return self

    def of(self, tier: Tier) -> Rates:
        return self.usd_per_million[self.frontier if tier == "frontier" else self.small]


class HourList(Frozen):
    """What rented machines cost an hour, as of a day."""

    date: datetime.date
    source: str = Field(min_length=1)
    note: str = ""
    usual: str
    usd_per_hour: Mapping[str, float]

    @model_validator(mode="after")
    def _has_the_usual_one(self) -> HourList:
        if self.usual not in self.usd_per_hour:
            raise ValueError(f"usual: {self.usual!r} is not in usd_per_hour; add it")
        return self


@dataclass(frozen=True, slots=True)
class Speed:
    """What an engine does in a second, when it has enough to do."""

    fresh: float
    """Prompt tokens that it computes."""
    cached: float
    """Prompt tokens that it finds in its cache."""
    output: float
    """Tokens that it generates, all its sequences together."""

    def seconds(self, *, fresh: float, cached: float, output: float) -> float:
        """How long the engine is busy with so much."""
        return fresh / self.fresh + cached / self.cached + output / self.output


@dataclass(frozen=True, slots=True)
class Machine:
    """One's own machine: what it costs, and what it does."""

    name: str
    usd_per_hour: float
    share: Mapping[Tier, float]
    """Of the machine, by the tier whose engine has it."""
    speed: Mapping[Tier, Speed]
    measured: bool

    def price_list(self) -> PriceList:
        """Its tokens' prices while it is busy: an idle machine's are higher."""
        said = "measured in this run" if self.measured else "ASSUMED, not measured"
        return PriceList(
            name="self-hosted",
            date=None,
            source=f"{self.name}: {self.usd_per_hour:g} USD an hour; tokens a second {said}",
            frontier="frontier",
            small="small",
            usd_per_million={tier: self._rates(tier) for tier in self.speed},
        )

    def usd_per_second(self, tier: Tier) -> float:
        """Of this tier's share of it."""
        return self.usd_per_hour * self.share[tier] / 3600

    def _rates(self, tier: Tier) -> Rates:
        million = 1e6 * self.usd_per_second(tier)
        speed = self.speed[tier]
        return Rates(
            fresh=million / speed.fresh,
            cached=million / speed.cached,
            output=million / speed.output,
        )

    @property
    def usd_per_month(self) -> float:
        return self.usd_per_hour * HOURS_A_MONTH


def hosted(folder: Path = FOLDER) -> list[PriceList]:
    """All lists of a folder. Raises ConfigError, naming the file and what is wrong with it."""
    return [_read(path, PriceList) for path in sorted(folder.glob("*.json"))]


def hours(path: Path = FOLDER / "hours" / "gpu.json") -> HourList:
    """One list of machines. Raises ConfigError."""
    return _read(path, HourList)


def _read(path: Path, kind: type[Listed]) -> Listed:
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{path}: {where or 'the whole'}: {first['msg']}") from None
        raise ConfigError(f"{path}: is no price list: {error}") from None
