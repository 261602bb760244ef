"""Calls that a model writes as text, found before a client sees them.

Models that were not trained on a parser's tags answer with fenced JSON, bare JSON or tags in small
pieces. Text passes at once, except from where such a thing may begin: that is held back until it
has turned out to be a call of one of the tools (then it is one, and its marks are dropped), or not
(then it is text). Engines under our own grammar cannot write any, and do without this.

    text ─ mark, then { or [ ─► held ─┬─► call ─► its closing mark, dropped ─► text
                                      └─► text

Each character is looked at a bounded number of times, however small the pieces are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

_TAG = "<tool_call>"
_START = re.compile(_TAG + r"|```\w{0,20}\s{0,64}(?=[{\[])|\{|\[(?=\s{0,8}\{)")
_MAYBE = re.compile(r"(?:`{1,2}|```\w{0,20}\s{0,64}|\[\s{0,8})\Z")
_MAYBE_SIZE = 100
_CLOSING = {"<": "</tool_call>", "`": "```"}
_BEFORE_CLOSING = re.compile(r"\s{0,64}(?:\}\s{0,64})?")
_TELLING = re.compile(r'["\\{}\[\]]')
_OPENING = re.compile(r"[\[{\s]*")
_FIRST_KEY = re.compile(r'"(\w*)("?)\s*:?\s*("?)([^"\\]*)("?)')
_DOUBLED = re.compile(r'"(?:[^"\\]|\\.)*"|\{\{|\}\}')
_DECODER = json.JSONDecoder()

_NAMES = ("name", "function", "tool")
_ARGUMENTS = ("arguments", "parameters", "input")
_AROUND = ("tool_calls", "tool_call", "function_call")
_KEYS = (*_NAMES, *_ARGUMENTS, *_AROUND, "type", "id")

_MAX_OPENING = 64
"""Brackets and spaces before the first key, at most."""
_MAX_DEPTH = 100
"""Levels of brackets; the arguments of no call go deeper."""

Found = str | tuple[str, str]
"""Text, or a call: its name, and its arguments as they were written."""


@dataclass(slots=True)
class _Held:
    """What may be a call; places count from its mark."""

    json_at: int
    at: int
    """How far it has been read."""
    depth: int = 0
    floor: int = 0
    """The depth at which it is over: 1 where the first brace is doubled."""
    in_string: bool = False
    begun: bool = False
    """Its first key is one of a call's."""
    whole: bool = False


