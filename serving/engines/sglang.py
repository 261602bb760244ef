"""SGLang: its launch line on CPU and on GPU, and what its own HTTP server says of it.

It gets what every engine of ours gets: cached tokens in the usage, metrics, priorities that mean
the same as vLLM's, and strict tools. Its prefix cache is always on. Where it differs from vLLM:

    ready       /ready, after its own warm-up; /health generates a token and is never asked
    load        /v1/loads is of this moment; the gauges in /metrics lag by up to 40 steps, so only
                the counters are taken from there
    adapters    routes without /v1, and asked for as `model:adapter` (`router.placing.fleet`): every
                name that it does not know, a bare adapter's too, means the base model
    errors      not in OpenAI's envelope; `router.http.answer` puts them into it
    tools       its own grammars end with the first call, and anything may follow; so a program of
                ours starts it, with our parser in place of its hermes (`tools/sglang_hermes.py`)

Left to itself its rendezvous listens on all addresses, even for one process; a file does as well.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from serving.config.model import DEFAULT_PARSER, ModelConfig
from serving.engines import kv_endpoints
from serving.engines.base import Command, EngineFacts, EngineSpec
from serving.engines.environment import interpreter
from serving.engines.vllm import (
    GPU_MEMORY_SHARE,
    PATIENCE,
    TOOLS,
    multiplies_bf16,
    samples,
    text_at,
)
from serving.errors import EngineError
from serving.tables.base import EngineKind, EngineLoad

PREFIX = "sglang:"
QUIET_ROUTES = ("/ready", "/metrics", "/v1/loads", "/v1/models")


class SglangAdapter:
    """How to run SGLang's OpenAI server. Network calls raise aiohttp errors or TimeoutError."""

    kind: EngineKind = "sglang"

    def command(self, spec: EngineSpec) -> Command:
        """The launch line. Raises EngineError when the engine's environment is missing."""
        config = spec.config
        argv = [
            *(str(interpreter(config)), *_program(config)),
            *("--host", spec.host, "--port", str(spec.port)),
            *("--model-path", str(spec.weights), "--served-model-name", spec.model),
            *("--context-length", str(config.context_tokens)),
            *("--max-running-requests", str(config.max_running)),
            # Not the model's generation_config.json: the request alone says how to sample.
            *("--sampling-defaults", "openai"),
            # As in vLLM: lower first, 0 when nothing is said, and nobody who runs is sent back.
            *("--enable-priority-scheduling", "--schedule-low-priority-values-first"),
            *("--default-priority-value", "0", "--disable-priority-preemption"),
            *("--enable-cache-report", "--enable-metrics"),
            *("--grammar-backend", "xgrammar"),
            # Polled each second; what is left in the log is worth reading.
            *("--uvicorn-access-log-exclude-prefixes", *QUIET_ROUTES),
            *_tool_flags(config),
            *_lora_flags(config),
            *(_gpu_flags(config) if config.gpus else _cpu_flags(config, spec.weights)),
            *kv_endpoints.sglang_flags(spec.kv),
            *config.extra_args,
        ]
        env = {
            "HF_HUB_OFFLINE": "1",
            # The folder that we run in must not stand in front of SGLang's modules.
            "PYTHONSAFEPATH": "1",
            # Every tool is strict, whatever the request says; `auto` gets a grammar as well.
            "SGLANG_TOOL_STRICT_LEVEL": "2",
            "WARMLOOP_MAX_PARALLEL_CALLS": str(config.max_parallel_calls),
            "SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE": _rendezvous(),
            **({} if config.gpus else _cpu_env(config)),
        }
        return Command(tuple(argv), {**env, **config.env})

    async def ready(self, http: aiohttp.ClientSession, url: str) -> bool:
        """True once it answers for its model; False while it loads. Never generates a token."""
        try:
            async with http.get(f"{url}/ready", timeout=PATIENCE) as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def facts(self, http: aiohttp.ClientSession, url: str) -> EngineFacts:
        """Limits that do not change while it runs."""
        cards = json.loads(await text_at(http, f"{url}/v1/models"))["data"]
        context = max((card.get("max_model_len") or 0 for card in cards), default=0)
        ranks = await loads(http, url) or ()
        capacity = sum(int(rank.get("max_total_num_tokens", 0)) for rank in ranks)
        return EngineFacts(capacity_tokens=capacity, context_tokens=context)

    async def load(self, http: aiohttp.ClientSession, url: str) -> EngineLoad:
        """Queue and KV use of this moment; cache counters, from its own metrics."""
        return parse_load(await text_at(http, f"{url}/metrics"), await loads(http, url))

    async def load_adapter(
        self, http: aiohttp.ClientSession, url: str, name: str, path: Path
    ) -> None:
        """Make a LoRA adapter known under `name`; raises EngineError with the engine's reason."""
        await _post(http, f"{url}/load_lora_adapter", lora_name=name, lora_path=str(path))

    async def unload_adapter(self, http: aiohttp.ClientSession, url: str, name: str) -> None:
        """Forget a LoRA adapter; raises EngineError with the engine's reason."""
        await _post(http, f"{url}/unload_lora_adapter", lora_name=name)


