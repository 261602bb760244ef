"""One replica in the scheduler's books: what runs there, what waits for it, what it holds.

Desk      the replica, as this front door has loaded it
Booking   what one turn takes there, from when it is sent until it has ended
Held      a turn that waits
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from router.placing.claim import Claim, Placed
from router.placing.placement import Need
from router.placing.programs import Active, Program
from router.placing.waiting import Line, Waiting
from router.placing.warmth import Holdings, Node
from serving.config.router import QueueConfig
from serving.tables.base import Engine

UNKNOWN_ROOM = 1 << 62


class Held(Waiting):
    """A turn that waits: what it needs, and whom to tell."""

    __slots__ = ("arrived_s", "at", "claim", "engines", "need", "placed", "program")

    def __init__(
        self,
        order_s: float,
        fresh_tokens: int,
        *,
        claim: Claim,
        need: Need,
        program: Program,
        engines: Mapping[str, Engine],
        arrived_s: float,
    ) -> None:
        super().__init__(order_s, claim.tenant.name, fresh_tokens)
        self.claim = claim
        self.need = need
        self.program = program
        self.engines = engines
        """By replica: those that may take it."""
        self.arrived_s = arrived_s
        self.at: Desk | None = None
        """Where it waits; None: as a stranger, for any."""
        self.placed: asyncio.Future[tuple[Placed, Booking]] = (
            asyncio.get_running_loop().create_future()
        )


@dataclass(slots=True, eq=False)
class Desk:
    """All counts are of this front door's own turns."""

    replica: str
    model: str
    held: Holdings
    active: Active
    line: Line[Held]
    capacity_tokens: int = 0
    """Of its cache; 0 = unknown."""
    running: int = 0
    """Turns sent there that have not ended."""
    unbegun: int = 0
    """... and whose prompt is not computed yet."""
    backlog_tokens: int = 0
    """What is to be computed of those."""
    pinned_tokens: int = 0
    """Cache that its running turns need, prompts and answers."""
    first_byte_s: float = 0.0
    """When the last prefill there ended."""
    placed: float = 0.0
    """New sessions that it got lately."""
    strangers_from_s: float = 0.0
    """From then on it may drive out others for a stranger again."""
    reports_cache: bool = False
    """Its engine has been seen to say how much it found in its cache."""
    queried_tokens: int = 0
    """The engine's own counter, as last seen."""
    spares: dict[Booking, Callable[[], None]] = field(default_factory=dict)
    """Spare turns whose prompt is being computed, and what ends them."""

    def heard(self, engine: Engine) -> None:
        """What the engine says of itself now. A counter that fell means that it began anew."""
        if engine.capacity_tokens and self.capacity_tokens != engine.capacity_tokens:
            self.capacity_tokens = engine.capacity_tokens
            self.held.resize(engine.capacity_tokens)
        if engine.load.queried_tokens < self.queried_tokens:
            self.held.clear()
        self.queried_tokens = engine.load.queried_tokens

    def clear_way(self) -> None:
        """Somebody's turn is here: what nobody waits for ends, and takes nothing from now on."""
        for booking, end in list(self.spares.items()):
            end()
            booking.computed()

    def room_tokens(self, program: Program | None = None) -> int:
        """Cache that no other program needs which is expected back."""
        if not self.capacity_tokens:
            return UNKNOWN_ROOM
        own = self.active.tokens_of(program) if program is not None else 0
        return self.capacity_tokens - self.active.tokens + own

    def may_go(self, need: Need, fresh_tokens: int, rate: float, queue: QueueConfig) -> bool:
        """The engine would begin with it soon, and what comes after it would find room."""
        if self.running == 0:
            return True
        if self.running >= queue.max_running:
            return False
        wanted = self.pinned_tokens + need.tokens + need.answer_tokens
        if self.capacity_tokens and wanted > self.capacity_tokens:
            return False
        return not self.backlog_tokens or (
            self.backlog_tokens + fresh_tokens <= queue.backlog_s * rate
        )


class Booking:
    """One turn at one desk."""

    __slots__ = (
        "backlog", "begun", "desk", "node", "pinned", "sent_s", "warm", "whole",
    )  # fmt: skip

    def __init__(
        self,
        desk: Desk,
        need: Need,
        *,
        warm: int,
        whole: int,
        node: Node | None,
        sent_s: float,
    ) -> None:
        self.desk = desk
        self.warm = warm
        """Predicted: tokens of its prompt that are held there."""
        self.whole = whole
        """... without the answer that came before it, which a template may write differently."""
        self.node = node
        """Where its chain ends, pinned for it. It is there from now on: whatever is sent after this
        turn is computed after it."""
        self.begun = False
        self.sent_s = sent_s
        self.backlog = need.tokens - warm
        self.pinned = need.tokens + need.answer_tokens
        desk.running += 1
        desk.unbegun += 1
        desk.backlog_tokens += self.backlog
        desk.pinned_tokens += self.pinned

    def computed(self) -> bool:
        """Its prompt is computed; False when that was known."""
        if self.backlog < 0:
            return False
        self.desk.spares.pop(self, None)
        self.desk.unbegun -= 1
        self.desk.backlog_tokens -= self.backlog
        self.backlog = -1
        return True

    def end(self) -> None:
        """It takes nothing any more."""
        self.computed()
        self.desk.running -= 1
        self.desk.pinned_tokens -= self.pinned
        if self.node is not None:
            self.desk.held.unpin(self.node)
            if not self.begun:
                self.desk.held.cut(self.node, self.whole)
            self.node = None
