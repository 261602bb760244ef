"""vLLM: its launch line on CPU and on GPU, and what its own HTTP server says of it.

What every engine of ours gets: prefix caching, cached tokens in the usage, priority scheduling,
metrics, and tool calls under the strict grammar. On CPU one process and eager mode: starting takes
a third of the time, and nothing is slower; and float32 where the CPU cannot multiply bfloat16
(AVX2 only: a prefill in bfloat16 was measured to take 5 to 7 times as long). The server keeps its
helper processes when it is killed; that is the guardian's business.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp

from serving.config.model import DEFAULT_PARSER, ModelConfig
from serving.engines import kv_endpoints
from serving.engines.base import Command, EngineFacts, EngineSpec
from serving.engines.environment import interpreter
from serving.errors import EngineError
from serving.tables.base import EngineKind, EngineLoad

TOOLS = Path(__file__).with_name("tools")
PARSER_PLUGINS = {DEFAULT_PARSER: TOOLS / "strict_hermes.py"}
GPU_MEMORY_SHARE = 0.9
CPUINFO = Path("/proc/cpuinfo")
BF16_FEATURES = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86, Arm
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The only values that --max-lora-rank takes."""
PATIENCE = aiohttp.ClientTimeout(total=10)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class VllmAdapter:
    """How to run vLLM's OpenAI server. Network calls raise aiohttp errors or TimeoutError."""

    kind: EngineKind = "vllm"

    def command(self, spec: EngineSpec) -> Command:
        """The launch line. Raises EngineError when the engine's environment is missing."""
        config = spec.config
        argv = [
            str(interpreter(config)),
            # Not the `vllm` command: the CPU build's fails on its own package's name.
            *("-m", "vllm.entrypoints.openai.api_server"),
            *("--host", spec.host, "--port", str(spec.port)),
            *("--model", str(spec.weights), "--served-model-name", spec.model),
            *("--max-model-len", str(config.context_tokens)),
            *("--max-num-seqs", str(config.max_running)),
            *("--generation-config", "vllm"),
            *("--scheduling-policy", "priority"),
            "--enable-prefix-caching",
            "--enable-prompt-tokens-details",
            # How many requests the server holds, whatever its scheduler knows of them.
            "--enable-server-load-tracking",
            # Polled each second; what is left in the log is worth reading.
            *("--disable-access-log-for-endpoints", "/health,/metrics,/load,/v1/models"),
            *_tool_flags(config),
            *lora_flags(config),
            *(_gpu_flags(config) if config.gpus else _cpu_flags(config)),
            *kv_endpoints.vllm_flags(spec.kv),
            *config.extra_args,
        ]
        env = {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            # A host that the router lets it fetch from must not send it elsewhere.
            "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
            # The folder that we run in must not stand in front of vLLM's modules.
            "PYTHONSAFEPATH": "1",
            "WARMLOOP_MAX_PARALLEL_CALLS": str(config.max_parallel_calls),
            **({} if config.gpus else _cpu_env(config)),
        }
        if config.takes_adapters:
            env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
        env |= config.env
        if config.takes_adapters and not config.gpus:
            env["PYTHONPATH"] = os.pathsep.join(
                filter(None, (str(TOOLS / "worker"), config.env.get("PYTHONPATH")))
            )
        return Command(tuple(argv), env)

    async def ready(self, http: aiohttp.ClientSession, url: str) -> bool:
        """True once it answers for its model; False while it loads. Never generates a token."""
        try:
            async with http.get(f"{url}/health", timeout=PATIENCE) as health:
                if health.status != 200:
                    return False
            return bool(await _models(http, url))
        except aiohttp.ClientConnectionError:
            return False

    async def facts(self, http: aiohttp.ClientSession, url: str) -> EngineFacts:
        """Limits that do not change while it runs."""
        models = await _models(http, url)
        context = max((model.get("max_model_len") or 0 for model in models), default=0)
        capacity = 0
        for name, labels, _ in samples(await text_at(http, f"{url}/metrics")):
            if name == "vllm:cache_config_info":
                said = dict(_LABEL.findall(labels))
                capacity += _number(said.get("num_gpu_blocks")) * _number(said.get("block_size"))
        return EngineFacts(capacity_tokens=capacity, context_tokens=context)

    async def load(self, http: aiohttp.ClientSession, url: str) -> EngineLoad:
        """Queue, KV use and cache counters, from its own metrics."""
        found = parse_load(await text_at(http, f"{url}/metrics"))
        return replace(found, open_requests=await _open_requests(http, url))

    async def load_adapter(
        self, http: aiohttp.ClientSession, url: str, name: str, path: Path
    ) -> None:
        """Make a LoRA adapter known under `name`; raises EngineError with the engine's reason."""
        await _post(http, f"{url}/v1/load_lora_adapter", lora_name=name, lora_path=str(path))

    async def unload_adapter(self, http: aiohttp.ClientSession, url: str, name: str) -> None:
        """Forget a LoRA adapter; raises EngineError with the engine's reason."""
        await _post(http, f"{url}/v1/unload_lora_adapter", lora_name=name)


def _tool_flags(config: ModelConfig) -> list[str]:
    parser = config.tool_parser or DEFAULT_PARSER
    flags = ["--enable-auto-tool-choice", "--tool-call-parser", parser]
    if (plugin := PARSER_PLUGINS.get(parser)) is not None:
        flags += ["--tool-parser-plugin", str(plugin)]
    if (template := config.chat_template) is not None:
        # A bare name is one of the shipped templates.
        bare = len(template.parts) == 1
        flags += ["--chat-template", str(TOOLS / template if bare else template)]
    if config.reasoning_parser is not None:
        flags += ["--reasoning-parser", config.reasoning_parser]
    return flags


