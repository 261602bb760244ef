"""The tools that an agent has in a task's folder: pure functions of text over the files in it.

    definitions()                  as a Responses request lists them
    call(folder, name, {...})      what the model is told, and whether the tool refused

Whatever a model writes is data here. No path leaves the folder (`agents_folder.py`), nothing is
executed, no pattern is compiled, and the calculator parses and walks (examples/desk). Sizes and
counts are bounded.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from benchmarks.agents_folder import Folder, Refused
from benchmarks.harness.run import ROOT

MAX_TEXT = 8000
"""Characters of a file that a tool writes."""
MAX_SHOWN = 3000
"""Characters of a result that the model is shown."""
MAX_HITS = 20
MAX_DIGITS = 24
"""Of a number in a table; what is larger is no number."""
_PLACE = re.compile(r"[0-9]{1,6}")
_KEY = re.compile(r"[^.\[\]]+|\[\d+\]")


@dataclass(frozen=True, slots=True)
class Told:
    """What the model reads of a call."""

    text: str
    refused: bool = False


def call(folder: Folder, name: str, arguments: Mapping[str, Any]) -> Told:
    """Run one tool. Never raises: what is wrong with a call is told to the model."""
    try:
        made = _TOOLS.get(name)
        if made is None:
            raise Refused(f"there is no tool {name[:80]!r}; there are: {', '.join(_TOOLS)}")
        wrong = [each for each, value in arguments.items() if not isinstance(value, str)]
        if wrong or arguments.keys() != made.parameters.keys():
            raise Refused(f"{name} takes these texts: {', '.join(made.parameters)}")
        return Told(_cut(made.run(folder, *(arguments[each] for each in made.parameters))))
    except Refused as refused:
        return Told(f"error: {refused}", refused=True)
    except OSError as error:
        return Told(f"error: {error.strerror or 'the file system refused'}", refused=True)


def _rows(folder: Folder, path: str) -> tuple[list[str], list[dict[str, str]]]:
    text = folder.text(path)
    try:
        reader = csv.DictReader(io.StringIO(text), restkey="", restval="")
        columns = list(reader.fieldnames or ())
        rows = [{c: (row[c] or "").strip() for c in columns} for row in reader]
    except csv.Error as error:
        raise Refused(f"path: {path!r} is no CSV file: {error}") from None
    if not path.endswith(".csv") or not columns:
        raise Refused(f"path: {path!r} is no CSV file")
    return columns, rows


def list_files(files: Folder, folder: str) -> str:
    place = files.path(folder or ".")
    if not place.is_dir():
        raise Refused(f"folder: there is no folder {folder!r}; '.' is the whole")
    names = [files.name(each) for each in files.files(place)]
    return "\n".join(names) or "no files"


def read_file(folder: Folder, path: str) -> str:
    return folder.text(path) or "(the file is empty)"


def search(folder: Folder, text: str) -> str:
    wanted = text.strip().casefold()
    if not wanted:
        raise Refused("text: is empty; write what lines should hold")
    found = []
    for place in folder.files():
        name = folder.name(place)
        lines = place.read_text(encoding="utf-8", errors="replace").splitlines()
        found += [
            f"{name}:{number}: {line.strip()[:200]}"
            for number, line in enumerate(lines, 1)
            if wanted in line.casefold()
        ]
    more = f"\n({len(found) - MAX_HITS} more lines)" if len(found) > MAX_HITS else ""
    return "\n".join(found[:MAX_HITS]) + more or "no line holds that text"


def write_file(folder: Folder, path: str, text: str) -> str:
    place = folder.free(path)
    if len(text) > MAX_TEXT:
        raise Refused(f"text: is longer than {MAX_TEXT} characters")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8", errors="replace", newline="")
    return f"written: {path}"


def replace_text(folder: Folder, path: str, old: str, new: str) -> str:
    before = folder.text(path)
    if not old or (count := before.count(old)) == 0:
        raise Refused(f"old: {path!r} does not hold that text; read the file and copy it")
    if count > 1:
        raise Refused(f"old: {path!r} holds that text {count} times; give more of the line")
    return write_file(folder, path, before.replace(old, new))


def copy_file(folder: Folder, path: str, to: str) -> str:
    source, target = folder.file(path), folder.free(to)
    if target.exists():
        raise Refused(f"to: {to!r} is there already")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    return f"copied: {path} to {to}"


def move_file(folder: Folder, path: str, to: str) -> str:
    copy_file(folder, path, to)
    folder.file(path).unlink()
    return f"moved: {path} to {to}"


def delete_file(folder: Folder, path: str) -> str:
    folder.file(path).unlink()
    return f"deleted: {path}"


def calculate(_: Folder, expression: str) -> str:
    try:
        return _calculator(expression)
    except ValueError as error:
        raise Refused(str(error)) from None


def csv_rows(folder: Folder, path: str, column: str, value: str) -> str:
    columns, rows = _rows(folder, path)
    found = [row for row in rows if _holds(row, _known(column, columns), value)]
    shown = [", ".join(f"{c}: {row[c]}" for c in columns) for row in found[:MAX_HITS]]
    if len(found) > MAX_HITS:
        shown.append(f"({len(found) - MAX_HITS} more rows)")
    return "\n".join(shown) or f"no row; {column} is one of: {_values(rows, column)}"


def csv_stats(folder: Folder, path: str, column: str, where: str, value: str) -> str:
    columns, rows = _rows(folder, path)
    _known(column, columns)
    if where:
        rows = [row for row in rows if _holds(row, _known(where, columns, "where"), value)]
    numbers = [_number(row[column]) for row in rows]
    known = [each for each in numbers if each is not None]
    if not known:
        return f"{len(rows)} rows, none with a number in {column}"
    return f"rows: {len(rows)}, sum: {sum(known)}, smallest: {min(known)}, largest: {max(known)}"


def json_get(folder: Folder, path: str, key: str) -> str:
    try:
        value = json.loads(folder.text(path))
    except (ValueError, RecursionError):
        raise Refused(f"path: {path!r} is no JSON file") from None
    for part in _KEY.findall(key):
        name = part[1:-1] if part.startswith("[") else part
        if isinstance(value, list) and _PLACE.fullmatch(name) and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            there = f"keys: {', '.join(value)}" if isinstance(value, dict) else _kind(value)
            raise Refused(f"key: there is no {name!r}; there is {there}")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Tool:
    run: Callable[..., str]
    about: str
    parameters: Mapping[str, str]


_TOOLS: Mapping[str, _Tool] = {
    "list_files": _Tool(list_files, "List all files in a folder.", {"folder": "'.' for all files"}),
    "read_file": _Tool(read_file, "Read a file.", {"path": "such as notes/a.txt"}),
    "search": _Tool(
        search, "Find the lines of all files that hold a text.", {"text": "one word or more"}
    ),
    "write_file": _Tool(
        write_file,
        "Write a whole file, new or in place of the old one.",
        {"path": "such as notes/a.txt", "text": "all of its text"},
    ),
    "replace_text": _Tool(
        replace_text,
        "Change one place in a file.",
        {"path": "the file", "old": "text that is there once", "new": "what it becomes"},
    ),
    "copy_file": _Tool(copy_file, "Copy a file.", {"path": "the file", "to": "path of the copy"}),
    "move_file": _Tool(
        move_file, "Move or rename a file.", {"path": "the file", "to": "its new path"}
    ),
    "delete_file": _Tool(delete_file, "Delete a file.", {"path": "the file"}),
    "calculate": _Tool(
        calculate, "Compute exactly.", {"expression": "numbers, + - * / and parentheses"}
    ),
    "csv_rows": _Tool(
        csv_rows,
        "Look rows of a CSV file up.",
        {"path": "the CSV file", "column": "name of a column", "value": "what it must be"},
    ),
    "csv_stats": _Tool(
        csv_stats,
        "Number of rows, and sum, smallest and largest of a column.",
        {
            "path": "the CSV file",
            "column": "column of numbers",
            "where": "only rows in which this column ('' for all rows)",
            "value": "is this",
        },
    ),
    "json_get": _Tool(
        json_get,
        "Look a value in a JSON file up.",
        {"path": "the JSON file", "key": "such as owner.name or items[0]; '' for all"},
    ),
}


def definitions() -> list[dict[str, Any]]:
    """The tools as a Responses request lists them."""
    return [
        {
            "type": "function",
            "name": name,
            "description": tool.about,
            "parameters": {
                "type": "object",
                "properties": {
                    each: {
                        "type": "string",
                        "description": about,
                        "maxLength": MAX_TEXT if each in ("text", "old", "new") else 200,
                    }
                    for each, about in tool.parameters.items()
                },
                "required": list(tool.parameters),
                "additionalProperties": False,
            },
        }
        for name, tool in sorted(_TOOLS.items())
    ]


def _load_calculator() -> Callable[[str], str]:
    path = ROOT / "examples" / "desk" / "desk_tools.py"
    spec = importlib.util.spec_from_file_location("benchmarks_desk_tools", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[str], str] = module.calculator
    return found


_calculator = _load_calculator()


def _cut(text: str) -> str:
    if len(text) <= MAX_SHOWN:
        return text
    return f"{text[:MAX_SHOWN]}\n(cut: {len(text) - MAX_SHOWN} more characters; search finds lines)"


def _known(column: str, columns: list[str], parameter: str = "column") -> str:
    if column not in columns:
        raise Refused(f"{parameter}: no column {column!r}; there are: {', '.join(columns)}")
    return column


def _holds(row: Mapping[str, str], column: str, value: str) -> bool:
    return row[column].casefold() == value.strip().casefold()


def _values(rows: list[dict[str, str]], column: str) -> str:
    return ", ".join(list(dict.fromkeys(row[column] for row in rows))[:MAX_HITS])


def _number(text: str) -> Decimal | None:
    try:
        found = Decimal(text)
    except InvalidOperation:
        return None
    return found if found.is_finite() and abs(found.adjusted()) < MAX_DIGITS else None


def _kind(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else "a single value"
