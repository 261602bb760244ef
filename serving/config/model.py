"""One model of a stack: its engine, replicas, context, adapters and prices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from serving.config.home import home
from serving.config.sections import Frozen, Name
from serving.config.source import Source
from serving.tables.base import Tier

DEFAULT_PARSER = "warmloop_hermes"


class Prices(Frozen):
    """US dollars per million tokens."""

    fresh: float = Field(default=0.0, ge=0)
    cached: float = Field(default=0.0, ge=0)
    output: float = Field(default=0.0, ge=0)

    def cost_usd(self, *, prompt: int, cached: int, output: int) -> float:
        """What a turn costs; `prompt` includes `cached` (all in tokens)."""
        fresh = prompt - cached
        return (fresh * self.fresh + cached * self.cached + output * self.output) / 1e6


class SimulatorConfig(Frozen):
    """How fast a simulated engine pretends to be. Tokens per second; seconds."""

    prefill_tokens_per_s: float = Field(default=8000.0, gt=0)
    decode_tokens_per_s: float = Field(default=60.0, gt=0)
    capacity_tokens: int = Field(default=300_000, gt=0)
    block_tokens: int = Field(default=16, gt=0)
    start_s: float = Field(default=0.0, ge=0)


class KvEndpoints(Frozen):
    """Where an engine of others publishes its KV events: ZeroMQ addresses."""

    events: str = Field(pattern=r"^(tcp|ipc)://.+")
    replay: str = Field(default="", pattern=r"^((tcp|ipc)://.+)?$")
    """Where it sends again what was missed; empty: it does not."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"events": value} if isinstance(value, str) else value


class LoraConfig(Frozen):
    """LoRA adapters of one model: whether the engine takes them, and how many."""

    enabled: bool | None = None
    """Default: only where the model has `adapters`. True lets them be loaded at run time too."""
    max_rank: int = Field(default=16, ge=1, le=512)
    """Engines set memory and time aside for this rank, whatever an adapter's own is."""
    max_resident: int = Field(default=4, ge=1, le=256)
    """Adapters that the engine computes with at once; one more takes the place of the least
    recently used."""
    max_cached: int = Field(default=16, ge=1, le=4096)
    """Adapters in the engine's host memory, the resident ones included; others come from disk."""
    max_known: int = Field(default=64, ge=1, le=4096)
    """Adapters that can be asked for by name; loading one more is refused."""
    folders: tuple[Path, ...] = ()
    """Where adapters may be loaded from at run time; default: `adapters` under WARMLOOP_HOME, and
    the folders that the configured adapters lie in."""
    load_timeout_s: float = Field(default=120.0, gt=0)
    """Longest wait for one engine to load or unload one adapter."""

    @model_validator(mode="after")
    def _ordered(self) -> LoraConfig:
        if self.max_cached < self.max_resident:
            raise ValueError(
                f"max_cached ({self.max_cached}) must be at least max_resident "
                f"({self.max_resident}): what is computed with is held too"
            )
        return self


class RestartConfig(Frozen):
    """How an engine that died is started again: soon, and ever later while it keeps dying."""

    pause_s: float = Field(default=0.5, gt=0)
    """Before the first new start; doubles with each failure in a row."""
    max_pause_s: float = Field(default=60.0, gt=0)
    jitter: float = Field(default=0.2, ge=0, lt=1)
    """Share by which a pause may be longer or shorter, so that replicas do not start in step."""
    steady_after_s: float = Field(default=120.0, ge=0)
    """An engine that was ready for so long begins the count of failures anew."""


class EngineLogsConfig(Frozen):
    """How much of a model's engine logs is kept; the newest stay, and those of living engines."""

    keep: int = Field(default=20, ge=1)
    """Engines' logs of one model, living ones included."""
    keep_mib: float = Field(default=256.0, gt=0)