def lora_flags(config: ModelConfig) -> list[str]:
    """How many adapters of which rank; none when the model takes no adapters.

    On CPU vLLM mixes up the base and the adapters of one step; an extension of ours does not.
    """
    if not config.takes_adapters:
        return []
    lora = config.lora
    cpu = [] if config.gpus else ["--worker-extension-cls", "warmloop_lora.WarmloopLora"]
    return [
        *("--enable-lora", *cpu),
        *("--max-loras", str(lora.max_resident), "--max-cpu-loras", str(lora.max_cached)),
        *("--max-lora-rank", str(next(rank for rank in LORA_RANKS if rank >= lora.max_rank))),
    ]


def _cpu_flags(config: ModelConfig) -> list[str]:
    return [
        *("--distributed-executor-backend", "uni", "--enforce-eager", "--block-size", "32"),
        *("--kv-cache-memory-bytes", str(round(config.kv_cache_gib * 2**30))),
        *("--dtype", "bfloat16" if multiplies_bf16() else "float32"),
    ]


def multiplies_bf16() -> bool:
    """True where the CPU has instructions for bfloat16; float32 takes twice the memory."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return False
    # "flags : fpu vme …" on x86, "Features : fp asimd …" on Arm; all cores say the same.
    said = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return bool(BF16_FEATURES & set(said.split()))


def _cpu_env(config: ModelConfig) -> dict[str, str]:
    return {
        # Else the CPU platform turns the `uni` executor into several processes.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # `auto` would bind every engine of the machine to the same first cores.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(config.threads),
    }


def _gpu_flags(config: ModelConfig) -> list[str]:
    if config.gpus < 1:  # several engines share one GPU: see serving.cluster.gpu_turn
        return ["--gpu-memory-utilization", f"{config.gpus * GPU_MEMORY_SHARE:.3f}"]
    if config.gpus > 1:
        # By processes of its own. Left to itself it might take our Ray for one that it may use.
        ranks = str(int(config.gpus))
        return ["--tensor-parallel-size", ranks, "--distributed-executor-backend", "mp"]
    return []


def samples(text: str, prefix: str = "vllm:") -> Iterator[tuple[str, str, float]]:
    """(name, label text, value) of each sample of an engine in Prometheus' text format.

    A scan, since it runs each second for each replica: 0.5 ms, where prometheus_client's parser
    takes 13 to 30, mostly over histograms, which nobody asks for here.
    """
    for line in text.splitlines():
        if line.startswith(prefix) and "_bucket{" not in line:
            name, _, rest = line.partition("{")
            labels, _, value = rest.rpartition("}")
            if not rest:
                name, _, value = line.partition(" ")
            yield name, labels, float(value.split()[0])


def parse_load(text: str) -> EngineLoad:
    """Sum the counters over the server's data-parallel engines; KV use is their mean."""
    sums: dict[str, float] = {}
    engines = 0
    for name, _, value in samples(text):
        sums[name] = sums.get(name, 0.0) + value
        engines += name == "vllm:kv_cache_usage_perc"
    return EngineLoad(
        running=int(sums.get("vllm:num_requests_running", 0)),
        waiting=int(sums.get("vllm:num_requests_waiting", 0)),
        kv_usage=sums.get("vllm:kv_cache_usage_perc", 0.0) / max(engines, 1),
        queried_tokens=int(sums.get("vllm:prefix_cache_queries_total", 0)),
        hit_tokens=int(sums.get("vllm:prefix_cache_hits_total", 0)),
        prompt_tokens=int(sums.get("vllm:prompt_tokens_total", 0)),
        generated_tokens=int(sums.get("vllm:generation_tokens_total", 0)),
    )


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


async def text_at(http: aiohttp.ClientSession, url: str) -> str:
    """What an engine says at `url`. Raises aiohttp errors or TimeoutError."""
    async with http.get(url, timeout=PATIENCE) as answer:
        answer.raise_for_status()
        return await answer.text()


async def _open_requests(http: aiohttp.ClientSession, url: str) -> int:
    """What `--enable-server-load-tracking` counts; 0 where the server has no such route."""
    async with http.get(f"{url}/load", timeout=PATIENCE) as answer:
        if answer.status != 200:
            return 0
        said = json.loads(await answer.read())
    count = said.get("server_load") if isinstance(said, dict) else None
    return count if isinstance(count, int) else 0


async def _models(http: aiohttp.ClientSession, url: str) -> list[dict[str, int | None]]:
    found = json.loads(await text_at(http, f"{url}/v1/models"))
    data: list[dict[str, int | None]] = found["data"]
    return data


async def _post(http: aiohttp.ClientSession, url: str, **body: str) -> None:
    async with http.post(url, json=body) as answer:
        if answer.status != 200:
            said = (await answer.text())[:2000]
            if answer.status in (404, 405) and '"error"' not in said:  # the route, not the adapter
                said = "it takes no adapters; set lora: {enabled: true} for the model"
            raise EngineError(f"the engine answered {answer.status}: {reason_in(said)}")


def reason_in(body: str) -> str:
    """The message of an engine's error body, in one line; the body itself when it has none."""
    with contextlib.suppress(ValueError, AttributeError):
        found = json.loads(body)
        inner = found.get("error")
        body = str((inner if isinstance(inner, dict) else found).get("message") or body)
    return " ".join(body.split())[:500]
