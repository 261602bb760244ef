"""What may an engine fetch for a client? Nothing, but from hosts that the operator lists.

Engines read pictures, sound and film from where a request says: any address that the engine's
machine can reach, or a file. So such a place is a `data:` URL, which holds what it names, or lies
at one of `front.media_hosts`. The rule is one for all routes; here are the engine routes, which
pass bytes on: what a request may hold is looked at only where `may_name` finds that it may.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from serving.errors import BadRequest
from serving.protocol import AnyAsk, CompletionAsk

_KEYS = ("image_url", "audio_url", "video_url")
_ESCAPED = re.compile(rb"\\u00(?:5f|[67][0-9a-f])", re.IGNORECASE)
"""A letter of a key, or its underscore, as no encoder writes it and every engine reads it."""
_URL = re.compile(r"https?://([A-Za-z0-9.-]+)(?::[0-9]{1,5})?(?:[/?#][^\s\\]*)?")
"""Strict: what others might read another host from (`@`, backslashes) does not match."""


def refusal(url: str, hosts: Collection[str]) -> str:
    """Why an engine may not read this, and what to send instead; empty where it may."""
    if url.startswith("data:"):
        return ""
    found = _URL.fullmatch(url)
    if found is None:
        where = "only data: URLs are read"
    elif found[1].lower() in hosts:
        return ""
    else:
        where = f"nothing is fetched from {found[1][:80]!r}"
    return f"{where}; send the data itself in a data: URL, or have the host listed in " + (
        "front.media_hosts"
    )


def may_name(body: bytes) -> bool:
    """Whether the body has a key or a value by which engines find something to fetch."""
    # Inside a string, these quotes would be escaped: text about URLs is not taken for them.
    if b'_url"' in body or b'"url"' in body:
        return True
    return b"\\u00" in body and _ESCAPED.search(body) is not None  # a search is dearer than `in`


def check(ask: AnyAsk, hosts: Collection[str]) -> None:
    """Raises BadRequest for the first thing that an engine would fetch and may not."""
    if isinstance(ask, CompletionAsk):
        return
    for i, raw in enumerate(ask.messages):
        try:
            message: Any = msgspec.json.decode(raw)
            for where, url in _named(message.get("content"), f"messages[{i}].content"):
                if why := refusal(url, hosts):
                    raise BadRequest(f"{where}: {why}", param=where, code="unsupported_value")
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise BadRequest(f"messages[{i}]: is not valid JSON", code="invalid_json") from None
        except RecursionError:
            raise BadRequest("the body is nested too deeply", code="invalid_json") from None


def _named(content: Any, at: str) -> Iterator[tuple[str, str]]:
    """Where in a message's content something is named, and what."""
    if not isinstance(content, list):
        return
    for i, part in enumerate(content):
        if not isinstance(part, dict):
            continue
        for key in _KEYS:
            value = part.get(key)
            if isinstance(value, dict):
                value = value.get("url")
            if isinstance(value, str):
                yield f"{at}[{i}].{key}", value
        source = part.get("source")  # Anthropic's; of results of tools, too
        if isinstance(source, dict) and isinstance(source.get("url"), str):
            yield f"{at}[{i}].source.url", source["url"]
        yield from _named(part.get("content"), f"{at}[{i}].content")
