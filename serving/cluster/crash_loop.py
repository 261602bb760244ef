"""When is an engine that died started again? Soon, and ever later while it keeps dying.

    failures in a row    1      2      3      4   ...
    pause                0.5    1      2      4   ...  at most max_pause_s, each ± jitter

An engine that was ready for `steady_after_s` has shown that it can live: its death is the first
again. There is no last attempt: the cause may be gone a minute later (memory, a disk, a driver),
and then the engine comes back without anybody's help.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.config.model import RestartConfig


@dataclass(frozen=True, slots=True)
class CrashLoop:
    """What is known of the deaths of one replica's engines. Evolves by `died`."""

    failures: int = 0
    """In a row."""
    restarts: int = 0
    """Since the replica began."""

    def died(self, lived_s: float, knobs: RestartConfig) -> CrashLoop:
        """One more death; `lived_s` is how long the engine was ready, 0 if it never was."""
        steady = lived_s > 0 and lived_s >= knobs.steady_after_s
        return CrashLoop(1 if steady else self.failures + 1, self.restarts + 1)

    def pause_s(self, knobs: RestartConfig, chance: float) -> float:
        """The pause before the next start; `chance` is a random number from 0 to 1."""
        doublings = min(max(self.failures - 1, 0), 40)  # 2^40 is beyond any limit
        pause_s = min(knobs.pause_s * 2.0**doublings, knobs.max_pause_s)
        return pause_s * (1 + knobs.jitter * (2 * chance - 1))
