"""Engine adapters: one module for each kind of engine, all behind `base.EngineAdapter`.

Nothing is imported before it is asked for: the guardian lives here too, and must start fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.errors import EngineError

if TYPE_CHECKING:
    from serving.engines.base import EngineAdapter
    from serving.table import EngineKind


def adapter_for(kind: EngineKind) -> EngineAdapter:
    """The adapter for a kind of engine; raises EngineError where there is none.

    An external engine is spoken to as vLLM is; it has no launch line of ours.
    """
    if kind == "simulated":
        from serving.engines.simulated import SimulatedAdapter

        return SimulatedAdapter()
    if kind in ("vllm", "external"):
        from serving.engines.vllm import VllmAdapter

        return VllmAdapter()
    raise EngineError(
        f"engine: {kind} is not supported yet; use engine: vllm, or start the {kind} server "
        "yourself and name it with engine: external and urls"
    )
