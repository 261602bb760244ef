"""Our own policy in the benchmark: the real parser, identity and scheduler of a front door.

Each turn becomes the JSON body that a client would send, of its real length (four bytes to a
token), so that what identity learns of prefixes, it learns as it does in production.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from benchmarks.routing_workload import Message
from benchmarks.routing_world import MODEL, Arrival, World
from router.peers.memory import Room
from router.placing.health import Health
from router.placing.scheduler import Claim, Scheduler, Slot
from router.turn import TurnRequest
from serving.config.router import RouterConfig
from serving.protocol import CHAT, COMPLETIONS, Usage, parse
from serving.simulator.cache import BYTES_PER_TOKEN
from serving.tables.base import Engine

MOST_INFLIGHT = 100_000


class Bodies:
    """Requests as clients write them. One for all front doors, since texts are long."""

    def __init__(self, block_tokens: int) -> None:
        self._block_bytes = block_tokens * BYTES_PER_TOKEN
        self._texts: dict[str, bytes] = {}
        self._count = 0

    def request(self, arrival: Arrival) -> tuple[str, bytes]:
        """Path and body."""
        session = arrival.session
        if not arrival.turn.messages:
            return COMPLETIONS, self._bare_prompt(arrival)
        texts = b",".join(self._text(session.messages[i], i) for i in arrival.turn.messages)
        return CHAT, b'{"model":"%s","messages":[%s]}' % (MODEL.encode(), texts)

    def _text(self, message: Message, index: int) -> bytes:
        text = self._texts.get(message.name)
        if text is None:
            text = self._texts[message.name] = self.text(message, index)
        return text

    @staticmethod
    def text(message: Message, index: int) -> bytes:
        """A message's JSON, as long as its tokens are."""
        return b'{"role":"%s","content":"%s"}' % (
            b"user" if index else b"system",
            message.name.encode().ljust(message.tokens * BYTES_PER_TOKEN - 30, b"."),
        )

    def _bare_prompt(self, arrival: Arrival) -> bytes:
        """One piece of text for each block; the last, unfinished one is nobody else's."""
        turn = arrival.turn
        pieces = [(b"%x" % block).ljust(self._block_bytes, b".") for block in turn.blocks]
        rest = turn.prompt_tokens * BYTES_PER_TOKEN - len(pieces) * self._block_bytes
        self._count += 1
        pieces.append((b"end %d" % self._count).ljust(rest, b".")[: max(0, rest)])
        return b'{"model":"%s","prompt":"%s"}' % (MODEL.encode(), b"".join(pieces))


class Ours:
    """A front door's scheduler, without the HTTP around it.

    Several are in one `room`: they tell each other what they learn, as front doors do over HTTP.
    """

    def __init__(
        self,
        world: World,
        bodies: Bodies,
        room: Room,
        *,
        ids: bool,
        knobs: RouterConfig = RouterConfig(),  # noqa: B008  it is frozen
    ) -> None:
        self._ids = ids
        self._bodies = bodies
        self._world = world
        self._numbers = {f"{MODEL}-{i}": i for i in world.alive}
        self._table: Sequence[Engine] = ()
        self.health = Health(knobs.eject_s, world.now)
        self.scheduler = Scheduler(
            knobs,
            MOST_INFLIGHT,
            self._ready,
            self.health,
            world.now,
            replicas=lambda: [e.replica for e in world.table()],
        )
        self._room = room
        self._url = f"door {len(room.doors)}"
        self._peers = self.scheduler.outside.join(room.doors.keys, room, self._url)
        room.doors[self._url] = self._peers

    async def start(self) -> None:
        if len(self._room.doors) > 1:
            await self._peers.start()

    def close(self) -> None:
        """It died: nobody hears of it any more."""
        del self._room.doors[self._url]
        self._closing = asyncio.ensure_future(self._peers.stop())

    def open(self, arrival: Arrival) -> _Ticket:
        key = arrival.session.key if self._ids else ""
        headers = {"x-session-id": key} if key else {}
        path, body = self._bodies.request(arrival)
        turn = TurnRequest(path, body, "bench", headers)
        identity = self.scheduler.sessions.identify(turn, parse(path, body))
        return _Ticket(self.scheduler.enter(Claim(MODEL, identity.on(MODEL), len(body))), self)

    def _ready(self, _model: str) -> Sequence[Engine]:
        """As `dispatch` does: what left the table is forgotten when its newest state is read."""
        table = self._world.table()
        if table is not self._table:
            self._table = table
            replicas = {engine.replica for engine in table}
            self.health.keep_only(replicas)
            self.scheduler.keep_only(replicas)
        return table

    def number(self, replica: str) -> int:
        return self._numbers[replica]

    def name(self, number: int) -> str:
        return f"{MODEL}-{number}"


class _Ticket:
    __slots__ = ("_at", "_ours", "_slot")

    def __init__(self, slot: Slot, ours: Ours) -> None:
        self._slot = slot
        self._ours = ours
        self._at = ""

    def __enter__(self) -> _Ticket:
        self._slot.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._slot.__exit__(*error)  # type: ignore[arg-type]

    async def place(self, without: Sequence[int]) -> int | None:
        placed = await self._slot.place([self._ours.name(i) for i in without])
        if placed is None:
            return None
        self._at = placed.engine.replica
        return self._ours.number(self._at)

    def began(self) -> None:
        self._ours.health.restore(self._at)
        self._slot.began()

    def ended(self, usage: Usage) -> None:
        self._slot.ended(usage)

    def failed(self, replica: int) -> None:
        self._ours.health.eject(self._ours.name(replica))
