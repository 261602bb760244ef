"""Which session is this, and which prefix? A name if the client gives one, else the prefix itself.

Two answers for every request:

    the chain   hashes over message boundaries, with the bytes up to each:
                    h_0 = H(model, tools, system, salts)      h_i = H(h_{i-1}, message_i)  (content)
                Engines share what lies before a boundary, whoever asks. Warmth is kept by it.
    the key     whose program this is; load, homes and turns' order are kept by it:
                    1. the caller's own key (`TurnRequest.session`), an id header, an id in the body
                    2. the chain: a request is remembered under its last hash. The session's next
                       request repeats all of it and goes on, so that one of its inner hashes is
                       that hash: the longest known one wins.
                    3. else the chain's first boundary that is the session's own: its first user
                       message. Every front door finds it alike, without having seen the session.

What many sessions share says nothing about which one this is. Boundaries near the head that
`branch_limit` sessions have passed are common (system prompt, tools, worked examples): the key is
taken after them. So it is with a remembered request from which too many different ones have grown:
those that pass it are sessions of their own.

`user` names a person with many sessions: it separates, it does not join. Tenants are apart
altogether, ids and chains.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from router.content import HASH_BYTES, Content, content_of, tag, tagged
from router.turn import TurnRequest
from serving.protocol import AnyAsk, CompletionAsk, role_of

ID_HEADERS = (
    "x-session-id",
    "x-conversation-id",
    "session_id",
    "conversation_id",
    "x-thread-id",
    "x-task-id",
    "x-claude-code-session-id",
    "x-session-affinity",
    "x-opencode-session",
    "x-kilocode-taskid",
    "x-litellm-session-id",
    "helicone-session-id",
)
_ID_NAMES = frozenset(ID_HEADERS)
METADATA_KEYS = ("session_id", "conversation_id", "thread_id")
HEAD_ROLES = ("system", "developer")
HEAD_BOUNDARIES = 16
"""How far from the root boundaries are counted: what a fleet shares is at the head."""
PASSED_CAPACITY = 16_384

# Claude Code puts the session into metadata.user_id, behind the account.
_IN_USER_ID = re.compile(r"session_(?:id\W+)?([0-9a-fA-F-]{32,36})")


class Identity(msgspec.Struct, frozen=True):
    """A session's key, where it came from, and the request's own chain."""

    key: bytes
    source: str
    """`caller`, a header's or field's name, `prefix` (a known chain), or `new`."""
    last: bytes | None = None
    """The hash to remember when the turn succeeds; None when an id names the session."""
    parent: bytes | None = None
    """The known hash from which this request grew."""
    hashes: Sequence[bytes] = ()
    """The chain, from the root on; ends where the next request can still repeat it."""
    ends_bytes: Sequence[int] = ()
    """Bytes of tools, system prompt and messages up to each boundary."""
    total_bytes: int = 0
    """... and up to the end."""

    def on(self, model: str) -> Identity:
        """With the chain on one model, as its engines hold it."""
        return msgspec.structs.replace(self, hashes=tagged(self.hashes, model))


def explicit_id(turn: TurnRequest, ask: AnyAsk) -> tuple[str, str] | None:
    """(where it was found, the id) when the request names its session."""
    if turn.session:
        return "caller", turn.session
    if not _ID_NAMES.isdisjoint(turn.headers):
        for name in ID_HEADERS:
            if value := turn.headers.get(name):
                return name, value
    if not (ask.conversation or ask.prompt_cache_key or ask.metadata):
        return None
    return next((found for found in _ids_in_body(ask) if found[1]), None)


def _ids_in_body(ask: AnyAsk) -> Iterator[tuple[str, str]]:
    if ask.conversation:
        yield "conversation", _string(ask.conversation, "id")
    if ask.prompt_cache_key:
        yield "prompt_cache_key", _string(ask.prompt_cache_key)
    if ask.metadata:
        for key in METADATA_KEYS:
            yield f"metadata.{key}", _string(ask.metadata, key)
        inside = _IN_USER_ID.search(_string(ask.metadata, "user_id"))
        yield "metadata.user_id", inside[1] if inside else ""


def _string(raw: msgspec.Raw, key: str = "") -> str:
    """A raw JSON string, or the string under `key` of a raw object; else empty.

    An id of a type we do not know is the engine's to refuse, not ours.
    """
    try:
        value: Any = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return ""
    if isinstance(value, dict):
        value = value.get(key)
    return value if isinstance(value, str) else ""


def _first_own(ask: AnyAsk) -> int:
    """The chain's index after the first message that is neither system's nor developer's."""
    if isinstance(ask, CompletionAsk):
        return 1
    for at, message in enumerate(ask.messages, 1):
        if role_of(message) not in HEAD_ROLES:
            return at
    return len(ask.messages)


