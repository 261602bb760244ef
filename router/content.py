"""What a request says, read once: hashes over its message boundaries, whichever model answers.

    h_0 = H(tools, system, salts)      h_i = H(h_{i-1}, message_i)

Every byte of a prompt is hashed here, which is the dearest thing that the router does to a request;
`model: auto` asks about several models. So the model is put in front of the finished hashes.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import msgspec

from serving.protocol import AnyAsk, CompletionAsk, MessagesAsk

PROMPT_BLOCK_BYTES = 2048
"""A bare prompt has no message boundaries; blocks of this size stand in for them."""
_TAG_BYTES = 4


class Content(msgspec.Struct, frozen=True):
    """The hashes after each boundary, and the bytes of tools, system and messages up to it."""

    hashes: list[bytes]
    ends_bytes: list[int]
    total_bytes: int

    def on(self, model: str) -> list[bytes]:
        """The chain on one model: what one has computed is of no use to another."""
        tag, kept = _tag(model), 20 - _TAG_BYTES
        return [tag + each[:kept] for each in self.hashes]


class Parsed(msgspec.Struct, frozen=True):
    """A request's body as somebody has read it already."""

    ask: AnyAsk
    content: Content


@lru_cache(maxsize=1024)
def _tag(model: str) -> bytes:
    return hashlib.sha1(model.encode(), usedforsecurity=False).digest()[:_TAG_BYTES]


def content_of(ask: AnyAsk, salt: str = "") -> Content:
    """One running hash, read at each boundary.

    JSON values delimit themselves, so bytes of neighbours cannot be mistaken for one another.
    SHA-1 because processors compute it (five times faster here than BLAKE2b); what it guards
    is a warm cache, not a secret. A bare prompt's last block is unfinished: the next prompt has
    more in it, and its hash would never be met again.
    """
    running = hashlib.sha1(usedforsecurity=False)
    update, digest = running.update, running.digest
    size = len(ask.tools)
    for part in (ask.tools, ask.cache_salt, salt.encode()):
        update(b"\0")
        update(part)
    if isinstance(ask, MessagesAsk):
        update(b"\0")
        update(ask.system)
        size += len(ask.system)
    hashes, ends = [digest()], [size]
    if isinstance(ask, CompletionAsk):
        view = memoryview(ask.prompt)
        for start in range(0, len(view) - PROMPT_BLOCK_BYTES, PROMPT_BLOCK_BYTES):
            update(view[start : start + PROMPT_BLOCK_BYTES])
            hashes.append(digest())
            ends.append(size + start + PROMPT_BLOCK_BYTES)
        return Content(hashes, ends, size + len(view))
    for message in ask.messages:
        update(message)
        size += len(message)
        hashes.append(digest())
        ends.append(size)
    return Content(hashes, ends, size)
