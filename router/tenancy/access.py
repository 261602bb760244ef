"""Who is asking? From a request's headers to its tenant, before anything of it is looked at.

    no tenants configured       everybody is OPEN, and nothing is looked at
    /health, /ready             anybody; details for the operator
    /metrics                    the operator
    /internal/peers/...         other front doors, by a signature of their own
    what changes the stack      the operator's key (`OPERATOR_PATHS`)
    all else                    a tenant's key: `authorization: Bearer KEY`, or `x-api-key: KEY`

The operator is who has a key of the tenant `operator`, and, for what can only be looked at, who
comes from this machine itself without a proxy between.

Keys are looked up by their hash. How long that takes tells nothing about a key: to make use of it
one would have to choose its hash. Nothing here remembers, logs or repeats a key. The file is
watched beside the requests: a new key works, and a revoked one does not, within
`admission.keys_check_s`.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from starlette.types import Scope

from router.peers.peers import NEWS, TABLE
from router.tenancy.keys import Contents, KeyFile
from router.tenancy.tenants import OPEN, Tenant, tenants_of
from serving.config.stack import StackConfig
from serving.config.tenancy import OPERATOR
from serving.errors import ConfigError, Forbidden, Unauthorized
from serving.owned_task import OwnedTask

OPEN_PATHS = frozenset({"/health", "/ready"})
SIGNED_PATHS = frozenset({NEWS, TABLE})
"""Other front doors; each message brings a signature, which is checked there."""
PURGE = "/v1/warmloop/journal/purge"
"""Purges everybody's old conversations."""
OPERATOR_PATHS = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter", PURGE})
"""What changes the stack for everybody."""
LOOK_PATHS = frozenset({"/metrics"})
"""What shows the stack to those who run it."""
_PROXIED = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-real-ip"})

_log = logging.getLogger("warmloop.access")


class Access:
    """The door. `tenant` is for every request and costs a microsecond; `start` watches the file."""

    def __init__(self, config: StackConfig, now: Callable[[], float] = time.time) -> None:
        """`now` in Unix seconds. Raises ConfigError when tenants have no usable file of keys."""
        self.guarded = bool(config.tenants)
        self._config = config
        self._now = now
        self._file = KeyFile(config.keys_path)
        self._stamp: tuple[int, ...] = ()
        self._contents = Contents("")
        self._tenants: Mapping[str, Tenant] = {}
        self._known: dict[bytes, tuple[Tenant, float]] = {}
        self._watch = OwnedTask()
        if self.guarded:
            self._stamp = self._file.stamp()
            self._take(self._file.ensure())

    def start(self) -> None:
        """Begin to watch the file. Idempotent."""
        if self.guarded:
            self._watch.start(self._follow, "keys")

    async def stop(self) -> None:
        await self._watch.stop()

    def tenant(self, authorization: bytes, api_key: bytes) -> Tenant:
        """Whose key this is; the two headers' values, empty where there is none.

        Raises Unauthorized.
        """
        if not self.guarded:
            return OPEN
        key = authorization[7:].strip() if authorization[:7].lower() == b"bearer " else api_key
        found = self._known.get(hashlib.sha256(key).digest())
        if found is None or (found[1] and self._now() >= found[1]):
            raise _unauthorized(given=bool(key))
        return found[0]

    def of(self, headers: Iterable[tuple[bytes, bytes]]) -> Tenant:
        """Whose request has these headers, names in lower case. Raises Unauthorized."""
        return self.tenant(*_credentials(headers)) if self.guarded else OPEN

    def admit(self, scope: Scope) -> Tenant:
        """Whose request this is, if it may come in. Raises Unauthorized, Forbidden."""
        if not self.guarded:
            return OPEN
        path: str = scope["path"]
        if path in SIGNED_PATHS:
            return OPEN
        authorization, api_key = _credentials(scope["headers"])
        if path in OPEN_PATHS or path in LOOK_PATHS:
            may_look = _is_local(scope) or self._is_operator(authorization, api_key)
            scope["warmloop.operator"] = may_look
            if path in LOOK_PATHS and not may_look:
                self.tenant(authorization, api_key)
                raise _operator_only(path)
            return OPEN
        tenant = self.tenant(authorization, api_key)
        if path in OPERATOR_PATHS and not tenant.is_operator:
            raise _operator_only(path)
        return tenant

    def named(self, name: str) -> Tenant:
        """The tenant of a run that came in before, whose key is not at hand.

        One that is not configured any more keeps its cache to itself.
        """
        if not self.guarded:
            return OPEN
        return self._tenants.get(name) or Tenant(name=name, salt=self._contents.salt(name))

    def key(self, purpose: str, tenant: str) -> bytes:
        """A tenant's own key; no secret where no tenants are configured."""
        return self._contents.key(purpose, tenant)

    def refresh(self) -> None:
        """Read the file if it has changed. A broken one changes nothing, and is complained of."""
        stamp = self._file.stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(self._file.read())
        except ConfigError as error:
            _log.error("%s; the keys that were read before stay in force", error)
        else:
            _log.info("%d keys are in force", len(self._known))

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._config.admission.keys_check_s)
            await asyncio.to_thread(self.refresh)

    def _take(self, contents: Contents) -> None:
        names = [*self._config.tenants, OPERATOR]
        tenants = tenants_of(self._config.tenants, {name: contents.salt(name) for name in names})
        known = {
            bytes.fromhex(key.sha256): (tenants[key.tenant], key.expires_at)
            for key in contents.keys
            if key.tenant in tenants
        }
        # Each in one assignment: a request sees all of the old ones or all of the new ones.
        self._contents, self._tenants, self._known = contents, tenants, known

    def _is_operator(self, authorization: bytes, api_key: bytes) -> bool:
        try:
            return self.tenant(authorization, api_key).is_operator
        except Unauthorized:
            return False


def tenant_of(scope: Scope) -> Tenant:
    """Whose request this is; the Gate has asked `Access.admit` before."""
    tenant: Tenant = scope["warmloop.tenant"]
    return tenant


def may_look(scope: Scope) -> bool:
    """May this request see how the stack is?"""
    return bool(scope.get("warmloop.operator", True))


def _credentials(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    authorization = api_key = b""
    for name, value in headers:
        if name == b"authorization":
            authorization = value
        elif name == b"x-api-key":
            api_key = value
    return authorization, api_key


def _is_local(scope: Scope) -> bool:
    """From this machine, by itself: a proxy beside us brings requests from anywhere."""
    client = scope.get("client")
    try:
        local = client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False
    return local and not any(name in _PROXIED for name, _ in scope["headers"])


def _unauthorized(*, given: bool) -> Unauthorized:
    said = "the API key is unknown, revoked or expired" if given else "there is no API key"
    return Unauthorized(
        f"{said}; send one that the operator of this stack gave you, as "
        "'authorization: Bearer KEY' or 'x-api-key: KEY'"
    )


def _operator_only(path: str) -> Forbidden:
    return Forbidden(f"{path} is for the operator of this stack; it takes an operator's key")


def visible(tenant: Tenant, names: Iterable[str], parent: Callable[[str], str | None]) -> list[str]:
    """Those of `names` that this tenant may ask for; what it may not use it does not see."""
    return [name for name in names if tenant.may_use(name, parent(name))]


def exposed(config: StackConfig) -> str | None:
    """One line of warning where anybody who reaches this machine may use the stack."""
    host = config.front.host
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if local or config.tenants:
        return None
    return (
        f"front.host is {host} and no tenants are configured: whoever reaches it may use it "
        "without a key (docs/tenants.md says how to give keys out)"
    )
