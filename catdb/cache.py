"""What a process keeps in memory of one database, so that it is read only once."""

from __future__ import annotations

from threading import Lock

import numpy as np

from catdb.catalog import Catalog
from catdb.encoding import STORES, Encoding, store_of
from catdb.errors import DatabaseDamaged
from catdb.maps import Maps
from catdb.projection import unpack
from catdb.recall import Recall
from catdb.scores import Chance
from catdb.search import Regions


class Cache:
    """What is so of every snapshot until shards change, or for as long as the database is the same.

    ``maps``: the shard files that were found to be sound. ``categories``: (id, name) by number; none before they were
    asked for. ``chance`` and ``recall``: what a reader measured for itself, where the database has none on record;
    ``measuring`` is held meanwhile, so that no two threads do.
    """

    def __init__(self) -> None:
        self.maps = Maps()
        self.categories: list[tuple[str, str]] = []
        self.chance: Chance | None = None
        self.recall: Recall | None = None
        self.measuring = Lock()
        self._mapped: tuple[int, int, int] | None = None  # the shards for which it was looked which maps are in use
        self._encoding: tuple[tuple[int | None, str], Encoding] | None = None  # by its projection's checksum
        self._regions: tuple[tuple[int, int, int], Regions] | None = None

    def encoding(self, catalog: Catalog) -> Encoding:
        """Return how the rows of every shard of a catalog are made of its vectors. Raises DatabaseDamaged."""
        number, kind = catalog.projection(), store_of(catalog.meta())
        if kind not in STORES:
            raise DatabaseDamaged(f"{catalog.path}: shards of {kind}, which this version of catdb does not know")
        known = self._encoding
        if known is None or known[0] != (number, kind):
            projection = None if number is None else unpack(catalog.axes(), catalog.meta()["dimension"])
            known = self._encoding = (number, kind), Encoding(projection, kind)
        return known[1]

    def regions(self, catalog: Catalog) -> Regions:
        """Return the blocks of all shards, as they were read when the shards last changed."""
        folded = catalog.folded()
        known = self._regions
        if known is None or known[0] != folded:
            known = self._regions = folded, _regions(catalog)
        return known[1]

    def keep_up(self, catalog: Catalog) -> None:
        """Let go of the maps of files that were replaced, where the shards have changed since it was last looked."""
        folded = catalog.folded()
        if self._mapped != folded:
            self.maps.keep(catalog.pointers())
            self._mapped = folded


def _regions(catalog: Catalog) -> Regions:
    found = catalog.centroids()
    return Regions(
        np.array([block.category for block in found], np.int64),
        np.array([block.first for block in found], np.int64),
        np.array([block.rows for block in found], np.int64),
        np.array([block.mean for block in found], np.float16).reshape(
            len(found), len(found[0].mean) if found else catalog.meta()["dimension"]
        ),
    )
