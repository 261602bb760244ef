"""Which session is this? A name if the client gives one, else the prefix itself.

    1. the caller's own key (`TurnRequest.session`), an id header, an id in the body
    2. the chain of hashes over message boundaries:
           h_0 = H(model, tools, system, tenant salt, user)      h_i = H(h_{i-1}, message_i)
       A request is remembered under its last hash only. The session's next request repeats all
       of it and goes on, so that one of its inner hashes is that hash: the longest known one wins.
    3. else it is a new session, named by its last hash.

What many sessions share says nothing about which one this is. A common head (system prompt, tools,
worked examples) is never remembered, since no request ends there; one made only of system messages
is left out; and a remembered request from which too many different ones have grown is a fork
in the road (`branch_limit`): those that pass it are sessions of their own.

`user` names a person with many sessions: it separates, it does not join.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from router.turn import TurnRequest
from serving.protocol import AnyAsk, CompletionAsk, MessagesAsk, role_of

ID_HEADERS = (
    "x-session-id",
    "x-conversation-id",
    "session_id",
    "x-claude-code-session-id",
    "x-session-affinity",
)
METADATA_KEYS = ("session_id", "conversation_id", "thread_id")
PROMPT_BLOCK_BYTES = 2048
"""A bare prompt has no message boundaries; blocks of this size stand in for them."""

# Claude Code puts the session into metadata.user_id, behind the account.
_IN_USER_ID = re.compile(r"session_(?:id\W+)?([0-9a-fA-F-]{32,36})")


@dataclass(frozen=True, slots=True)
class Identity:
    """A session's key, where it came from, and the request's own place in the chain."""

    key: bytes
    source: str
    """`caller`, a header's or field's name, `prefix` (a known chain), or `new`."""
    last: bytes | None = None
    """The hash to remember when the turn succeeds; None when an id names the session."""
    parent: bytes | None = None
    """The known hash from which this request grew."""


def explicit_id(turn: TurnRequest, ask: AnyAsk) -> tuple[str, str] | None:
    """(where it was found, the id) when the request names its session."""
    if turn.session:
        return "caller", turn.session
    for name in ID_HEADERS:
        if value := turn.headers.get(name):
            return name, value
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


def chain(ask: AnyAsk) -> list[bytes]:
    """The hashes after each boundary; one running hash, read at every boundary.

    JSON values delimit themselves, so bytes of neighbours cannot be mistaken for one another.
    SHA-1 because processors compute it (five times faster here than BLAKE2b); what it guards
    is a warm cache, not a secret.
    """
    running = hashlib.sha1(usedforsecurity=False)
    running.update(ask.model.encode())
    for part in (ask.tools, ask.user, ask.cache_salt):
        running.update(b"\0")
        running.update(part)
    if isinstance(ask, MessagesAsk):
        running.update(b"\0")
        running.update(ask.system)
    hashes = []
    for piece in _pieces(ask):
        running.update(piece)
        hashes.append(running.digest())
    return hashes


def _pieces(ask: AnyAsk) -> Iterable[msgspec.Raw | memoryview]:
    if not isinstance(ask, CompletionAsk):
        return ask.messages
    view = memoryview(ask.prompt)
    return (view[i : i + PROMPT_BLOCK_BYTES] for i in range(0, len(view), PROMPT_BLOCK_BYTES))


def ends_in_shared_head(ask: AnyAsk) -> bool:
    """True when the request is nothing but system or developer messages."""
    if isinstance(ask, CompletionAsk):
        return False
    return all(role_of(m) in ("system", "developer") for m in reversed(ask.messages))


class _Seen:
    """A request that was answered: whose it was, and how many different ones grew from it."""

    __slots__ = ("branches", "key")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.branches = 0


class _Home:
    """Where a session's last turn was answered, and how many tokens of it that replica has seen."""

    __slots__ = ("replica", "tokens")

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self.tokens = 0


class Sessions:
    """Bounded memory of sessions: their chains and their homes. Least recently used go first."""

    def __init__(self, capacity: int, branch_limit: int = 8) -> None:
        self._capacity = capacity
        self._branch_limit = branch_limit
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()
        self._homes: OrderedDict[tuple[str, bytes], _Home] = OrderedDict()

    def __len__(self) -> int:
        return len(self._homes)

    def identify(self, turn: TurnRequest, ask: AnyAsk) -> Identity:
        """The session that this request belongs to. Changes nothing but the order of use."""
        if found := explicit_id(turn, ask):
            source, name = found
            # Two kinds of id that happen to be equal are the same session: clients send both.
            return Identity(hashlib.sha1(name.encode(), usedforsecurity=False).digest(), source)
        hashes = chain(ask)
        last = hashes[-1]
        memorable = None if ends_in_shared_head(ask) else self._memorable(ask, hashes)
        for known in reversed(hashes):
            seen = self._seen.get(known)
            if seen is None:
                continue
            if known != last and seen.branches >= self._branch_limit:
                break
            self._seen.move_to_end(known)
            return Identity(seen.key, "prefix", memorable, known)
        return Identity(last, "new", memorable)

    @staticmethod
    def _memorable(ask: AnyAsk, hashes: list[bytes]) -> bytes | None:
        """The last boundary that the next request can repeat.

        A bare prompt's last block is unfinished: the next prompt has more in it.
        """
        if not isinstance(ask, CompletionAsk):
            return hashes[-1]
        return hashes[-2] if len(hashes) > 1 else None

    def home(self, model: str, identity: Identity) -> str | None:
        """The replica that answered this session's last turn on `model`."""
        home = self._homes.get((model, identity.key))
        return home.replica if home is not None else None

    def warm_tokens(self, model: str, identity: Identity, replica: str) -> int:
        """Tokens of this session's last turn, prompt and answer, if `replica` computed them."""
        home = self._homes.get((model, identity.key))
        return home.tokens if home is not None and home.replica == replica else 0

    def grew(self, model: str, identity: Identity, replica: str, tokens: int) -> None:
        """A turn's usage is known: `replica` now holds so many tokens of the session."""
        home = self._homes.get((model, identity.key))
        if home is not None and home.replica == replica:
            home.tokens = tokens

    def remember(self, model: str, identity: Identity, replica: str) -> None:
        """A turn succeeded: its session's home is `replica`, and its chain is known."""
        place = (model, identity.key)
        home = self._homes.get(place)
        if home is None or home.replica != replica:
            self._homes[place] = _Home(replica)
        self._homes.move_to_end(place)
        last = identity.last
        if last is not None:
            if last not in self._seen:
                if identity.parent is not None and (parent := self._seen.get(identity.parent)):
                    parent.branches += 1
                self._seen[last] = _Seen(identity.key)
            self._seen.move_to_end(last)
        for table in self._tables():
            while len(table) > self._capacity:
                table.popitem(last=False)

    def _tables(self) -> Iterator[OrderedDict[Any, Any]]:
        yield self._homes
        yield self._seen
