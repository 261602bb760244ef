"""Figures that the report has no form for, shown as they are.

Records become a table, with bars for the fields that are to be drawn; else it is one figure a line,
and what is deeper gets a heading of its own. Bounded: long ones are cut, and that is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.html import NOTHING, Html, Line, Piece, bars, join, number, table, tag

MOST_ROWS = 60
MOST_COLUMNS = 18
DEEPEST = 3


def plain(figures: Any, drawn: Sequence[str] = (), depth: int = 0) -> Html:
    """Of whatever form: names against fields where it is that, with bars for `drawn`; else one
    figure a line, and what is deeper below a heading of its own."""
    rows = _records(figures)
    if rows:
        names = [*dict.fromkeys(field for _, row in rows for field in row)][:MOST_COLUMNS]
        named = [
            (name, *(_cell(row.get(field)) for field in names)) for name, row in rows[:MOST_ROWS]
        ]
        charts = [_chart(field, rows[:MOST_ROWS]) for field in drawn]
        return join([*charts, table(("", *map(_words, names)), named), _more(len(rows))])
    if not isinstance(figures, Mapping) or depth == DEEPEST:
        return tag("p", _cell(figures))
    flat = {name: each for name, each in figures.items() if _is_simple(each)}
    lines = [(_words(name), _cell(each)) for name, each in flat.items()]
    parts: list[object] = [table(("", ""), lines[:MOST_ROWS]), _more(len(lines))] if lines else []
    deeper = {name: each for name, each in figures.items() if name not in flat}
    if lines and _records(deeper):
        return join([*parts, plain(deeper, drawn, depth + 1)])
    for name, each in deeper.items():
        parts += [tag("h4", _words(name)), plain(each, drawn, depth + 1)]
    return join(parts)


def _chart(field: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Html | None:
    found = [(name, row[field]) for name, row in rows if isinstance(row.get(field), int | float)]
    if not found:
        return None
    shown = [Line(name, [Piece(value, colour(name))], number(value)) for name, value in found]
    return join([tag("h4", _words(field)), bars(shown, about=_words(field))])


def _records(figures: Any) -> list[tuple[str, dict[str, Any]]]:
    """(name, fields) of records that are all alike; nothing where these are none."""
    if isinstance(figures, Mapping):
        items = [(str(name), each) for name, each in figures.items()]
    elif isinstance(figures, list | tuple):
        items = [(str(place), each) for place, each in enumerate(figures, 1)]
    else:
        return []
    records = [each for _, each in items if isinstance(each, Mapping)]
    if not records or len(records) < len(items) or not _alike(records):
        return []
    found = [(name, _spread(each)) for name, each in items]
    return found if isinstance(figures, Mapping) else _named(found)


def _named(rows: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Records of a list by what they say of themselves in words, or by their first field, where
    that tells them apart."""
    first, *_ = rows[0][1]
    words = [field for field, value in rows[0][1].items() if isinstance(value, str)]
    for fields, label in ((words, ""), ([first], f"{_words(first)} ")):
        names = [
            label + " ".join(str(_cell(row.get(field))) for field in fields) for _, row in rows
        ]
        if fields and len({*names}) == len(rows):
            kept = [
                {field: v for field, v in row.items() if field not in fields} for _, row in rows
            ]
            return [*zip(names, kept, strict=True)]
    return rows


def _spread(record: Mapping[str, Any]) -> dict[str, Any]:
    """Its fields; those of a record within it beside them, as `outer inner`."""
    found: dict[str, Any] = {}
    for field, value in record.items():
        if isinstance(value, Mapping) and not _is_interval(value):
            found |= {f"{field} {inner}": each for inner, each in value.items()}
        else:
            found[field] = value
    return found


def _alike(records: Sequence[Mapping[str, Any]]) -> bool:
    """All of them have most of the fields, and most of what they hold fits into cells."""
    fields = {field for record in records for field in record}
    shared = [field for field in fields if all(field in record for record in records)]
    cells = [each for record in records for each in _spread(record).values()]
    return 2 * len(shared) > len(fields) and 2 * sum(map(_is_simple, cells)) > len(cells)


def _is_simple(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float) or _is_interval(value)


def _is_interval(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"value", "low", "high"}


def _cell(value: Any) -> object:
    if _is_interval(value):
        low, high = number(value["low"]), number(value["high"])
        return f"{number(value['value'])} ({low} to {high})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(each)}" for key, each in value.items())[:200]
    if isinstance(value, list | tuple):
        return " ".join(str(_cell(each)) for each in value)[:200]
    return NOTHING if value is None else str(value)[:200]


def _more(count: int) -> Html | None:
    return (
        tag("p", f"... and {count - MOST_ROWS} more", class_="soft") if count > MOST_ROWS else None
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def colour(name: str) -> str:
    """The kind of a piece: ours or another's."""
    return "ours" if {"warmloop", "ours", "ours-no-ids"} & {*name.split()} else "others"
