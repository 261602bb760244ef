"""Strings and numbers, as a grammar holds them: see rewrite.py for what xgrammar does with which.

A function gives the keywords that the grammar's schema gets, or None where nothing fits.
"""

from __future__ import annotations

import math

from serving.schemas import formats, regex
from serving.schemas.lint import Schema
from serving.schemas.values import child
from serving.schemas.work import Place, Work, say

MAX_INTEGER = 2**53
LONGEST_LEAST = 128
"""A longer least length would take seconds to compile."""
MAX_FACTOR = 64
MAX_RANGE = 500
REPEATED = 4
"""A class of few characters compiles faster than any character, by at least this factor."""


def string(work: Work, schema: Schema, place: Place, out: Schema) -> Schema | None:
    """Remarks on what the grammar does not hold go into the description in `out`."""
    low, high = int(schema.get("minLength", 0)), schema.get("maxLength")
    if high is not None and high < low:
        return None
    made: Schema = {}
    lengths: list[str] = [key for key in ("minLength", "maxLength") if key in schema]
    if "pattern" in schema:
        lengths = _pattern(work, schema, place, out, made)
    if "format" in schema:
        _format(work, schema, place, out, made)
    if work.bounds.string_lengths and not made and high != 0:
        _lengths(work, schema, place, out, made)
        return made
    if not lengths or (lengths == ["minLength"] and low == 0):
        return made
    short = high is not None and 1 <= high <= work.bounds.short_string
    if short and "pattern" not in schema and "format" not in made:
        made["pattern"] = f"^.{{{low},{int(high or 0)}}}$"
        work.notes.change(
            child(place.path, lengths[0]),
            f"as the pattern {made['pattern']}: no quotes, backslashes and line breaks",
        )
        return made
    for key in lengths:
        work.notes.change(child(place.path, key), "said in the description, and checked after")
        work.notes.after(place.path, key)
    say(out, _length(low, int(high) if high is not None else None))
    return made


def _lengths(work: Work, schema: Schema, place: Place, out: Schema, made: Schema) -> None:
    """Both bounds of a string that is held by nothing else."""
    low = int(schema.get("minLength", 0))
    high = int(schema.get("maxLength", max(work.bounds.max_string, low)))
    if low > LONGEST_LEAST:
        work.notes.change(child(place.path, "minLength"), "said in the description, checked after")
        say(out, _length(low, None))
    elif low:
        made["minLength"] = low
    if low > 1:  # a surrogate pair spelt as two escapes is one character, and two in the grammar
        work.notes.after(place.path, "minLength")
    made["maxLength"] = high
    if "maxLength" not in schema:
        work.notes.change(child(place.path, "maxLength"), f"no limit was named: {high}")


def _pattern(work: Work, schema: Schema, place: Place, out: Schema, made: Schema) -> list[str]:
    """The lengths that the pattern does not imply."""
    text = schema["pattern"]
    node = work.document.patterns[text].node
    found = regex.for_grammar(text, node)
    if found is None:
        work.notes.after(place.path, "pattern")
        work.notes.change(child(place.path, "pattern"), "checked after: no grammar says it")
        say(out, f"matches {text}")
        return [key for key in ("minLength", "maxLength") if key in schema]
    made["pattern"], exact = found
    high = schema.get("maxLength")
    if high is not None and int(high) <= REPEATED * work.bounds.short_string:
        limited = regex.limited(text, node, int(schema.get("minLength", 0)), int(high))
        if limited is not None:
            made["pattern"] = limited
            work.notes.change(child(place.path, "pattern"), f"with its length: {limited}")
            if not exact:
                work.notes.after(place.path, "pattern")
            return []
    if found[0] != text:
        work.notes.change(child(place.path, "pattern"), "its anchors are written out")
    if not exact:
        work.notes.after(place.path, "pattern")
    least, most = regex.lengths(node)
    anchored = found[0] == text
    implied = {
        "minLength": least >= schema.get("minLength", 0),
        "maxLength": anchored and most <= schema.get("maxLength", 0),
    }
    for key, holds in implied.items():
        if key in schema and holds:
            work.notes.change(child(place.path, key), "left out: the pattern implies it")
    return [key for key, holds in implied.items() if key in schema and not holds]