def parse_load(metrics: str, ranks: Iterable[Mapping[str, Any]] | None) -> EngineLoad:
    """Sum over the data-parallel ranks; KV use is their mean.

    `ranks` is what /v1/loads says; None where the server has no such route, and its lagging gauges
    must do. A prompt counts as queried when its request has ended.
    """
    sums: dict[str, float] = {}
    held = 0.0
    for name, labels, value in samples(metrics, PREFIX):
        sums[name] = sums.get(name, 0.0) + value
        if name == "sglang:http_requests_active" and 'endpoint="/v1/' in labels:
            held += value * ('method="POST"' in labels)
    found = [_of_rank(rank) for rank in ranks] if ranks is not None else [_of_gauges(metrics)]
    return EngineLoad(
        running=sum(rank.running for rank in found),
        waiting=sum(rank.waiting for rank in found),
        kv_usage=sum(rank.kv_usage for rank in found) / max(len(found), 1),
        queried_tokens=int(sums.get("sglang:prompt_tokens_total", 0)),
        hit_tokens=int(sums.get("sglang:cached_tokens_total", 0)),
        prompt_tokens=sum(rank.prompt_tokens for rank in found),
        generated_tokens=sum(rank.generated_tokens for rank in found),
        open_requests=int(held),
    )


def _of_rank(said: Mapping[str, Any]) -> EngineLoad:
    """One row of /v1/loads. Its `token_usage` is rounded; what a few tokens add must show."""
    capacity = int(said.get("max_total_num_tokens") or 0)
    # Sums over decode steps; the sixth is of generated tokens. None before the first step.
    moments: Sequence[float] = said.get("decode_moments") or ()
    return EngineLoad(
        running=int(said["num_running_reqs"]),
        waiting=int(said["num_waiting_reqs"]),
        kv_usage=int(said["num_used_tokens"]) / capacity if capacity else 0.0,
        prompt_tokens=int(said.get("total_prefill_uncached_tokens") or 0),
        generated_tokens=int(moments[5]) if len(moments) > 5 else 0,
    )


def _of_gauges(metrics: str) -> EngineLoad:
    """The same from the gauges; the ranks of one model's tensor parallelism say the same."""
    said = {name: value for name, _, value in samples(metrics, PREFIX)}
    return EngineLoad(
        running=int(said.get("sglang:num_running_reqs", 0)),
        waiting=int(said.get("sglang:num_queue_reqs", 0)),
        kv_usage=said.get("sglang:full_token_usage", 0.0),
        prompt_tokens=int(said.get("sglang:prompt_tokens_total", 0)),
        generated_tokens=int(said.get("sglang:generation_tokens_total", 0)),
    )


