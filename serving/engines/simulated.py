"""The simulated engine: no model, but vLLM's HTTP surface, so only the launch line is its own."""

from __future__ import annotations

import sys

from serving.engines import kv_endpoints
from serving.engines.base import Command, EngineSpec
from serving.engines.vllm import VllmAdapter
from serving.tables.base import EngineKind


class SimulatedAdapter(VllmAdapter):
    """`python -m serving.simulator`, as fast as the model's `simulator` section says."""

    kind: EngineKind = "simulated"

    def command(self, spec: EngineSpec) -> Command:
        """The launch line; it runs in our own environment, so nothing can be missing."""
        speed = spec.config.simulator
        argv = [
            *(sys.executable, "-m", "serving.simulator"),
            *("--host", spec.host, "--port", str(spec.port), "--model", spec.model),
            *("--context-tokens", str(spec.config.context_tokens)),
            *("--prefill-tokens-per-s", str(speed.prefill_tokens_per_s)),
            *("--decode-tokens-per-s", str(speed.decode_tokens_per_s)),
            *("--capacity-tokens", str(speed.capacity_tokens)),
            *("--block-tokens", str(speed.block_tokens)),
            *("--start-s", str(speed.start_s)),
            *("--max-running", str(spec.config.max_running)),
            *kv_endpoints.vllm_flags(spec.kv),
            *(("--max-lora-rank", str(spec.config.lora.max_rank)) * spec.config.takes_adapters),
            *spec.config.extra_args,
        ]
        return Command(tuple(argv), dict(spec.config.env))
