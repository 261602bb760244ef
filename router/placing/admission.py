"""May it go now? Permits: how many requests are on their way to engines, and to which.

A permit is taken before a replica is chosen and travels with the stream: leaving its context frees
it, whether the answer ended, the engine failed or the client hung up. Counts are exact at every
moment, since one event loop holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType

from serving.errors import RateLimited


class Permit:
    """The right to have one request in flight. A context manager; freed once."""

    __slots__ = ("_admission", "_replica", "_tenant")

    def __init__(self, admission: Admission, tenant: str = "") -> None:
        self._admission = admission
        self._tenant = tenant
        self._replica: str | None = None

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._admission._free(self._replica, self._tenant)

    def use(self, replica: str) -> None:
        """Count this request at `replica`, and no longer where it was counted before."""
        self._admission._move(self._replica, replica)
        self._replica = replica


class Admission:
    """At most `max_inflight` permits, all models together."""

    def __init__(self, max_inflight: int) -> None:
        self._max_inflight = max_inflight
        self._total = 0
        self._by_replica: dict[str, int] = {}
        self._by_tenant: dict[str, int] = {}
        self.by_replica: Mapping[str, int] = MappingProxyType(self._by_replica)
        """Requests in flight by replica; replicas with none are absent."""

    @property
    def total(self) -> int:
        return self._total

    def admit(self, tenant: str = "", wait_s: Callable[[], float] = lambda: 0.0) -> Permit:
        """A permit, counted from now. Raises RateLimited when all are taken, or this tenant has as
        many as are left for all; `wait_s` is how long a queue takes that long.

        By that rule one tenant alone gets half of all, two that flood a third each, and there is
        always room for who comes next.
        """
        own = self._by_tenant.get(tenant, 0) if tenant else 0
        left = self._max_inflight - self._total
        if left <= 0 or (own and own >= left):
            whose = f"; {own} of them are yours, and the rest is for others" if left > 0 else ""
            raise RateLimited(
                f"{self._total} requests are in flight of the {self._max_inflight} that "
                f"front.max_inflight allows{whose}; try again later",
                retry_after_s=max(1.0, wait_s()),
            )
        self._total += 1
        if tenant:
            self._by_tenant[tenant] = own + 1
        return Permit(self, tenant)

    def _move(self, old: str | None, new: str | None) -> None:
        if old is not None:
            left = self._by_replica[old] - 1
            if left:
                self._by_replica[old] = left
            else:
                del self._by_replica[old]
        if new is not None:
            self._by_replica[new] = self._by_replica.get(new, 0) + 1

    def _free(self, replica: str | None, tenant: str) -> None:
        self._total -= 1
        if tenant:
            left = self._by_tenant.pop(tenant) - 1
            if left:
                self._by_tenant[tenant] = left
        self._move(replica, None)
