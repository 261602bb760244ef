"""May this tenant have one more? Its limits, counted as its turns come and go.

    enter(turn, session) ──► Hold: used(tokens)… ──► leave
        └── LimitReached: which limit, its value, and when to come back

    requests, tokens   token buckets that hold a minute's worth and fill all the time. A turn enters
                       when the bucket has its estimate, and is charged what the engine counted in
                       the end, so that the level may go below zero; then it takes longer to fill.
    sessions           those with a turn under way, or whose last turn ended a short while ago
    in flight          turns, and agents' responses, that have begun and not ended
    budget             what is spent in a longer window, by all front doors together: budgets.py

A turn that an agent makes was admitted when its response was: it is charged, and never refused.
Retry-After is what the arithmetic says, not a guess, except for the limit in flight: when one of
those that run will end can only be estimated, from how long this tenant's turns took so far.

Bounded: one meter a configured tenant, and at most `max_sessions` sessions in each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Literal

from router.tenancy.budgets import Budget, Budgets
from router.tenancy.tenants import Tenant
from serving.config.tenancy import AdmissionConfig, TenantConfig
from serving.errors import RateLimited, RequestError
from serving.protocol import Usage
from serving.spending import Spending

BYTES_PER_TOKEN = 4
_WINDOW_S = 60.0
Kind = Literal["requests", "tokens", "sessions", "inflight"]
_FIELDS: Mapping[Kind, str] = {
    "requests": "max_requests_per_minute",
    "tokens": "max_tokens_per_minute",
    "sessions": "max_sessions",
    "inflight": "max_inflight",
}
_WHAT: Mapping[Kind, str] = {
    "requests": "requests a minute",
    "tokens": "tokens a minute, prompt and output",
    "sessions": "sessions at once",
    "inflight": "requests at once",
}


class LimitReached(RateLimited):
    """One of the tenant's own limits; `headers` say how things stand."""

    def __init__(self, kind: Kind, tenant: str, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"the limit of {limit} {_WHAT[kind]} is reached (tenants.{tenant}.{_FIELDS[kind]}); "
            f"try again in {_duration(retry_after_s)}",
            retry_after_s=retry_after_s,
        )
        self.kind = kind
        self.standing: Mapping[str, str] = {}

    def headers(self) -> dict[str, str]:
        return {**super().headers(), **self.standing}


class Bucket:
    """A minute's worth, which fills all the time. `now` by any clock that only goes on, in s."""

    __slots__ = ("_at", "_level", "capacity")

    def __init__(self, capacity: int, now: float) -> None:
        self.capacity = capacity
        self._level = float(capacity)
        self._at = now

    def level(self, now: float) -> float:
        if now > self._at:
            gained = (now - self._at) * self.capacity / _WINDOW_S
            self._level = min(self.capacity, self._level + gained)
            self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        """Charge; a negative amount gives back."""
        self._level = min(self.capacity, self.level(now) - amount)

    def wait_s(self, amount: float, now: float) -> float:
        """Until it has that much; what is more than it can hold passes when it is full."""
        missing = min(amount, self.capacity) - self.level(now)
        return max(0.0, missing * _WINDOW_S / self.capacity)


class Meter:
    """What one tenant has under way and has used."""

    def __init__(self, config: TenantConfig, session_idle_s: float, now: float) -> None:
        self.config = config
        self.inflight = 0
        self.requests = _bucket(config.max_requests_per_minute, now)
        self.tokens = _bucket(config.max_tokens_per_minute, now)
        self._idle_s = session_idle_s
        self._running: dict[bytes, int] = {}
        self._idle: dict[bytes, float] = {}
        """Sessions without a turn → when their last one ended; the longest idle first."""
        self._mean_s = 1.0

    @property
    def is_limited(self) -> bool:
        return self.requests is not None or self.tokens is not None

    def refusal(self, tokens: int, session: bytes, now: float) -> tuple[Kind, int, float] | None:
        """The limit that one more turn would go over, its value, and seconds until it would not."""
        most = self.config.max_inflight
        if most is not None and self.inflight >= most:
            return "inflight", most, self._mean_s / self.inflight
        most = self.config.max_sessions
        if most is not None and not self._is_open(session, now):
            self._expire(now)
            if len(self._running) + len(self._idle) >= most:
                ended = min(self._idle.values(), default=now)
                return "sessions", most, ended + self._idle_s - now
        kinds: tuple[tuple[Kind, Bucket | None, int], ...] = (
            ("requests", self.requests, 1),
            ("tokens", self.tokens, tokens),
        )
        waits = [(b.wait_s(n, now), kind, b.capacity) for kind, b, n in kinds if b is not None]
        wait_s, kind, capacity = max(waits, default=(0.0, "requests", 0))
        return (kind, capacity, wait_s) if wait_s > 0 else None

    def begin(self, session: bytes) -> None:
        self.inflight += 1
        if self.config.max_sessions is not None:
            self._idle.pop(session, None)
            self._running[session] = self._running.get(session, 0) + 1

    def end(self, session: bytes, seconds: float, now: float) -> None:
        self.inflight -= 1
        self._mean_s += 0.1 * (seconds - self._mean_s)
        if self.config.max_sessions is not None:
            left = self._running[session] - 1
            if left:
                self._running[session] = left
            else:
                del self._running[session]
                self._idle[session] = now
                self._expire(now)

    def standing(self, now: float) -> dict[str, str]:
        """OpenAI's headers: what is allowed, what is left, and when all of it is there again."""
        headers = {}
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(bucket.capacity)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, int(bucket.level(now))))
                full_s = bucket.wait_s(bucket.capacity, now)
                headers[f"x-ratelimit-reset-{name}"] = _duration(full_s)
        return headers

    def _is_open(self, session: bytes, now: float) -> bool:
        if session in self._running:
            return True
        ended = self._idle.get(session)
        return ended is not None and now - ended < self._idle_s

    def _expire(self, now: float) -> None:
        # In the order in which they ended: a dict keeps it, and a session that runs has left.
        for session, ended in [*self._idle.items()]:
            if now - ended < self._idle_s:
                return
            del self._idle[session]


