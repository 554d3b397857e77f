"""The shard files that this process has found to be sound, as maps of their rows.

A file is checked by size and checksum once, before it is used, and again when the file system knows of a change. Where
some blocks of it are wanted, what is checked is all but its features, and of those the blocks that are wanted and were
not checked before: nothing is read that is not scanned. Where all rows of a new file are wanted, it is checked as a
whole; and so is one of which the catalog does not know the parts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from catdb import shard
from catdb.catalog import Pointer
from catdb.errors import ShardDamaged
from catdb.shard import File, Rows

WHOLE = (slice(None),)
Form = tuple[str, int, str]  # of a shard: its category's id, how many numbers a row has, and of which kind
Blocks = Sequence[tuple[int, int]]  # each by its first row and its checksum; none where they are not known


@dataclass(frozen=True, slots=True)
class _Known:
    """A file that is sound: which it is, what it looked like when it was checked, and its rows, which are a map.

    Block n lies between the rows ``bounds[n]`` and ``bounds[n + 1]``; ``left`` are those that were not checked yet.
    """

    pointer: Pointer
    stamp: tuple[int, ...] | None
    rows: Rows
    bounds: Sequence[int] = ()  # (b + 1,)
    checksums: Sequence[int] = ()  # (b,)
    left: set[int] = field(default_factory=set)

    def left_in(self, pieces: Iterable[slice]) -> list[int]:
        """Return which blocks of these pieces were not checked yet."""
        if not self.left:
            return []
        found = []
        for start, stop, _ in (piece.indices(len(self.rows)) for piece in pieces):
            within = range(bisect_right(self.bounds, start) - 1, bisect_left(self.bounds, stop))
            found += [number for number in within if number in self.left]
        return found

    def verify(self, file: File, pieces: Iterable[slice]) -> None:
        """Check those (ShardDamaged)."""
        for number in self.left_in(pieces):
            part = self.pointer.bytes_of(self.bounds[number], self.bounds[number + 1])
            shard.verify(file, self.pointer.bytes, self.checksums[number], part)
            self.left.discard(number)


class Maps:
    """Shard files by category; ``path`` is always where the file that a pointer means lies."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}  # by category: the one file of it that is sound

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Rows]:
        return (known.rows for known in self._known.values())

    def load(
        self,
        pointer: Pointer,
        path: str,
        form: Form,
        *,
        pieces: Sequence[slice] = WHOLE,
        blocks: Blocks = (),
        afresh: bool = False,
    ) -> Rows:
        """Return the rows of a shard, of whose features only these ``pieces`` may be read (ShardDamaged).

        What bears on those is checked, where it was not yet, or has changed; or everything ``afresh``.
        """
        if afresh:
            self.forget([pointer.category])
        known = self._unchanged(pointer, path)
        if known and not known.left_in(pieces):
            return known.rows
        with shard.opened(path) as file:
            if known is None or known.stamp != file.stamp:
                known = _checked(file, pointer, form, blocks, afresh=afresh)
                if file.stamp:
                    self._known[pointer.category] = known
            known.verify(file, pieces)
        return known.rows

    def _unchanged(self, pointer: Pointer, path: str) -> _Known | None:
        """Return what is known of a file that is as it was when it was checked."""
        known = self._known.get(pointer.category)
        if known is None or known.pointer.generation != pointer.generation:
            return None
        return known if known.stamp == shard.stamp_of(path) else None

    def foresee(self, pointer: Pointer, path: str, pieces: Sequence[slice]) -> Rows | None:
        """Tell the disk which rows will be read of a shard, and return all rows of its file.

        None is returned where something is to be checked before they may be.
        """
        known = self._unchanged(pointer, path)
        if known is None:
            shard.foresee_parts(path, _parts(pointer, pieces))
            return None
        shard.foresee(known.rows, pieces)
        return None if known.left_in(pieces) else known.rows

    def forget(self, categories: Iterable[int]) -> None:
        """Let go of what is known of these categories' files."""
        for category in categories:
            self._known.pop(category, None)

    def keep(self, pointers: Iterable[Pointer]) -> None:
        """Let go of all but these: a map of a file that was replaced would take up the disk after it was unlinked."""
        current = {pointer.category: pointer.generation for pointer in pointers}
        known = list(self._known.items())
        self.forget([category for category, one in known if one.pointer.generation != current.get(category)])


def _checked(file: File, pointer: Pointer, form: Form, blocks: Blocks, *, afresh: bool) -> _Known:
    """Check a file but for its blocks, or as a whole where those are not known; or ``afresh`` in both ways."""
    bounds = [*(first for first, _ in blocks), pointer.rows]
    in_blocks = pointer.has_parts and bounds[0] == 0 and all(first < last for first, last in pairwise(bounds))
    if afresh or not in_blocks:
        shard.verify(file, pointer.bytes, pointer.checksum)
    if pointer.has_parts and (afresh or in_blocks):
        shard.verify(file, pointer.bytes, pointer.rest, *_around(pointer))
    rows = shard.load(file, *form)
    if len(rows) != pointer.rows:
        raise ShardDamaged(f"{file.path}: {len(rows)} rows where {pointer.rows} were written")
    if not in_blocks:
        return _Known(pointer, file.stamp, rows)
    return _Known(pointer, file.stamp, rows, bounds, [expected for _, expected in blocks], set(range(len(blocks))))


def _parts(pointer: Pointer, pieces: Sequence[slice]) -> list[tuple[int, int]]:
    """Return which bytes of a file of which nothing is known are read for these pieces: from, to (0: the end)."""
    if not pointer.has_parts or slice(None) in pieces:
        return [(0, 0)]
    return [*_around(pointer), *(pointer.bytes_of(*piece.indices(pointer.rows)[:2]) for piece in pieces)]


def _around(pointer: Pointer) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return where in its file lies what is no features: before them, and behind."""
    first, last = pointer.bytes_of(0, pointer.rows)
    return (0, first), (last, pointer.bytes)
