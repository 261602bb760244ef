"""A stack's YAML file → StackConfig: read, anchored, checked; each mistake said in one line.

    load ── read (strict YAML) ── agents' own files ── relative paths ── pydantic ── StackConfig

Unknown keys are refused with the nearest valid name. Relative paths are relative to the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from serving.config.sections import NAME_PATTERN, Frozen, nearest
from serving.config.stack import StackConfig
from serving.errors import ConfigError


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
        agents[name] = _agent(path, agent, f"agents.{name}")
        versions = agents[name].get("versions") if isinstance(agents[name], dict) else None
        if isinstance(versions, list):
            versions[:] = [
                _agent(path, version, f"agents.{name}.versions.{index}")
                for index, version in enumerate(versions)
            ]


def _agent(path: Path, agent: Any, where: str) -> Any:
    if not isinstance(agent, str):
        return agent
    file = path.resolve().parent / Path(agent).expanduser()
    section = _read(file, f"fix {where} in {path}")
    if isinstance(section.setdefault("tool_path", "."), str):
        section["tool_path"] = str(file.parent / section["tool_path"])
    return section


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
        adapters = model.get("adapters")
        for name, folder in [*adapters.items()] if isinstance(adapters, dict) else ():
            if not str(folder).startswith("hf:"):  # refused by its own name, not by a path of ours
                anchor(adapters, name)
        lora = model.get("lora")
        folders = lora.get("folders") if isinstance(lora, dict) else None
        if isinstance(folders, list) and all(isinstance(each, str) for each in folders):
            folders[:] = [str(base / Path(each).expanduser()) for each in folders]
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
        versions = agent.get("versions") if isinstance(agent, dict) else None
        for version in versions if isinstance(versions, list) else ():
            anchor(version, "tool_path")
    mcp = raw.get("mcp")
    servers = mcp.get("servers") if isinstance(mcp, dict) else None
    for server in servers.values() if isinstance(servers, dict) else ():
        anchor(server, "cwd")
    anchor(raw.get("journal"), "path")
    anchor(raw.get("admission"), "keys")


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
            if below is not section:  # an agent's versions are agents
                _index(below)


def _frozen_types(annotation: Any) -> list[type[Frozen]]:
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return [annotation]
    return [found for arg in get_args(annotation) for found in _frozen_types(arg)]


_index(StackConfig)