def _format(work: Work, schema: Schema, place: Place, out: Schema, made: Schema) -> None:
    name = schema["format"]
    if name not in formats.IN_GRAMMAR:
        made["format"] = name
        if name in formats.CHECKS:
            work.notes.after(place.path, "format")
    elif "pattern" in made:
        # xgrammar holds one of the two, the format; what an author wrote is the narrower one.
        work.notes.change(child(place.path, "format"), "checked after: the pattern is enforced")
        work.notes.after(place.path, "format")
        say(out, f"format: {name}")
    elif name in formats.BREAKS_JSON:
        work.notes.change(child(place.path, "format"), "checked after: xgrammar's breaks JSON")
        if name in formats.CHECKS:
            work.notes.after(place.path, "format")
        say(out, f"format: {name}")
    elif name == "email":
        made["pattern"] = formats.EMAIL
        work.notes.change(
            child(place.path, "format"),
            "as a pattern: xgrammar's own breaks JSON with quoted names",
        )
    else:
        made["format"] = name
        if name not in formats.EXACT:
            work.notes.after(place.path, "format")


def number(work: Work, schema: Schema, place: Place, *, whole: bool) -> Schema | None:
    low, high, open_low, open_high = _range(schema)
    if low > high or (low == high and (open_low or open_high)):
        return None
    made: Schema = {}
    for value, is_open, plain, strict in (
        (low, open_low, "minimum", "exclusiveMinimum"),
        (high, open_high, "maximum", "exclusiveMaximum"),
    ):
        if math.isinf(value):
            continue
        key = strict if is_open else plain
        bound = value
        if whole and value != int(value):
            bound = math.ceil(value) if plain == "minimum" else math.floor(value)
            key = plain
            work.notes.change(child(place.path, plain), f"rounded to {bound}: values are whole")
        if exact_bound(bound, whole=whole):
            made[key] = int(bound) if bound == int(bound) else bound
        else:
            given = [name for name in (plain, strict) if name in schema]
            work.notes.after(place.path, *given)
            what = "checked after: beyond a grammar's numbers"
            work.notes.change(child(place.path, given[0]), what)
    if whole and _empty_range(made):
        return None
    if "multipleOf" in schema:
        factor = schema["multipleOf"]
        made["multipleOf"] = factor
        if not (whole and _divides(factor, made)):
            work.notes.after(place.path, "multipleOf")
    return made


def _divides(factor: float, made: Schema) -> bool:
    """Whether xgrammar enforces it: whole factors, without a range or with a small one.

    A grammar has a state for each remainder, and a large one would take seconds to compile.
    """
    if factor != int(factor) or factor > MAX_FACTOR:
        return False
    ends = sum(key.endswith(("inimum", "aximum")) for key in made)
    if ends == 0:
        return True
    low = made.get("minimum", made.get("exclusiveMinimum"))
    high = made.get("maximum", made.get("exclusiveMaximum"))
    return low is not None and high is not None and high - low <= MAX_RANGE


def _length(low: int, high: int | None) -> str:
    if high is None:
        return f"at least {low} characters" if low > 1 else "not empty"
    if low == high:
        return f"{low} characters"
    return f"{low} to {high} characters" if low else f"at most {high} characters"


def _range(schema: Schema) -> tuple[float, float, bool, bool]:
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    open_low, open_high = above is True, below is True
    if above is not None and not isinstance(above, bool) and above >= low:
        low, open_low = above, True
    if below is not None and not isinstance(below, bool) and below <= high:
        high, open_high = below, True
    return low, high, open_low, open_high


def _empty_range(made: Schema) -> bool:
    low = max(made.get("minimum", -math.inf), made.get("exclusiveMinimum", -math.inf) + 1)
    high = min(made.get("maximum", math.inf), made.get("exclusiveMaximum", math.inf) - 1)
    return bool(low > high)


def exact_bound(value: float, *, whole: bool) -> bool:
    if whole:
        return abs(value) < MAX_INTEGER
    return abs(value) < 10**9 and float(f"{value:.4f}") == value
