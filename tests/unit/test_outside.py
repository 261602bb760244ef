"""Several front doors: what one's turns taught it, the others act upon."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from router.identity import Identity
from router.peers.memory import Room
from router.peers.news import Turned
from router.placing.claim import Claim, Placed
from router.placing.health import Health
from router.placing.scheduler import Scheduler
from serving.config.router import RouterConfig
from serving.protocol import Usage
from tests.integration.engines_behaving_badly import until
from tests.unit.fakes import FakeClock, engine

BYTES = 4
"""A token."""
NEWS = Turned("big", "r0", b"k", [b"anything"], [0])
"""With which its sender's loads go out."""
ENGINES = [engine(f"r{i}", capacity_tokens=100_000) for i in range(8)]


class Door:
    """A front door's scheduler among others."""

    def __init__(self, room: Room, name: str, urls: list[str]) -> None:
        self.url = f"http://{name}"
        self.room = room
        knobs = RouterConfig.model_validate({"peers": {"batch_s": 0.001}})
        clock = FakeClock()
        health = Health(knobs.eject_s, clock)
        self.replicas = [e.replica for e in ENGINES]
        self.scheduler = Scheduler(
            knobs, 100, lambda _: ENGINES, health, clock, replicas=lambda: self.replicas
        )
        self.peers = self.scheduler.outside.join(lambda: urls, room, name)

    async def open(self) -> None:
        self.room.doors[self.url] = self.peers
        await self.peers.start()

    async def close(self) -> None:
        self.room.doors.pop(self.url, None)
        await self.peers.stop()

    async def turn(self, session: str, *tokens: int) -> Placed:
        """A turn whose prompt is messages of so many tokens, from its beginning to its end."""
        with self.scheduler.enter(claim(session, *tokens)) as slot:
            placed = await slot.place()
            assert placed is not None
            slot.began()
            slot.ended(Usage(sum(tokens), 0, 11))
        return placed

    def knows(self, session: str, *tokens: int) -> int:
        """Tokens of this prompt that some replica is believed to hold."""
        hashes = claim(session, *tokens).identity.hashes
        found = [self.scheduler.warmth.at(e.replica).get(hashes[-1]) for e in ENGINES]
        return max((node.warm + node.tail for node in found if node is not None), default=0)


def claim(session: str, *tokens: int) -> Claim:
    hashes, ends = [b"root"], [0]
    for i, count in enumerate(tokens):
        hashes.append(hashlib.sha1(f"{session}/{i}".encode()).digest())  # noqa: S324
        ends.append(ends[-1] + count * BYTES)
    key = hashlib.sha1(session.encode()).digest()  # noqa: S324
    identity = Identity(key, "caller", None, None, hashes, ends, ends[-1])
    return Claim("big", identity, ends[-1])


@asynccontextmanager
async def doors(count: int) -> AsyncIterator[list[Door]]:
    room = Room()
    urls = [f"http://{i}" for i in range(count)]
    made = [Door(room, str(i), urls) for i in range(count)]
    try:
        for door in made:
            await door.open()
        await until(lambda: all(d.peers.present == count - 1 or count == 1 for d in made))
        yield made
    finally:
        for door in made:
            await door.close()


async def test_a_sessions_next_turn_finds_its_home_at_any_front_door() -> None:
    async with doors(3) as (one, two, three):
        first = await one.turn("s", 4000)
        await until(lambda: two.knows("s", 4000) == three.knows("s", 4000) == 4010)
        for door, prompt in ((two, (4000, 500)), (three, (4000, 500, 500))):
            placed = await door.turn("s", *prompt)
            assert placed.engine == first.engine
            assert placed.reason == "home"
            assert placed.predicted_cached_tokens >= sum(prompt[:-1])
            await until(lambda prompt=prompt: one.knows("s", *prompt) > sum(prompt))  # type: ignore[misc]


async def test_many_sessions_over_many_front_doors_all_stay() -> None:
    async with doors(4) as all_doors:
        homes: dict[str, str] = {}
        for turn in range(3):
            for number in range(20):
                name, prompt = f"s{number}", (2000,) * (turn + 1)
                door = all_doors[(number + turn) % 4]
                placed = await door.turn(name, *prompt)
                assert homes.setdefault(name, placed.engine.replica) == placed.engine.replica
                await until(
                    lambda name=name, prompt=prompt: all(  # type: ignore[misc]
                        d.knows(name, *prompt) > sum(prompt) for d in all_doors
                    )
                )


async def test_one_that_comes_late_knows_what_the_others_know() -> None:
    async with doors(2) as (one, two):
        placed = {}
        for number in range(50):
            placed[number] = await one.turn(f"s{number}", 1000, 200)
        await until(lambda: two.knows("s49", 1000, 200) > 1200)
        late = Door(one.room, "late", [one.url, two.url])
        await late.open()
        try:
            await until(lambda: late.knows("s49", 1000, 200) > 1200)
            for number in range(50):
                again = await late.turn(f"s{number}", 1000, 200, 50)
                assert again.reason == "home"
                assert again.engine == placed[number].engine
        finally:
            await late.close()


async def test_of_replicas_that_are_not_in_the_table_nothing_is_believed() -> None:
    async with doors(1) as (door,):
        news = Turned("big", "elsewhere", b"k", [b"root", b"a"], [0, 100])
        door.scheduler.outside.learn([news])
        assert len(door.scheduler.warmth) == 0


async def test_news_that_contradict_themselves_are_passed_over() -> None:
    async with doors(1) as (door,):
        outside = door.scheduler.outside
        outside.learn([Turned("big", "r0", b"", [b"root", b"a"], [0])])
        outside.learn([Turned("big", "r0", b"k", [b"x"], [7], after=b"never heard of")])
        assert len(door.scheduler.warmth) == 0


async def test_what_one_has_under_way_the_others_count_as_load() -> None:
    async with doors(2) as (one, two):
        with one.scheduler.enter(claim("s", 50_000)) as slot:
            placed = await slot.place()
            assert placed is not None
            one.peers.tell(NEWS)
            replica = placed.engine.replica
            outside = two.scheduler.outside
            await until(lambda: (outside.elsewhere_tokens(replica) or 0) >= 40_000)
            slot.began()
        one.peers.tell(NEWS)
        await until(lambda: outside.elsewhere_tokens(replica) == 0)
    alone = Door(Room(), "alone", [])
    assert alone.scheduler.outside.elsewhere_tokens("r0") is None
