"""Which adapters has an engine? Its own word: the cards of `/v1/models` that name a parent.

    {"id": "small", "root": "/weights/small", "parent": null}
    {"id": "polite", "root": "/adapters/polite", "parent": "small"}     an adapter, and its folder

All engines that serve adapters list them so.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

import aiohttp

TIMEOUT = aiohttp.ClientTimeout(total=10)


class NoList(ValueError):
    """It answers, but not with a list of models."""


async def cards(
    http: aiohttp.ClientSession, url: str, *, keep_none: Collection[int] = ()
) -> list[dict[str, Any]]:
    """The cards of the engine at `url`; none where it answers with a status of `keep_none`.

    Raises NoList, another ValueError, aiohttp errors or TimeoutError.
    """
    async with http.get(f"{url}/v1/models", timeout=TIMEOUT) as answer:
        if answer.status in keep_none:
            return []
        if answer.status != 200:
            raise ValueError(f"/v1/models answered {answer.status}")
        found = json.loads(await answer.read())
    data = found.get("data") if isinstance(found, dict) else None
    if not isinstance(data, list):
        raise NoList("/v1/models did not answer with a list of models")
    return [card for card in data if isinstance(card, dict)]


def adapters_in(found: Iterable[dict[str, Any]], served_name: str) -> dict[str, str]:
    """Adapters of the model that the engine calls `served_name`: name → folder."""
    return {
        str(card.get("id")): str(card.get("root") or "")
        for card in found
        if card.get("parent") == served_name
    }
