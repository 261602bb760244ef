"""The tools of the bundled `desk` agent: a calculator and a search over `files/`.

Whatever the model writes is data here. The calculator parses and walks, it never evaluates code;
the search compares words, and no path that the model names is ever opened.
"""

from __future__ import annotations

import ast
import csv
import operator
import re
from collections.abc import Callable, Iterator
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal, DecimalException, localcontext
from pathlib import Path
from typing import Annotated

FILES = Path(__file__).resolve().parent / "files"

MAX_EXPRESSION = 200
MAX_EXPONENT = 100
MAX_DIGITS = 30
MAX_QUERY = 200
MAX_HITS = 2
MAX_LINE = 200
MAX_FILE_BYTES = 256 * 1024

NOT_FINITE = "the expression has no finite result (is there a division by zero?)"

_ALLOWED = re.compile(r"[0-9.+\-*/%()\s]*")
_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")
_WORD = re.compile(r"[a-z0-9]+")
# Words that a question is made of, not its subject.
_COMMON = frozenset(
    _WORD.findall(
        "a an and any are at be by can cost costs do does each for from get have how i in is it"
        " many much of on one or our per please tell that the there this to was we what when where"
        " which who will with you your"
    )
)


def calculator(
    expression: Annotated[str, "arithmetic with numbers, + - * / ** and parentheses"],
) -> str:
    """Compute an arithmetic expression exactly."""
    text = expression.strip()
    if not text:
        raise ValueError("the expression is empty; write for example 3 * (4.50 + 2)")
    if len(text) > MAX_EXPRESSION:
        raise ValueError(f"the expression is longer than {MAX_EXPRESSION} characters")
    if not _ALLOWED.fullmatch(text):
        raise ValueError("only numbers such as 1250.75, + - * / // % ** and ( ) are allowed")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{text!r} is not an arithmetic expression") from None
    with localcontext(Context(prec=MAX_DIGITS + MAX_EXPONENT)):
        try:
            value = _value(tree.body, text)
        except DecimalException:
            raise ValueError(NOT_FINITE) from None
        return _shown(value)


def search(
    query: Annotated[str, "a few keywords, such as the name of an item"],
) -> str:
    """Find lines in the company's files: prices, stock, hours, delivery, rentals, rules."""
    words = _keywords(query[:MAX_QUERY])
    if not words:
        raise ValueError("the query has no keywords; name the item or the topic")
    lines = list(_lines())
    spread = {word: sum(word in found for _, _, found in lines) for word in words}
    scored = [
        (sum(1 / spread[word] for word in words & found), -place, f"{name}: {line}"[:MAX_LINE])
        for place, (name, line, found) in enumerate(lines)
        if words & found
    ]
    if not scored:
        return "nothing found; try other keywords"
    best = sorted(scored, reverse=True)
    enough = best[0][0] / 2
    return "\n".join(line for score, _, line in best[:MAX_HITS] if score >= enough)


def _value(node: ast.expr, text: str) -> Decimal:
    """The value of one node; whatever is not plain arithmetic is refused."""
    match node:
        case ast.Constant():
            number = ast.get_source_segment(text, node) or ""
            if not _NUMBER.fullmatch(number):
                raise ValueError(f"{number!r} is not a plain number")
            return _bounded(Decimal(number))
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, text)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, text)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATIONS:
            compute = _OPERATIONS[type(sign)]
            return _bounded(compute(_value(left, text), _value(right, text)))
        case _:
            raise ValueError("only numbers, + - * / // % ** and parentheses are allowed")


def _floor_divide(left: Decimal, right: Decimal) -> Decimal:
    return (left / right).to_integral_value(rounding=ROUND_FLOOR)


def _remainder(left: Decimal, right: Decimal) -> Decimal:
    """As Python's % on numbers: the result has the sign of the divisor."""
    return left - right * _floor_divide(left, right)


def _power(left: Decimal, right: Decimal) -> Decimal:
    if abs(right) > MAX_EXPONENT or right != right.to_integral_value():
        raise ValueError(f"exponents are whole numbers up to {MAX_EXPONENT}")
    return left ** int(right)


_OPERATIONS: dict[type[ast.operator], Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: _floor_divide,
    ast.Mod: _remainder,
    ast.Pow: _power,
}


def _bounded(value: Decimal) -> Decimal:
    if not value.is_finite():  # 0 ** -1 is infinite without a signal
        raise ValueError(NOT_FINITE)
    if value and value.adjusted() >= MAX_DIGITS:
        raise ValueError(f"the result has more than {MAX_DIGITS} digits")
    return value


def _shown(value: Decimal) -> str:
    """Cents stay as they were written (149.70); long fractions end after ten digits."""
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -10:
        value = value.quantize(Decimal("1e-10"), rounding=ROUND_HALF_EVEN).normalize()
    if value == value.to_integral_value():
        value = value.to_integral_value()
    return format(value if value else Decimal(0), "f")


def _keywords(text: str) -> frozenset[str]:
    """The words that carry meaning, without case and plural endings."""
    words = _WORD.findall(text.lower())
    return frozenset(_stem(word) for word in words if word not in _COMMON)


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _lines() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Every line of every file in name order: file name, text, keywords (the file's name too)."""
    for path in sorted(FILES.iterdir()):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        topic = _keywords(path.stem.replace("_", " "))
        for line in _rows(text) if path.suffix == ".csv" else _paragraphs(text):
            yield path.name, line, topic | _keywords(line)


def _rows(text: str) -> Iterator[str]:
    """CSV rows that can be read alone: `item: bell, price_eur: 12.90`."""
    for row in csv.DictReader(text.splitlines()):
        yield ", ".join(f"{column}: {value}" for column, value in row.items())


def _paragraphs(text: str) -> Iterator[str]:
    for raw in text.splitlines():
        line = raw.strip().removeprefix("- ")
        if line and not line.startswith("#"):
            yield line
