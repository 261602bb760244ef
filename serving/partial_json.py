"""One string out of a JSON object that is still arriving.

`reply`'s text is streamed to the client while the model writes `{"text": "..."}`. The object comes
in arbitrary pieces, cut inside escapes and surrogate pairs. `StringField.feed` returns the part of
the field's value that has become certain; joined, the parts are the value that a full parse gives.
What is not JSON yields nothing more: the whole arguments are checked at the end anyway.
"""

from __future__ import annotations

import re

_SIMPLE = {
    '"': '"',
    "\\": "\\",
    "/": "/",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
}
_PLAIN = re.compile(r'[^"\\]+')
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_REPLACEMENT = "\ufffd"


class StringField:
    """Follows a top-level string field of an object by its name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest = ""
        self._depth = 0
        self._in_string = False
        self._text: list[str] = []
        self._key: str | None = None
        self._is_value = False
        self._high = ""
        self.done = False

    def feed(self, piece: str) -> str:
        """Take the next piece of the object; returns what it adds to the value, often ''."""
        if self.done:
            return ""
        text = self._rest + piece
        self._rest = ""
        found: list[str] = []
        at = 0
        while at < len(text) and not self.done:
            step = self._inside(text, at, found) if self._in_string else self._outside(text, at)
            if step == 0:
                # An escape that is not whole yet: keep it for the next piece.
                self._rest = text[at:]
                break
            at += step
        return "".join(found)

    @property
    def _wanted(self) -> bool:
        return self._depth == 1 and self._is_value and self._key == self._name

    def _outside(self, text: str, at: int) -> int:
        char = text[at]
        if char == '"':
            self._in_string = True
            self._text = []
        elif char in "{[":
            self._depth += 1
            self._is_value = char == "[" or self._depth > 1
        elif char in "}]":
            self._depth -= 1
            self.done = self._depth <= 0
        elif self._depth == 1 and char == ":":
            self._is_value = True
        elif self._depth == 1 and char == ",":
            self._is_value = False
            self._key = None
        return 1

    def _inside(self, text: str, at: int, found: list[str]) -> int:
        """Consume a run of the string; 0 when more input is needed."""
        if text[at] == '"':
            self._in_string = False
            self._emit("", found, flush=True)
            if self._wanted:
                self.done = True
            elif self._depth == 1 and not self._is_value:
                self._key = "".join(self._text)
            return 1
        if text[at] != "\\":
            match = _PLAIN.match(text, at)
            assert match is not None  # noqa: S101 - neither quote nor backslash is here
            self._emit(match[0], found, flush=True)
            return len(match[0])
        if at + 1 >= len(text):
            return 0
        kind = text[at + 1]
        if kind != "u":
            self._emit(_SIMPLE.get(kind, _REPLACEMENT), found, flush=True)
            return 2
        digits = text[at + 2 : at + 6]
        if len(digits) < 4:
            return 0
        code = int(digits, 16) if _HEX.fullmatch(digits) else 0xFFFD
        self._unit(code, found)
        return 6

    def _unit(self, code: int, found: list[str]) -> None:
        """One UTF-16 unit; halves of a pair are joined, a lone half is replaced."""
        if 0xD800 <= code < 0xDC00:
            self._emit("", found, flush=True)
            self._high = chr(code)
        elif 0xDC00 <= code < 0xE000:
            pair = 0x10000 + ((ord(self._high) - 0xD800) << 10) + code - 0xDC00 if self._high else 0
            self._high = ""
            self._emit(chr(pair) if pair else _REPLACEMENT, found, flush=False)
        else:
            self._emit(chr(code), found, flush=True)

    def _emit(self, text: str, found: list[str], *, flush: bool) -> None:
        if flush and self._high:
            self._high = ""
            text = _REPLACEMENT + text
        if self._wanted:
            found.append(text)
        else:
            self._text.append(text)
