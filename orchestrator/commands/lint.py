"""What in an agent would break the cache: bytes at the head of the prompt that do not stay.

    texts        instructions, examples, tools' descriptions and schemas: dates, times, ids, and
                 placeholders that look as if a clock or an id were put in
    two loads    the agent is loaded in two processes with different hash seeds, a moment apart:
                 what differs comes from a set, a clock, a random number or an object's address

    python -m orchestrator.commands.lint STACK AGENT     prints the head as such a process has it

Every finding says where, what, and what to do. Tools of MCP servers are not looked at: they are
known only when the servers are connected.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.agents import Agent, Agents
from orchestrator.canonical import canonical
from serving.config import stack_file
from serving.config.stack import StackConfig
from serving.errors import ConfigError

LOAD_S = 120.0
SEEDS = ("1", "2")
MOVE_IT = "tell it in the request's input, at the end of the prompt, or by a tool"

_PATTERNS = [
    (r"\b\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2})?", "a date", MOVE_IT),
    (r"\b\d{1,2}:\d{2}:\d{2}\b", "a time of day", MOVE_IT),
    (
        r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b",
        "a UUID",
        "leave it out, or give a fixed name",
    ),
    (r"\b1[5-9]\d{8}(?:\d{3})?\b", "a Unix time", MOVE_IT),
    (r"\bat 0x[0-9a-f]{6,}\b", "an object's address", "give the value a text of its own"),
    (
        r"(?i)\{+\s*(?:now|today|date|time|datetime|timestamp|uuid|session_id|request_id)\b[^}]*\}+",
        "a placeholder for what changes",
        MOVE_IT,
    ),
    (r"%[YmdHMS](?:[-:/ ]%[YmdHMS])+", "a time format", MOVE_IT),
    (
        r"(?i)\b(?:today is|the current (?:date|time)(?: and time)? is|it is now)\b",
        "a sentence about the present",
        MOVE_IT,
    ),
    (
        r"\{'[^':{}]*'(?:, '[^':{}]*')+\}",
        "a set written as text",
        "sort it: its order changes with every process",
    ),
]


class Finding(msgspec.Struct, frozen=True, gc=False):
    """One thing that would break the cache."""

    where: str
    what: str
    todo: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.todo}"


def lint(path: Path, name: str) -> list[Finding]:
    """All findings about an agent of a stack file. Raises ConfigError, NotFound."""
    stack = stack_file.load(path)
    if name not in stack.agents:
        raise ConfigError(f"agent: {name!r} is not in {path}; valid: {', '.join(stack.agents)}")
    heads = [_in_a_process(path, name, seed) for seed in SEEDS]
    config = stack.agents[name]
    found = list(texts(config.instructions, f"agents.{name}.instructions", lines=True))
    found += texts(list(config.examples), f"agents.{name}.examples")
    for tool in heads[0]["tools"]:
        function = dict(tool["function"])
        found += texts(function, f"agents.{name}.tools.{function['name']}")
    for where, first, second in differences(heads[0], heads[1], f"agents.{name}"):
        found.append(
            Finding(
                where,
                f"differs between two loads: {first} and {second}",
                "sort what comes from a set; no clock, random number or id while it loads",
            )
        )
    return found


def texts(value: Any, where: str, *, lines: bool = False) -> Iterator[Finding]:
    """Findings in the strings of a value."""
    match value:
        case str() if lines:
            for number, line in enumerate(value.splitlines(), 1):
                yield from texts(line, f"{where}:{number}")
        case str():
            for pattern, what, todo in _PATTERNS:
                if seen := re.search(pattern, value):
                    yield Finding(where, f"{what}: {seen.group()[:60]!r}", todo)
        case dict():
            for key, each in value.items():
                yield from texts(each, f"{where}.{key}")
        case list() | tuple():
            for index, each in enumerate(value):
                yield from texts(each, f"{where}.{index}")
        case _:
            return


def differences(first: Any, second: Any, where: str) -> Iterator[tuple[str, str, str]]:
    """Where two values differ, as deep down as can be said."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        if (names := list(first)) != list(second):
            # A model is shown them in this order, and writes its arguments in it.
            yield f"{where} (order)", _short(names), _short(list(second))
        for key in first:
            yield from differences(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, (one, two) in enumerate(zip(first, second, strict=True)):
            name = one.get("function", {}).get("name", index) if isinstance(one, dict) else index
            yield from differences(one, two, f"{where}.{name}")
    elif first != second:
        yield where, _short(first), _short(second)


def _short(value: Any) -> str:
    text = canonical(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def head_of(agent: Agent) -> dict[str, Any]:
    """What stands at the front of all its prompts."""
    messages: list[Any] = msgspec.json.decode(b"[" + agent.head + b"]")
    return {"messages": messages, "tools": list(agent.settings.get("tools", ()))}


def _in_a_process(path: Path, name: str, seed: str) -> dict[str, Any]:
    """The head as a process of its own loads it."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.commands.lint", str(path), name],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            timeout=LOAD_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"agents.{name}: loading it takes more than {LOAD_S:g} s") from None
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ConfigError(f"agents.{name}: cannot be loaded: {''.join(last)}")
    head: dict[str, Any] = msgspec.json.decode(done.stdout.splitlines()[-1])
    return head


def _load(stack: StackConfig, name: str) -> Agent:
    agents = Agents.from_config(stack.model_copy(update={"agents": {name: stack.agents[name]}}))
    try:
        return agents.get(name)
    finally:
        agents.close()


def main() -> None:
    """In the child: load, and print the head as one line."""
    path, name = sys.argv[1:]
    head = head_of(_load(stack_file.load(Path(path)), name))
    sys.stdout.buffer.write(msgspec.json.encode(head) + b"\n")


if __name__ == "__main__":
    main()
