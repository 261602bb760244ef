"""What an MCP server offers, as values that a conversation's log can hold."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec

MAX_SHARED = 256


class ListedTool(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One tool as its server describes it; a description is data, and nothing else."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    output_schema: dict[str, Any] | None = None
    read_only: bool = False
    idempotent: bool = False


class Listing(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A server's tools at one version, sorted by name."""

    version: str
    tools: list[ListedTool]
    server: str = ""
    """Its own name and version, for the audit."""
    server_version: str = ""


def version_of(tools: Sequence[ListedTool]) -> str:
    """The hash of what is listed, in the order in which a model is shown it."""
    return hashlib.sha256(msgspec.json.encode(tools)).hexdigest()[:16]


_shared: OrderedDict[tuple[str, str, str], Listing] = OrderedDict()


def shared(listing: Listing) -> Listing:
    """The one copy of an equal listing that all conversations of this process share."""
    key = listing.version, listing.server, listing.server_version
    found = _shared.setdefault(key, listing)
    _shared.move_to_end(key)
    if len(_shared) > MAX_SHARED:
        _shared.popitem(last=False)
    return found
