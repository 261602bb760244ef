"""What this front door knows beyond its own turns, and what it tells of them.

    Scheduler ── a turn goes, begins, ends ──▶ Outside ──▶ engines, by a mark     (residency)
       ▲                                          └─────▶ the other front doors  (peers)
       └── what is held where, whose home is where, what others have under way ◀──┘

The scheduler alone is right as long as nobody else uses its engines and its model of their caches
holds. Here is what comes from those who know better: the engines themselves, and the others.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from router.identity import Identity
from router.kv.residency import Residency
from router.peers.news import MAX_CHAIN, Turned
from router.peers.peers import Peers, Transport
from router.placing.claim import Claim
from router.placing.warmth import Node
from serving.config.router import RouterConfig
from serving.protocol import Usage

if TYPE_CHECKING:
    from router.placing.scheduler import Scheduler


class Outside:
    """One front door's view of the others and of the engines' own events."""

    def __init__(
        self, scheduler: Scheduler, knobs: RouterConfig, replicas: Callable[[], Collection[str]]
    ) -> None:
        """`replicas` are those in the engine table: of others nothing is believed."""
        self._scheduler = scheduler
        self._knobs = knobs
        self._replicas = replicas
        self.residency = Residency(knobs.kv_events, scheduler.warmth)
        self.peers: Peers | None = None

    def join(
        self,
        urls: Callable[[], Collection[str]],
        transport: Transport,
        name: str | None = None,
    ) -> Peers:
        """Be one of several front doors from now on; whoever calls starts and stops it."""
        self.peers = Peers(name or secrets.token_hex(8), urls, transport, self, self._knobs.peers)
        return self.peers

    # What the scheduler tells

    def sent(self, replica: str, chain: Sequence[bytes]) -> str:
        """A turn is about to go there; returns the mark that it is to carry, or nothing."""
        return self.residency.sent(replica, chain)

    def began(self, claim: Claim, replica: str, node: Node, mark: str) -> None:
        """Its prompt, up to this boundary, is computed there."""
        self._tell(claim, replica, node, mark, done=False)

    def ended(self, claim: Claim, replica: str, node: Node, mark: str, usage: Usage) -> None:
        """The engine has counted it."""
        if mark:
            self.residency.ended(mark, usage)
        self._tell(claim, replica, node, mark, done=True)

    def elsewhere_tokens(self, replica: str) -> int | None:
        """Prompt tokens that other front doors have under way there; None where nobody says."""
        if self.peers is None or not self.peers.present:
            return None
        return self.peers.load(replica)

    def _tell(self, claim: Claim, replica: str, node: Node, mark: str, *, done: bool) -> None:
        if self.peers is None or not self.peers.listened:
            return
        hashes, ends = _path(node)
        if len(hashes) > MAX_CHAIN:
            return
        identity = claim.identity
        self.peers.tell(
            Turned(
                claim.model,
                replica,
                identity.key,
                hashes,
                ends,
                node.tail,
                mark=mark,
                last=identity.last or b"",
                done=done,
            )
        )

    # What the peers tell; see peers.Shared

    def learn(self, news: Iterable[Turned]) -> None:
        """What another front door's turns have taught it."""
        replicas = self._replicas()
        for each in news:
            if each.replica in replicas:
                self._learn(each)

    def _learn(self, news: Turned) -> None:
        scheduler = self._scheduler
        if news.hashes and len(news.hashes) == len(news.ends_tokens):
            if not scheduler.warmth.learned(
                news.replica,
                news.hashes,
                news.ends_tokens,
                tail=news.tail_tokens,
                after=news.after,
            ):
                return
            if news.mark:
                self.residency.told(news.mark, news.replica, news.hashes)
        if not news.key:
            return
        programs = scheduler.programs
        program = programs.begin(news.model, news.key)
        if program.running:
            return  # it has a turn of ours under way, which knows better
        tokens = news.tail_tokens + (news.ends_tokens[-1] if news.ends_tokens else 0)
        first = not program.home
        programs.settle(program, news.replica, tokens)
        if news.hashes:
            identity = Identity(news.key, "peer", news.last or None, None, news.hashes)
            scheduler.sessions.remember(identity, first=first)
        if news.done:
            programs.ended(program, scheduler.clock())

    def table(self, limit: int) -> list[Turned]:
        """All that is believed, at most so many boundaries."""
        news: list[Turned] = []
        replicas = self._replicas()
        for replica in replicas:
            for after, hashes, ends, tail in self._scheduler.warmth.at(replica).paths():
                limit -= len(hashes)
                if limit < 0:
                    return news
                news.append(Turned("", replica, b"", hashes, ends, tail, after=after))
        for (model, key), program in self._scheduler.programs.homes():
            limit -= 1
            if limit < 0:
                return news
            if program.home in replicas:
                news.append(Turned(model, program.home, key, [], [], program.tokens))
        return news

    def ready(self) -> bool:
        """There are replicas of which something can be learnt."""
        return bool(self._replicas())

    def loads(self) -> Mapping[str, int]:
        """Our own prompt tokens under way, by replica."""
        return self._scheduler.loads()


def _path(node: Node) -> tuple[list[bytes], list[int]]:
    """The boundaries from the root to this one, and where each ends."""
    hashes, ends = [], []
    at: Node | None = node
    while at is not None:
        hashes.append(at.hash)
        ends.append(at.end)
        at = at.parent
    return hashes[::-1], ends[::-1]
