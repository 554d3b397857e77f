"""What folders hold, set against what the catalog knows of them: in temporary tables, so in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from catdb.catalog.columns import PAGE, as_row, as_stamp, below
from catdb.catalog.connection import Connection, clear_errors
from catdb.images import Stamp

_SCHEMA = """
CREATE TEMP TABLE scope(root INTEGER, path BLOB, PRIMARY KEY(root, path)) WITHOUT ROWID;
CREATE TEMP TABLE unlisted(root INTEGER, path BLOB, PRIMARY KEY(root, path)) WITHOUT ROWID;
CREATE TEMP TABLE found(
    number INTEGER PRIMARY KEY, root INTEGER, path BLOB, size INTEGER, mtime_ns INTEGER, inode INTEGER, reason TEXT,
    UNIQUE(root, path));
CREATE TEMP TABLE todo(number INTEGER PRIMARY KEY);
CREATE TEMP TABLE gone(id INTEGER PRIMARY KEY, root INTEGER, path BLOB);
"""
_SAME = "{0}.size = f.size AND {0}.mtime_ns = f.mtime_ns AND {0}.inode = f.inode"


@dataclass(frozen=True, slots=True)
class Todo:
    """A file that is new or changed; ``reason`` where it is already known that it cannot be read."""

    root: int
    path: bytes
    stamp: Stamp | None
    reason: str | None


class Survey:
    """One comparison. Takes over a reader's connection: open one for it alone, and close the survey."""

    def __init__(self, catalog: Connection) -> None:
        self._catalog = catalog
        self._sql = catalog.sql
        with clear_errors(catalog.path):
            for statement in _SCHEMA.split(";"):
                self._sql.execute(statement)

    def close(self) -> None:
        self._catalog.close()

    def scope(self, root: int, path: bytes) -> None:
        """Say that everything at and below this path will be reported by :meth:`found`."""
        self._sql.execute("INSERT OR IGNORE INTO scope VALUES(?, ?)", (root, path))

    def unlisted(self, root: int, path: bytes) -> None:
        """Say that a folder could not be listed: what is known below it is neither found nor gone."""
        self._sql.execute("INSERT OR IGNORE INTO unlisted VALUES(?, ?)", (root, path))

    def found(self, rows: Iterable[Todo]) -> None:
        """Report what is there; the same path twice counts once."""
        with self._catalog.snapshot():
            self._sql.executemany(
                "INSERT OR IGNORE INTO found(root, path, size, mtime_ns, inode, reason) VALUES(?, ?, ?, ?, ?, ?)",
                ((t.root, t.path, *(as_row(t.stamp) if t.stamp else (None,) * 3), t.reason) for t in rows),
            )
            self._sql.execute("COMMIT")

    def settle(self) -> None:
        """Compare, once everything has been reported."""
        with self._catalog.snapshot():
            # An image that was out of reach for a while has a failure beside it, which only another look can take away.
            self._sql.execute(
                "INSERT INTO todo SELECT number FROM found f WHERE (NOT EXISTS (SELECT 1 FROM image i"
                f" WHERE i.root = f.root AND i.path = f.path AND {_SAME.format('i')}) OR EXISTS (SELECT 1"
                " FROM failure x WHERE x.root = f.root AND x.path = f.path)) AND NOT EXISTS (SELECT 1"
                f" FROM failure x WHERE x.root = f.root AND x.path = f.path AND {_SAME.format('x')})"
            )
            for where, values in self._below("scope"):
                self._sql.execute(f"INSERT OR IGNORE INTO gone SELECT id, root, path FROM image WHERE {where}", values)
            self._sql.execute(
                "DELETE FROM gone WHERE EXISTS (SELECT 1 FROM found f WHERE f.root = gone.root AND f.path = gone.path)"
            )
            for where, values in self._below("unlisted"):
                self._sql.execute(f"DELETE FROM gone WHERE {where}", values)
            self._sql.execute("COMMIT")  # keeps the temporary tables; nothing else was written

    def count(self, table: str) -> int:
        """Return how many rows stand in ``found``, ``todo`` or ``gone``."""
        return int(self._sql.execute(f"SELECT count(*) FROM temp.{table}").fetchone()[0])

    def todo(self) -> Iterator[Todo]:
        """Yield what is new or changed, in the order in which it was found."""
        last = 0
        while page := self._sql.execute(
            "SELECT f.number, root, path, size, mtime_ns, inode, reason FROM todo JOIN found f USING (number)"
            " WHERE number > ? ORDER BY number LIMIT ?",
            (last, PAGE),
        ).fetchall():
            for _, root, path, size, mtime_ns, inode, reason in page:
                yield Todo(root, path, None if size is None else as_stamp(size, mtime_ns, inode), reason)
            last = page[-1][0]

    def gone(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield (image, root, path) of the images that were in scope and not found."""
        last = -1
        while page := self._sql.execute(
            "SELECT id, root, path FROM gone WHERE id > ? ORDER BY id LIMIT ?", (last, PAGE)
        ).fetchall():
            yield from page
            last = page[-1][0]

    def known_failures(self) -> list[tuple[int, bytes, str]]:
        """Return (root, path, reason) of found files that failed before and have not changed since."""
        return self._sql.execute(
            "SELECT x.root, x.path, x.reason FROM found f JOIN failure x"
            f" ON x.root = f.root AND x.path = f.path AND {_SAME.format('x')} ORDER BY f.number"
        ).fetchall()

    def stale_failures(self) -> list[tuple[int, bytes]]:
        """Return (root, path) of recorded failures in scope whose file was not found."""
        failures = (
            "SELECT root, path FROM failure x WHERE {} AND NOT EXISTS"
            " (SELECT 1 FROM found f WHERE f.root = x.root AND f.path = x.path)"
        )
        stale = {
            row for where, values in self._below("scope") for row in self._sql.execute(failures.format(where), values)
        }
        for where, values in self._below("unlisted"):
            stale.difference_update(self._sql.execute(failures.format(where), values))
        return sorted(stale)

    def _below(self, table: str) -> list[tuple[str, tuple[Any, ...]]]:
        """Return the condition, with its values, for each path in ``scope`` or ``unlisted``."""
        return [below(*row) for row in self._sql.execute(f"SELECT root, path FROM temp.{table}").fetchall()]
