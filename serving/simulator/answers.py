"""What a simulated engine reads and says: a request in any of three forms → prompt and answer.

    request → Prompt: the bytes that a chat template would render (append-only: the answer's bytes
              followed by the next messages are the next turn's prompt, so the cache can be warm)
            → Answer, the first that applies:
              1. the script: the header `x-simulate`, or in the last user message a line
                 `SIMULATE: {"text": "..."}`, `SIMULATE: {"calls": [{"name", "arguments"}]}`, or a
                 list of such steps; a step of calls is over when each of its calls has a result
              2. a tool must be called: `reply` where there is one, else the first or named tool
              3. a fixed sentence

A step may also misbehave: `{"error": 503}` answers with that status, `"cut_after": N` drops the
connection after N pieces of the stream, `"wait_s": S` thinks before the first token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from serving.simulator.cache import BYTES_PER_TOKEN, count_tokens

SENTENCE = "This is a simulated answer; no model has run."
_MARK = "SIMULATE:"
_END = b"<|end|>\n"
MAX_SALT = 128
"""Characters, as vLLM has it."""
Json = Mapping[str, Any]


class BadInput(Exception):
    """The request cannot be read; `str()` says what is wrong."""


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: str
    """JSON text, as an engine sends it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is generated. `data` are its bytes as the template would render them back."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    finish: str = "stop"
    error: int | None = None
    cut_after: int | None = None
    wait_s: float = 0.0

    @property
    def data(self) -> bytes:
        return _render_assistant(self.text, self.calls) + _END

    @property
    def tokens(self) -> int:
        return count_tokens(self.data)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The rendered prompt, and what keeps its cache apart from others'."""

    data: bytes
    salt: bytes

    @property
    def tokens(self) -> int:
        return count_tokens(self.data)


def read_chat(request: Json, header: str | None = None) -> tuple[Prompt, Answer]:
    """A chat request (Chat Completions form). Raises BadInput."""
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadInput("messages: a list with at least one message is required")
    if not all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages):
        raise BadInput("messages: each message must be an object with a role")
    tools = _tools(request)
    # Nothing is sorted here: an engine's template does not sort either, so a client that reorders
    # its tools loses its cache, and that is what a simulation should show.
    parts = [b"<|tools|>" + _dump(tools) + _END] if tools else []
    begun = ""
    if request.get("continue_final_message"):
        messages, begun = _unfinished(request, messages)
    parts += [_render(message) for message in messages]
    prompt = Prompt(b"".join(parts) + b"<|assistant|>\n" + begun.encode(), _salt(request))
    return prompt, _go_on(_chat_answer(request, messages, tools, header), begun)


def read_text(request: Json, header: str | None = None) -> tuple[Prompt, Answer]:
    """A Completions request: one prompt, text or token ids. Raises BadInput."""
    prompt = request.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if isinstance(prompt, str):
        data = prompt.encode()
    elif isinstance(prompt, list) and prompt and all(isinstance(t, int) for t in prompt):
        data = b"".join((t & 0xFFFFFFFF).to_bytes(BYTES_PER_TOKEN, "big") for t in prompt)
    else:
        raise BadInput("prompt: text or a list of token ids is required (one prompt a request)")
    script, begun = _begun(prompt) if isinstance(prompt, str) else (None, "")
    script = header or script
    answer = (_scripted(script, 0) if script else None) or Answer(text=" " + SENTENCE)
    return Prompt(data, _salt(request)), _go_on(answer, begun)


def _salt(request: Json) -> bytes:
    """What vLLM takes, and no other: `/` and `@` are for its caches beyond one engine."""
    salt = request.get("cache_salt")
    if salt is None:
        return b""
    if not isinstance(salt, str) or not salt:
        raise BadInput("Parameter 'cache_salt' must be a non-empty string if provided.")
    if len(salt) > MAX_SALT or any(char in salt for char in "@/\\\0"):
        raise BadInput(
            f"Parameter 'cache_salt' must be at most {MAX_SALT} characters and must not contain "
            "'@', '/', '\\', or NUL."
        )
    return salt.encode("utf-8", "surrogatepass")


def _unfinished(request: Json, messages: list[Json]) -> tuple[list[Json], str]:
    """The messages before the assistant's last one, and the text that it is to go on from."""
    last = messages[-1]
    if last["role"] != "assistant" or request.get("add_generation_prompt"):
        raise BadInput("continue_final_message: needs an assistant's message, no generation prompt")
    return messages[:-1], _text(last.get("content"))


def _begun(prompt: str) -> tuple[str | None, str]:
    """A text's script, and what stands behind it: the beginning of the answer that it asks for.

    Without a script it is the beginning of the fixed sentence, if the text ends with that.
    """
    at = max(prompt.rfind("\n" + _MARK), 0 if prompt.startswith(_MARK) else -1)
    if at < 0:
        sentence = " " + SENTENCE
        ends = (sentence[:n] for n in range(len(sentence), 3, -1))
        return None, next((end for end in ends if prompt.endswith(end)), "")
    script = prompt[at:].lstrip("\n")[len(_MARK) :].lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(script)
    except ValueError as error:
        raise BadInput(f"{_MARK} is not JSON: {error}") from None
    return script[:end], script[end:]


def _go_on(answer: Answer, begun: str) -> Answer:
    """The rest of an answer that began so; an answer that begins otherwise is said whole."""
    if not begun or not answer.text.startswith(begun):
        return answer
    return replace(answer, text=answer.text[len(begun) :])


