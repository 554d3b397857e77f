"""The shard files that this process has found to be sound, as maps of their rows.

A file is checked by size and checksum once, before it is used, and again when the file system knows of a change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from catdb import shard
from catdb.catalog import Pointer
from catdb.errors import ShardDamaged
from catdb.shard import Rows


@dataclass(frozen=True, slots=True)
class _Known:
    """A file that is sound: which it is, what it looked like when it was checked, and its rows, which are a map."""

    generation: int
    stamp: tuple[int, ...]
    rows: Rows


class Maps:
    """Shard files by category; ``path`` is always where the file that a pointer means lies."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}  # by category: the one file of it that is sound

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Rows]:
        return (known.rows for known in self._known.values())

    def load(self, pointer: Pointer, path: str, name: str, width: int, store: str, *, afresh: bool = False) -> Rows:
        """Return the rows of a shard, of the category ``name``, with so many numbers of this kind each (ShardDamaged).

        Its bytes are checked ``afresh``, or where they were not yet, or have changed.
        """
        if afresh:
            self.forget([pointer.category])
        elif (known := self.known(pointer, path)) is not None:
            return known
        with shard.opened(path) as file:
            shard.verify(file, pointer.bytes, pointer.checksum)
            rows = shard.load(file, name, width, store)
        if len(rows) != pointer.rows:
            raise ShardDamaged(f"{path}: {len(rows)} rows where {pointer.rows} were written")
        if file.stamp:
            self._known[pointer.category] = _Known(pointer.generation, file.stamp, rows)
        return rows

    def known(self, pointer: Pointer, path: str) -> Rows | None:
        """Return the rows of a file that is as it was when it was checked."""
        known = self._known.get(pointer.category)
        if known is None or known.generation != pointer.generation:
            return None
        return known.rows if known.stamp == shard.stamp_of(path) else None

    def foresee(self, pointer: Pointer, path: str, pieces: Iterable[slice]) -> Rows | None:
        """Tell the disk which rows will be read of a shard, and return all rows of its file.

        A file that is not known to be sound will be read as a whole: None is returned then.
        """
        rows = self.known(pointer, path)
        if rows is None:
            shard.foresee_file(path)
            return None
        for piece in pieces:
            shard.foresee(rows.take(piece))
        return rows

    def forget(self, categories: Iterable[int]) -> None:
        """Let go of what is known of these categories' files."""
        for category in categories:
            self._known.pop(category, None)

    def keep(self, pointers: Iterable[Pointer]) -> None:
        """Let go of all but these: a map of a file that was replaced would take up the disk after it was unlinked."""
        current = {pointer.category: pointer.generation for pointer in pointers}
        self.forget([c for c, known in list(self._known.items()) if known.generation != current.get(c)])
