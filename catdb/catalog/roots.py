"""The folders of images: where they lie, whether they are there, and what in them is not to be found."""

from __future__ import annotations

import os
from collections.abc import Iterable

from catdb.catalog.connection import Connection
from catdb.catalog.values import Root


class Roots(Connection):
    """A connection that knows the tables ``root`` and ``exclude``."""

    def roots(self) -> list[Root]:
        rows = self.sql.execute("SELECT id, path, relative, whole, device, offline, reconciled FROM root ORDER BY path")
        return [Root(i, p, r, bool(w), d, bool(o), t) for i, p, r, w, d, o, t in rows]

    def add_root(self, path: bytes, relative: bytes, whole: bool) -> int:
        """Add a root, or make a known one whole; return its id."""
        self.sql.execute(
            "INSERT INTO root(path, relative, whole) VALUES(?, ?, ?) ON CONFLICT(path) DO UPDATE"
            " SET whole = max(whole, excluded.whole), relative = excluded.relative",
            (path, relative, whole),
        )
        return int(self._one("SELECT id FROM root WHERE path = ?", path))

    def absorb_root(self, inner: int, outer: int, prefix: bytes) -> None:
        """Hand everything below one root to the root above it. ``prefix``: the inner as seen from the outer, "a/b/"."""
        for table in ("image", "failure", "removed"):
            self.sql.execute(
                f"UPDATE OR REPLACE {table} SET root = ?, path = CAST(? || path AS BLOB) WHERE root = ?",
                (outer, prefix, inner),
            )
        self.sql.execute("UPDATE removed SET path = ? WHERE root = ? AND path = ?", (prefix[:-1], outer, prefix))
        self.sql.execute("DELETE FROM root WHERE id = ?", (inner,))

    def mark_root(self, root: int, *, offline: bool, device: int | None = None, when: float | None = None) -> None:
        """Record that a root is away, or that it was there: on which device, and when it was reconciled."""
        self.sql.execute(
            "UPDATE root SET offline = ?, device = ifnull(?, device), reconciled = ifnull(?, reconciled) WHERE id = ?",
            (offline, device, when, root),
        )

    def move_root(self, root: int, path: bytes, relative: bytes) -> None:
        self.sql.execute("UPDATE root SET path = ?, relative = ? WHERE id = ?", (path, relative, root))

    def excludes(self) -> list[str]:
        return [os.fsdecode(glob) for (glob,) in self.sql.execute("SELECT glob FROM exclude ORDER BY glob")]

    def set_excludes(self, globs: Iterable[str]) -> None:
        self.sql.execute("DELETE FROM exclude")
        self.sql.executemany("INSERT OR IGNORE INTO exclude VALUES(?)", ((os.fsencode(glob),) for glob in globs))
