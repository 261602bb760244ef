"""SGLang's hermes parser of calls, replaced by ours: grammar and reader are strict_hermes.py's.

SGLang's own begins a required turn with a call and lets anything follow, leaves `auto` alone, and
bounds neither calls nor whitespace. It asks its parser for a grammar of each turn: here is one.

It runs in the engine's own Python environment and imports nothing of Warmloop's but its neighbours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from argument_grammar import grammar_of
from call_reader import CallReader, Event
from hermes_grammar import START, turn_grammar
from sglang.srt.function_call.base_format_detector import BaseFormatDetector
from sglang.srt.function_call.core_types import StreamingParseResult, StructureInfo, ToolCallItem
from sglang.srt.function_call.function_call_parser import FunctionCallParser
from xgrammar.structural_tag import StructuralTag

NAME = "hermes"
"""SGLang knows its parsers' names before it starts: ours takes the place of the nearest."""
MAX_CALLS = int(os.environ.get("WARMLOOP_MAX_PARALLEL_CALLS", "8"))


class WarmloopHermesDetector(BaseFormatDetector):  # type: ignore[misc]  # untyped here
    """Hermes calls under a grammar that leaves no invalid call to write, read to the byte."""

    def __init__(self, tokenizer: Any = None) -> None:
        super().__init__()
        self._vocabulary: dict[str, int] = tokenizer.get_vocab() if tokenizer is not None else {}
        self._reader = CallReader()

    # Writing

    def get_structural_tag(
        self,
        tools: Sequence[Any] | None = None,
        tool_choice: Any = "auto",
        thinking_mode: bool = False,
        parallel_tool_calls: bool = True,
    ) -> StructuralTag | None:
        """The grammar of one turn; None where there is nothing to constrain."""
        offered = {tool.function.name: tool.function.parameters for tool in tools or ()}
        mode = tool_choice
        if not isinstance(tool_choice, str):
            name = tool_choice.function.name
            mode, offered = "named", {name: offered[name]} if name in offered else {}
        if not offered:
            return None
        tag: StructuralTag = turn_grammar(
            mode,
            offered,
            most=MAX_CALLS if parallel_tool_calls else 1,
            token_of=self._vocabulary.get,
            grammar_of=grammar_of,
        )
        return tag

    def structure_info(self) -> Any:
        """SGLang's own form of a grammar; it is asked for only where there is no other."""
        return lambda name: StructureInfo(
            begin=f'{START}\n{{"name": "{name}", "arguments": ',
            end="}\n</tool_call>",
            trigger=START,
        )

    # Reading

    def has_tool_call(self, text: str) -> bool:
        return START in text

    def detect_and_parse(self, text: str, tools: Sequence[Any]) -> StreamingParseResult:
        """All calls of a whole answer; one that was cut short is the last, as far as it goes."""
        said, calls = CallReader().whole(text)
        return StreamingParseResult(
            normal_text=said,
            calls=[
                ToolCallItem(tool_index=index, name=name, parameters=arguments)
                for index, (name, arguments) in enumerate(calls)
            ],
        )

    def parse_streaming_increment(
        self, new_text: str, tools: Sequence[Any]
    ) -> StreamingParseResult:
        """What has become certain with this piece."""
        text, calls = "", []
        for event in self._reader.feed(new_text):
            if event.kind == "text":
                text += event.text
            else:
                calls.append(_item(event))
        return StreamingParseResult(normal_text=text, calls=calls)

    def finish(self, tools: Sequence[Any]) -> StreamingParseResult:
        return StreamingParseResult(normal_text=self._reader.finish())


def _item(event: Event) -> ToolCallItem:
    index = event.call or 0
    if event.kind == "name":
        return ToolCallItem(tool_index=index, name=event.text, parameters="")
    return ToolCallItem(tool_index=index, parameters=event.text)


def register() -> None:
    """Take the place of SGLang's own parser of this form."""
    FunctionCallParser.ToolCallParserEnum[NAME] = WarmloopHermesDetector
