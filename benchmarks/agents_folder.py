"""A folder that paths written by a model cannot leave.

    Folder(root).file("notes/a.txt")     where it lies; Refused, with words for the model, where it
    Folder(root).free("notes/new.txt")   is outside, a link, a folder, or not there

Absolute paths, `..`, links on the way and odd characters are refused before anything is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MAX_PATH = 120
MAX_DEPTH = 6
MAX_FILES = 100


class Refused(ValueError):
    """What is asked cannot be done; the message is for the model."""


class Folder:
    """One task's files."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def name(self, place: Path) -> str:
        """As a model writes it."""
        return place.relative_to(self._root).as_posix()

    def path(self, path: str) -> Path:
        """Where it is inside, be there something or not."""
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

    def file(self, path: str) -> Path:
        """Where that file is."""
        place = self.path(path)
        if place.is_dir():
            raise Refused(f"path: {path!r} is a folder; name a file")
        if not place.is_file():
            raise Refused(f"path: there is no file {path!r}; list_files shows what there is")
        return place

    def free(self, path: str) -> Path:
        """Where a file can be put; it may be there already."""
        place = self.path(path)
        if place.is_dir() or path.endswith("/"):
            raise Refused(f"path: {path!r} is a folder; name the file in it")
        for parent in place.relative_to(self._root).parents:
            if (self._root / parent).is_file():
                raise Refused(f"path: {parent.as_posix()!r} is a file, not a folder")
        if not place.exists() and sum(1 for _ in self.files()) >= MAX_FILES:
            raise Refused(f"there are {MAX_FILES} files; no more can be made")
        return place

    def files(self, under: Path | None = None) -> Iterator[Path]:
        """All of them, in their order, without links."""
        for place in sorted((under or self._root).rglob("*")):
            if place.is_file() and not place.is_symlink():
                yield place

    def text(self, path: str) -> str:
        """What that file holds."""
        return self.file(path).read_text(encoding="utf-8", errors="replace")
