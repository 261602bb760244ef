"""Registration decides: what an engine gets of a tool's schema, and what is checked after.

    any JSON ─► lint ─► rewrite ─► Registered(schema, changes, covered, unchecked)
                  └────────┴─► SchemaRefused(path, keyword, reason, suggestion)

`Registered.schema` goes to the engine: the model reads it, and a grammar holds the model to it.
`Registered.problems(arguments)` is the check of a finished call against the schema as it was given.
`covered` says that whatever the grammar lets through, and is not cut off, is valid under the schema
as it was given: such arguments may stream unchecked. Limits that the given schema does not name can
still be passed where it admits anything at all (`{}`); only the check holds those.

    values.py   limits, changes, the refusal    rewrite.py     the grammar's schema, with
    lint.py     well formed, small, closed?     containers.py  arrays and objects,
    regex.py    patterns, in linear time        scalars.py     strings and numbers,
    formats.py  what a format means             merge.py       two schemas as one,
    check.py    the check after                 conditions.py  conditions as alternatives
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from serving.schemas import check
from serving.schemas.lint import Document, Schema, read
from serving.schemas.rewrite import Rewriter
from serving.schemas.values import Bounds, Change, SchemaRefused

__all__ = ["Bounds", "Change", "Registered", "SchemaRefused", "register"]

NO_PARAMETERS: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
DEFAULT = Bounds()
PASSES = 4
"""One pass may make room for another: until nothing changes, so that a second registration has
nothing left to do."""


@dataclass(frozen=True)
class Registered:
    """A tool's schema after registration."""

    schema: Schema
    """What the engine gets."""
    changes: tuple[Change, ...]
    """How it differs from what was given; empty when it was accepted as it is."""
    covered: bool
    """Whatever the grammar of `schema` lets through is valid under the schema that was given."""
    unchecked: tuple[str, ...]
    """Pointers of the keywords that only the check after holds."""
    document: Document
    limits: Bounds

    def problems(self, arguments_json: str) -> list[str]:
        """Why a finished call must not reach its tool, in sentences; empty when it may."""
        return check.problems(self.document, self.limits, arguments_json)


def register(schema: Any, bounds: Bounds = DEFAULT) -> Registered:
    """Decide on one tool's `parameters`; None and {} are a tool without parameters.

    Raises SchemaRefused.
    """
    given = NO_PARAMETERS if schema is None or schema == {} else schema
    if given is True:
        given = {"type": "object"}
    if not isinstance(given, dict):
        raise SchemaRefused(
            "",
            "",
            f"a tool's parameters are a schema, not {type(given).__name__}",
            'write {"type": "object", "properties": {...}}',
        )
    document = read(given, bounds)
    changes: dict[Change, None] = {}
    unchecked: dict[str, None] = {}
    rewritten = given
    for _ in range(PASSES):
        rewriter = Rewriter(read(rewritten, bounds), bounds)
        before, rewritten = rewritten, rewriter.root()
        changes.update(rewriter.notes.changes)
        unchecked.update(rewriter.notes.unchecked)
        if rewritten == before:
            break
    if schema is None or schema == {}:
        changes[Change("", "a tool without parameters takes an empty object")] = None
    size = len(json.dumps(rewritten))
    if size > bounds.max_schema_bytes:
        raise SchemaRefused(
            "",
            "",
            f"rewritten, the schema has {size} bytes, and {bounds.max_schema_bytes} is the most",
            "refer less often, or use fewer branches",
        )
    return Registered(
        schema=rewritten,
        changes=tuple(changes),
        covered=not unchecked,
        unchecked=tuple(unchecked),
        document=document,
        limits=check.limits_for(document, bounds),
    )
