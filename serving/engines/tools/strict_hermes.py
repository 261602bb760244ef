"""The vLLM tool-parser plugin behind `--tool-call-parser warmloop_hermes`.

It runs in the engine's own Python environment and imports nothing of Warmloop's but its neighbours:

    --tool-parser-plugin /absolute/path/strict_hermes.py --tool-call-parser warmloop_hermes

vLLM's hermes form of calls is kept, and made exact on both sides. The grammar of a turn with tools:

    required   reply call | call (line break, call)*        at most WARMLOOP_MAX_PARALLEL_CALLS
    named      call of that tool
    auto       text without a pseudo-call, then (call (line break, call)*)?
    call       <tool_call>\n{"name": "NAME", "arguments": ARGUMENTS}\n</tool_call>

1. **Arguments are always constrained**, whether or not the client said `strict` (vLLM asks for it).
2. **One spelling, and it is the chat template's**, down to the spaces (argument_grammar.py). What
   the model wrote must tokenize the same when it comes back as history, else the engine computes
   the turn's output a second time.
3. **The tags are single tokens where the model has them.** Under a grammar of characters a model
   may spell `<tool_call>` with six small tokens, while the template's text becomes the one special
   token: the common prefix would end there. A model without such tokens (SmolLM2) spells them out.
   (Names cannot be fixed as tokens too: xgrammar 0.2.8 keeps masks for rules that look alike, and
   takes those of another grammar where only the token ids differ.)
4. **A reply excludes calls.** Where a tool is called `reply` it is the answer to the user.
5. **Text holds no pseudo-call.** In `auto`, neither `<tool_call>` as text nor `"name": "NAME"`.

And it reads what was written by following the JSON itself (call_reader.py), so that an argument may
hold any text, `</tool_call>` too; arguments are passed on as they were written, byte for byte.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from vllm.entrypoints.generate.base.protocol import (
    DeltaFunctionCall,
    DeltaMessage,
    DeltaToolCall,
    ExtractedToolCallInformation,
    FunctionCall,
    ToolCall,
)
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.tokenizers import TokenizerLike
from vllm.tool_parsers.abstract_tool_parser import Tool, ToolParserManager
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser
from vllm.tool_parsers.tool_strict_level import ToolStrictLevel
from xgrammar.structural_tag import StructuralTag


def _neighbour(name: str) -> ModuleType:
    """A module beside this file, which vLLM loads by its path alone."""
    full = f"warmloop_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None  # noqa: S101  for the type checker: the file is there
        assert spec.loader is not None  # noqa: S101
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


grammar_of = _neighbour("argument_grammar").grammar_of
turn_grammar = _neighbour("hermes_grammar").turn_grammar
CallReader = _neighbour("call_reader").CallReader

NAME = "warmloop_hermes"
MAX_CALLS = int(os.environ.get("WARMLOOP_MAX_PARALLEL_CALLS", "8"))

Request: TypeAlias = ChatCompletionRequest | ResponsesRequest


class WarmloopHermesToolParser(Hermes2ProToolParser):  # type: ignore[misc]  # untyped here
    """Hermes calls under a grammar that leaves no invalid call to write, read to the byte."""

    default_tool_strict_level = ToolStrictLevel.PARAMETER

    def __init__(self, tokenizer: TokenizerLike, tools: list[Tool] | None = None) -> None:
        super().__init__(tokenizer, tools)
        self._reader = CallReader()
        self._read = 0

    # Writing

    def get_structural_tag(
        self,
        request: Request,
        *,
        reasoning: bool = False,
        strict_level: ToolStrictLevel = ToolStrictLevel.AUTO,
    ) -> StructuralTag | None:
        """The grammar of one request; None where there is nothing to constrain."""
        mode, tools = _choice(request)
        if mode == "none" or not tools:
            return None
        most = 1 if request.parallel_tool_calls is False else MAX_CALLS
        # A reply stands in the prompt, where it always stands, but may not do here.
        no_reply = (request.vllm_xargs or {}).get("warmloop_reply") == 0
        tag: StructuralTag = turn_grammar(
            mode,
            tools,
            most=most,
            token_of=self.vocab.get,
            grammar_of=grammar_of,
            may_reply=not no_reply,
        )
        return tag

    # Reading

    def extract_tool_calls(
        self, model_output: str, request: ChatCompletionRequest
    ) -> ExtractedToolCallInformation:
        """All calls of a whole answer; one that was cut short is the last, as far as it goes."""
        text, calls = CallReader().whole(model_output)
        return ExtractedToolCallInformation(
            # Also where the only call was cut short: else vLLM shows what was written of it.
            tools_called=bool(calls) or text != model_output,
            tool_calls=[
                ToolCall(type="function", function=FunctionCall(name=name, arguments=arguments))
                for name, arguments in calls
            ],
            content=text or None,
        )

    def extract_tool_calls_streaming(  # noqa: PLR0917  vLLM's signature
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
        request: ChatCompletionRequest,
    ) -> DeltaMessage | None:
        """What has become certain since the last piece; None where that is nothing."""
        piece, self._read = current_text[self._read :], len(current_text)
        text: list[str] = []
        deltas: list[DeltaToolCall] = []
        for event in self._reader.feed(piece):
            index = self._reader.count - 1 if event.call is None else event.call
            if event.kind == "text":
                text.append(event.text)
            elif event.kind == "name":
                function = DeltaFunctionCall(name=event.text, arguments="")
                deltas.append(
                    DeltaToolCall(
                        index=index, type="function", id=make_tool_call_id(), function=function
                    )
                )
                # What vLLM looks at when the stream ends.
                self.prev_tool_call_arr.append({"name": event.text, "arguments": ""})
                self.streamed_args_for_tool.append("")
            else:
                self.prev_tool_call_arr[index]["arguments"] += event.text
                self.streamed_args_for_tool[index] += event.text
                function = DeltaFunctionCall(arguments=event.text)
                deltas.append(DeltaToolCall(index=index, function=function))
        if not text and not deltas:
            return None
        return DeltaMessage(content="".join(text) or None, tool_calls=deltas)


def _choice(request: Request) -> tuple[str, Mapping[str, dict[str, Any] | None]]:
    """`none`, `auto`, `required` or `named`, and the tools that it leaves: name → schema."""
    tools: dict[str, dict[str, Any] | None] = {}
    for tool in request.tools or ():
        function = getattr(tool, "function", tool)  # a Responses tool is its own function
        if isinstance(name := getattr(function, "name", None), str):
            tools[name] = getattr(function, "parameters", None)
    choice: Any = request.tool_choice
    if choice is None or isinstance(choice, str):
        return choice or "auto", tools
    if mode := getattr(choice, "mode", None):  # allowed_tools
        allowed = {ref.get("name") or ref.get("function", {}).get("name") for ref in choice.tools}
        return mode, {name: schema for name, schema in tools.items() if name in allowed}
    named = getattr(getattr(choice, "function", choice), "name", "")
    return "named", {named: tools.get(named)} if named in tools else {}


ToolParserManager.register_module(name=NAME, module=WarmloopHermesToolParser)