class Hold:
    """One turn that was let in, until `leave`. A context manager."""

    __slots__ = (
        "_began",
        "_budget",
        "_charged",
        "_counted",
        "_limits",
        "_meter",
        "_session",
        "_spent",
        "_whole",
    )

    def __init__(
        self,
        limits: Limits,
        meter: Meter | None,
        session: bytes,
        charged: int,
        budget: Budget | None = None,
        *,
        whole: bool,
    ) -> None:
        self._limits = limits
        self._meter = meter
        self._session = session
        self._charged = charged
        self._counted = False
        self._whole = whole
        self._began = 0.0
        self._budget = budget
        self._spent: Spending | None = None

    def __enter__(self) -> Hold:
        if self._meter is not None and self._whole:
            self._began = self._limits.clock()
            self._meter.begin(self._session)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._meter is not None and self._whole:
            now = self._limits.clock()
            self._meter.end(self._session, now - self._began, now)
            if self._budget is not None and self._spent is not None:
                self._spent.seconds = now - self._began
                self._budget.spend_unsaved(self._spent, self._limits.budgets.clock())
        if isinstance(error, RequestError) and not self._counted:
            self._charge(0)  # it came to nothing, and that was not the tenant's doing

    @property
    def counts_tokens(self) -> bool:
        return self._meter is not None and (
            self._meter.tokens is not None or self._budget is not None
        )

    def used(self, usage: Usage, cost_usd: float = 0.0) -> None:
        """The engine's own count replaces the estimate."""
        tokens = usage.prompt_tokens + usage.output_tokens
        self._charge(tokens)
        if self._budget is not None:
            self._spent = Spending(1, 0, tokens, cost_usd=cost_usd)

    def streamed(self, events: int, cost_usd: float = 0.0) -> None:
        """An answer passed without the engine's count: each event of it was a token or more."""
        if self._counted:
            return
        tokens = self._charged + events
        self._charge(tokens)
        if self._budget is not None:
            self._spent = Spending(1, 0, tokens, cost_usd=cost_usd)

    def _charge(self, tokens: int) -> None:
        if self._meter is not None and self._meter.tokens is not None:
            self._counted = True
            self._meter.tokens.take(tokens - self._charged, self._limits.clock())
            self._charged = tokens

    def headers(self) -> dict[str, str]:
        """How the limits stand; empty where there are none."""
        if self._meter is None or not self._meter.is_limited:
            return {}
        return self._meter.standing(self._limits.clock())


class Limits:
    """The meters of all configured tenants of one front door."""

    def __init__(
        self,
        tenants: Mapping[str, TenantConfig],
        admission: AdmissionConfig,
        clock: Callable[[], float],
        budgets: Budgets | None = None,
    ) -> None:
        self.clock = clock
        self.budgets = budgets or Budgets(tenants)
        now = clock()
        self._meters = {
            name: Meter(config, admission.session_idle_s, now) for name, config in tenants.items()
        }
        self._free = Hold(self, None, b"", 0, whole=False)

    def inner(self, tenant: Tenant) -> Hold:
        """A turn of a response that was let in: it is only charged."""
        meter = self._meters.get(tenant.name)
        return self._free if meter is None else Hold(self, meter, b"", 0, whole=False)

    def enter(
        self, tenant: Tenant, session: bytes, prompt_bytes: int, *, charge: bool = True
    ) -> Hold:
        """Let one turn in, or (`charge` False) one agent's response, whose turns pay themselves.

        Raises LimitReached, TenantBudgetUsed.
        """
        meter = self._meters.get(tenant.name)
        if meter is None:
            return self._free
        budget = self.budgets.enter(tenant.name)
        now = self.clock()
        estimate = prompt_bytes // BYTES_PER_TOKEN
        if (refused := meter.refusal(estimate, session, now)) is not None:
            kind, limit, wait_s = refused
            error = LimitReached(kind, tenant.name, limit, wait_s)
            error.standing = meter.standing(now)
            raise error
        if meter.requests is not None:
            meter.requests.take(1, now)
        if not charge:
            return Hold(self, meter, session, 0, whole=True)
        if meter.tokens is not None:
            meter.tokens.take(estimate, now)
        return Hold(self, meter, session, estimate, budget, whole=True)


def _bucket(capacity: int | None, now: float) -> Bucket | None:
    return None if capacity is None else Bucket(capacity, now)


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `6m0s`, `1.2s`, `20ms`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s"