def limit(answer: Answer, request: Json, room_tokens: int) -> Answer:
    """Cut to `max_tokens` and to the context's room, or fill up where `ignore_eos` asks for it.

    A call that is cut short comes back as text, as in vLLM: it is not a call any more.
    """
    asked = request.get("max_completion_tokens") or request.get("max_tokens")
    most = min(room_tokens, asked) if isinstance(asked, int) and asked > 0 else room_tokens
    least = most if request.get("ignore_eos") and asked else request.get("min_tokens") or 0
    if answer.tokens > most:
        kept = _render_assistant(answer.text, answer.calls)[: most * BYTES_PER_TOKEN - len(_END)]
        return replace(answer, text=kept.decode(errors="ignore"), calls=(), finish="length")
    missing = min(least, most) - answer.tokens
    if missing > 0 and not answer.calls:
        filler = " and" * missing  # four bytes, so one token each
        return replace(
            answer, text=answer.text + filler, finish="length" if least == most else "stop"
        )
    return answer


def minimal(schema: Any) -> Any:
    """The smallest value that a JSON schema of the usual kind accepts."""
    if not isinstance(schema, dict):
        return {}
    fixed = [schema[key] for key in ("const", "default") if key in schema]
    fixed += schema.get("enum") or []
    fixed += [minimal(s) for key in ("anyOf", "oneOf") for s in schema.get(key) or []]
    if fixed:
        return fixed[0]
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: minimal(properties.get(name)) for name in schema.get("required", ())}
    if kind == "array":
        least = schema.get("minItems", 0)
        return [minimal(schema.get("items"))] * least if least else []
    scalars = {
        "string": "x" * schema.get("minLength", 0),
        "integer": schema.get("minimum", 0),
        "number": schema.get("minimum", 0.0),
        "boolean": False,
    }
    return scalars.get(kind)


def _chat_answer(
    request: Json, messages: Sequence[Json], tools: Sequence[Json], header: str | None
) -> Answer:
    last_user = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
    line = _script_line(_text(messages[last_user].get("content"))) if last_user >= 0 else None
    results = sum(1 for m in messages[last_user + 1 :] if m["role"] == "tool")
    script = header or line
    answer = (_scripted(script, results) if script else None) or Answer(text=_sentence(request))
    choice = request.get("tool_choice")
    if not answer.calls and tools and (choice == "required" or isinstance(choice, dict)):
        answer = replace(answer, text="", calls=(_forced(choice, tools, answer.text),))
    if request.get("parallel_tool_calls") is False:
        answer = replace(answer, calls=answer.calls[:1])
    return replace(answer, finish="tool_calls") if answer.calls else answer


def _sentence(request: Json) -> str:
    shape = request.get("response_format")
    if isinstance(shape, dict) and shape.get("type") == "json_schema":
        wanted = shape.get("json_schema")
        return json.dumps(minimal(wanted.get("schema") if isinstance(wanted, dict) else {}))
    return SENTENCE


def _forced(choice: Any, tools: Sequence[Json], text: str) -> Call:
    """A call where the client insists on one."""
    by_name = {tool["name"]: tool for tool in tools}
    named = choice.get("function", {}).get("name") if isinstance(choice, dict) else "reply"
    name = str(named if named in by_name else tools[0]["name"])
    arguments = minimal(by_name[name].get("parameters"))
    if name == "reply":
        arguments = {"text": text}
    return Call(name, json.dumps(arguments))


def _script_line(text: str) -> str | None:
    """The last line that begins with the mark; what an agent's examples hold does not count."""
    for line in reversed(text.splitlines()):
        if line.strip().startswith(_MARK):
            return line.strip()[len(_MARK) :]
    return None


def _scripted(script: str, results: int) -> Answer | None:
    """The step that is due after `results` tool results; None after the last one."""
    try:
        raw = json.loads(script)
    except ValueError as error:
        raise BadInput(f"{_MARK} is not JSON: {error}") from None
    for step in raw if isinstance(raw, list) else [raw]:
        if not isinstance(step, dict):
            raise BadInput(f"{_MARK} a step must be an object with text, calls or error")
        calls = tuple(Call(str(c["name"]), _arguments(c)) for c in step.get("calls", ()))
        if calls and results >= len(calls):
            results -= len(calls)
            continue
        return Answer(
            text=str(step.get("text", "")),
            calls=calls,
            error=step.get("error"),
            cut_after=step.get("cut_after"),
            wait_s=float(step.get("wait_s", 0.0)),
        )
    return None


def _arguments(call: Json) -> str:
    """Arguments may be given as text, so that a test can send invalid ones."""
    value = call.get("arguments", {})
    return value if isinstance(value, str) else json.dumps(value)


def _tools(request: Json) -> list[dict[str, Any]]:
    tools = request.get("tools") or []
    if not isinstance(tools, list):
        raise BadInput("tools: expected a list")
    found = [t.get("function") for t in tools if isinstance(t, dict)]
    functions = [f for f in found if isinstance(f, dict) and isinstance(f.get("name"), str)]
    if len(functions) != len(tools):
        raise BadInput("tools: each tool must be {type: function, function: {name, ...}}")
    return functions


def _render(message: Json) -> bytes:
    calls = tuple(
        Call(str(c["function"].get("name")), str(c["function"].get("arguments", "")))
        for c in message.get("tool_calls") or ()
        if isinstance(c, dict) and isinstance(c.get("function"), dict)
    )
    body = _render_assistant(_text(message.get("content")), calls)
    return f"<|{message['role']}|>\n".encode() + body + _END


def _render_assistant(text: str, calls: Sequence[Call]) -> bytes:
    called = "".join(
        f'<tool_call>{{"name": {json.dumps(c.name)}, "arguments": {c.arguments}}}</tool_call>'
        for c in calls
    )
    return (text + called).encode()


def _text(content: Any) -> str:
    """Message content as text: a string, or the text parts of a list."""
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(
            str(p["text"]) if isinstance(p, dict) and "text" in p else json.dumps(p)
            for p in content
        )
    return str(content)


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
