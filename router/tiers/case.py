"""One `auto` turn on its way: its facts gathered, its model chosen, what came of it put down.

Ledger.job(turn) ─► Job: what is asked, of which session, what each model would cost
                      └► choice (tier_policy.decide)
Ledger.note(job, tier, why) ─► TierNote, the turn for one model
Ledger.ended(job, tier, record) ─► session, history, spending
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import msgspec

from router.content import Content, content_of
from router.dispatch import Router
from router.identity import Identity
from router.logs import TurnRecord
from router.tiers import policy as tier_policy
from router.tiers import turn_types as tiers
from router.tiers.confidence import Wish, wish
from router.tiers.history import History, Kind
from router.tiers.metrics import TierMetrics
from router.tiers.policy import Candidate, Case, Choice, Floor
from router.tiers.prices import Course, Quote
from router.tiers.sessions import Answered, Chain, Chains, Recent
from router.turn import Parsed, TierNote, TurnRequest
from serving.config.router import TiersConfig
from serving.protocol import CHAT, MESSAGES, AnyAsk
from serving.tables.base import Tier

_FLOOR_EVERY = 64
"""Outcomes of a scope after which its balance is drawn anew; sooner while there are few."""


@dataclass
class Job:
    """One turn with `model: auto`."""

    turn: TurnRequest
    ask: AnyAsk
    content: Content
    kind: Kind
    knobs: TiersConfig
    identity: Identity
    chain: Chain
    case: Case | None
    """None where there is nothing to weigh: one model is ready, or none."""
    choice: Choice
    up: Mapping[Tier, str]
    """The ready model of each tier."""
    configured: Mapping[Tier, str]
    side: bool
    spent_usd: float = 0.0
    """By this turn's tries, so far."""

    @cached_property
    def wish(self) -> Wish | None:
        """Of how the answer is to be seen; asked only where it could be held back."""
        return wish(self.turn.body)

    @property
    def digest(self) -> bytes:
        """What is asked: the same again where the client did not like the answer."""
        return self.identity.hashes[-1]

    @property
    def has_tools(self) -> bool:
        return self.kind.turn_type == "tool-call"

    def model(self, tier: Tier) -> str:
        found = self.up.get(tier) or self.configured.get(tier)
        return found or next(iter(self.configured.values()))


