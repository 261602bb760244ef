"""Patterns: read once, matched in linear time, and written so that a grammar means the same.

    pattern ─► parse ─► Node ─┬─► Matcher      an automaton: no pattern can make a check hang
                              ├─► lengths      the shortest and the longest match
                              └─► for_grammar  the pattern with its anchors written out, or None

The language is the regular part of ECMA-262's, as JSON Schema asks for: classes are ASCII, a dot is
not a line break, and a pattern may match anywhere unless it is anchored. Look-around, word
boundaries and back-references are outside of it: they have no grammar, and a check that
backtracks can take for ever. Those are refused when the schema is registered.

xgrammar matches the whole string always, and it takes a pattern for the JSON text between the
quotes: a pattern that names a quote, a backslash or a control character would write broken JSON.
`for_grammar` gives None for these; they are checked afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

TOP = 0x10FFFF
Ranges = tuple[tuple[int, int], ...]

DIGIT: Ranges = ((48, 57),)
WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
SPACE: Ranges = (
    (9, 13),
    (32, 32),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
)
LINE_BREAK: Ranges = ((10, 10), (13, 13))
CONTROL = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
UNSAFE: Ranges = ((0, 31), (34, 34), (92, 92))
"""What a JSON string cannot hold unescaped."""
MAX_NESTING = 40
INFINITY = 1 << 60


class Unsupported(ValueError):
    """A pattern that is no regular expression; `str()` says which part and `fix` what to do."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of `ranges`."""

    ranges: Ranges
    literal: bool = False
    """Named one by one in the pattern, not by exclusion or by a class such as \\s."""


@dataclass(frozen=True, slots=True)
class Anchor:
    start: bool


@dataclass(frozen=True, slots=True)
class Sequence:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    part: Node
    least: int
    most: int | None


Node = Chars | Anchor | Sequence | Choice | Repeat


def complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Every code point outside `ranges`."""
    out, at = [], 0
    for low, high in sorted(ranges):
        if low > at:
            out.append((at, low - 1))
        at = max(at, high + 1)
    if at <= TOP:
        out.append((at, TOP))
    return tuple(out)


def parse(pattern: str) -> Node:
    """The pattern as a tree. Raises Unsupported."""
    reader = _Reader(pattern)
    node = reader.choice(0)
    if reader.at < len(pattern):
        raise Unsupported("a closing parenthesis without an opening one", "escape it as \\)")
    return node


@dataclass(slots=True)
class _Reader:
    text: str
    at: int = 0

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self) -> str:
        char = self.peek()
        self.at += 1
        return char

    def choice(self, depth: int) -> Node:
        if depth > MAX_NESTING:
            raise Unsupported(f"groups nest deeper than {MAX_NESTING}", "make it flatter")
        parts = [self.sequence(depth)]
        while self.peek() == "|":
            self.at += 1
            parts.append(self.sequence(depth))
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        while self.peek() not in ("", "|", ")"):
            atom = self.atom(depth)
            parts.append(self.repeated(atom))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def repeated(self, atom: Node) -> Node:
        bounds: tuple[int, int | None] | None = None
        match self.peek():
            case "*":
                bounds = (0, None)
            case "+":
                bounds = (1, None)
            case "?":
                bounds = (0, 1)
            case "{":
                bounds = self.counted()
        if bounds is None:
            return atom
        if self.peek() != "}" and self.peek() in "*+?":
            self.at += 1
        else:
            self.at = self.text.index("}", self.at) + 1
        if self.peek() == "?":  # lazy: the same strings match
            self.at += 1
        if self.peek() and self.peek() in "*+":
            raise Unsupported("a repetition of a repetition", "put the first one in a group")
        if isinstance(atom, Anchor):
            raise Unsupported("a repeated anchor", "drop the repetition")
        return Repeat(atom, *bounds)

    def counted(self) -> tuple[int, int | None] | None:
        end = self.text.find("}", self.at)
        low, comma, high = self.text[self.at + 1 : end].partition(",")
        if end < 0 or not _number(low) or (high and not _number(high)):
            raise Unsupported("a { that begins no repetition", "escape it as \\{")
        most = int(low) if not comma else int(high) if high else None
        if most is not None and most < int(low):
            raise Unsupported("a repetition whose end is below its start", "swap the two numbers")
        return int(low), most

    def atom(self, depth: int) -> Node:
        char = self.take()
        match char:
            case "^" | "$":
                return Anchor(char == "^")
            case ".":
                return Chars(complement(LINE_BREAK))
            case "(":
                return self.group(depth)
            case "[":
                return self.char_class()
            case "\\":
                return self.escape(in_class=False)
            case "*" | "+" | "?" | "{":
                raise Unsupported(f"{char!r} repeats nothing", f"escape it as \\{char}")
        return _one(ord(char))

    def group(self, depth: int) -> Node:
        rest = self.text[self.at :]
        if rest.startswith(("?=", "?!", "?<=", "?<!")):
            where = "look-ahead" if rest[1] in "=!" else "look-behind"
            raise Unsupported(
                f"{where} has no grammar", "drop it, or say it in the description instead"
            )
        if rest.startswith("?:"):
            self.at += 2
        elif rest.startswith(("?<", "?P<")):
            end = rest.find(">")
            if end < 0:
                raise Unsupported("a group's name without its >", "close it, or use (?: )")
            self.at += end + 1
        elif rest.startswith("?"):
            raise Unsupported("inline flags and other (? forms", "use a plain group ( )")
        node = self.choice(depth + 1)
        if self.take() != ")":
            raise Unsupported("an opening parenthesis without a closing one", "escape it as \\(")
        return node

    def escape(self, *, in_class: bool) -> Chars:
        char = self.take()
        if char == "":
            raise Unsupported("a backslash at the end", "write \\\\ for a backslash")
        if char in "dwsDWS":
            ranges = {"d": DIGIT, "w": WORD, "s": SPACE}[char.lower()]
            return Chars(ranges if char.islower() else complement(ranges))
        if char in CONTROL and not (char == "0" and self.peek().isdigit()):
            return _one(CONTROL[char])
        if char == "b" and in_class:
            return _one(8)
        if char in "xu":
            digits = self.text[self.at : self.at + (2 if char == "x" else 4)]
            if len(digits) < (2 if char == "x" else 4) or not _hex(digits):
                raise Unsupported(f"\\{char} without its hexadecimal digits", "add them")
            self.at += len(digits)
            return _one(int(digits, 16))
        if char in "bB":
            raise Unsupported("a word boundary has no grammar", "spell out what is near")
        if char.isdigit() or char == "k":
            raise Unsupported("a back-reference has no grammar", "repeat what it refers to")
        if char in "pP":
            raise Unsupported("\\p{...} has no grammar", "name the ranges of characters instead")
        if char.isascii() and char.isalpha():
            raise Unsupported(f"\\{char} is no escape of JSON Schema's patterns", "drop it")
        return _one(ord(char))

    def char_class(self) -> Chars:
        negated = self.peek() == "^"
        self.at += negated
        ranges: list[tuple[int, int]] = []
        literal = True
        while (char := self.take()) != "]":
            if char == "":
                raise Unsupported("a [ without its ]", "escape it as \\[")
            item = self.escape(in_class=True) if char == "\\" else _one(ord(char))
            if self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                char = self.take()
                end = self.escape(in_class=True) if char == "\\" else _one(ord(char))
                low, high = item.ranges[0][0], end.ranges[0][1]
                if not (item.literal and end.literal) or low > high:
                    raise Unsupported("a range in [ ] that has no order", "escape the -")
                ranges.append((low, high))
                continue
            literal = literal and item.literal
            ranges.extend(item.ranges)
        if negated:
            return Chars(complement(ranges))
        if not ranges:
            raise Unsupported("an empty [ ] matches nothing", "drop it")
        return Chars(tuple(sorted(ranges)), literal)


def _one(code: int) -> Chars:
    return Chars(((code, code),), literal=True)


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 7


def _hex(text: str) -> bool:
    return all(char in "0123456789abcdefABCDEF" for char in text)


def lengths(node: Node) -> tuple[int, int]:
    """The fewest and the most characters of a match; the most may be INFINITY."""
    match node:
        case Chars():
            return 1, 1
        case Anchor():
            return 0, 0
        case Sequence(parts):
            found = [lengths(part) for part in parts]
            return min(INFINITY, sum(low for low, _ in found)), min(
                INFINITY, sum(high for _, high in found)
            )
        case Choice(parts):
            found = [lengths(part) for part in parts]
            return min(low for low, _ in found), max(high for _, high in found)
        case Repeat(part, least, most):
            low, high = lengths(part)
            top = high * most if most is not None else INFINITY if high else 0
            return min(INFINITY, low * least), min(INFINITY, top)


def states(node: Node) -> int:
    """How large the automaton is, repetitions written out."""
    match node:
        case Chars() | Anchor():
            return 1
        case Sequence(parts) | Choice(parts):
            return min(INFINITY, 1 + sum(states(part) for part in parts))
        case Repeat(part, least, most):
            return min(INFINITY, states(part) * max(1, least + 1 if most is None else most) + 1)


def for_grammar(pattern: str, node: Node) -> tuple[str, bool] | None:
    """The pattern as a grammar must see it, which matches whole strings; None where it cannot.

    The flag says whether everything that the grammar then writes matches the pattern: not so
    with \\S, which excludes only ASCII's white space in the grammar.
    """
    parts = node.parts if isinstance(node, Choice) else (node,)
    ends = [_ends(part) for part in parts]
    if any(map(_unsafe, parts)) or any(end is None for end in ends) or lengths(node)[1] == 0:
        return None
    exact = not _excludes_white_space(node)
    if all(end == (True, True) for end in ends):
        return pattern, exact
    if len(parts) > 1:
        free = all(end == (False, False) for end in ends)
        return (f"^.*({pattern}).*$", exact) if free else None
    started, ended = ends[0] or (False, False)
    return f"{'' if started else '^.*'}{pattern}{'' if ended else '.*$'}", exact


def limited(pattern: str, node: Node, low: int, high: int) -> str | None:
    """`^[...]+$` with a limited length as `^[...]{low,high}$`; None for other forms."""
    if not isinstance(node, Sequence) or len(node.parts) != 3:
        return None
    start, repeat, end = node.parts
    if (start, end) != (Anchor(True), Anchor(False)) or not isinstance(repeat, Repeat):
        return None
    low = max(low, repeat.least)
    if not isinstance(repeat.part, Chars) or repeat.most is not None or low > high:
        return None
    if not pattern.endswith(("+$", "*$")):
        return None
    return f"{pattern[:-2]}{{{low},{high}}}$"


def _excludes_white_space(node: Node) -> bool:
    match node:
        case Chars(ranges, literal):
            codes = {code for low, high in ranges for code in (0xA0, 0xA1) if low <= code <= high}
            return not literal and codes == {0xA1}
        case Sequence(parts) | Choice(parts):
            return any(map(_excludes_white_space, parts))
        case Repeat(part):
            return _excludes_white_space(part)
    return False


def _ends(node: Node) -> tuple[bool, bool] | None:
    """Whether a branch is anchored at its start and end; None with an anchor elsewhere."""
    parts = node.parts if isinstance(node, Sequence) else (node,)
    started = bool(parts) and parts[0] == Anchor(True)
    ended = len(parts) > started and parts[-1] == Anchor(False)
    inner = parts[int(started) : len(parts) - int(ended)]
    return None if any(_has_anchor(part) for part in inner) else (started, ended)


def _has_anchor(node: Node) -> bool:
    match node:
        case Anchor():
            return True
        case Sequence(parts) | Choice(parts):
            return any(_has_anchor(part) for part in parts)
        case Repeat(part):
            return _has_anchor(part)
    return False


def _unsafe(node: Node) -> bool:
    match node:
        case Chars(ranges, literal):
            inside = any(a <= high and low <= b for low, high in ranges for a, b in UNSAFE)
            surrogate = any(low <= 0xDFFF and high >= 0xD800 for low, high in ranges)
            return (inside or surrogate) and literal
        case Sequence(parts) | Choice(parts):
            return any(_unsafe(part) for part in parts)
        case Repeat(part):
            return _unsafe(part)
    return False


class Costly(Exception):
    """The steps that a check may take are spent."""


@dataclass(slots=True)
class Steps:
    """A budget of work, shared by everything that one check does."""

    left: int

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise Costly


START, END, SPLIT = -1, -2, -3


@dataclass(slots=True)
class Matcher:
    """Whether a pattern is found in a text, in time proportional to the text."""

    node: Node
    _kinds: list[Ranges | int] = field(default_factory=list)
    _next: list[list[int]] = field(default_factory=list)
    _start: int = 0
    _final: int = 0

    def __post_init__(self) -> None:
        self._final = self._state(SPLIT, [])
        self._start = self._build(self.node, self._final)

    def _state(self, kind: Ranges | int, following: list[int]) -> int:
        self._kinds.append(kind)
        self._next.append(following)
        return len(self._kinds) - 1

    def _build(self, node: Node, then: int) -> int:
        match node:
            case Chars(ranges):
                return self._state(ranges, [then])
            case Anchor(start):
                return self._state(START if start else END, [then])
            case Sequence(parts):
                for part in reversed(parts):
                    then = self._build(part, then)
                return then
            case Choice(parts):
                return self._state(SPLIT, [self._build(part, then) for part in parts])
            case Repeat(part, least, most):
                if most is None:
                    loop = self._state(SPLIT, [then])
                    self._next[loop].append(self._build(part, loop))
                    then = loop
                else:
                    end = then
                    for _ in range(most - least):
                        then = self._state(SPLIT, [end, self._build(part, then)])
                for _ in range(least):
                    then = self._build(part, then)
                return then

    def search(self, text: str, steps: Steps) -> bool:
        """Raises Costly when the budget is spent."""
        current: set[int] = set()
        for at in range(len(text) + 1):
            steps.spend()
            current.add(self._start)
            reached = self._closure(current, at, len(text), steps)
            if self._final in reached:
                return True
            if at == len(text):
                break
            code = ord(text[at])
            current = set()
            for state in reached:
                kind = self._kinds[state]
                if not isinstance(kind, int) and any(low <= code <= high for low, high in kind):
                    current.add(self._next[state][0])
        return False

    def _closure(self, states: set[int], at: int, end: int, steps: Steps) -> set[int]:
        todo, seen = list(states), set(states)
        while todo:
            steps.spend()
            state = todo.pop()
            kind = self._kinds[state]
            if kind == SPLIT or (kind == START and at == 0) or (kind == END and at == end):
                for following in self._next[state]:
                    if following not in seen:
                        seen.add(following)
                        todo.append(following)
        return seen
