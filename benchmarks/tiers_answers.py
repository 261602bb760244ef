"""Recorded answers of two models to the same questions: read from a file, or made up.

    task,index,prompt,small_correct,frontier_correct       CSV, gzipped or not

What a policy may know of a question is what a router knows of a request: its task and the length
of its prompt. Whether an answer was right is learnt from one half, and scored on the other.
"""

from __future__ import annotations

import csv
import gzip
import io
import random
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ConfigError
from serving.simulator.cache import BYTES_PER_TOKEN

OUTPUT_TOKENS = 5
"""Of an answer to a multiple-choice question; the files do not say."""
_COLUMNS = ("task", "prompt", "small_correct", "frontier_correct")


@dataclass(frozen=True, slots=True)
class Answered:
    """One question, and whether each model got it right."""

    task: str
    prompt_tokens: int
    small: bool
    frontier: bool


def read(path: Path) -> list[Answered]:
    """Raises ConfigError naming the line and the column."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, EOFError, UnicodeError) as error:
        raise ConfigError(f"{path}: cannot be read as CSV: {error}") from None
    rows = csv.DictReader(io.StringIO(text, newline=""))
    missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise ConfigError(
            f"{path}: has no column {missing[0]!r}; its first line needs {', '.join(_COLUMNS)}"
        )
    found = []
    for row in rows:
        marks = [row["small_correct"], row["frontier_correct"]]
        if any(mark not in ("0", "1") for mark in marks):
            raise ConfigError(f"{path}: line {rows.line_num}: correct is 0 or 1, not {marks}")
        tokens = max(1, len(row["prompt"].encode()) // BYTES_PER_TOKEN)
        found.append(Answered(row["task"], tokens, marks[0] == "1", marks[1] == "1"))
    if len(found) < 20:
        raise ConfigError(f"{path}: has {len(found)} questions; at least 20 are needed")
    return found


def synthetic(seed: int = 1, tasks: int = 40, questions: int = 4000) -> list[Answered]:
    """Made up: tasks of different difficulty, in which a small model falls behind more or less."""
    chance = random.Random(seed)
    found = []
    for number in range(tasks):
        frontier = chance.betavariate(8, 2)
        small = frontier * chance.betavariate(6, 1.2)
        length = chance.lognormvariate(4.7, 0.5)
        for _ in range(round(questions / tasks * chance.uniform(0.3, 1.7))):
            hard = chance.random()  # shared: what the small model gets right, the other mostly does
            other = chance.random()
            found.append(
                Answered(
                    f"task-{number}",
                    max(10, round(length * chance.lognormvariate(0, 0.4))),
                    small > (hard if chance.random() < 0.5 else other),
                    frontier > hard,
                )
            )
    return found