async def loads(http: aiohttp.ClientSession, url: str) -> list[dict[str, Any]] | None:
    """What each data-parallel rank says of itself; None where there is no such route."""
    async with http.get(f"{url}/v1/loads?include=core", timeout=PATIENCE) as answer:
        if answer.status == 404:
            return None
        answer.raise_for_status()
        ranks: list[dict[str, Any]] = json.loads(await answer.read())["loads"]
        return ranks


def _program(config: ModelConfig) -> list[str]:
    if config.tool_parser in (None, DEFAULT_PARSER):
        return [str(TOOLS / "sglang_server.py")]
    return ["-m", "sglang.launch_server"]


def _tool_flags(config: ModelConfig) -> list[str]:
    parser = config.tool_parser or DEFAULT_PARSER
    # Ours takes the place of SGLang's own parser of the same form.
    flags = ["--tool-call-parser", "hermes" if parser == DEFAULT_PARSER else parser]
    if config.reasoning_parser is not None:
        flags += ["--reasoning-parser", config.reasoning_parser]
    if (template := config.chat_template) is not None:
        # A bare name is one of the shipped templates.
        bare = len(template.parts) == 1
        flags += ["--chat-template", str(TOOLS / template if bare else template)]
    return flags


def _lora_flags(config: ModelConfig) -> list[str]:
    """How many adapters of which rank; none when the model takes no adapters."""
    if not config.takes_adapters:
        return []
    lora = config.lora
    at_once = lora.max_resident + 1  # the base counts as one
    return [
        # Without an adapter at start it cannot know which modules adapters will change.
        *("--enable-lora", "--lora-target-modules", "all"),
        *("--max-lora-rank", str(lora.max_rank), "--max-loras-per-batch", str(at_once)),
        # All that can be known: what it puts aside leaves its list, and would be loaded anew by us.
        *("--max-loaded-loras", str(max(lora.max_known, at_once))),
    ]


def _gpu_flags(config: ModelConfig) -> list[str]:
    if config.gpus < 1:  # several engines share one GPU
        return ["--mem-fraction-static", f"{config.gpus * GPU_MEMORY_SHARE:.3f}"]
    return ["--tp-size", str(int(config.gpus))] if config.gpus > 1 else []


def _cpu_flags(config: ModelConfig, weights: Path) -> list[str]:
    flags = [
        *("--device", "cpu", "--attention-backend", "torch_native"),
        *("--dtype", "bfloat16" if multiplies_bf16() else "float32"),
    ]
    if each := kv_bytes_per_token(weights, 2 if multiplies_bf16() else 4):
        flags += ["--max-total-tokens", str(int(config.kv_cache_gib * 2**30) // each)]
    return flags


def kv_bytes_per_token(weights: Path, bytes_per_number: int) -> int:
    """Keys and values of one token in all layers, from the model's config.json; 0 = unknown.

    Left to itself SGLang takes most of the machine's memory for its cache.
    """
    try:
        said = json.loads((weights / "config.json").read_text(encoding="utf-8"))
        layers, heads = int(said["num_hidden_layers"]), int(said["num_attention_heads"])
        width = int(said.get("head_dim") or said["hidden_size"] // heads)
        kv_heads = int(said.get("num_key_value_heads") or heads)
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return 2 * layers * kv_heads * width * bytes_per_number


def _cpu_env(config: ModelConfig) -> dict[str, str]:
    return {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": str(config.threads)}


def _rendezvous() -> str:
    """A file that the engine's processes meet in; nobody else knows its name."""
    return f"file://{tempfile.gettempdir()}/warmloop-sglang-{secrets.token_hex(16)}"


async def _post(http: aiohttp.ClientSession, url: str, **body: str) -> None:
    async with http.post(url, json=body) as answer:
        if answer.status == 200:
            return
        text = await answer.text()
    try:
        said = json.loads(text)
        reason = said.get("error_message") or said.get("message") or text
    except (ValueError, AttributeError):
        reason = text
    if "LoRA is not enabled" in str(reason):
        reason = "it takes no adapters; set lora: {enabled: true} for the model"
    raise EngineError(f"the engine answered {answer.status}: {str(reason)[:500]}")
