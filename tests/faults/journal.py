"""What was begun and what was acknowledged, outside the database; and what may be in the database by that.

A *content* says which images there are: path -> the number from which everything else of the image follows (see
``stock.put``); None where there is no database yet. A *change* says what becomes of some paths, None for gone, and
comes true at once or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

from stock import put

from catdb.catalog import Put

Content = dict[str, int]
Change = dict[str, int | None]


def name(number: int) -> str:
    """Return the path at which an image of this number stands by itself."""
    return f"{number:04}.png"


@lru_cache(maxsize=4096)
def image(number: int, path: str | None = None) -> Put:
    """Return the image of a number: in three of five categories, or the last hundred of a thousand in one."""
    categories = [9] if number % 1000 >= 900 else [(number + step) % 5 for step in (0, 1, 3)]
    return put(number, categories, path=os.fsencode(path or name(number)))


class Journal:
    """A file to which every change is written before it is made, and after it was acknowledged, at once."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    @contextmanager
    def change(self, change: Change) -> Iterator[None]:
        """Around what makes a change: begun before it, acknowledged after it, unless it raises."""
        os.write(self._file, json.dumps(change).encode() + b"\n")
        yield
        os.write(self._file, b"done\n")

    def close(self) -> None:
        os.close(self._file)


def possible(before: Content | None, journal: Path) -> list[Content | None]:
    """Return the contents that there may be now: every acknowledged change is in, each other one wholly or not.

    The making of a database is the change that names no path.
    """
    contents: list[Content | None] = [before]
    lines = journal.read_bytes().splitlines() if journal.exists() else []
    for line, following in zip_longest(lines, lines[1:]):
        if line != b"done":
            after = [changed(content, json.loads(line)) for content in contents]
            contents = after if following == b"done" else [*contents, *(x for x in after if x not in contents)]
    return contents


def changed(content: Content | None, change: Change) -> Content:
    """Return what there is after a change."""
    merged = {**(content or {}), **change}
    return {path: number for path, number in merged.items() if number is not None}


def described(contents: Iterable[Content | None], found: Content | None) -> str:
    """Say in one line in what a content differs from those that are possible."""
    differences = []
    for content in contents:
        if content is None or found is None:
            differences.append("no database" if content is None else f"{len(content)} images and not none")
            continue
        parts = {
            "lost": sorted(path for path in content if path not in found),
            "not expected": sorted(path for path in found if path not in content),
            "another one": sorted(path for path in found if path in content and found[path] != content[path]),
        }
        differences.append("; ".join(f"{what}: {', '.join(paths)}" for what, paths in parts.items() if paths))
    return " / or ".join(differences)
