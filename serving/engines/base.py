"""The adapter seam: all that Warmloop must know about a kind of engine.

An engine is a separate process with its own OpenAI server. An adapter says how to start it,
how to see that it is ready, how loaded it is, and how to hand it LoRA adapters. It holds no state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import aiohttp

from serving.config.model import ModelConfig
from serving.engines.kv_endpoints import KvEndpoints
from serving.tables.base import EngineKind, EngineLoad


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine process to be: which model, which files, which address and port.

    `host` is loopback on one machine; in a cluster it is the node's own address, since the front
    doors are elsewhere.
    """

    model: str
    config: ModelConfig
    weights: Path
    port: int
    host: str = "127.0.0.1"
    kv: KvEndpoints | None = None
    """Where it shall publish what its cache holds; None: nowhere."""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Command:
    """A launch line and the environment it needs on top of ours."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What a ready engine says of its limits, in tokens; 0 = it does not say."""

    capacity_tokens: int = 0
    context_tokens: int = 0


class EngineAdapter(Protocol):
    """How to run one kind of engine. Network calls raise aiohttp errors or TimeoutError."""

    kind: EngineKind

    def command(self, spec: EngineSpec) -> Command:
        """The launch line. Raises EngineError when the engine's environment is missing."""

    async def ready(self, http: aiohttp.ClientSession, url: str) -> bool:
        """True once it answers for its model; False while it loads. Never generates a token."""

    async def facts(self, http: aiohttp.ClientSession, url: str) -> EngineFacts:
        """Limits that do not change while it runs."""

    async def load(self, http: aiohttp.ClientSession, url: str) -> EngineLoad:
        """Queue, KV use and cache counters, from its own metrics."""

    async def load_adapter(
        self, http: aiohttp.ClientSession, url: str, name: str, path: Path
    ) -> None:
        """Make a LoRA adapter known under `name`; raises EngineError with the engine's reason."""

    async def unload_adapter(self, http: aiohttp.ClientSession, url: str, name: str) -> None:
        """Forget a LoRA adapter; raises EngineError with the engine's reason."""
