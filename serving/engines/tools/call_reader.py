"""Calls in what a model writes, read as it arrives: text, names, and arguments byte for byte.

    text ─ <tool_call> ─► name ─► colon ─ "arguments": ─► arguments ─► tail ─ </tool_call> ─► text

The end of the arguments is found by following the JSON (strings, escapes, brackets), not by looking
for a tag: an argument may hold any text. Standard library only: it runs inside the engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

START, END = "<tool_call>", "</tool_call>"
REPLY = "reply"
_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")')
_ARGUMENTS = re.compile(r'\s*,\s*"arguments"\s*:\s*')
_HEAD_SIZE = 1024
"""Characters up to the arguments at most; what has none by then is no call, and is not kept."""
_TELLING = re.compile(r'["\\{}\[\]]')


class Event(NamedTuple):
    """A piece of the answer; `call` counts from 0 and is None for text."""

    kind: Literal["text", "name", "arguments"]
    text: str
    call: int | None = None


class CallReader:
    """One answer. Feed it pieces of any size; every character comes out once, or not at all."""

    def __init__(self) -> None:
        self.count = 0
        """Calls whose name is known."""
        self._phase: Literal["text", "name", "colon", "arguments", "tail"] = "text"
        self._rest = ""
        self._depth = 0
        self._in_string = False

    def feed(self, piece: str) -> list[Event]:
        """What has become certain with this piece."""
        self._rest += piece
        return [event for event in self._events() if event.text]

    def finish(self) -> str:
        """What looked like the beginning of a tag, and is text, since nothing more comes."""
        if self._phase != "text":
            return ""
        text, self._rest = self._rest, ""
        return text

    def whole(self, answer: str) -> tuple[str, list[tuple[str, str]]]:
        """The text and the calls (name, arguments) of a whole answer.

        A call that was cut short is no call: it is left out. A reply that was cut short is what
        there is of its text.
        """
        text: list[str] = []
        calls: list[tuple[str, list[str]]] = []
        for event in self.feed(answer):
            if event.kind == "text":
                text.append(event.text)
            elif event.kind == "name":
                calls.append((event.text, []))
            else:
                calls[-1][1].append(event.text)
        text.append(self.finish())
        made = [(name, "".join(pieces)) for name, pieces in calls]
        if made and self._phase in ("colon", "arguments"):
            name, arguments = made.pop()
            if name == REPLY and (closed := _closed(arguments)):
                made.append((name, closed))
        return "".join(text), made

    def _events(self) -> Iterator[Event]:
        while True:
            before = self._phase, len(self._rest)
            if self._phase == "text":
                yield Event("text", self._take_text())
            elif self._phase == "name":
                if found := _NAME.match(self._rest):
                    self._rest = self._rest[found.end() :]
                    self._phase = "colon"
                    self.count += 1
                    yield Event("name", json.loads(found[1]), self.count - 1)
            elif self._phase == "colon":
                # Only when something follows: the space after the colon may be still to come.
                found = _ARGUMENTS.match(self._rest)
                if found and found.end() < len(self._rest):
                    self._rest = self._rest[found.end() :]
                    self._phase, self._depth, self._in_string = "arguments", 0, False
            elif self._phase == "arguments":
                yield Event("arguments", self._take_arguments(), self.count - 1)
            elif (end := self._rest.find(END)) >= 0:
                self._rest = self._rest[end + len(END) :]
                self._phase = "text"
            else:
                self._rest = self._rest[1 - len(END) :]
            if (self._phase, len(self._rest)) == before:
                break
        if self._phase in ("name", "colon"):
            self._rest = self._rest.lstrip()[:_HEAD_SIZE]

    def _take_text(self) -> str:
        start = self._rest.find(START)
        if start >= 0:
            text, self._rest = self._rest[:start], self._rest[start + len(START) :]
            self._phase = "name"
        else:
            keep = _overlap(self._rest)
            cut = len(self._rest) - keep
            text, self._rest = self._rest[:cut], self._rest[cut:]
        # Between two calls stands a line break, which is nobody's text.
        return text if self.count == 0 or text.strip() else ""

    def _take_arguments(self) -> str:
        """Up to the end of the value, or all there is; an escape is never cut in two."""
        text, at = self._rest, 0
        while found := _TELLING.search(text, at):
            mark, at = found[0], found.end()
            if self._in_string:
                if mark == "\\":
                    if at == len(text):
                        at -= 1
                        break
                    at += 1
                elif mark == '"':
                    self._in_string = False
            elif mark == '"':
                self._in_string = True
            elif mark in "{[":
                self._depth += 1
            elif mark in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self._phase = "tail"
                    break
        else:
            at = len(text)
        self._rest = text[at:]
        return text[:at]


def _closed(arguments: str) -> str | None:
    """A reply's half-written arguments with an end; None while it has no text."""
    for half_escape in range(6):  # `\\u12` and the like are dropped
        closed = arguments[: len(arguments) - half_escape] + '"}'
        try:
            json.loads(closed)
        except ValueError:
            continue
        return closed
    return None


def _overlap(text: str) -> int:
    """How many characters at the end could be the beginning of a start tag."""
    for size in range(min(len(START) - 1, len(text)), 0, -1):
        if START.startswith(text[-size:]):
            return size
    return 0
