"""Is a small model's answer valid, and is it sure? Read from the whole of it, before it is seen.

    held(body)     the request as a turn is asked that may be asked again: whole, with logprobs
    judged(answer) → what is wrong with it, or None; how sure it is; the answer as the client asked

How sure: the mean log probability of the tokens that carry *values* of a call's arguments. Tags,
names, keys and punctuation are forced by the grammar; their log probabilities are near 0 and say
nothing, so they are left out. Calls of `reply` are text, and are not measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from router.calls.forms import encode
from router.http import rewrites
from serving.reply import REPLY

_CALL = re.compile(r'"name"\s*:\s*"((?:[^"\\]|\\.)*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*')
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|[^\s{}\[\],:"]+')
_DECODE = json.JSONDecoder()


class _Asked(msgspec.Struct):
    """What of a request decides how its answer may be held back."""

    stream: bool | None = None
    logprobs: bool | None = None
    stream_options: dict[str, Any] | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """How the client wants to see the answer."""

    stream: bool
    usage: bool
    """At the end of the stream."""
    logprobs: bool
    choices: int


def wish(body: bytes) -> Wish | None:
    """None where the fields are of unknown types: the engine will refuse them."""
    try:
        asked = msgspec.json.decode(body, type=_Asked)
    except (ValueError, RecursionError):
        return None
    usage = bool((asked.stream_options or {}).get("include_usage"))
    return Wish(bool(asked.stream), usage, bool(asked.logprobs), asked.n or 1)


def held(body: bytes, *, logprobs: bool) -> bytes:
    """The named rewrite of a turn that may be asked again: not streamed, with log probabilities."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields.pop("stream_options", None)
    fields["stream"] = msgspec.Raw(b"false")
    if logprobs:
        fields["logprobs"] = msgspec.Raw(b"true")
    return rewrites.joined(fields)


@dataclass(frozen=True, slots=True)
class Judged:
    """A whole chat completion, looked at."""

    problem: str
    """`empty`, `no-json`, `cut`, ...; empty where nothing is wrong."""
    logprob: float | None
    """Mean over the arguments' values; None where there are none, or the engine gave none."""
    answer: dict[str, Any]
    """As decoded, without log probabilities that nobody asked for."""


def judged(body: bytes, *, wants_json: bool, keep_logprobs: bool) -> Judged | None:
    """None for what is no chat completion: then nothing is known of it."""
    try:
        answer: Any = msgspec.json.decode(body)
        choice = answer["choices"][0]
        message = choice["message"]
        calls = message.get("tool_calls") or []
        text = message.get("content") or ""
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    problem = ""
    if not calls:
        if not text.strip():
            problem = "cut" if choice.get("finish_reason") == "length" else "empty"
        elif wants_json and not _is_json(text):
            problem = "no-json"
    logprob = _mean(choice.get("logprobs")) if calls else None
    if not keep_logprobs:
        for each in answer["choices"]:
            if isinstance(each, dict) and each.get("logprobs") is not None:
                each["logprobs"] = None
    return Judged(problem, logprob, answer)


def argument_logprob(tokens: list[tuple[bytes, float]]) -> float | None:
    """Mean log probability of the tokens that carry values of arguments; None without any."""
    # One character a byte: positions in the text are positions in the tokens.
    text = b"".join(token for token, _ in tokens).decode("latin-1")
    spans = sorted(_value_spans(text))
    if not spans:
        return None
    found: list[float] = []
    at = 0
    for token, logprob in tokens:
        end = at + len(token)
        if any(start < end and at < stop for start, stop in spans):
            found.append(logprob)
        at = end
    return sum(found) / len(found) if found else None


def _value_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the values in the calls' arguments stand: strings' contents, numbers, words."""
    for call in _CALL.finditer(text):
        if call[1] == REPLY:
            continue
        try:
            _, end = _DECODE.raw_decode(text, call.end())
        except ValueError:
            end = len(text)
        for part in _STRING.finditer(text, call.end(), end):
            if part[2]:
                continue  # a key
            if part[1] is None:
                yield part.span()
            elif part[1]:
                yield part.span(1)


def _mean(logprobs: Any) -> float | None:
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return None
    tokens = []
    for each in content:
        if not isinstance(each, dict) or not isinstance(each.get("logprob"), int | float):
            return None
        raw = each.get("bytes")
        data = bytes(raw) if isinstance(raw, list) else str(each.get("token", "")).encode()
        tokens.append((data, float(each["logprob"])))
    return argument_logprob(tokens)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def as_stream(answer: dict[str, Any], *, usage: bool) -> bytes:
    """A whole chat completion as the events of the stream that the client asked for."""
    base = {k: v for k, v in answer.items() if k not in ("choices", "usage", "object")}
    base["object"] = "chat.completion.chunk"
    events = []
    for choice in answer["choices"]:
        index, message = choice.get("index", 0), dict(choice["message"])
        calls = [
            {"index": i, **call} for i, call in enumerate(message.pop("tool_calls", None) or ())
        ]
        delta = {k: v for k, v in message.items() if v is not None}
        delta.setdefault("role", "assistant")
        if calls:
            delta["tool_calls"] = calls
        first = {"index": index, "delta": delta, "finish_reason": None}
        if choice.get("logprobs") is not None:
            first["logprobs"] = choice["logprobs"]
        ended = {"index": index, "delta": {}, "finish_reason": choice.get("finish_reason")}
        events += [{**base, "choices": [first]}, {**base, "choices": [ended]}]
    if usage and answer.get("usage") is not None:
        events.append({**base, "choices": [], "usage": answer["usage"]})
    return b"".join(b"data: " + encode(each) + b"\n\n" for each in events) + b"data: [DONE]\n\n"