class PseudoCalls:
    """One answer's text. Memory is bounded by the answer's own length."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        known = "|".join(map(re.escape, sorted(names))) or "(?!)"
        self._named = re.compile(rf'"(?:{"|".join(_NAMES)})"\s{{0,64}}:\s{{0,64}}"({known})"')
        self._rest = ""
        self._more: list[str] = []
        self._held: _Held | None = None
        self._closing: str | None = None
        """The mark that may follow the call just found; None after text."""

    def feed(self, piece: str) -> list[Found]:
        """What has become certain with this piece, in order."""
        self._more.append(piece)
        if self._held is not None and self._held.begun and "}" not in piece and "]" not in piece:
            return []  # it cannot end here: joined when it can, not with each piece
        return _joined(self._take(final=False))

    def end(self) -> list[Found]:
        """What was still held back; a call that is broken has arguments that are no JSON."""
        return _joined(self._take(final=True))

    def _take(self, *, final: bool) -> Iterator[Found]:
        text, at = "".join((self._rest, *self._more)), 0
        self._more.clear()
        while at < len(text):
            if self._held is None:
                after = self._past_closing(text, at, final=final)
                if after is None:
                    break
                start = _START.search(text, after)
                if start is None:
                    at = len(text) if final else _may_begin(text, after)
                    yield text[after:at]
                    break
                yield text[after : start.start()]
                at = start.start()
                mark = start[0].rstrip("{[")
                self._held = _Held(len(mark), len(mark))
            held = self._held
            calls = self._calls(text, at, held, final=final)
            if calls is None:
                break
            self._held = None
            if calls:
                yield from calls
                mark = _CLOSING.get(text[at], self._closing or "")
                self._closing = mark if mark or held.floor else None
                at += held.at
            else:  # past this mark, so that the next search does not find it again
                self._closing = None
                width = max(1, held.json_at)
                yield text[at : at + width]
                at += width
        self._rest = text[at:]

    def _past_closing(self, text: str, at: int, *, final: bool) -> int | None:
        """Where text goes on after a call; None while its closing mark may still be coming."""
        mark = self._closing
        before = _BEFORE_CLOSING.match(text, at) if mark is not None else None
        if mark is None or before is None:
            return at
        here = before.end()
        rest = text[here : here + len(mark)]
        if not final and mark != rest and mark.startswith(rest):
            return None
        if not mark and here == len(text) and not final:
            return None
        if text.startswith(("{", "["), here):
            return here  # another call before the mark
        self._closing = None
        return here + len(mark) if mark.startswith(rest) else at

    def _calls(self, text: str, at: int, held: _Held, *, final: bool) -> list[Found] | None:
        """The calls in what is held; None while it is open, empty when it is something else."""
        if not held.begun:
            begun = self._begun(text[at + held.json_at : at + held.json_at + 4 * _MAX_OPENING])
            if begun is False:
                return []
            held.begun = begun is True
        _scan(text, at, held)
        if held.depth > _MAX_DEPTH:
            return []
        if not held.whole and not final:
            return None
        if not held.whole:
            held.at = len(text) - at
        body = text[at + held.json_at : at + held.at]
        for candidate in _spellings(body, doubled=held.floor == 1):
            try:
                value = _DECODER.decode(candidate)
            except (ValueError, RecursionError):
                continue
            found = [self._call(one) for one in _listed(value)]
            calls = [call for call in found if call is not None]
            return [*calls] if len(calls) == len(found) else []
        named = self._named.search(body[:1024])
        return [(named[1], "{" + body[named.end() :])] if named else []

    def _begun(self, body: str) -> bool | None:
        """Whether this begins as a call does; None while that cannot be told."""
        opening = _OPENING.match(body)
        rest = body[opening.end() :] if opening else body
        if len(body) - len(rest) > _MAX_OPENING:
            return False
        if not rest:
            return None
        key = _FIRST_KEY.match(rest)
        return key is not None and self._begins_call(*key.groups(), more=key.end() < len(rest))

    def _begins_call(
        self, key: str, closed: str, quote: str, value: str, ended: str, *, more: bool
    ) -> bool | None:
        if not closed:
            may = not more and any(word.startswith(key) for word in _KEYS)
            return None if may else False
        if key not in _NAMES or (more and not quote):
            return key in _KEYS
        if ended:  # of something else, unless it is a tool's
            return value in self._names
        return None if any(known.startswith(value) for known in self._names) else False

    def _call(self, value: Any) -> tuple[str, str] | None:
        if not isinstance(value, dict):
            return None
        if isinstance(value.get("function"), dict):
            value = value["function"]
        name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), "")
        if name not in self._names:
            return None
        given: Any = next((value[key] for key in _ARGUMENTS if key in value), {})
        arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        if not _is_unicode(arguments):
            arguments = json.dumps(given)
        return name, arguments


def _is_unicode(text: str) -> bool:
    """No half of a pair, which JSON can escape and UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _scan(text: str, at: int, held: _Held) -> None:
    """Follow the brackets from where this ended before; an escape is never cut in two."""
    here = at + held.at
    while found := _TELLING.search(text, here):
        mark, here = found[0], found.end()
        if held.in_string:
            if mark == "\\":
                if here == len(text):
                    here -= 1
                    break
                here += 1
            elif mark == '"':
                held.in_string = False
        elif mark == '"':
            held.in_string = True
        elif mark in "{[":
            held.depth += 1
            if held.depth == 2 and text[at + held.json_at : here].strip() == "{{":
                held.floor = 1
            if held.depth > _MAX_DEPTH:
                break
        elif mark != "\\":
            held.depth -= 1
            if held.depth <= held.floor:
                held.whole = True
                break
    else:
        here = len(text)
    held.at = here - at


def _spellings(body: str, *, doubled: bool) -> Iterator[str]:
    """As it is; and without doubled braces, a template's escape taken for the real thing."""
    body = body.strip()[1:] if doubled else body
    yield body
    if "{{" in body or "}}" in body:
        yield _DOUBLED.sub(lambda found: found[0] if found[0][0] == '"' else found[0][0], body)


def _listed(value: Any) -> list[Any]:
    if isinstance(value, dict):
        around = next((value[key] for key in _AROUND if key in value), None)
        value = value if around is None else around
    return value if isinstance(value, list) else [value]


def _may_begin(text: str, at: int) -> int:
    """Where a mark may begin that is not whole yet; the text's end where none does."""
    near = max(at, len(text) - _MAYBE_SIZE)
    if found := _MAYBE.search(text, near):
        return found.start()
    tag = text.rfind("<", near)
    return tag if tag >= 0 and _TAG.startswith(text[tag:]) else len(text)


def _joined(parts: Iterator[Found]) -> list[Found]:
    """Neighbouring texts as one, empty ones left out."""
    joined: list[Found] = []
    texts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        if text := "".join(texts):
            joined.append(text)
        texts.clear()
        joined.append(part)
    if text := "".join(texts):
        joined.append(text)
    return joined