class AutoscaleConfig(Frozen):
    """Replicas by what waits and by KV use; see `serving.cluster.autoscale`."""

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(ge=1, le=1000)
    target_waiting: float = Field(default=2.0, gt=0)
    """Turns that may wait for each engine, in it or in front doors; more bring another replica."""
    target_wait_s: float = Field(default=5.0, gt=0)
    """Prefill that may wait in front doors for each engine; more of it brings another replica."""
    kv_high: float = Field(default=0.9, gt=0, le=1)
    """Share of the KV cache in use, on average, that brings another replica."""
    up_delay_s: float = Field(default=10.0, ge=0)
    down_delay_s: float = Field(default=300.0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> AutoscaleConfig:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas ({self.max_replicas}) is below min_replicas ({self.min_replicas})"
            )
        return self


class ModelConfig(Frozen):
    """One model: its weights, the engine that runs it, and how many replicas."""

    engine: Literal["vllm", "sglang", "simulated", "external"] = "vllm"
    tier: Tier = "frontier"
    sources: tuple[Source, ...] = ()
    urls: tuple[str, ...] = ()
    """Engines that already run (engine: external), e.g. http://10.0.0.5:8000."""
    served_name: str | None = None
    """What an external engine calls the model; default: the model's name here."""
    replicas: int = Field(default=1, ge=1, le=1000)
    gpus: float = Field(default=0, ge=0)
    """GPUs of one replica: 0 is CPU, below 1 is that share of one GPU's memory, more than 1 is
    tensor parallel over so many GPUs of one node."""
    node_group: Name | None = None
    """Only nodes that Ray was told to have this resource run it: `ray start --resources
    '{"NAME": 1}'`. In Kubernetes, a worker group. Unset: any node with the GPUs."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of one replica (CPU engines only)."""
    context_tokens: int = Field(default=8192, ge=256)
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """KV cache of one replica (CPU engines only)."""
    max_running: int = Field(default=16, ge=1)
    """Sequences that one replica computes at once."""
    memory_gib: float = Field(default=0.0, ge=0)
    """Memory that one replica needs at rest, with bfloat16 weights; checked before anything is
    downloaded. On CPUs without bfloat16 instructions the check counts 1.8 times as much."""
    disk_gib: float = Field(default=0.0, ge=0)
    """Disk for the weights, download and conversion included; checked first."""
    tool_parser: str | None = None
    """The engine's name of this model's parser of calls; default of vLLM: warmloop_hermes, whose
    grammar leaves no invalid call to write; of SGLang too. `external` engines: name it if they
    run it as well."""
    auto_text: Literal["free", "reply"] = "free"
    """How a turn with tools and `tool_choice: auto` may be answered in words. `free`: as the model
    likes. `reply`: by a built-in tool, shown as text; for models that otherwise write calls as
    text, which is what small models do that were not trained on the parser's tags."""
    max_parallel_calls: int = Field(default=8, ge=1, le=64)
    """Tool calls in one answer at most."""
    reasoning_parser: str | None = None
    """vLLM's or SGLang's parser of this model's reasoning, e.g. qwen3; the grammar of tool calls
    begins where the reasoning ends."""
    images: bool = False
    """It reads pictures too; requests with one are refused otherwise."""
    chat_template: Path | None = None
    """A Jinja file; a bare name is looked up among the shipped ones."""
    adapters: Mapping[Name, Path] = Field(default_factory=dict)
    """LoRA adapters: the name that clients write in `model` → the folder that peft saved."""
    lora: LoraConfig = LoraConfig()
    prices: Prices = Prices()
    kv_events: bool | None = None
    """Whether the engine publishes what its KV cache stores and drops, for routers that want to
    know exactly. Default: yes, but no for SGLang, which writes an event for each token unless
    `extra_args` has a --page-size. Whoever can reach the events can read prompts' token ids."""
    kv_endpoints: tuple[KvEndpoints, ...] = ()
    """The same of engines that already run (engine: external), in the order of `urls`."""
    python: Path | None = None
    """The engine's own interpreter; default $WARMLOOP_VLLM_PYTHON or .venv-vllm, and with SGLANG
    for VLLM."""
    ready_timeout_s: float = Field(default=600.0, gt=0)
    drain_s: float = Field(default=300.0, ge=0)
    """How long running requests may go on when a replica is restarted or scaled away."""
    hung_after_s: float | None = Field(default=None, gt=0)
    """An engine that has work and produces nothing for so long is replaced. Default: 120 with GPUs;
    300 on CPU, where one step of a long prompt may take minutes."""
    restart: RestartConfig = RestartConfig()
    logs: EngineLogsConfig = EngineLogsConfig()
    autoscale: AutoscaleConfig | None = None
    """Without it there are always `replicas` of them."""
    extra_args: tuple[str, ...] = ()
    env: Mapping[str, str] = Field(default_factory=dict)
    simulator: SimulatorConfig = SimulatorConfig()

    @model_validator(mode="after")
    def _complete(self) -> ModelConfig:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus: {self.gpus} is neither a share of one GPU nor whole GPUs")
        if self.engine == "external":
            if not self.urls:
                raise ValueError("engine: external needs urls, e.g. [http://127.0.0.1:8001]")
            for url in self.urls:
                if not url.startswith(("http://", "https://")):
                    raise ValueError(f"urls: {url!r} must begin with http:// or https://")
            if self.kv_endpoints and len(self.kv_endpoints) != len(self.urls):
                raise ValueError(
                    f"kv_endpoints: {len(self.kv_endpoints)} for {len(self.urls)} urls; give each "
                    "url its own, in the same order"
                )
        elif self.kv_endpoints:
            raise ValueError("kv_endpoints go with engine: external; ours are found by themselves")
        elif self.urls:
            raise ValueError(f"urls go with engine: external, not with engine: {self.engine}")
        if self.engine in ("vllm", "sglang") and not self.sources:
            raise ValueError(
                f"engine: {self.engine} needs sources, e.g. [hf:Qwen/Qwen2.5-Coder-1.5B-Instruct]"
            )
        if self.autoscale is not None:
            if self.engine == "external":
                raise ValueError("autoscale: engines of others (engine: external) are not ours")
            if "replicas" in self.model_fields_set:
                raise ValueError("replicas: goes without autoscale; write autoscale.min_replicas")
        return self

    @model_validator(mode="after")
    def _adapters_fit(self) -> ModelConfig:
        if self.engine == "sglang" and self.takes_adapters and not self.gpus:
            raise ValueError(
                "adapters: SGLang takes none on CPU (it crashes on the first one); use engine: vllm"
            )
        if self.adapters and self.lora.enabled is False:
            raise ValueError("lora.enabled: false, but there are adapters; remove one of the two")
        if len(self.adapters) > self.lora.max_known:
            raise ValueError(
                f"adapters: {len(self.adapters)} are more than lora.max_known: "
                f"{self.lora.max_known}; raise it"
            )
        for name, folder in self.adapters.items():
            if str(folder).startswith("hf:"):
                raise ValueError(
                    f"adapters.{name}: {str(folder)!r} is not a folder; download it, and give the "
                    "folder"
                )
        if "--enable-lora" in self.extra_args:
            raise ValueError("extra_args: --enable-lora: write lora: {enabled: true} instead")
        return self

    @property
    def publishes_kv(self) -> bool:
        """True when an engine that we start shall publish its KV events."""
        if "--kv-events-config" in self.extra_args:  # theirs; where, we do not know
            return False
        if self.kv_events is None:
            return self.engine != "sglang" or "--page-size" in self.extra_args
        return self.kv_events

    @property
    def takes_adapters(self) -> bool:
        """True when the engine is started so that it can serve LoRA adapters."""
        return bool(self.adapters) if self.lora.enabled is None else self.lora.enabled

    @property
    def adapter_folders(self) -> tuple[Path, ...]:
        """Where adapters may be loaded from at run time."""
        beside = {path.parent: None for path in self.adapters.values()}
        return self.lora.folders or (home() / "adapters", *beside)

    @property
    def patience_s(self) -> float:
        """How long an engine with work may produce nothing."""
        return self.hung_after_s or (120.0 if self.gpus else 300.0)

    @property
    def first_replicas(self) -> int:
        """How many replicas a start brings up."""
        return self.replicas if self.autoscale is None else self.autoscale.min_replicas
