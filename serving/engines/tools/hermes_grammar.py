"""The grammar of one turn with tools, in the hermes form of calls, for any engine with xgrammar.

It runs inside the engine and imports nothing of Warmloop's. What it promises, and why, is told in
strict_hermes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xgrammar.structural_tag import (
    AnyTextFormat,
    ConstStringFormat,
    Format,
    GrammarFormat,
    OptionalFormat,
    OrFormat,
    RepeatFormat,
    SequenceFormat,
    StructuralTag,
    TagFormat,
    TokenFormat,
)

REPLY = "reply"
START, END = "<tool_call>", "</tool_call>"

Schema = Mapping[str, Any] | None


def turn_grammar(
    mode: str,
    tools: Mapping[str, Schema],
    *,
    most: int,
    token_of: Callable[[str], int | None],
    grammar_of: Callable[[Any], str],
    may_reply: bool = True,
) -> StructuralTag:
    """The grammar of a turn that may, must or is to call `tools` (name → schema; not empty).

    `mode` is auto, required or named; `most` calls in one answer; `token_of` says which single
    token a tag is, if it is one.
    """
    start, end = token_of(START), token_of(END)
    calls = {
        name: _call(name, GrammarFormat(grammar=grammar_of(schema)), start, end)
        for name, schema in tools.items()
    }
    reply = calls.pop(REPLY, None) if mode == "required" else None
    run = _run([*calls.values()], 1 if mode == "named" else most) if calls else None
    if mode == "auto":
        assert run is not None  # noqa: S101  there are tools
        pseudo = [f'"name":{space}"{name}"' for name in tools for space in (" ", "")]
        text = AnyTextFormat(excludes=[START, END, *pseudo])
        return StructuralTag(format=SequenceFormat(elements=[text, OptionalFormat(content=run)]))
    parts = [part for part in (reply if may_reply else None, run) if part is not None]
    return StructuralTag(format=_either(parts))


def _call(name: str, arguments: GrammarFormat, start: int | None, end: int | None) -> TagFormat:
    before, after = f'\n{{"name": "{name}", "arguments": ', "}\n"
    if start is None or end is None:
        return TagFormat(begin=START + before, content=arguments, end=after + END)
    inside = [ConstStringFormat(value=before), arguments, ConstStringFormat(value=after)]
    return TagFormat(
        begin=TokenFormat(token=start),
        content=SequenceFormat(elements=inside),
        end=TokenFormat(token=end),
    )


def _run(calls: list[TagFormat], most: int) -> Format:
    """One call to `most` of them, a line break between two as the template writes it."""
    one = _either(calls)
    if most == 1:
        return one
    more = SequenceFormat(elements=[ConstStringFormat(value="\n"), one])
    return SequenceFormat(elements=[one, RepeatFormat(min=0, max=most - 1, content=more)])


def _either(formats: Sequence[Format]) -> Format:
    return formats[0] if len(formats) == 1 else OrFormat(elements=[*formats])
