"""What keeps tenants apart inside an engine: a salt for its cache, and no way around it.

An engine knows nothing of tenants. Its prefix cache is kept apart by `cache_salt`: vLLM takes it on
all three routes, SGLang on chat completions and completions. SGLang's `/v1/messages` has no such
field, so that a tenant's turn there is refused rather than let into everybody's cache. What kind of
server an engine of others (`engine: external`) is, is asked of itself; one that is neither gets the
field too, and what it makes of it is its own affair.

Some fields of these engines would give a client what its tenant does not have: an adapter by its
path, a place in the engine's queue, the blocks of another request.
"""

from __future__ import annotations

from router.http import rewrites
from router.tenancy.tenants import Tenant
from serving.errors import BadRequest
from serving.protocol import MESSAGES, AnyAsk
from serving.tables.base import Engine

_INSTEAD = {
    "lora_path": "ask for the adapter in `model`",
    "priority": "send x-warmloop-urgency: interactive or batch",
    "kv_transfer_params": "leave it out",
    "session_params": "leave it out; sessions are recognised by themselves",
}


def check_fields(ask: AnyAsk) -> None:
    """Refuse what reaches around the tenant. Raises BadRequest."""
    for name, instead in _INSTEAD.items():
        value = getattr(ask, name)
        if value and bytes(value) != b"null":
            raise BadRequest(
                f"{name}: is not for tenants to set; {instead}",
                param=name,
                code="unsupported_parameter",
            )


def apart(body: bytes, path: str, ask: AnyAsk, tenant: Tenant, engine: Engine) -> bytes:
    """The body as it goes to this engine for this tenant. Raises BadRequest where it cannot."""
    if not tenant.salt:
        return body
    if path == MESSAGES and engine.speaks == "sglang":
        raise BadRequest(
            f"{path}: SGLang cannot keep tenants' caches apart there, and {engine.model!r} runs on "
            "SGLang; use /v1/chat/completions",
            code="unsupported_route",
        )
    return rewrites.salted(body, bytes(ask.cache_salt), tenant.salt)
