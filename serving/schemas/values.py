"""What registration is given and what it answers with: limits, changes, a refusal."""

from __future__ import annotations

from dataclasses import dataclass

from serving.errors import WarmloopError


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a schema may be, and how large the arguments that it admits."""

    max_string: int = 4096
    """Characters in a string whose schema names no limit."""
    string_lengths: bool = True
    """The engine's grammar holds lengths, as serving/engines/tools/argument_grammar.py makes it
    do. In xgrammar's own a length shuts out quotes and line breaks, lets raw control characters
    in, and takes some 20 ms a character to compile: without this, lengths are checked after."""
    short_string: int = 16
    """Without `string_lengths`, strings of at most this many characters are still held by the
    grammar, as a pattern that admits no quotes."""
    max_items: int = 64
    """Items in an array whose schema names no limit."""
    max_properties: int = 32
    """Entries in a free-form object whose schema names no limit."""
    max_depth: int = 4
    """Levels that are kept of a schema that refers to itself."""
    max_nesting: int = 56
    """JSON levels of the schema that an engine gets; vLLM answers 400 above 64."""
    max_nodes: int = 4000
    """Subschemas after references are written out in place."""
    max_schema_bytes: int = 262_144
    """JSON bytes of a schema, as given and as rewritten."""
    max_pattern_states: int = 1500
    """Size of one pattern's automaton, counted repetitions written out."""
    max_arguments_bytes: int = 1_048_576
    """UTF-8 bytes of a call's arguments that are checked at all."""
    max_check_steps: int = 50_000
    """Work that one check may cost; what costs more is a problem, never a hang."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the schema that was given and the one that an engine gets."""

    path: str
    """JSON pointer into the schema that was given."""
    what: str


class SchemaRefused(WarmloopError):
    """A schema that no grammar and no check can promise; names the keyword and the way out."""

    exit_code = 2

    def __init__(self, path: str, keyword: str, reason: str, suggestion: str) -> None:
        self.path = path
        """JSON pointer of the keyword; "" is the schema itself."""
        self.keyword = keyword
        self.reason = reason
        self.suggestion = suggestion
        super().__init__(f"{path or '/'}: {reason}; {suggestion}")


def child(path: str, *keys: str | int) -> str:
    """The JSON pointer one or more levels below `path`."""
    parts = (str(key).replace("~", "~0").replace("/", "~1") for key in keys)
    return "/".join((path, *parts))
