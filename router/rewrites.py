"""The named changes to a request, each pure: bytes → bytes. All else passes untouched.

    alias   the value of the top-level `model` becomes what the engine calls the model

Only the value's own bytes change: re-encoding the body would change the prompt's bytes as well.
"""

from __future__ import annotations

import re

import msgspec

_KEY = b'"model"'
_PAIR = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]')
_BEFORE_STRING = re.compile(rb'\s*:\s*"')


def alias(body: bytes, model: str) -> bytes:
    """`body` with its top-level `model` set to `model`, every other byte as it was.

    `body` is a JSON object that has a string there (it was parsed before).
    """
    start, end = _model_value(body)
    return b"".join((body[:start], msgspec.json.encode(model), body[end:]))


def _model_value(body: bytes) -> tuple[int, int]:
    """Where the value lies, by the shortest sufficient look.

    Inside a string the key's quotes would be escaped, and its bytes differ; so the first hit is a
    key (or a value, which no colon follows). It is the top-level one if nothing nested comes
    before it, or if there is no second one.
    """
    first = body.find(_KEY)
    if first >= 0 and (pair := _PAIR.match(body, first)):
        flat = body.count(b"{", 0, first) == 1 and b"[" not in body[:first]
        if flat or body.find(_KEY, pair.end()) < 0:
            return pair.span(1)
    return _walk(body)


def _walk(body: bytes) -> tuple[int, int]:
    """The exact way: follow the nesting, and take the last top-level key (as parsers do)."""
    depth = 0
    found = (0, 0)
    tokens = _TOKEN.finditer(body)
    for token in tokens:
        text = token[0]
        if text in (b"{", b"["):
            depth += 1
        elif text in (b"}", b"]"):
            depth -= 1
        elif depth == 1 and _BEFORE_STRING.match(body, token.end()):
            value = next(tokens)  # taken here, so that it is not mistaken for a key
            if msgspec.json.decode(text) == "model":
                found = value.span()
    return found
