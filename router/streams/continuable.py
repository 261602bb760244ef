"""May this stream be continued from its text alone? Pure.

Only what keeps its meaning: one choice of plain text, no tools, no grammar, no log probabilities.
A `seed` promises a sequence that a second engine does not go on with, and penalties look at the
tokens before. Fields that this module does not know are not its to judge. All of these end with an
error event when their engine dies. A Messages request may say less than those: it is asked anew as
a chat (`messages_as_chat`), so each of its fields must have a meaning there, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from router.streams.messages_as_chat import SAME, is_text
from router.streams.sent import Told
from serving.protocol import COMPLETIONS, MESSAGES

_FREE = frozenset(
    (
        *("model", "messages", "prompt", "stream", "user", "metadata", "store", "service_tier"),
        *("max_tokens", "max_completion_tokens", "min_tokens", "ignore_eos", "stream_interval"),
        *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "logit_bias"),
        *("stop", "stop_token_ids", "include_stop_str_in_output", "bad_words"),
        *("skip_special_tokens", "spaces_between_special_tokens", "add_special_tokens"),
        *("priority", "cache_salt", "request_id", "session_id", "conversation"),
        *("previous_response_id", "prompt_cache_key", "safety_identifier", "verbosity"),
        *("chat_template", "chat_template_kwargs", "documents", "continue_final_message"),
        *("reasoning_effort", "include_reasoning", "parallel_tool_calls", "seed"),
    )
)
"""Fields that mean the same for the rest of an answer as for the whole."""


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: any(value == each and type(value) is type(each) for each in values)


def _counts_at_most(value: Any) -> bool:
    allowed = {"include_usage", "include_obfuscation"}
    return value is None or (isinstance(value, dict) and value.keys() <= allowed)


_ONLY: Mapping[str, Callable[[Any], bool]] = {
    "n": _is(None, 1),
    "best_of": _is(None, 1),
    "use_beam_search": _is(None, False),
    "echo": _is(None, False),
    "suffix": _is(None, ""),
    "logprobs": _is(None, False),
    "top_logprobs": _is(None, 0),
    "prompt_logprobs": _is(None),
    "presence_penalty": _is(None, 0, 0.0),
    "frequency_penalty": _is(None, 0, 0.0),
    "tools": _is(None, []),
    "tool_choice": _is(None, "none", "auto"),
    "functions": _is(None, []),
    "response_format": _is(None, {"type": "text"}),
    "structured_outputs": _is(None),
    "modalities": _is(None, ["text"]),
    "add_generation_prompt": _is(None, True),
    "return_token_ids": _is(None, False),
    "stream_options": _counts_at_most,
}
"""Fields that stand in the way unless they have such a value."""

_MESSAGES_FREE = frozenset(
    (
        *(*SAME, "messages", "system", "stop_sequences", "stream", "metadata", "service_tier"),
        *("user", "session_id", "conversation", "previous_response_id", "prompt_cache_key"),
    )
)

_MESSAGES_ONLY: Mapping[str, Callable[[Any], bool]] = {
    "tools": _is(None, []),
    "tool_choice": _is(None),
    "thinking": _is(None),
    "output_config": _is(None),
}


def obstacle(path: str, request: Mapping[str, Any], told: Told) -> str:
    """What stands in the way, in a clause; empty where nothing does. Never content."""
    if told.problem or "<think>" in told.text:
        return told.problem or "it is not plain text"
    free, only = (_MESSAGES_FREE, _MESSAGES_ONLY) if path == MESSAGES else (_FREE, _ONLY)
    for name, value in request.items():
        if name in only and not only[name](value):
            return f"the request has {name!r}"
    if request.get("seed") is not None and request.get("temperature") != 0:
        return "the request has 'seed'"
    if not request.keys() <= free | only.keys():
        return "the request has a field whose meaning for a part of an answer is not known"
    if path == MESSAGES:
        return _of_messages(request)
    begun: Any = ""
    if path == COMPLETIONS:
        begun = prompt_text(request)
    elif request.get("continue_final_message"):
        begun = request["messages"][-1].get("content")
    return "" if isinstance(begun, str) else "the prompt, or its last message, is not one text"


def _of_messages(request: Mapping[str, Any]) -> str:
    system = request.get("system")
    plain = system is None or is_text(system)
    for message in request["messages"]:
        plain = plain and message.get("role") in ("user", "assistant")
        plain = plain and is_text(message.get("content"))
    return "" if plain else "the request has a message that is not plain text"


def prompt_text(request: Mapping[str, Any]) -> str | None:
    """A completion's prompt, where it is one text."""
    prompt = request.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    return prompt if isinstance(prompt, str) else None
