"""StaticTable: engines that somebody else runs, watched by asking them.

Each URL is asked every second for `/v1/models` (never `/health`: SGLang's generates a token) and
`/metrics`. An engine without metrics that we know still works, only its load is unknown.

    starting ── answers, serves the model ──▶ ready
    any ── refuses, or serves something else ──▶ dead, with the reason      at once
    any ── silent or 5xx, three times in a row ──▶ dead, with the reason    a busy engine is slow

What the router sees in its own traffic counts sooner (passive ejection); this is the slow loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from serving.config import ModelConfig, StackConfig
from serving.engines import adapter_for
from serving.engines.base import EngineFacts
from serving.table import Engine

POLL_S = 1.0
TIMEOUT_S = 2.0
PATIENCE = 3
_ADAPTER = adapter_for("external")


@dataclass(slots=True)
class _Watched:
    """One URL: what is known, and how often in a row it was silent."""

    engine: Engine
    silences: int = 0


class _Wrong(Exception):
    """It answers, but not as an engine for this model."""


class StaticTable:
    """EngineTable over the `engine: external` models of a configuration."""

    def __init__(
        self, config: StackConfig, *, poll_s: float = POLL_S, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._poll_s = poll_s
        self._timeout_s = timeout_s
        self._watched = [
            _Watched(_unknown(name, model, index))
            for name, model in config.models.items()
            if model.engine == "external"
            for index in range(len(model.urls))
        ]
        self._snapshot = tuple(w.engine for w in self._watched)
        self._task: asyncio.Task[None] | None = None

    def snapshot(self) -> tuple[Engine, ...]:
        return self._snapshot

    async def start(self) -> None:
        if self._task is None and self._watched:
            self._task = asyncio.create_task(self._follow(), name="static-table")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _follow(self) -> None:
        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
            for watched in self._watched:
                group.create_task(self._follow_one(http, watched))

    async def _follow_one(self, http: aiohttp.ClientSession, watched: _Watched) -> None:
        while True:
            await self._poll(http, watched)
            await asyncio.sleep(self._poll_s)

    async def poll(self) -> None:
        """Ask every engine once, now; what `start` does by itself each second."""
        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
            for watched in self._watched:
                group.create_task(self._poll(http, watched))

    async def _poll(self, http: aiohttp.ClientSession, watched: _Watched) -> None:
        before = watched.engine
        try:
            async with asyncio.timeout(self._timeout_s):
                watched.engine = await _ask(http, before)
            watched.silences = 0
        except (_Wrong, aiohttp.ClientConnectorError) as error:
            watched.silences = 0
            watched.engine = replace(before, state="dead", reason=f"{before.url}: {error}")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            watched.silences += 1
            if watched.silences >= PATIENCE or before.state != "ready":
                said = str(error) or type(error).__name__
                reason = f"{before.url}: no answer {watched.silences} times: {said}"
                state = "dead" if watched.silences >= PATIENCE else before.state
                watched.engine = replace(before, state=state, reason=reason)
        if watched.engine != before:
            self._snapshot = tuple(w.engine for w in self._watched)


async def _ask(http: aiohttp.ClientSession, engine: Engine) -> Engine:
    """The engine as it is now. Raises _Wrong, or what the connection raises."""
    cards = await _models(http, engine.url)
    by_id = {str(card.get("id")): card for card in cards}
    if cards and engine.served_name not in by_id:
        raise _Wrong(
            f"does not serve {engine.served_name!r} but {', '.join(sorted(by_id))}; "
            f"set models.{engine.model}.served_name"
        )
    load, facts = engine.load, EngineFacts(engine.capacity_tokens)
    # Missing metrics are no reason to be dead: any OpenAI server will do.
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError, LookupError):
        load = await _ADAPTER.load(http, engine.url)
        if engine.state != "ready":
            facts = await _ADAPTER.facts(http, engine.url)
    longest = by_id.get(engine.served_name, {}).get("max_model_len")
    return replace(
        engine,
        state="ready",
        reason="",
        load=load,
        capacity_tokens=facts.capacity_tokens,
        context_tokens=longest if isinstance(longest, int) else engine.context_tokens,
        adapters=tuple(i for i, c in by_id.items() if c.get("parent") == engine.served_name),
    )


async def _models(http: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    """The model cards; none when the engine keeps no list, or only for those with a key."""
    async with http.get(f"{url}/v1/models") as answer:
        if answer.status in (401, 403, 404, 405):
            return []
        if answer.status != 200:
            raise ValueError(f"/v1/models answered {answer.status}")
        body = json.loads(await answer.read())
    cards = body.get("data") if isinstance(body, dict) else None
    if not isinstance(cards, list):
        raise _Wrong("/v1/models did not answer with a list of models")
    return [card for card in cards if isinstance(card, dict)]


def _unknown(name: str, model: ModelConfig, index: int) -> Engine:
    return Engine(
        replica=f"{name}-{index}",
        model=name,
        url=model.urls[index].rstrip("/").removesuffix("/v1"),
        served_name=model.served_name or name,
        kind="external",
        state="starting",
        reason="not asked yet",
    )
