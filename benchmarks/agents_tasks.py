"""What agents are asked to do in a folder, and how code decides whether they did it.

    benchmarks/agent_tasks/*.yaml            tasks, by kind
    benchmarks/agent_tasks/worlds/NAME/      the files that a task begins with

A task says what its final answer must name (`answer`) and what its folder must hold afterwards
(`files`: only what differs; all else has to be as it was, byte for byte). No model judges.

    answer: {number: 79}                           the last line names this number, and no other
                                                   but those of the question
    answer: {names: [Ghent], of: [Ghent, Aachen]}  it names these, and no other of `of`
    files:  {PATH: {text: T}}         this text, but for spaces at the ends of lines
            {PATH: {json: VALUE}}     this value
            {PATH: {rows: [[...]]}}   this CSV; numbers are compared as numbers
            {PATH: {same_as: OTHER}}  the bytes that OTHER had at the beginning
            {PATH: null}              no such file

Each task has a reference solution, which its check accepts, and wrong ones, which it refuses: steps
are calls, `{TOOL: ARGUMENTS}`, and at the end `{say: TEXT}`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from benchmarks.agents_folder import Folder
from benchmarks.agents_tools import Told, call
from serving.config.sections import Frozen
from serving.errors import ConfigError

HOME = Path(__file__).parent / "agent_tasks"
EXAMPLES = "examples"
"""The file of tasks that agents are shown solved, and are never asked."""
SAY = "say"

_NUMBER = re.compile(r"(?<![\w.,\-])[-\u2212]?\d[\d,]*(?:\.\d+)?")
Step = dict[str, Any]


class Answer(Frozen):
    """What the last line of the final answer must name."""

    number: Decimal | None = None
    names: tuple[str, ...] = ()
    of: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Answer:
        if (self.number is None) == (not self.names) or not {*self.names} <= {
            *self.of,
            *self.names,
        }:
            raise ValueError("say either number, or names and of")
        if self.names and not {*self.names} < {*self.of}:
            raise ValueError("of: has to hold the names, and others that would be wrong")
        return self


class File(Frozen):
    """What one file must hold afterwards."""

    text: str | None = None
    as_json: Any = Field(default=None, alias="json")
    rows: tuple[tuple[str, ...], ...] | None = None
    same_as: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> File:
        if len(self.model_fields_set) != 1:
            raise ValueError("say one of text, json, rows, same_as")
        return self


class Task(Frozen):
    """One task. `world` is the folder that it begins with."""

    name: str
    kind: str
    world: str
    ask: str
    answer: Answer | None = None
    files: Mapping[str, File | None] = Field(default_factory=dict)
    solution: tuple[Step, ...]
    wrong: tuple[tuple[Step, ...], ...] = ()

    @model_validator(mode="after")
    def _checks_something(self) -> Task:
        if self.answer is None and not self.files:
            raise ValueError("has neither answer nor files: anything would be right")
        return self

    def furnish(self, root: Path) -> Folder:
        """Put the world's files into an empty folder."""
        shutil.copytree(HOME / "worlds" / self.world, root, dirs_exist_ok=True)
        return Folder(root)

    def fingerprint(self) -> str:
        """The same as long as the task asks and accepts the same over the same files."""
        what = self.model_dump(mode="json", exclude={"solution", "wrong", "kind"})
        running = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
        for path, content in sorted(held(HOME / "worlds" / self.world).items()):
            running.update(f"\n{path}\n".encode() + content)
        return running.hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`wrong` is empty where all is right, else `wrong answer`, `no answer` or `wrong files`."""

    wrong: str = ""
    why: str = ""


RIGHT = Verdict()


def load(home: Path = HOME) -> tuple[list[Task], list[Task]]:
    """(tasks to be asked, worked examples). Raises ConfigError naming the file and the task."""
    asked: list[Task] = []
    examples: list[Task] = []
    for path in sorted(home.glob("*.yaml")):
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
        for number, raw in enumerate(listed):
            try:
                task = Task.model_validate({"kind": path.stem, **raw})
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(map(str, first["loc"]))
                name = raw.get("name", number)
                raise ConfigError(f"{path.name}: {name}: {where}: {first['msg']}") from None
            (examples if path.stem == EXAMPLES else asked).append(task)
    names = [task.name for task in asked]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{home}: two tasks are called {twice[0]!r}")
    return asked, examples


def held(root: Path) -> dict[str, bytes]:
    """Every file of a folder: path → bytes. Empty folders say nothing."""
    files = (each for each in root.rglob("*") if each.is_file())
    return {each.relative_to(root).as_posix(): each.read_bytes() for each in files}


def play(folder: Folder, steps: Iterable[Step]) -> tuple[list[tuple[str, Step, Told]], str]:
    """Do the steps; returns the calls with their results, and the final answer."""
    done: list[tuple[str, Step, Told]] = []
    answer = ""
    for step in steps:
        ((name, arguments),) = step.items()
        if name == SAY:
            answer = str(arguments)
        else:
            done.append((name, arguments, call(folder, name, arguments)))
    return done, answer


def judge(task: Task, root: Path, answer: str) -> Verdict:
    """Is the task done?"""
    if task.answer is not None:
        line = last_line(answer)
        if not line:
            return Verdict("no answer", "the final answer is empty")
        if why := _unlike(task.answer, line, task.ask):
            return Verdict("wrong answer", f"{why}: {line[:120]!r}")
    before, after = held(HOME / "worlds" / task.world), held(root)
    for path in sorted({*before, *after, *task.files}):
        if path not in task.files:
            if before.get(path) != after.get(path):
                what = "is gone" if path not in after else "should not have been written"
                return Verdict("wrong files", f"{path} {what}")
        elif why := _wrong(task.files[path], before, after.get(path)):
            return Verdict("wrong files", f"{path} {why}")
    return RIGHT


def last_line(text: str) -> str:
    """Of what is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _unlike(wanted: Answer, line: str, ask: str) -> str:
    """Why a line is not the answer; empty when it is."""
    if wanted.number is not None:
        named = _numbers(line)
        if wanted.number not in named:
            return f"does not name {wanted.number}"
        others = named - _numbers(ask) - {wanted.number}
        return f"names {min(others)} too" if others else ""
    missing = [name for name in wanted.names if not _names(line, name)]
    if missing:
        return f"does not name {missing[0]}"
    others_named = [each for each in wanted.of if each not in wanted.names and _names(line, each)]
    return f"names {others_named[0]} too" if others_named else ""


