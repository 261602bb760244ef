r"""A tool's JSON schema → the EBNF grammar of its arguments, as a chat template writes them.

xgrammar's own conversion is taken and changed in two ways; it runs in the engine's environment:

1. **One spelling.** `, ` and `: ` between the parts and nothing else, as `tojson` renders them in
   chat templates. What the model writes then tokenizes the same when it comes back as history, and
   no run of spaces or newlines can eat up the token limit.
2. **Bounded strings that cost nothing.** xgrammar writes `maxLength` as a repetition of one
   character class. That takes seconds to compile, makes each token's mask some fifty times slower,
   and forbids escapes, so that a bounded string cannot hold a quote or a newline. Here it is

       up to 128 characters   a regular expression with escapes, compiled to a small automaton
       more                   free text with escapes under a character budget

   The budget counts characters as written (`\n` is two), so the value is never longer than
   `maxLength`. Both masks take some microseconds. (Under a budget, tokens are looked at one by one
   near its end, which is slow: short strings, which are always near their end, do without.)
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import xgrammar

SHORT = 128
"""Longest string, in characters, that is written as a regular expression."""
_STRING = re.compile(r'"\\"" (\w+_characters)\{(\d+), (-?\d+)\} "\\""')
_ONE_CHARACTER = r"{name} ::= (([^\"\\\r\n]))"
_HEXADECIMAL = re.compile(r"\\(?:\\|x([0-9a-f]{2}))")
# One JSON character inside a string, as a regular expression inside an EBNF literal.
_CHARACTER = (
    r"([^\"\\\\\\x00-\\x1f]|\\\\([\"\\\\/bfnrt]|u[0-9A-Fa-f][0-9A-Fa-f][0-9A-Fa-f][0-9A-Fa-f]))"
)
_ESCAPED = r'wl_escaped ::= ["\\/bfnrt] | "u" [0-9A-Fa-f] [0-9A-Fa-f] [0-9A-Fa-f] [0-9A-Fa-f]'
# What can follow a string, so that tokens which reach beyond its end are judged at compile time.
_NEXT = r"(=([,}\]:]))"
_ENDS = ", ".join([*(rf'"\x{code:02x}"' for code in range(32)), r'"\""'])


@lru_cache(maxsize=512)
def arguments_grammar(schema_json: str) -> str:
    """The grammar's text; its root is `root`. Raises RuntimeError for what xgrammar refuses."""
    grammar = xgrammar.Grammar.from_json_schema(
        schema_json, any_whitespace=False, separators=(", ", ": ")
    )
    return with_cheap_strings(with_whole_escapes(str(grammar)))


def grammar_of(schema: dict[str, Any] | None) -> str:
    """As above, from the schema itself; a tool without parameters takes an empty object."""
    closed = {"type": "object", "properties": {}, "additionalProperties": False}
    return arguments_grammar(json.dumps(schema or closed))


def with_whole_escapes(ebnf: str) -> str:
    r"""xgrammar prints é as \xe9 and reads \xe9a as one character: four digits leave no doubt."""
    return _HEXADECIMAL.sub(lambda found: rf"\u00{found[1]}" if found[1] else found[0], ebnf)


def with_cheap_strings(ebnf: str) -> str:
    """Replace xgrammar's character repetitions; text without any comes back as it was."""
    rules: dict[str, str] = {}

    def cheap(string: re.Match[str]) -> str:
        if _ONE_CHARACTER.format(name=string[1]) not in ebnf:
            return string[0]  # not a string of any characters: a pattern's own class
        least, most = int(string[2]), int(string[3])
        if least > SHORT:
            return string[0]  # slow, but right, and rare
        if 0 <= most <= SHORT:
            inside = [_short(least, most, rules)]
        else:
            inside = [_short(least, least, rules)] if least else []
            inside.append(_long(most - least if most >= 0 else None, rules))
        name = f"wl_string_{least}_{most if most >= 0 else 'any'}"
        rules[name] = f'{name} ::= ("\\"" {" ".join(inside)} "\\"") {_NEXT}'
        return name

    changed = _STRING.sub(cheap, ebnf)
    return "\n".join([changed.rstrip("\n"), *rules.values()]) + "\n" if rules else ebnf


def _short(least: int, most: int, rules: dict[str, str]) -> str:
    name = f"wl_short_{least}_{most}"
    span = f"{{{least},{most}}}" if least != most else f"{{{most}}}"
    rules[name] = f'{name} ::= Regex("{_CHARACTER}{span}", json_string=false)'
    return name


def _long(most: int | None, rules: dict[str, str]) -> str:
    name = "wl_long" if most is None else f"wl_long_{most}"
    budget = "" if most is None else f"[max_chars={most}]"
    rules["wl_escaped"] = _ESCAPED
    rules[name] = (
        rf'{name}{budget} ::= TagDispatch(("\\", wl_escaped), '
        f"loop_after_dispatch=true, excludes=({_ENDS}))"
    )
    return name
