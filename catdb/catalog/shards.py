"""Which file is a category's shard, of which blocks and with which projection, and which files are garbage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from functools import partial
from operator import itemgetter

import numpy as np

from catdb.catalog.ahead import reading_ahead, watched
from catdb.catalog.meta import AXES, PROJECTION, Meta
from catdb.catalog.values import Centroid, Pointer
from catdb.checksum import checksum
from catdb.errors import DatabaseDamaged

_FEW = 64  # blocks that are read first, which shows whether they come from the disk
_ENDS = "SELECT min(rowid), max(rowid) FROM centroid"  # goes through the index by which checksums are found, too
_BETWEEN = "SELECT max(data) FROM centroid WHERE rowid BETWEEN ? AND ?"  # all of a mean, which may take several pages


class Shards(Meta):
    """A connection that knows the tables ``shard``, ``centroid`` and ``garbage``, and the shards' projection."""

    def pointer(self, category: int) -> Pointer | None:
        if self._in_snapshot:
            known = self.once("pointers", lambda: {pointer.category: pointer for pointer in self.pointers()})
            return known.get(category)
        row = self.sql.execute("SELECT * FROM shard WHERE category = ?", (category,)).fetchone()
        return Pointer(*row) if row else None

    def pointers(self) -> list[Pointer]:
        return [Pointer(*row) for row in self.sql.execute("SELECT * FROM shard ORDER BY category")]

    def folded(self) -> tuple[int, int, int]:
        """Return what is another one as soon as a shard is: of what is read of all shards, that it is still true."""
        statement = "SELECT count(*), ifnull(max(generation), 0), ifnull(sum(generation), 0) FROM shard"
        count, last, total = self.once("folded", lambda: self.sql.execute(statement).fetchone())
        return int(count), int(last), int(total)

    def reserve_generations(self, count: int) -> int:
        """Return the first of ``count`` generation numbers, made durable so that no other commit uses them again."""
        with self.transaction():
            first = int(self._one("SELECT value FROM meta WHERE key = 'generation'"))
            self.set_meta("generation", first + count)
        return first

    def point(self, pointer: Pointer, centroids: Sequence[Centroid], folded: Sequence[int], now: float) -> None:
        """Make a file the category's shard in the running transaction, folded rows and all; the old one is garbage."""
        self.unpoint(pointer.category, now)
        category = pointer.category
        self.sql.executemany("DELETE FROM pending WHERE category = ? AND image = ?", [(category, i) for i in folded])
        self.sql.execute("INSERT INTO shard VALUES(?, ?, ?, ?, ?, ?, ?, ?)", astuple(pointer))
        for block in centroids:
            mean = np.asarray(block.mean, "<f2").tobytes()
            row = (block.category, block.block, block.first, block.rows, mean, block.checksum)
            self.sql.execute("INSERT INTO centroid VALUES(?, ?, ?, ?, ?, ?)", row)

    def unpoint(self, category: int, now: float) -> None:
        """Take a category's shard away in the running transaction: pointer, centroid and tombstones."""
        self.sql.execute(
            "INSERT INTO garbage SELECT category, generation, ? FROM shard WHERE category = ?", (now, category)
        )
        for table in ("shard", "centroid", "tombstone"):
            self.sql.execute(f"DELETE FROM {table} WHERE category = ?", (category,))

    def centroids(self) -> list[Centroid]:
        """Return every block of the shards, by category and block. DatabaseDamaged for a catalog of format 1."""
        self._require_current()
        # As they lie in the file, a page each: SQLite would go from page to page here and there to give them by key.
        cursor = self.sql.execute("SELECT category, block, first, rows, data FROM centroid")
        rows, cold = watched(lambda: cursor.fetchmany(_FEW))
        ends = self.sql.execute(_ENDS).fetchone() if cold and len(rows) == _FEW else ()
        with reading_ahead(partial(self.reader, self.path), _BETWEEN, ends):
            rows += cursor.fetchall()
        rows.sort(key=itemgetter(0, 1))
        found = [Centroid(c, b, f, n, np.frombuffer(data, "<f2")) for c, b, f, n, data in rows]
        if len({len(block.mean) for block in found}) > 1:
            raise DatabaseDamaged(f"{self.path}: centroids that differ in length; run catdb check --repair")
        return found

    def blocks_of(self, category: int) -> list[Centroid]:
        """Return the blocks of a category's shard as they lie, in order."""
        rows = self.sql.execute("SELECT * FROM centroid WHERE category = ? ORDER BY block", (category,))
        return [
            Centroid(c, b, f, n, np.frombuffer(data[: len(data) // 2 * 2], "<f2"), *checksums)
            for c, b, f, n, data, *checksums in rows  # a catalog of format 2 has none
        ]

    def block_checksums(self, category: int) -> list[tuple[int, int]]:
        """Return the first row and the checksum of each block of a category's shard, of which the parts are known."""
        statement = "SELECT first, checksum FROM centroid WHERE category = ? ORDER BY first"
        return self.sql.execute(statement, (category,)).fetchall()

    def garbage(self, before: float) -> list[tuple[int, int]]:
        """Return (category, generation) of the files that have been garbage since before then."""
        return list(self.sql.execute("SELECT category, generation FROM garbage WHERE since <= ?", (before,)))

    def date_garbage(self, now: float) -> bool:
        """Have no garbage date from after now, in the running transaction; return whether any did."""
        return self.sql.execute("UPDATE garbage SET since = ?1 WHERE since > ?1", (now,)).rowcount > 0

    def drop_garbage(self, files: Iterable[tuple[int, int]]) -> None:
        self.sql.executemany("DELETE FROM garbage WHERE category = ? AND generation = ?", files)

    def projection(self) -> int | None:
        """Return the checksum of the projection that all shards are made with; None where they hold whole vectors."""
        found = self.once("projection", lambda: self._one("SELECT value FROM meta WHERE key = ?", PROJECTION))
        return None if found is None else int(found)

    def axes(self) -> bytes:
        """Return the projection itself. DatabaseDamaged where it is not the one that was written."""
        data = self._one("SELECT value FROM meta WHERE key = ?", AXES) or b""
        if checksum(data) != self.projection():
            raise DatabaseDamaged(f"{self.path}: its projection is damaged; catdb compact --refit makes it anew")
        return bytes(data)

    def set_axes(self, axes: bytes, now: float) -> None:
        """Have all shards be made with another projection, in the running transaction: from here on every row waits."""
        self.set_meta(AXES, axes)
        self.set_meta(PROJECTION, checksum(axes))
        for pointer in self.pointers():
            self.unpoint(pointer.category, now)
        self.sql.execute("INSERT OR IGNORE INTO pending SELECT category, image FROM member ORDER BY category, image")
