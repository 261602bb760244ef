"""Registered schemas against the real grammar: what it lets through, and what it shuts out.

xgrammar runs in the engine's environment, as a child process: no engine is started. Random walks
through each grammar write texts; each must be valid under the schema that was given, where
registration says that the grammar covers it.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from jsonschema.exceptions import ValidationError

from benchmarks.schema_shapes import SHAPES
from serving.config.model import ModelConfig
from serving.engines.environment import interpreter
from serving.schemas import Bounds, Registered, SchemaRefused, check, register
from serving.schemas.regex import Steps
from tests import random_schemas

pytestmark = pytest.mark.engine

RANDOM_SCHEMAS = 150
WALK = Path(__file__).with_name("grammar_walk.py")


@dataclass(frozen=True, slots=True)
class Walked:
    """What one grammar let through."""

    name: str
    registered: Registered
    texts: tuple[str, ...]
    unfinished: int
    shut_out: tuple[str, ...]

    def wrong(self) -> list[tuple[str, list[str]]]:
        """Texts that the check does not let through, and why."""
        found = [(text, self.registered.problems(text)) for text in self.texts]
        return [(text, problems) for text, problems in found if problems]


def walked(
    named: Sequence[tuple[str, Registered, list[str]]], *, walks: int, seed: int, own: bool
) -> list[Walked]:
    asked = {
        "schemas": [registered.schema for _, registered, _ in named],
        "examples": [examples for _, _, examples in named],
        "walks": walks,
        "seed": seed,
        "own": own,
    }
    try:
        done = subprocess.run(
            [interpreter(ModelConfig(sources=("hf:a/b",))), str(WALK)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        last = (late.stdout or b"").decode().strip().rpartition("\n")[2]
        pytest.fail(f"a grammar did not compile or end in time; the last line is {last[:200]}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    results = [line for line in lines if "at" in line]
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(results) == len(named)
    errors = [(named[line["at"]][0], line["error"]) for line in results if line["error"]]
    assert errors == []
    return [
        Walked(
            named[line["at"]][0],
            named[line["at"]][1],
            tuple(line["texts"]),
            line["unfinished"],
            tuple(line["shut_out"]),
        )
        for line in results
    ]


ROUTES = pytest.mark.parametrize("own", [True, False], ids=["our grammar", "xgrammar's own"])


def shapes(own: bool) -> list[tuple[str, Registered, list[str]]]:
    bounds = Bounds(string_lengths=own)
    return [
        (
            shape.name,
            register(shape.parameters, bounds),
            [json.dumps(shape.example, ensure_ascii=False)],
        )
        for shape in SHAPES
        if shape.verdict != "refused"
    ]


def unpromised(one: Walked) -> list[tuple[str, list[str]]]:
    """Texts that fail over a keyword that registration did not name as unchecked."""
    named = {path.rpartition("/")[2] for path in one.registered.unchecked}
    found = []
    for text, problems in one.wrong():
        try:
            value = json.loads(text, object_pairs_hook=check._object)
        except ValueError:  # a name twice: what additionalProperties stands for
            if "additionalProperties" not in named:
                found.append((text, problems))
            continue
        document, steps = one.registered.document, Steps(10**6)
        errors = list(check.errors(document, document.root, value, steps))
        if not all(named & _keywords(error) for error in errors):
            found.append((text, problems))
    return found


def _keywords(error: ValidationError) -> set[str]:
    """The keywords on the way to an error, and of what is below it."""
    on_the_way = {str(part) for part in error.absolute_schema_path}
    return on_the_way.union(*(_keywords(below) for below in error.context or ()))


def assert_as_promised(found: Sequence[Walked]) -> None:
    assert [
        (one.name, one.wrong()) for one in found if one.registered.covered and one.wrong()
    ] == []
    assert [(one.name, lost) for one in found if (lost := unpromised(one))] == []


@ROUTES
def test_the_grammar_of_every_shape_lets_through_only_what_registration_promises(own: bool) -> None:
    found = walked(shapes(own), walks=30, seed=1, own=own)
    assert_as_promised(found)
    assert [one.name for one in found if not one.texts] == []
    texts = sum(len(one.texts) for one in found)
    wrong = sum(len(one.wrong()) for one in found)
    covered = sum(one.registered.covered for one in found)
    print(
        f"\n{len(SHAPES)} shapes: {len(found)} accepted or rewritten, {covered} covered; "
        f"{texts} texts from their grammars, {wrong} of them for the check after"
    )


@ROUTES
def test_the_grammar_of_every_shape_lets_its_example_through(own: bool) -> None:
    found = walked(shapes(own), walks=0, seed=1, own=own)
    assert [(one.name, one.shut_out) for one in found if one.shut_out] == []


@ROUTES
def test_the_grammar_of_random_schemas_lets_through_only_what_registration_promises(
    own: bool,
) -> None:
    first, bounds = (0, Bounds()) if own else (RANDOM_SCHEMAS, Bounds(string_lengths=False))
    named: list[tuple[str, Registered, list[str]]] = []
    for seed in range(first, first + RANDOM_SCHEMAS):
        try:
            named.append(
                (str(seed), register(random_schemas.tool(random.Random(seed)), bounds), [])
            )
        except SchemaRefused:
            continue
    assert len(named) > 100
    found = walked(named, walks=6, seed=first, own=own)
    assert_as_promised(found)
    covered = sum(one.registered.covered for one in found)
    texts = sum(len(one.texts) for one in found)
    print(
        f"\n{len(found)} of {RANDOM_SCHEMAS} random schemas kept, {covered} covered, {texts} texts"
    )
