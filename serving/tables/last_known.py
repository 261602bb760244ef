"""Engines of a directory that is silent: which of them still live? Asked of them, one by one.

answers /v1/models ──▶ lives        refuses ──▶ dead, at once        silent ──▶ nothing is known
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import aiohttp

from serving.models.model_cards import cards
from serving.tables.base import Engine

TIMEOUT_S = 2.0


async def living(engines: Iterable[Engine]) -> dict[str, bool]:
    """By replica: whether it lives; those of which nothing is known are left out."""
    found: dict[str, bool] = {}

    async def ask(http: aiohttp.ClientSession, engine: Engine) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await cards(http, engine.url)
        except aiohttp.ClientConnectorError:
            found[engine.replica] = False
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return
        else:
            found[engine.replica] = True

    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        for engine in engines:
            if engine.url and engine.state != "dead":
                group.create_task(ask(http, engine))
    return found
