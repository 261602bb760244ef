"""What front doors tell each other, and how one knows that it came from a front door.

    Turned    a turn's prefix lies in that replica's cache, and its session is at home there
    Batch     who says it, news in their order, and the load that it has on each replica
    Table     all that one knows, for a front door that has just started

Hashes and counts only, never content. On the wire: msgpack, signed with a secret that all front
doors have (HMAC-SHA256 over path, time and body), at most a minute old. News that come twice change
nothing, so that a copy of an old message does no harm within its minute.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Annotated

import msgspec

SECRET_VARIABLE = "WARMLOOP_PEER_SECRET"  # noqa: S105  its name
MIN_SECRET_CHARS = 16
HEADER = "x-warmloop-peer"
MAX_AGE_S = 60.0
MAX_CHAIN = 20_000

Hash = Annotated[bytes, msgspec.Meta(min_length=1, max_length=64)]
Name = Annotated[str, msgspec.Meta(max_length=256)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Turned(msgspec.Struct, array_like=True, frozen=True):
    """A turn began, or ended: then its counts are the engine's own."""

    model: Name
    """What was asked for: a model or an adapter."""
    replica: Name
    key: Annotated[bytes, msgspec.Meta(max_length=64)]
    """The session's; empty in a table: whose it is, is not told."""
    hashes: Annotated[list[Hash], msgspec.Meta(max_length=MAX_CHAIN)]
    """The chain over the prompt's boundaries; empty: only the session's home is told."""
    ends_tokens: Annotated[list[Count], msgspec.Meta(max_length=MAX_CHAIN)]
    """Tokens from the prompt's first to each boundary."""
    tail_tokens: Count = 0
    """Generated after the last."""
    mark: Name = ""
    """What the turn's blocks are published under; see `router.kv.residency`."""
    after: bytes = b""
    """The boundary that the first one follows; empty: a beginning."""
    last: Annotated[bytes, msgspec.Meta(max_length=64)] = b""
    """What the session's next request repeats; empty: an id names it."""
    done: bool = False
    """It ended."""


class Batch(msgspec.Struct, array_like=True, frozen=True):
    sender: Name
    news: list[Turned] = []
    loads: dict[Name, Count] | None = None
    """Tokens under way by replica; None: as last said."""


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """Who has heard a batch."""

    name: Name


class Table(msgspec.Struct, array_like=True, frozen=True):
    sender: Name
    news: list[Turned] = []


class Untrusted(Exception):
    """It is not, or no longer, a front door's word. The reason may be said to whoever sent it."""


class Signer:
    """Signs and checks messages with the shared secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def sign(self, path: str, body: bytes, now_s: float) -> Mapping[str, str]:
        """The header of a message that is sent now (Unix seconds)."""
        moment = str(int(now_s * 1000))
        return {HEADER: f"{moment} {self._digest(path, moment, body)}"}

    def check(self, path: str, body: bytes, header: str, now_s: float) -> None:
        """Raises Untrusted."""
        moment, _, digest = header.partition(" ")
        if not hmac.compare_digest(digest.encode(), self._digest(path, moment, body).encode()):
            raise Untrusted(f"it is not signed with our {SECRET_VARIABLE}")
        if abs(now_s - int(moment) / 1000) > MAX_AGE_S:
            raise Untrusted("it is too old, or the clocks of the two machines differ")

    def _digest(self, path: str, moment: str, body: bytes) -> str:
        message = b"\n".join((path.encode(), moment.encode(), body))
        return hmac.new(self._secret, message, "sha256").hexdigest()
