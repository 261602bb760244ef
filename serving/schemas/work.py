"""What a rewrite of one subschema may use: where it is, what it notes, and how it goes deeper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from serving.schemas.lint import Document, Schema
from serving.schemas.values import Bounds, Change, child


class Never:
    """Nothing fits: `false`, or a reference beyond the depth that is kept."""


NEVER: Final = Never()


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the schema we are: pointer, levels down, and the references on the way."""

    path: str
    level: int = 0
    trail: tuple[int, ...] = ()

    def below(self, *keys: str | int) -> Place:
        return Place(child(self.path, *keys), self.level + len(keys), self.trail)


@dataclass(slots=True)
class Notes:
    """What differs from the schema that was given, and what the grammar does not hold."""

    changes: dict[Change, None] = field(default_factory=dict)
    unchecked: dict[str, None] = field(default_factory=dict)

    def change(self, path: str, what: str) -> None:
        self.changes.setdefault(Change(path, what))

    def after(self, path: str, *keywords: str) -> None:
        for keyword in keywords:
            self.unchecked.setdefault(child(path, keyword))


class Work(Protocol):
    """One registration."""

    document: Document
    bounds: Bounds
    notes: Notes

    def rewrite(self, node: Any, place: Place) -> Schema | Never:
        """One subschema as the grammar must see it."""


def types_of(schema: Schema) -> list[str]:
    """The types that it names; none is all."""
    found = schema.get("type", [])
    return list(found) if isinstance(found, list) else [found]


def say(out: Schema, sentence: str) -> None:
    """A limit that the grammar does not hold, put where the model reads it."""
    remark = f"({sentence})"
    text = out.get("description", "")
    if isinstance(text, str) and remark not in text:
        out["description"] = f"{text} {remark}" if text else remark


def refers(value: Any) -> bool:
    """Whether it holds a reference, which would point at nothing once $defs are gone."""
    todo = [value]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if "$ref" in node:
                return True
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
    return False
