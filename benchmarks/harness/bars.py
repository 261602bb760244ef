"""A figure of ours held against a limit that was set before it was measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """`value` is None where nobody stands beside us: then nothing is judged."""

    what: str
    value: float | None
    limit: float
    at_most: bool = True

    @property
    def missed(self) -> bool:
        if self.value is None:
            return False
        # Not the other way round: NaN misses every bar.
        return not (self.value <= self.limit if self.at_most else self.value >= self.limit)

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        if self.value is None:
            return f"bar: {self.what} {sign} {self.limit:g}: not judged, the other is not installed"
        said = "MISSED" if self.missed else "reached"
        return f"bar: {self.what} {sign} {self.limit:g}: {self.value:.2f} {said}"
