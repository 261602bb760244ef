"""A real vLLM engine on CPU: what Warmloop relies on in every engine, seen from outside."""

from __future__ import annotations

import pytest

from serving.config.model import ModelConfig
from tests.integration.conftest import RealEngine
from tests.integration.engine_contract import EngineContract, Kind

pytestmark = pytest.mark.engine


class TestVllm(EngineContract):
    KIND = Kind("vllm", cache_block=32, helper="EngineCore")

    @pytest.fixture
    def engine(self, vllm_engine: RealEngine) -> RealEngine:
        return vllm_engine

    @pytest.fixture
    def config(self, small_model: ModelConfig) -> ModelConfig:
        return small_model