class Ledger:
    """What is known of sessions, kinds and spending. For one event loop."""

    def __init__(self, router: Router, history: History, metrics: TierMetrics) -> None:
        self.router = router
        self.knobs = router.config.router.tiers
        self.history = history
        self.metrics = metrics
        self.chains = Chains(self.knobs.max_sessions)
        self.recent = Recent(self.knobs.max_recent)
        self.without_logprobs: set[str] = set()
        """Models whose engine refuses them; as many as there are models, at most."""
        self._floors: dict[tuple[str, float, float, str, str], tuple[int, Floor]] = {}

    def job(self, turn: TurnRequest, ask: AnyAsk) -> Job:
        """Raises BadRequest for a type or a task that is none."""
        content = content_of(ask, turn.tenant.salt)
        identity = self.router.sessions.identify(turn, ask, content)
        chain = self.chains.of(turn.tenant.name, identity.key)
        said = turn.turn_type or tiers.declared(turn.headers.get(tiers.TURN_HEADER))
        turn_type = said or tiers.inferred(ask)
        # A turn that only looks like a side turn is none when it carries a session's main chain.
        side = turn_type in self.knobs.small_turns and (said is not None or chain.current is None)
        agent = self.router.config.agents.get(turn.agent)
        knobs = self.knobs.of(agent.tier if agent is not None else None)
        kind = self._kind(turn, ask, turn_type or "unknown")
        up, configured = tiers.of_tiers(
            self.router.config.models, self.router.catalogue.fleet().ready_names
        )
        job = Job(
            turn, ask, content, kind, knobs, identity, chain, None,
            Choice("small" if side else chain.current or "frontier"), up, configured, side,
        )  # fmt: skip
        self.history.came(kind)
        if len(up) == 1:
            job.choice = tier_policy.forced(
                next(iter(up)),
                knobs,
                side=side,
                current=chain.current,
                spent_usd=chain.spent_usd,
            )
        elif up:
            job.case = self._case(job, up)
            job.choice = tier_policy.decide(job.case, knobs)
        return job

    def _kind(self, turn: TurnRequest, ask: AnyAsk, turn_type: str) -> Kind:
        scope = f"agent:{turn.agent}" if turn.agent else f"tenant:{turn.tenant.name}"
        header = turn.headers.get(tiers.TASK_HEADER)
        task = "" if turn.agent and header is None else tiers.task(header, ask)
        return Kind(scope, task, turn_type)

    def _case(self, job: Job, up: Mapping[Tier, str]) -> Case:
        knobs, standing = job.knobs, self.history.standing(job.kind)
        output = standing.output_tokens if standing.measured else knobs.output_tokens
        turns = 1.0 if job.side else knobs.remaining_turns
        quotes = {t: self.router.quote(job.content, name) for t, name in up.items()}
        prompt = max([job.chain.prompt_tokens, *(q.prompt_tokens for q in quotes.values())])
        models = self.router.config.models
        candidates = {
            tier: Candidate(
                models[name].prices,
                Quote(prompt, min(quotes[tier].cached_tokens, prompt)),
            )
            for tier, name in up.items()
        }
        return Case(
            side=job.side,
            standing=standing,
            candidates=candidates,
            current=None if job.side else job.chain.current,
            course=Course(turns, output, 2 * output),
            checkable=_checkable(job),
            floor=self._floor(job, up),
            spent_usd=job.chain.spent_usd,
            explores=job.chain.turns == 0 and _picked(job.turn.request_id, knobs),
            trying=job.chain.trying,
        )

    def _floor(self, job: Job, up: Mapping[Tier, str]) -> Floor:
        """Of the kind's scope; drawn anew when enough was learnt."""
        scope = self.history.scope(job.kind.scope)
        knobs = job.knobs
        key = (job.kind.scope, knobs.quality_floor, knobs.caution, up["small"], up["frontier"])
        found = self._floors.get(key)
        if found is not None and scope.learnt - found[0] < min(_FLOOR_EVERY, found[0] // 8 + 1):
            return found[1]
        models = self.router.config.models
        balance = tier_policy.rows(
            self.history.standings(job.kind.scope),
            models[up["small"]].prices,
            models[up["frontier"]].prices,
        )
        floor = tier_policy.keep_floor(balance, knobs.quality_floor, knobs.caution)
        if len(self._floors) >= knobs.max_kinds:
            self._floors.clear()  # scopes are few; where they are not, each is drawn again
        self._floors[key] = scope.learnt, floor
        return floor

    def turn_for(
        self, job: Job, tier: Tier, why: str, *, change: str, on_end: Callable[[TurnRecord], None]
    ) -> TurnRequest:
        """The same turn for one model, with the reasons that header, log and metrics give."""
        reason = f"auto:{job.kind.turn_type}->{tier}" + (f":{why}" if why else "")
        prices = {job.model(t): round(usd, 9) for t, usd in job.choice.prices_usd.items()}
        gain = job.choice.gain_usd
        note = TierNote(
            tier,
            reason,
            "" if job.kind.turn_type == "unknown" else job.kind.turn_type,
            prices,
            change,
            None if gain is None else round(gain, 9),
            job.spent_usd,
        )
        self.metrics.decided(job.kind.turn_type, tier, why)
        if change:
            self.metrics.changed(change, why)
        model = job.model(tier)
        parsed = Parsed(job.ask, job.identity, model)
        return msgspec.structs.replace(job.turn, parsed=parsed, tier=note, on_end=on_end)

    def change(self, job: Job, tier: Tier) -> str:
        """`small->frontier` where this moves the session's main chain; empty where it does not."""
        current = job.chain.current
        if job.side or current is None or current == tier or self.detour(job):
            return ""
        return f"{current}->{tier}"

    @staticmethod
    def detour(job: Job) -> bool:
        """Another model stands in while the session's own has no engine; the session stays."""
        return job.choice.why.endswith("-not-ready")

    # -- what came of it --

    def ended(self, job: Job, tier: Tier, record: TurnRecord) -> None:
        """One try is over, whether its answer is used or not."""
        usd = record.cost_usd or 0.0
        job.chain.spent_usd += usd
        self.metrics.spent(record.model, tier, usd)
        if record.prompt_tokens is not None:
            self.history.measured(
                job.kind, record.prompt_tokens, record.cached_tokens or 0, record.output_tokens or 0
            )
            if not job.side:
                job.chain.prompt_tokens = record.prompt_tokens
        if record.error == "invalid_tool_call":
            self._saw(job, tier, good=False)

    def used(
        self, job: Job, tier: Tier, record: TurnRecord, *, checked: bool, home: Tier | None
    ) -> None:
        """This try's answer is the turn's. `checked`: it was looked at before anybody saw it;
        `home`: where the session's main chain goes on, None where that is not touched."""
        if record.error or record.status >= 400:
            return
        seen: bool | None = None
        if record.calls_again:
            seen = False
        elif job.has_tools or (checked and job.kind.turn_type == "format"):
            seen = True
        if seen is not None:
            self._saw(job, tier, good=seen)
        tenant = job.turn.tenant.name
        weight = self.knobs.implicit_weight
        answered = Answered(tenant, job.kind, tier, seen, 0.0 if seen is None else weight)
        self.recent.add(job.turn.request_id, answered, response=_response_id(job.turn))
        chain = job.chain
        if chain.asked == job.digest and chain.answered is not None and job.has_tools:
            kind, before = chain.answered
            self._learn(kind, before, good=False)
        chain.asked, chain.answered = job.digest, (job.kind, tier)
        if not job.side:
            chain.turns += 1
            if home is not None and not self.detour(job):
                chain.current = home
                chain.trying = home == "small" and (chain.trying or job.choice.why == "explore")

    def escalated(self, job: Job, cause: str) -> None:
        """The small answer is not used."""
        self.history.tried(job.kind, escalated=True)
        self.metrics.escalated(cause)

    def accepted(self, job: Job) -> None:
        """The small answer was checked, and is used."""
        self.history.tried(job.kind, escalated=False)

    def report(self, tenant: str, request_id: str, *, success: bool) -> int:
        """What a client says of an answer, or of all answers of an agent's response.

        Returns how many it was of: 0 where the id is not known, or not any more.
        """
        reported = self.recent.take(tenant, request_id)
        for each in reported:
            self._retract(each)
            self.history.learn(each.kind, each.tier, good=success)
            self.metrics.reported(each.tier, success=success)
        return len(reported)

    def observed(self, tenant: str, request_id: str, success: bool) -> None:
        """What whoever ran the answer's calls has seen of it; it can still be reported."""
        answered = self.recent.find(tenant, request_id)
        weight = self.knobs.observed_weight
        if answered is None or not weight:
            return
        self._retract(answered)
        self.history.learn(answered.kind, answered.tier, good=success, weight=weight)
        self.recent.concluded(
            request_id, msgspec.structs.replace(answered, seen=success, weight=weight)
        )

    def _retract(self, answered: Answered) -> None:
        if answered.seen is not None:
            self.history.retract(
                answered.kind, answered.tier, good=answered.seen, weight=answered.weight
            )

    def _saw(self, job: Job, tier: Tier, *, good: bool) -> None:
        self._learn(job.kind, tier, good=good)

    def _learn(self, kind: Kind, tier: Tier, *, good: bool) -> None:
        if weight := self.knobs.implicit_weight:
            self.history.learn(kind, tier, good=good, weight=weight)


def _response_id(turn: TurnRequest) -> str:
    """Of an agent's turn: its request id is the response's, and its step and attempt."""
    return turn.request_id.rsplit("-", 2)[0] if turn.agent else ""


def _checkable(job: Job) -> bool:
    """Whether a small answer can be held back until it has been looked at."""
    knobs = job.knobs
    if not knobs.escalate or job.turn.path not in (CHAT, MESSAGES):
        return False
    if not (job.has_tools or not job.ask.stream or knobs.hold_text):
        return False
    wish = job.wish  # last: it reads the whole body
    return wish is not None and wish.choices == 1


def _picked(request_id: str, knobs: TiersConfig) -> bool:
    """Chance, from the request's id: the same on each front door, and in a replay."""
    share = min(knobs.explore, 1 - knobs.quality_floor)
    drawn = int.from_bytes(hashlib.sha1(request_id.encode(), usedforsecurity=False).digest()[:4])
    return drawn < share * 2**32
