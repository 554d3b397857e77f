"""What is known by path: files that could not be read, what was removed by hand, and all that lies below a folder."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable

from catdb.catalog.columns import LISTED, as_inode, as_list, as_row, below
from catdb.catalog.images import Images
from catdb.catalog.values import is_removed
from catdb.images import Stamp


class Paths(Images):
    """A connection that knows the tables ``failure`` and ``removed``, and images by their paths."""

    def fail(self, root: int, path: bytes, reason: str, stamp: Stamp | None) -> None:
        """Record that a file could not be read. With a stamp its content is known to be bad: its image goes."""
        values = as_row(stamp) if stamp else (None, None, None)
        reason = reason.encode("utf-8", "backslashreplace").decode()
        self.sql.execute("INSERT OR REPLACE INTO failure VALUES(?, ?, ?, ?, ?, ?)", (root, path, *values, reason))
        known = self._one("SELECT id FROM image WHERE root = ? AND path = ?", root, path)
        if stamp and known:
            self.delete(known)

    def failures(self) -> list[tuple[int, bytes, str]]:
        """Return (root, path, reason) of every file that could not be read."""
        return list(self.sql.execute("SELECT root, path, reason FROM failure ORDER BY root, path"))

    def failures_after(self, root: int, path: bytes, limit: int) -> list[tuple[int, bytes, str]]:
        """Return the failures that come after a path by root and path, so many at most."""
        after = "SELECT root, path, reason FROM failure WHERE (root, path) > (?, ?) ORDER BY root, path LIMIT ?"
        return self.sql.execute(after, (root, path, limit)).fetchall()

    def failed(self) -> int:
        return int(self._one("SELECT count(*) FROM failure"))

    def drop_failures(self, paths: Iterable[tuple[int, bytes]]) -> None:
        self.sql.executemany("DELETE FROM failure WHERE root = ? AND path = ?", paths)

    def removed(self, root: int) -> dict[bytes, bool]:
        """Return what was removed by hand (True) and what of that was taken back (False); see is_removed."""
        return {
            path: not back for path, back in self.sql.execute("SELECT path, back FROM removed WHERE root = ?", (root,))
        }

    def set_removed(self, root: int, path: bytes) -> None:
        """Have a path (the whole root for an empty one) and all below it stay out."""
        self._below("DELETE FROM removed", root, path)
        self.sql.execute("INSERT INTO removed VALUES(?, ?, 0)", (root, path))
        self._below("DELETE FROM failure", root, path)

    def clear_removed(self, root: int, path: bytes) -> None:
        """Take back the removal of a path and of everything below it; the rest of a removed folder stays out."""
        self._below("DELETE FROM removed", root, path)
        if is_removed(path, self.removed(root)):
            self.sql.execute("INSERT INTO removed VALUES(?, ?, 1)", (root, path))

    def is_known(self, root: int, path: bytes) -> bool:
        """Say whether an image or a failure is known at a path or below it."""
        return any(self._below(f"SELECT 1 FROM {table}", root, path).fetchone() for table in ("image", "failure"))

    def paths_of(self, root: int) -> list[bytes]:
        """Return the paths in a root that are known: its images, and its files that could not be read."""
        rows = self.sql.execute(
            "SELECT path FROM image WHERE root = ?1 UNION SELECT path FROM failure WHERE root = ?1 ORDER BY path",
            (root,),
        )
        return [path for (path,) in rows]

    def ids_below(self, root: int, path: bytes) -> list[int]:
        """Return the ids of the image at a path and of all below it (the whole root for an empty path)."""
        return [image for (image,) in self._below("SELECT id FROM image", root, path)]

    def inodes_below(self, root: int, path: bytes) -> list[int]:
        """Return the inodes of the file known at a path and of all below it, images and failures."""
        rows = [row for table in ("image", "failure") for row in self._below(f"SELECT inode FROM {table}", root, path)]
        return [inode % 2**64 for (inode,) in rows if inode is not None]

    def places_of(self, inodes: Collection[int], *, failures: bool) -> list[tuple[int, bytes]]:
        """Return (root, path) of the images, or of the failures, whose files have one of these inodes. Reads all."""
        wanted = as_list(as_inode(inode) for inode in inodes)
        statement = "SELECT root, path FROM {} WHERE inode IN " + LISTED
        return self.sql.execute(statement.format("failure" if failures else "image"), (wanted,)).fetchall()

    def _below(self, statement: str, root: int, path: bytes) -> sqlite3.Cursor:
        where, values = below(root, path)
        return self.sql.execute(f"{statement} WHERE {where}", values)