def _numbers(text: str) -> set[Decimal]:
    found = (each.replace(",", "").replace("\u2212", "-") for each in _NUMBER.findall(text))
    return {Decimal(each) for each in found}


def _names(line: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", line, re.IGNORECASE) is not None


def _wrong(wanted: File | None, before: Mapping[str, bytes], found: bytes | None) -> str:
    """Why a file is not as it should be; empty when it is."""
    if wanted is None:
        return "" if found is None else "should be gone"
    if found is None:
        return "is missing"
    if wanted.same_as is not None:
        return "" if found == before[wanted.same_as] else f"is not what {wanted.same_as} was"
    text = found.decode("utf-8", errors="replace")
    return "" if _fits(wanted, text) else f"holds {text[:120]!r}"


def _fits(wanted: File, text: str) -> bool:
    if wanted.text is not None:
        return _lines(text) == _lines(wanted.text)
    try:
        if wanted.rows is not None:
            return _rows(text) == _plain(wanted.rows)
        return _same(json.loads(text), wanted.as_json)
    except (ValueError, RecursionError, csv.Error):
        return False


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def _rows(text: str) -> list[list[str | Decimal]]:
    return _plain(row for row in csv.reader(io.StringIO(text.strip())) if row)


def _plain(rows: Iterable[Iterable[str]]) -> list[list[str | Decimal]]:
    return [[_cell(cell.strip()) for cell in row] for row in rows]


def _cell(text: str) -> str | Decimal:
    try:
        found = Decimal(text)
    except InvalidOperation:
        return text
    return found if found.is_finite() else text


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
