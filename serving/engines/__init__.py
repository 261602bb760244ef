"""Engine adapters: one module for each kind of engine, all behind `base.EngineAdapter`.

Nothing is imported before it is asked for: the guardian lives here too, and must start fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.errors import EngineError

if TYPE_CHECKING:
    import aiohttp

    from serving.engines.base import EngineAdapter
    from serving.tables.base import EngineKind


def adapter_for(kind: EngineKind) -> EngineAdapter:
    """The adapter for a kind of engine; raises EngineError where there is none.

    An external engine is spoken to as what `kind_at` finds; as vLLM while that is not known.
    """
    if kind == "simulated":
        from serving.engines.simulated import SimulatedAdapter

        return SimulatedAdapter()
    if kind in ("vllm", "external"):
        from serving.engines.vllm import VllmAdapter

        return VllmAdapter()
    if kind == "sglang":
        from serving.engines.sglang import SglangAdapter

        return SglangAdapter()
    raise EngineError(f"engine: {kind} is not known")


async def kind_at(http: aiohttp.ClientSession, url: str) -> EngineKind | None:
    """Whose server this is, from the names of its metrics; None where it is nothing that we know.

    Raises aiohttp errors or TimeoutError.
    """
    async with http.get(f"{url}/metrics") as answer:
        answer.raise_for_status()
        page = b"\n" + await answer.read()
    if b"\nsglang:" in page:
        return "sglang"
    return "vllm" if b"\nvllm:" in page else None
