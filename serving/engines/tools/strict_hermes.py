"""The vLLM tool-parser plugin behind `--tool-call-parser warmloop_hermes`.

It runs in the engine's own Python environment and imports nothing of Warmloop's:

    --tool-parser-plugin /absolute/path/strict_hermes.py --tool-call-parser warmloop_hermes

vLLM's hermes parser is kept as it is for reading calls, streamed or whole. What changes is the
grammar that the model writes under (an xgrammar structural tag):

1. **Arguments are always constrained.** vLLM constrains them only for tools with `strict: true`;
   here every tool counts as strict, whatever the client forgot to say.
2. **Whitespace is bounded.** JSON allows any amount between tokens, and at temperature 1 a model
   sometimes writes newlines up to its token limit: a truncated call, which is no call.
3. **One spelling, and it is the chat template's.** vLLM accepts a call with or without line breaks
   inside its tags; the template renders only the first. What the model wrote must tokenize the
   same when it comes back as history, else the engine computes the turn's output a second time.
4. **The tags are single tokens where the model has them.** Under a grammar of characters a model
   may spell `<tool_call>` with six small tokens, while the template's text becomes the one special
   token: the common prefix would end there. With `auto` this is left out: there, text is allowed
   too, and a tag spelt in small tokens would then be text to the grammar but a call to the parser.
   A model without such tokens (SmolLM2) gets rule 3 only.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.tool_parsers.abstract_tool_parser import ToolParserManager
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser
from vllm.tool_parsers.tool_strict_level import ToolStrictLevel
from xgrammar.structural_tag import (
    ConstStringFormat,
    JSONSchemaFormat,
    SequenceFormat,
    StructuralTag,
    TagFormat,
    TagsWithSeparatorFormat,
    TokenFormat,
    TriggeredTagsFormat,
)

NAME = "warmloop_hermes"


class WarmloopHermesToolParser(Hermes2ProToolParser):  # type: ignore[misc]  # untyped here
    """vLLM's hermes parser, with a grammar that leaves no invalid call to write."""

    default_tool_strict_level = ToolStrictLevel.PARAMETER

    def get_structural_tag(
        self,
        request: ChatCompletionRequest | ResponsesRequest,
        *,
        reasoning: bool = False,
        strict_level: ToolStrictLevel = ToolStrictLevel.AUTO,
    ) -> StructuralTag | None:
        """The grammar of one request; None where vLLM has none (no tools, or switched off)."""
        tag = super().get_structural_tag(
            request,
            reasoning=reasoning,
            strict_level=max(strict_level, ToolStrictLevel.PARAMETER),
        )
        if tag is None:
            return None
        if isinstance(tag.format, TagsWithSeparatorFormat | TriggeredTagsFormat):
            tag.format.tags = self._as_the_template_renders(tag.format.tags)
        if isinstance(tag.format, TagsWithSeparatorFormat):
            tag.format.tags = self._with_tag_tokens(tag.format.tags)
            tag.format.separator = "\n"
        _bound_whitespace(tag.format)
        return tag

    def _as_the_template_renders(self, tags: list[TagFormat]) -> list[TagFormat]:
        start = self.tool_call_start_token + "\n"
        kept = [tag for tag in tags if isinstance(tag.begin, str) and tag.begin.startswith(start)]
        return kept or tags

    def _with_tag_tokens(self, tags: list[TagFormat]) -> list[TagFormat]:
        vocabulary = self.model_tokenizer.get_vocab()
        start = vocabulary.get(self.tool_call_start_token)
        end = vocabulary.get(self.tool_call_end_token)
        if start is None or end is None:
            return tags
        return [self._with_tokens(tag, start, end) for tag in tags]

    def _with_tokens(self, tag: TagFormat, start: int, end: int) -> TagFormat:
        if not isinstance(tag.begin, str) or not isinstance(tag.end, str):
            return tag
        return TagFormat(
            begin=TokenFormat(token=start),
            content=SequenceFormat(
                elements=[
                    ConstStringFormat(value=tag.begin.removeprefix(self.tool_call_start_token)),
                    tag.content,
                    ConstStringFormat(value=tag.end.removesuffix(self.tool_call_end_token)),
                ]
            ),
            end=TokenFormat(token=end),
        )


def _bound_whitespace(node: Any) -> None:
    """Allow one whitespace character in a row inside every JSON part of a grammar, in place."""
    if isinstance(node, JSONSchemaFormat):
        node.max_whitespace_cnt = 1
    elif isinstance(node, BaseModel):
        for name in type(node).model_fields:
            _bound_whitespace(getattr(node, name))
    elif isinstance(node, list | tuple):
        for item in node:
            _bound_whitespace(item)


ToolParserManager.register_module(name=NAME, module=WarmloopHermesToolParser)
