"""StaticTable: engines that somebody else runs, watched by asking them.

Each URL is asked every second for `/v1/models` (never `/health`: SGLang's generates a token) and
for its load, in its own way: the names of its metrics say whether it is vLLM or SGLang. An engine
without metrics that we know still works, only its load is unknown.

    starting ── answers, serves the model ──▶ ready
    any ── refuses, or serves something else ──▶ dead, with the reason      at once
    any ── silent or 5xx, three times in a row ──▶ dead, with the reason    a busy engine is slow

What the router sees in its own traffic counts sooner (passive ejection); this is the slow loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace

import aiohttp

from serving.config.model import ModelConfig
from serving.config.stack import StackConfig
from serving.engines import adapter_for, kind_at
from serving.engines.base import EngineFacts
from serving.models.model_cards import NoList, adapters_in, cards
from serving.owned_task import OwnedTask
from serving.tables.base import Engine

POLL_S = 1.0
TIMEOUT_S = 2.0
PATIENCE = 3
KEEP_NO_LIST = (401, 403, 404, 405)
"""What `/v1/models` answers where there is no list, or only one for those with a key."""


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
        self._task = OwnedTask()

    def snapshot(self) -> tuple[Engine, ...]:
        return self._snapshot

    async def start(self) -> None:
        if self._watched:
            self._task.start(self._follow, "static-table")

    async def stop(self) -> None:
        await self._task.stop()

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
    try:
        found = await cards(http, engine.url, keep_none=KEEP_NO_LIST)
    except NoList as error:
        raise _Wrong(str(error)) from None
    by_id = {str(card.get("id")): card for card in found}
    if found and engine.served_name not in by_id:
        raise _Wrong(
            f"does not serve {engine.served_name!r} but {', '.join(sorted(by_id))}; "
            f"set models.{engine.model}.served_name"
        )
    load, facts, kind = engine.load, EngineFacts(engine.capacity_tokens), engine.found_kind
    # Missing metrics are no reason to be dead: any OpenAI server will do.
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError, LookupError):
        new = engine.state != "ready" or kind is None
        if new:
            kind = await kind_at(http, engine.url)
        adapter = adapter_for(kind or "external")
        load = await adapter.load(http, engine.url)
        if new:
            facts = await adapter.facts(http, engine.url)
    longest = by_id.get(engine.served_name, {}).get("max_model_len")
    return replace(
        engine,
        state="ready",
        reason="",
        load=load,
        found_kind=kind,
        capacity_tokens=facts.capacity_tokens,
        context_tokens=longest if isinstance(longest, int) else engine.context_tokens,
        adapters=tuple(adapters_in(found, engine.served_name)),
    )


def _unknown(name: str, model: ModelConfig, index: int) -> Engine:
    kv = model.kv_endpoints[index] if model.kv_endpoints else None
    return Engine(
        replica=f"{name}-{index}",
        model=name,
        url=model.urls[index].rstrip("/").removesuffix("/v1"),
        served_name=model.served_name or name,
        kind="external",
        state="starting",
        reason="not asked yet",
        kv_events=kv.events if kv else "",
        kv_replay=kv.replay if kv else "",
    )
