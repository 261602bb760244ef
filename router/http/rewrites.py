"""The named changes to a request, each pure: bytes → bytes. All else passes untouched.

    alias   the value of the top-level `model` becomes what the engine calls the model
    marked  a top-level `session_id`, under which SGLang publishes what it computes
    ranked  a top-level `priority`, by which engines order what waits (engine_order.py)
    salted  the top-level `cache_salt` is the tenant's: engines share no cache between two salts

Only the value's own bytes change: re-encoding the body would change the prompt's bytes as well.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import msgspec

from serving.errors import BadRequest

_KEY = b'"model"'
_PAIR = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]')
_OPENING = re.compile(rb"[{\[\]]")
_END_BYTES = 512
_BEFORE_STRING = re.compile(rb'\s*:\s*"')


def alias(body: bytes, model: str) -> bytes:
    """`body` with its top-level `model` set to `model`, every other byte as it was.

    `body` is a JSON object that has a string there (it was parsed before).
    """
    start, end = _model_value(body)
    return b"".join((body[:start], msgspec.json.encode(model), body[end:]))


def marked(body: bytes, mark: str) -> bytes:
    """`body`, a JSON object that is not empty, with one more field before all others."""
    return b'{"session_id":' + msgspec.json.encode(mark) + b"," + body.lstrip()[1:]


def ranked(body: bytes, priority: int) -> bytes:
    """Likewise; `body` has none of its own."""
    return b'{"priority":%d,' % priority + body.lstrip()[1:]


def may_ask_for(body: bytes, model: str) -> bool:
    """Whether the top-level `model` may be this one: surely not, where False. Cheap.

    Clients write the field first or last, so that a look at both ends is mostly enough.
    """
    wanted = msgspec.json.encode(model)
    first = body.find(_KEY, 0, _END_BYTES)
    if first >= 0 and body.count(b"{", 0, first) == 1 and b"[" not in body[:first]:
        pair = _PAIR.match(body, first)
        return pair is None or pair[1] == wanted
    last = body.rfind(_KEY, max(0, len(body) - _END_BYTES))
    pair = _PAIR.match(body, last) if last >= 0 else None
    # Where no nested value ends or begins after it, it is the object's own.
    if pair and body.count(b"}", pair.end()) == 1 and not _OPENING.search(body, pair.end()):
        return pair[1] == wanted
    return wanted in body


def salted(body: bytes, own: bytes, salt: str) -> bytes:
    """`body` with the tenant's `cache_salt`; `own` is the raw value of the client's, if any.

    A client's own salt separates further, within its tenant: the two are hashed into one, since
    engines bound the length. Raises BadRequest for one that is no text.
    """
    value = salt if own in (b"", b"null") else _mixed(own, salt)
    if not own:
        end = body.rindex(b"}")
        return b"".join((body[:end], b',"cache_salt":', msgspec.json.encode(value), body[end:]))
    # Rare. As dictionaries do it, and as engines read it: of two equal keys the last one counts.
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
    fields["cache_salt"] = msgspec.Raw(msgspec.json.encode(value))
    return joined(fields)


def joined(fields: Mapping[str, msgspec.Raw]) -> bytes:
    """An object of these fields, each value's bytes as they are."""
    pairs = (msgspec.json.encode(key) + b":" + bytes(raw) for key, raw in fields.items())
    return b"{" + b",".join(pairs) + b"}"


def _mixed(own: bytes, salt: str) -> str:
    try:
        text = msgspec.json.decode(own, type=str)
    except (ValueError, RecursionError):
        text = ""
    if not text:
        raise BadRequest(
            "cache_salt: is no text, or empty; send a text, or leave it out", param="cache_salt"
        )
    return hashlib.sha256(f"{salt}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


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
