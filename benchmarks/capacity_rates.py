"""What was measured of an engine and of a front door: dated files, as price lists are.

    rates/NAME.json     one engine on one machine, and the front door before it

`measured` is false where a figure of the engine is an assumption: the report then says so. Decode
speeds are given by how many sequences are decoded at once, all of them together; between two of
those a straight line is taken, and beyond the last nothing is gained any more.
"""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError, field_validator

from serving.config.sections import Frozen, nearest
from serving.errors import ConfigError

FOLDER = Path(__file__).parent / "rates"


class FrontDoor(Frozen):
    """One process of ours, one thread."""

    turn_ms: float = Field(gt=0)
    """CPU of one turn of an agent, all of it: HTTP, decisions, stream, loop, journal."""
    decision_us: float = Field(ge=0)
    """... and for each replica that is weighed, where one is chosen anew."""
    home_us: float = Field(ge=0)
    """... and for each replica in the table, where a session stays at its own."""
    steps_per_s: float = Field(gt=0)
    """Durable steps that a journal takes."""
    steps_a_turn: float = Field(default=1.0, gt=0)
    sessions: int = Field(default=200_000, ge=1)
    """That are remembered (`router.max_sessions`)."""


class Rates(Frozen):
    """Tokens a second of one engine that has enough to do."""

    name: str
    date: datetime.date
    measured: bool
    source: str = Field(min_length=1)
    """Which command made it, on what; or what is assumed, and why."""
    prefill: float = Field(gt=0)
    """Prompt tokens that are computed, one prompt at a time."""
    cached: float = Field(gt=0)
    """Prompt tokens that are found."""
    decode: Mapping[int, float] = Field(min_length=1)
    """Sequences at once → tokens a second, all together."""
    shared: bool = True
    """Prefill and decode take the same time from each other, as on one GPU. False: side by side, as
    the simulated engine has them."""
    kv_tokens: int = Field(gt=0)
    """Of all sequences; a cache on the host counts where the engine has one."""
    context_tokens: int = Field(gt=0)
    max_running: int = Field(default=256, ge=1)
    front: FrontDoor

    @field_validator("decode")
    @classmethod
    def _grows(cls, value: Mapping[int, float]) -> Mapping[int, float]:
        points = sorted(value.items())
        if any(batch < 1 or rate <= 0 for batch, rate in points):
            raise ValueError("each key is at least 1 (sequences), each value above 0 (tokens/s)")
        for (few, slow), (many, fast) in itertools.pairwise(points):
            if fast < slow or fast / many > slow / few:
                raise ValueError(
                    f"from {few} to {many} sequences the whole must not get slower, nor one of "
                    f"them faster ({slow:g} and {fast:g} tokens/s)"
                )
        return value

    def decoded(self, batch: float) -> float:
        """Tokens a second of `batch` sequences together."""
        points = sorted(self.decode.items())
        below = [(n, rate) for n, rate in points if n <= batch]
        above = [(n, rate) for n, rate in points if n > batch]
        if not below:
            return points[0][1] * batch / points[0][0]
        if not above:
            return below[-1][1]
        (few, slow), (many, fast) = below[-1], above[0]
        return slow + (fast - slow) * (batch - few) / (many - few)

    @property
    def most_decoded(self) -> float:
        return self.decoded(self.max_running)


def read(name: str, folder: Path = FOLDER) -> Rates:
    """By name, or by the path of a file of one's own. Raises ConfigError: the file, the field."""
    path = Path(name) if name.endswith(".json") else folder / f"{name}.json"
    if not path.is_file():
        known = sorted(each.stem for each in folder.glob("*.json"))
        raise ConfigError(f"rates: {name!r} is no file; {nearest(name, known)}")
    try:
        return Rates.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where or 'the whole'}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: is no file of rates: {error}") from None