def ends_in_shared_head(ask: AnyAsk, hashes: Sequence[bytes]) -> bool:
    """True when the chain holds nothing of the session's own: only system or developer messages,
    or a bare prompt that is shorter than a block."""
    if isinstance(ask, CompletionAsk):
        return len(hashes) == 1
    return all(role_of(m) in HEAD_ROLES for m in reversed(ask.messages))


class _Seen:
    """A request that was answered: whose it was, and how many different ones grew from it."""

    __slots__ = ("branches", "key")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.branches = 0


class Sessions:
    """Bounded memory of chains: whose they are. Least recently used go first."""

    def __init__(self, capacity: int, branch_limit: int = 8) -> None:
        self._capacity = capacity
        self._branch_limit = branch_limit
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()
        self._passed: OrderedDict[bytes, int] = OrderedDict()
        """How many sessions began with the prefix up to this boundary, near the head."""

    def __len__(self) -> int:
        return len(self._seen)

    def identify(self, turn: TurnRequest, ask: AnyAsk, content: Content | None = None) -> Identity:
        """The session that this request belongs to. Changes nothing but the order of use.

        `content` is the body's, where it is known already.
        """
        tenant = turn.tenant
        content = content or content_of(ask, tenant.salt)
        hashes, ends, total = content.hashes, content.ends_bytes, content.total_bytes
        if found := explicit_id(turn, ask):
            source, name = found
            # Two kinds of id that happen to be equal are the same session: clients send both.
            named = f"{tenant.name}\0{name}" if tenant.name else name
            key = hashlib.sha1(named.encode(), usedforsecurity=False).digest()
            return Identity(key, source, None, None, hashes, ends, total)
        whose = tag(ask.model)
        if ask.user:
            whose += hashlib.sha1(ask.user, usedforsecurity=False).digest()[:8]
        last = hashes[-1]
        memorable = None if ends_in_shared_head(ask, hashes) else last + whose
        for boundary in reversed(hashes):
            known = boundary + whose
            seen = self._seen.get(known)
            if seen is None:
                continue
            if boundary != last and seen.branches >= self._branch_limit:
                break
            self._seen.move_to_end(known)
            return Identity(seen.key, "prefix", memorable, known, hashes, ends, total)
        key = self._own(ask, hashes, whose)
        return Identity(key, "new", memorable, None, hashes, ends, total)

    def _own(self, ask: AnyAsk, hashes: list[bytes], whose: bytes) -> bytes:
        """The first boundary that is this session's alone, as far as anyone can know."""
        at = min(_first_own(ask), len(hashes) - 1)
        while at < len(hashes) - 1 and self._is_common(hashes[at], whose):
            at += 1
        return hashes[at] + whose

    def _is_common(self, boundary: bytes, whose: bytes) -> bool:
        if self._passed.get(boundary, 0) >= self._branch_limit:
            return True
        seen = self._seen.get(boundary + whose)
        return seen is not None and seen.branches >= self._branch_limit

    def remember(self, identity: Identity, *, first: bool) -> None:
        """A turn succeeded, the session's `first` or a later one: its chain is known."""
        if first:
            for each in identity.hashes[:HEAD_BOUNDARIES]:
                boundary = each[-HASH_BYTES:]  # whichever model it is on
                self._passed[boundary] = self._passed.get(boundary, 0) + 1
                self._passed.move_to_end(boundary)
            while len(self._passed) > PASSED_CAPACITY:
                self._passed.popitem(last=False)
        last = identity.last
        if last is None:
            return
        if last not in self._seen:
            if identity.parent is not None and (parent := self._seen.get(identity.parent)):
                parent.branches += 1
            self._seen[last] = _Seen(identity.key)
        self._seen.move_to_end(last)
        while len(self._seen) > self._capacity:
            self._seen.popitem(last=False)
