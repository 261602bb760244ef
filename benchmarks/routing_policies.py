"""The policies that are compared, ours among them, behind one interface.

    round-robin        the next replica
    least-loaded       the one with the fewest of this front door's requests
    consistent-hash    rendezvous hashing of the session's id
    sticky             the least loaded for a session's first turn, then always that one
    cache-aware-tree   SGLang's router (sgl-router 0.5.8, `cache_aware`), its defaults
    kv-cost            NVIDIA Dynamo's KV router (1.x), its defaults, with exact KV events
    ours, ours-no-ids  router.scheduler.Scheduler, with session ids in a header, and without

Each is given what its original is given. `kv-cost` reads the engines' caches at the moment of the
decision, which is better than what events tell it; `cache-aware-tree` has blocks for characters.
Where a trace names no sessions, the policies that need a name take the prompt's first 2,048 tokens.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Sequence

from benchmarks.routing_world import Arrival, World
from serving.protocol import Usage

HEAD_TOKENS = 2048


def session_key(arrival: Arrival, block_tokens: int) -> str:
    """The session's id, or what stands in for it."""
    if arrival.session.key:
        return arrival.session.key
    blocks = arrival.turn.blocks[: max(1, HEAD_TOKENS // block_tokens)]
    return f"head-{blocks[-1]}" if blocks else "empty"


class Chooser:
    """A policy that places each turn at once; this base counts what is in flight."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.inflight = [0] * len(world.engines)

    def open(self, arrival: Arrival) -> _Ticket:
        return _Ticket(self, arrival)

    def choose(self, arrival: Arrival, among: Sequence[int]) -> int:
        raise NotImplementedError

    def least_loaded(self, among: Sequence[int]) -> int:
        return min(among, key=lambda i: self.inflight[i])

    def sent(self, arrival: Arrival, replica: int) -> None:
        """A turn goes to `replica` now."""
        self.inflight[replica] += 1

    def began(self, arrival: Arrival, replica: int) -> None:
        """Its prompt is computed."""

    def left(self, arrival: Arrival, replica: int) -> None:
        """It is there no more."""
        self.inflight[replica] -= 1


class _Ticket:
    __slots__ = ("_arrival", "_at", "_chooser")

    def __init__(self, chooser: Chooser, arrival: Arrival) -> None:
        self._chooser = chooser
        self._arrival = arrival
        self._at: int | None = None

    def __enter__(self) -> _Ticket:
        return self

    def __exit__(self, *error: object) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._at is not None:
            self._chooser.left(self._arrival, self._at)
            self._at = None

    async def place(self, without: Sequence[int]) -> int | None:
        self._leave()
        among = [i for i in self._chooser.world.alive if i not in without]
        if not among:
            return None
        self._at = self._chooser.choose(self._arrival, among)
        self._chooser.sent(self._arrival, self._at)
        return self._at

    def began(self) -> None:
        assert self._at is not None
        self._chooser.began(self._arrival, self._at)

    def ended(self, usage: Usage) -> None:
        pass

    def failed(self, replica: int) -> None:
        pass


class RoundRobin(Chooser):
    """The next one."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._next = 0

    def choose(self, arrival: Arrival, among: Sequence[int]) -> int:
        self._next += 1
        return among[(self._next - 1) % len(among)]


class LeastLoaded(Chooser):
    """The one with the fewest requests."""

    def choose(self, arrival: Arrival, among: Sequence[int]) -> int:
        return self.least_loaded(among)


class ConsistentHash(Chooser):
    """Rendezvous hashing: the same for every front door; a lost replica moves only its own."""

    def choose(self, arrival: Arrival, among: Sequence[int]) -> int:
        key = session_key(arrival, self.world.config.block_tokens)
        return max(among, key=lambda i: hashlib.sha1(f"{key}|{i}".encode()).digest())  # noqa: S324


class Sticky(Chooser):
    """The least loaded one first, then that one for good."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._home: dict[str, int] = {}

    def choose(self, arrival: Arrival, among: Sequence[int]) -> int:
        key = session_key(arrival, self.world.config.block_tokens)
        if self._home.get(key) not in among:
            self._home[key] = self.least_loaded(among)
        return self._home[key]


class CacheAwareTree(Chooser):
    """SGLang's router: an approximate tree of what each worker was sent.

    Imbalanced (most in flight - least > `BALANCE_ABS`, and most > least x `BALANCE_REL`): the
    shortest queue. Else the worker of the longest match, if that is more than `CACHE_THRESHOLD` of
    the prompt; else the worker with the smallest tree. Every `EVICTION_S` each tree is cut to its
    size, least recently used leaves first.

    A block that stands for all before it makes the tree a table: block → its workers. Of several
    workers that have the deepest match, the original takes the first of an unordered map.
    """

    CACHE_THRESHOLD = 0.3
    BALANCE_ABS = 64
    BALANCE_REL = 1.5
    EVICTION_S = 60.0
    TREE_CHARACTERS = 2**26
    CHARACTERS_PER_TOKEN = 4

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._workers: defaultdict[int, dict[int, None]] = defaultdict(dict)
        self._used: list[OrderedDict[int, None]] = [OrderedDict() for _ in world.engines]
        """By worker: its blocks, leaves before their stems, the least recently used first."""
        self._evict_s = self.EVICTION_S

    def choose(self, arrival: Arrival, among: Sequence[int]) -> int:
        self._evict()
        blocks = arrival.turn.blocks
        most = max(self.inflight[i] for i in among)
        least = min(self.inflight[i] for i in among)
        if most - least > self.BALANCE_ABS and most > least * self.BALANCE_REL:
            chosen = self.least_loaded(among)
        else:
            chosen = self._warmest(blocks, among)
        self._insert(blocks, chosen)
        return chosen

    def _warmest(self, blocks: Sequence[int], among: Sequence[int]) -> int:
        matched, worker = 0, None
        for block in blocks:
            workers = self._workers.get(block)
            if not workers:
                break
            matched += 1
            worker = next(iter(workers))
        if worker is None or matched <= self.CACHE_THRESHOLD * len(blocks):
            return min(among, key=lambda i: len(self._used[i]))
        # The original falls back to the first healthy worker when its choice is down.
        return worker if worker in among else among[0]

    def _insert(self, blocks: Sequence[int], worker: int) -> None:
        used = self._used[worker]
        for block in reversed(blocks):
            if block in used:
                used.move_to_end(block)
            else:
                used[block] = None
                self._workers[block][worker] = None

    def _evict(self) -> None:
        now = self.world.now()
        if now < self._evict_s:
            return
        self._evict_s = now + self.EVICTION_S
        block_characters = self.world.config.block_tokens * self.CHARACTERS_PER_TOKEN
        for worker, used in enumerate(self._used):
            while len(used) * block_characters > self.TREE_CHARACTERS:
                block, _ = used.popitem(last=False)
                del self._workers[block][worker]


class KvCost(Chooser):
    """Dynamo's KV router: the worker with the least

        overlap_score_weight x potential prefill blocks + potential active blocks

    Potential prefill: tokens that are being computed there, and this prompt's without its overlap.
    Potential active: distinct blocks of the sequences that run there, and this prompt's new ones.
    Temperature 0; of equals the one with the smallest tree. Overlaps come from KV events.
    """

    OVERLAP_SCORE_WEIGHT = 1.0

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._prefill: list[dict[int, int]] = [{} for _ in world.engines]
        """By worker: turn → its tokens that are not computed yet."""
        self._active: list[dict[int, int]] = [{} for _ in world.engines]
        """By worker: block → running sequences that have it."""

    def choose(self, arrival: Arrival, among: Sequence[int]) -> int:
        return min(among, key=lambda i: self._cost(arrival, i))

    def _cost(self, arrival: Arrival, worker: int) -> tuple[float, int, int]:
        turn, block_tokens = arrival.turn, self.world.config.block_tokens
        active = self._active[worker]
        tokens = sum(self._prefill[worker].values()) + self._fresh(arrival, worker)
        shared = 0
        for block in turn.blocks:
            if block not in active:
                break
            shared += 1
        blocks = len(active) + len(turn.blocks) - shared
        cost = self.OVERLAP_SCORE_WEIGHT * tokens / block_tokens + blocks
        return round(cost, 5), self.world.engines[worker].cache.resident_blocks, worker

    def _fresh(self, arrival: Arrival, worker: int) -> int:
        overlap = self.world.engines[worker].cache.match(arrival.turn.blocks)
        return arrival.turn.prompt_tokens - overlap * self.world.config.block_tokens

    def sent(self, arrival: Arrival, replica: int) -> None:
        super().sent(arrival, replica)
        self._prefill[replica][id(arrival)] = self._fresh(arrival, replica)
        active = self._active[replica]
        for block in arrival.turn.blocks:
            active[block] = active.get(block, 0) + 1

    def began(self, arrival: Arrival, replica: int) -> None:
        self._prefill[replica].pop(id(arrival), None)

    def left(self, arrival: Arrival, replica: int) -> None:
        super().left(arrival, replica)
        self._prefill[replica].pop(id(arrival), None)
        active = self._active[replica]
        for block in arrival.turn.blocks:
            if active[block] == 1:
                del active[block]
            else:
                active[block] -= 1
