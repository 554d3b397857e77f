"""What the database is: its backbone, dimension and the like by name, and the backbone's categories."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from catdb.catalog import schema
from catdb.catalog.connection import Connection
from catdb.catalog.rules import RESTORE
from catdb.catalog.values import Maker
from catdb.errors import BackboneMismatch, DatabaseDamaged

AXES, PROJECTION = "axes", "projection"  # the keys of a projection, which is large, and of its checksum


class _Known(dict[str, Any]):
    """What the database is. One that does not know what it is, is damaged."""

    def __missing__(self, key: str) -> NoReturn:
        raise DatabaseDamaged(f"the catalog does not hold its {key}; {RESTORE}")


class Meta(Connection):
    """A connection that knows the tables ``meta`` and ``category``."""

    def create(self, meta: Mapping[str, Any], categories: Iterable[tuple[str, str]]) -> None:
        """Make the tables and fill in what the database is, all in one commit."""
        with self.transaction():
            schema.make(self.sql)
            self.sql.executemany("INSERT INTO meta VALUES(?, ?)", {"generation": 1, **meta}.items())
            self.sql.executemany(
                "INSERT INTO category VALUES(?, ?, ?)", ((n, *category) for n, category in enumerate(categories))
            )

    def meta(self) -> dict[str, Any]:
        """Return what the database is, by name. DatabaseDamaged where it does not know its vectors' dimension."""
        rows = "SELECT key, value FROM meta WHERE key != ?"
        found = _Known(self.once("meta", lambda: self.sql.execute(rows, (AXES,)).fetchall()))
        if not isinstance(found["dimension"], int):
            raise DatabaseDamaged(f"{self.path}: its dimension is no number; {RESTORE}")
        return found

    def require_maker(self, maker: Maker) -> None:
        """Raise BackboneMismatch where the database is of vectors that somebody else makes."""
        meta = self.meta()
        if maker != (meta["backbone"], meta["weights_sha256"]):
            raise BackboneMismatch(f"{os.path.dirname(self.path)} was made anew with {meta['backbone']}: open it again")

    def set_meta(self, key: str, value: Any) -> None:
        self.sql.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, value))

    def categories(self) -> list[tuple[str, str]]:
        """Return (id, name) by number."""
        rows = self.sql.execute("SELECT number, id, name FROM category ORDER BY number").fetchall()
        if [number for number, _, _ in rows] != list(range(len(rows))):
            raise DatabaseDamaged(f"{self.path}: categories are missing; {RESTORE}")
        return [(id, name) for _, id, name in rows]
