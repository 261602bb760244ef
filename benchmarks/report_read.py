"""What runs wrote, read back and checked, so that the pages after it may trust every field.

A file that was named must be an envelope; in a folder others are left out, and the report says so.
Of two runs of the same thing the newer one counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.harness.run import FORMAT, ROOT, git
from benchmarks.report_figures import FIGURES
from benchmarks.report_list import ENTRIES, Entry
from serving.errors import ConfigError

MOST_BYTES = 256 * 2**20

Form = TypeVar("Form", bound=BaseModel)


class Said(BaseModel):
    """Frozen; fields that a later version adds are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Held(Said):
    """A bar, as it was judged then."""

    what: str
    value: float | None
    limit: float
    at_most: bool
    missed: bool


class Where(Said):
    """The machine."""

    system: str
    processor: str
    cores: int | None
    memory_gib: float
    python: str
    load_before: float
    load_after: float

    @property
    def busy(self) -> bool:
        """Somebody else's work was on it when the run began."""
        return self.cores is not None and self.load_before > self.cores

    def __str__(self) -> str:
        return (
            f"{self.cores or '?'} cores of {self.processor or self.system}, {self.memory_gib:g} GiB"
        )


class Envelope(Said):
    """One run; `figures` are of the form that the report knows for this benchmark, if it does."""

    format: int
    benchmark: str
    part: str = ""
    began: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    seconds: float
    command: str
    commit: str
    changed: bool
    machine: Where
    configuration: dict[str, Any]
    figures: Any
    bars: tuple[Held, ...]

    @property
    def day(self) -> str:
        return self.began[:10]


@dataclass(frozen=True, slots=True)
class Result:
    """An envelope, what it is a run of, and the file that has it."""

    entry: Entry
    envelope: Envelope
    file: str

    @property
    def busy(self) -> bool:
        """Somebody else's work was beside it, and it matters."""
        return self.entry.timed and self.envelope.machine.busy


@dataclass(frozen=True)
class Results:
    """The newest of each, in the order of the list; and what was left out, with the reason."""

    runs: tuple[Result, ...]
    left_out: tuple[str, ...]

    def of(self, name: str) -> Result | None:
        return next((each for each in self.runs if each.entry.name == name), None)

    @property
    def missing(self) -> list[Entry]:
        found = {each.entry.name for each in self.runs}
        return [entry for entry in ENTRIES if entry.name not in found]


def read(places: Sequence[Path]) -> Results:
    """Files, and the *.json of folders. Raises ConfigError, naming the file and the field."""
    left_out: list[str] = []
    found: dict[str, Result] = {}
    for path, named in _files(places):
        try:
            result = one(path)
        except ConfigError as error:
            if named:
                raise
            left_out.append(str(error))
            continue
        other = found.get(result.entry.name)
        if other:
            newer, older = (
                (result, other)
                if result.envelope.began >= other.envelope.began
                else (other, result)
            )
            left_out.append(f"{older.file}: an older run of {older.entry.name} than {newer.file}")
            result = newer
        found[result.entry.name] = result
    places_of = {entry.name: place for place, entry in enumerate(ENTRIES)}
    runs = sorted(
        found.values(),
        key=lambda each: (places_of.get(each.entry.name, len(ENTRIES)), each.entry.name),
    )
    return Results(tuple(runs), tuple(left_out))


def one(path: Path) -> Result:
    """Raises ConfigError."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(
                f"{path}: more than {MOST_BYTES // 2**20} MiB; is it a report of a run?"
            )
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is no JSON: {error}") from None
    if not isinstance(raw, dict) or "benchmark" not in raw:
        raise ConfigError(f"{path}: is no report of a run (it names no benchmark); run it again")
    if raw.get("format") != FORMAT:
        raise ConfigError(
            f"{path}: format: {raw.get('format')!r}; this report reads {FORMAT}; run it again"
        )
    envelope = _checked(path, Envelope, raw)
    entry = _entry_of(envelope)
    if form := FIGURES.get(entry.figures):
        figures = _checked(path, form, envelope.figures, "figures.")
        envelope = envelope.model_copy(update={"figures": figures})
    return Result(entry, envelope, str(path))


def _files(places: Sequence[Path]) -> Iterable[tuple[Path, bool]]:
    """(file, whether it was named)."""
    for place in places:
        if place.is_dir():
            yield from ((path, False) for path in sorted(place.rglob("*.json")))
        else:
            yield place, True


def _checked(path: Path, form: type[Form], raw: Any, within: str = "") -> Form:
    try:
        return form.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = within + ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{path}: {where.rstrip('.')}: {first['msg']}; is it of another version? run it again"
        ) from None


def _entry_of(envelope: Envelope) -> Entry:
    for entry in ENTRIES:
        if entry.is_of(envelope.benchmark, envelope.part, envelope.configuration):
            return entry
    name = "-".join(filter(None, (envelope.benchmark, envelope.part)))
    return Entry(name, envelope.benchmark, name, envelope.command, part=envelope.part)


def age(commit: str, code: Sequence[str], folder: Path = ROOT) -> str:
    """Why a figure may be older than the code that it measures; empty: it is not."""
    if not commit:
        return "It was made outside a checkout, so nobody can say of which code it is."
    if git(folder, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        return f"Commit {commit[:10]} is not in this checkout, so nobody can say how old it is."
    if git(folder, "diff", "--quiet", commit, "--", *code) is not None:
        return ""
    count = git(folder, "rev-list", "--count", f"{commit}..HEAD", "--", *code) or "?"
    times = {"0": "uncommitted changes", "1": "1 commit"}.get(count, f"{count} commits")
    return f"Older than the code it measures: since then {times} changed {', '.join(code)}."
