"""Where does each program live, and is it coming back? The sessions that run on this fleet.

    first turn ──► running ──► thinks (a tool runs, a person reads) ──► running ──► …
                      active ───────────────────────────► idle for longer than most: not expected

A program that is active holds its whole prefix in one replica's cache and will want it again soon:
giving its room to a stranger makes it compute everything once more. How long an absence is still
an absence, and not an end, is measured: the gap that `RETURN_SHARE` of all returns stayed under.

Bounded: at most `capacity` programs are remembered, the least recently used go first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterator

RETURN_SHARE = 0.9
_GAPS = 512
_GUESS_S = 30.0
_LEAST_S, _MOST_S = 2.0, 600.0


class Program:
    """One session on one model."""

    __slots__ = ("home", "last_s", "running", "tokens", "turns")

    def __init__(self) -> None:
        self.home = ""
        """The replica that answered its last turn; empty before the first."""
        self.tokens = 0
        """Prompt and answer of its last turn."""
        self.last_s = 0.0
        self.running = 0
        self.turns = 0


Place = tuple[str, bytes]
"""Model or adapter, and the session's key."""


class Active:
    """The programs whose home one replica is and that are expected back there."""

    __slots__ = ("_idle", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        """Their prefixes together: what the replica's cache should keep."""
        self._idle: OrderedDict[Program, int] = OrderedDict()
        """The tokens that each was counted with; the one longest idle first."""

    def __len__(self) -> int:
        return len(self._idle)

    def __contains__(self, program: Program) -> bool:
        return program in self._idle

    def tokens_of(self, program: Program) -> int:
        return self._idle.get(program, 0)

    def put(self, program: Program, tokens: int) -> None:
        self.tokens += tokens - self._idle.get(program, 0)
        self._idle[program] = tokens
        self._idle.move_to_end(program)

    def remove(self, program: Program) -> None:
        self.tokens -= self._idle.pop(program, 0)

    def expire(self, before_s: float) -> None:
        """Programs that have been idle since before this moment are not expected any more."""
        for _ in range(len(self._idle)):
            program = next(iter(self._idle))
            if program.running:
                self._idle.move_to_end(program)
            elif program.last_s < before_s:
                self.remove(program)
            else:
                return


class Programs:
    """All programs of one front door."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._known: OrderedDict[Place, Program] = OrderedDict()
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self._since = 0
        self.patience_s = _GUESS_S
        """An absence longer than this is taken for an end."""
        self._active: dict[str, Active] = {}

    def __len__(self) -> int:
        return len(self._known)

    def homes(self) -> Iterator[tuple[Place, Program]]:
        """Programs that have a home, the most recently used first."""
        return (
            (place, self._known[place])
            for place in reversed(self._known)
            if self._known[place].home
        )

    def active(self, replica: str) -> Active:
        found = self._active.get(replica)
        if found is None:
            found = self._active[replica] = Active()
        return found

    def keep_only(self, replicas: Collection[str]) -> None:
        for gone in [r for r in self._active if r not in replicas]:
            del self._active[gone]

    def begin(self, model: str, key: bytes) -> Program:
        """A turn of this program is here."""
        place = (model, key)
        program = self._known.get(place)
        if program is None:
            program = self._known[place] = Program()
            while len(self._known) > self._capacity:
                _, old = self._known.popitem(last=False)
                if old.home:
                    self.active(old.home).remove(old)
        else:
            self._known.move_to_end(place)
        return program

    def returned(self, program: Program, now_s: float) -> None:
        """Learn from the gap since its last turn, if this turn comes after one."""
        if program.turns and not program.running:
            self._gaps.append(now_s - program.last_s)
            self._since += 1
            if self._since >= 32 or len(self._gaps) in (4, 8, 16):
                self._since = 0
                ordered = sorted(self._gaps)
                share = ordered[int(RETURN_SHARE * (len(ordered) - 1))]
                self.patience_s = min(max(1.5 * share, _LEAST_S), _MOST_S)

    def settle(self, program: Program, replica: str, tokens: int) -> None:
        """Its home is this replica, where its prefix is so long."""
        if program.home and program.home != replica:
            self.active(program.home).remove(program)
        program.home = replica
        program.tokens = tokens
        self.active(replica).put(program, tokens)

    def ended(self, program: Program, now_s: float) -> None:
        """A turn of it is over, well or not."""
        program.last_s = now_s
        program.turns += 1
        if program.home and program in self.active(program.home):
            self.active(program.home).put(program, program.tokens)
