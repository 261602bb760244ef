"""The tools that an agent has in a task's folder: pure functions of text over the files in it.

    definitions()                     as a Responses request lists them
    Folder(root).call(name, {...})    what the model is told, and whether the tool refused

Whatever a model writes is data here. No path leaves the folder: absolute ones, `..` and links are
refused before a file is opened. Nothing is executed, no pattern is compiled, and the calculator
parses and walks (examples/desk). Sizes and counts are bounded.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.harness.run import ROOT

MAX_PATH = 120
MAX_DEPTH = 6
MAX_TEXT = 8000
"""Characters of a file that a tool writes."""
MAX_SHOWN = 3000
"""Characters of a result that the model is shown."""
MAX_FILES = 100
MAX_HITS = 20
_KEY = re.compile(r"[^.\[\]]+|\[\d+\]")


class Refused(ValueError):
    """A tool cannot do what is asked; the message is for the model."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the model reads of a call."""

    text: str
    refused: bool = False


class Folder:
    """One task's files, and what may be done to them."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def call(self, name: str, arguments: Mapping[str, Any]) -> Told:
        """Run one tool. Never raises: what is wrong with a call is told to the model."""
        try:
            made = _TOOLS.get(name)
            if made is None:
                raise Refused(f"there is no tool {name[:80]!r}; there are: {', '.join(_TOOLS)}")
            wrong = [each for each, value in arguments.items() if not isinstance(value, str)]
            if wrong or arguments.keys() != made.parameters.keys():
                raise Refused(f"{name} takes these texts: {', '.join(made.parameters)}")
            return Told(_cut(made.run(self, **arguments)))
        except Refused as refused:
            return Told(f"error: {refused}", refused=True)
        except OSError as error:
            return Told(f"error: {error.strerror or 'the file system refused'}", refused=True)

    def _path(self, path: str) -> Path:
        """The place of a path that a model wrote. Raises Refused for all that is not inside."""
        if not path or len(path) > MAX_PATH or not path.isprintable() or "\\" in path:
            raise Refused(f"path: {path[:40]!r} is no path; write for example notes/today.txt")
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or len(pure.parts) > MAX_DEPTH:
            raise Refused(f"path: {path!r} is outside of the folder; write for example notes/a.txt")
        place = self._root
        for part in pure.parts:
            place /= part
            if place.is_symlink():
                raise Refused(f"path: {path!r} is a link; links are not followed")
        return place

    def _file(self, path: str) -> Path:
        place = self._path(path)
        if place.is_dir():
            raise Refused(f"path: {path!r} is a folder; name a file")
        if not place.is_file():
            raise Refused(f"path: there is no file {path!r}; list_files shows what there is")
        return place

    def _free(self, path: str) -> Path:
        """Where a file can be put. Raises Refused where something else is."""
        place = self._path(path)
        if place.is_dir() or path.endswith("/"):
            raise Refused(f"path: {path!r} is a folder; name the file in it")
        for parent in place.relative_to(self._root).parents:
            if (self._root / parent).is_file():
                raise Refused(f"path: {parent.as_posix()!r} is a file, not a folder")
        if not place.exists() and sum(1 for _ in self._files()) >= MAX_FILES:
            raise Refused(f"there are {MAX_FILES} files; no more can be made")
        return place

    def _files(self, under: Path | None = None) -> Iterator[Path]:
        for place in sorted((under or self._root).rglob("*")):
            if place.is_file() and not place.is_symlink():
                yield place

    def _text(self, path: str) -> str:
        return self._file(path).read_text(encoding="utf-8", errors="replace")

    def _rows(self, path: str) -> tuple[list[str], list[dict[str, str]]]:
        text = self._text(path)
        reader = csv.DictReader(io.StringIO(text), restkey="", restval="")
        columns = list(reader.fieldnames or ())
        if not path.endswith(".csv") or not columns:
            raise Refused(f"path: {path!r} is no CSV file")
        try:
            return columns, [{c: (row[c] or "").strip() for c in columns} for row in reader]
        except csv.Error as error:
            raise Refused(f"path: {path!r} is no CSV file: {error}") from None

    def list_files(self, folder: str) -> str:
        place = self._path(folder or ".")
        if not place.is_dir():
            raise Refused(f"folder: there is no folder {folder!r}; '.' is the whole")
        names = [each.relative_to(self._root).as_posix() for each in self._files(place)]
        return "\n".join(names) or "no files"

    def read_file(self, path: str) -> str:
        return self._text(path) or "(the file is empty)"

    def search(self, text: str) -> str:
        wanted = text.strip().casefold()
        if not wanted:
            raise Refused("text: is empty; write what lines should hold")
        found = []
        for place in self._files():
            name = place.relative_to(self._root).as_posix()
            lines = place.read_text(encoding="utf-8", errors="replace").splitlines()
            found += [
                f"{name}:{number}: {line.strip()[:200]}"
                for number, line in enumerate(lines, 1)
                if wanted in line.casefold()
            ]
        more = f"\n({len(found) - MAX_HITS} more lines)" if len(found) > MAX_HITS else ""
        return "\n".join(found[:MAX_HITS]) + more or "no line holds that text"

    def write_file(self, path: str, text: str) -> str:
        place = self._free(path)
        if len(text) > MAX_TEXT:
            raise Refused(f"text: is longer than {MAX_TEXT} characters")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8", errors="replace", newline="")
        return f"written: {path}"

    def replace_text(self, path: str, old: str, new: str) -> str:
        before = self._text(path)
        if not old or (count := before.count(old)) == 0:
            raise Refused(f"old: {path!r} does not hold that text; read the file and copy it")
        if count > 1:
            raise Refused(f"old: {path!r} holds that text {count} times; give more of the line")
        return self.write_file(path, before.replace(old, new))

    def copy_file(self, path: str, to: str) -> str:
        source, target = self._file(path), self._free(to)
        if target.exists():
            raise Refused(f"to: {to!r} is there already")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        return f"copied: {path} to {to}"

    def move_file(self, path: str, to: str) -> str:
        self.copy_file(path, to)
        self._file(path).unlink()
        return f"moved: {path} to {to}"

    def delete_file(self, path: str) -> str:
        self._file(path).unlink()
        return f"deleted: {path}"

    def calculate(self, expression: str) -> str:
        try:
            return _calculator(expression)
        except ValueError as error:
            raise Refused(str(error)) from None

    def csv_rows(self, path: str, column: str, value: str) -> str:
        columns, rows = self._rows(path)
        found = [row for row in rows if _holds(row, _known(column, columns), value)]
        shown = [", ".join(f"{c}: {row[c]}" for c in columns) for row in found[:MAX_HITS]]
        if len(found) > MAX_HITS:
            shown.append(f"({len(found) - MAX_HITS} more rows)")
        return "\n".join(shown) or f"no row; {column} is one of: {_values(rows, column)}"

    def csv_stats(self, path: str, column: str, where: str, value: str) -> str:
        columns, rows = self._rows(path)
        _known(column, columns)
        if where:
            rows = [row for row in rows if _holds(row, _known(where, columns, "where"), value)]
        numbers = [_number(row[column]) for row in rows]
        known = [each for each in numbers if each is not None]
        if not known:
            return f"{len(rows)} rows, none with a number in {column}"
        return (
            f"rows: {len(rows)}, sum: {sum(known)}, smallest: {min(known)}, largest: {max(known)}"
        )

    def json_get(self, path: str, key: str) -> str:
        try:
            value = json.loads(self._text(path))
        except (ValueError, RecursionError):
            raise Refused(f"path: {path!r} is no JSON file") from None
        for part in _KEY.findall(key):
            name = part[1:-1] if part.startswith("[") else part
            if isinstance(value, list) and name.isdigit() and int(name) < len(value):
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
    "list_files": _Tool(
        Folder.list_files, "List all files in a folder.", {"folder": "'.' for all files"}
    ),
    "read_file": _Tool(Folder.read_file, "Read a file.", {"path": "such as notes/a.txt"}),
    "search": _Tool(
        Folder.search, "Find the lines of all files that hold a text.", {"text": "one word or more"}
    ),
    "write_file": _Tool(
        Folder.write_file,
        "Write a whole file, new or in place of the old one.",
        {"path": "such as notes/a.txt", "text": "all of its text"},
    ),
    "replace_text": _Tool(
        Folder.replace_text,
        "Change one place in a file.",
        {"path": "the file", "old": "text that is there once", "new": "what it becomes"},
    ),
    "copy_file": _Tool(
        Folder.copy_file, "Copy a file.", {"path": "the file", "to": "path of the copy"}
    ),
    "move_file": _Tool(
        Folder.move_file, "Move or rename a file.", {"path": "the file", "to": "its new path"}
    ),
    "delete_file": _Tool(Folder.delete_file, "Delete a file.", {"path": "the file"}),
    "calculate": _Tool(
        Folder.calculate, "Compute exactly.", {"expression": "numbers, + - * / and parentheses"}
    ),
    "csv_rows": _Tool(
        Folder.csv_rows,
        "Look rows of a CSV file up.",
        {"path": "the CSV file", "column": "name of a column", "value": "what it must be"},
    ),
    "csv_stats": _Tool(
        Folder.csv_stats,
        "Number of rows, and sum, smallest and largest of a column.",
        {
            "path": "the CSV file",
            "column": "column of numbers",
            "where": "only rows in which this column ('' for all rows)",
            "value": "is this",
        },
    ),
    "json_get": _Tool(
        Folder.json_get,
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
    return found if found.is_finite() else None


def _kind(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else "a single value"
