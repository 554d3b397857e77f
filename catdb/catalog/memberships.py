"""What stands in a category: its images by probability, those that wait to be folded, those that are dead."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from catdb.catalog.connection import Connection
from catdb.catalog.values import Load


class Memberships(Connection):
    """A connection that knows the tables ``member``, ``pending`` and ``tombstone``."""

    def loads(self) -> list[Load]:
        """Return how full each category is, by category; those that hold nothing are left out."""
        return list(self._loads().values())

    def load(self, category: int) -> Load | None:
        """Return how full a category is, None where it holds nothing."""
        return self._loads().get(category)

    def _loads(self) -> dict[int, Load]:
        return self.once("loads", self._read_loads)

    def _read_loads(self) -> dict[int, Load]:
        rows = self.sql.execute(
            "SELECT category, sum(rows), sum(dead), sum(pending) FROM ("
            " SELECT category, rows, 0 AS dead, 0 AS pending FROM shard"
            " UNION ALL SELECT category, 0, count(*), 0 FROM tombstone GROUP BY category"
            " UNION ALL SELECT category, 0, 0, count(*) FROM pending GROUP BY category"
            ") GROUP BY category ORDER BY category"
        )
        return {row[0]: Load(*row) for row in rows}

    def members(self, category: int) -> list[int]:
        """Return the ids of all images of a category, rising. Reads the whole table of members."""
        rows = self.sql.execute("SELECT image FROM member WHERE category = ? ORDER BY image", (category,))
        return [image for (image,) in rows]

    def all_members(self) -> Iterator[tuple[int, int, int]]:
        """Yield (image, rank, category) of every membership, by image and rank."""
        yield from self.sql.execute("SELECT image, rank, category FROM member ORDER BY image, rank")

    def probabilities(
        self, category: int, after: tuple[float, int] = (math.inf, -1), limit: int = -1
    ) -> list[tuple[int, float]]:
        """Return (image, probability) of the images of a category, most probable first. Reads all members.

        ``after``: (probability, image), those that come after it in that order. ``limit``: so many at most; -1: all.
        """
        probability, image = after
        return list(
            self.sql.execute(
                "SELECT image, probability FROM member WHERE category = ? AND (-probability, image) > (?, ?)"
                " ORDER BY probability DESC, image LIMIT ?",
                (category, -probability, image, limit),
            )
        )

    def categories_of(self, images: Sequence[int], width: int) -> NDArray[np.int32]:
        """Return the category numbers of images, (n, width), -1 where an image has fewer."""
        found = np.full((len(images), width), -1, np.int32)
        for row, image in enumerate(images):
            for rank, category in self.sql.execute("SELECT rank, category FROM member WHERE image = ?", (image,)):
                found[row, rank] = category
        return found

    def pending(self, category: int) -> list[int]:
        """Return the ids of the images that wait to be folded into a category, rising."""
        rows = self.sql.execute("SELECT image FROM pending WHERE category = ? ORDER BY image", (category,))
        return [image for (image,) in rows]

    def make_pending(self, category: int) -> None:
        """Have every member of a category wait to be folded, in the running transaction."""
        self.sql.execute(
            "INSERT OR IGNORE INTO pending SELECT category, image FROM member WHERE category = ?", (category,)
        )

    def tombstones(self, category: int) -> NDArray[np.int64]:
        """Return the ids of the images that stand in a category's shard and are there no more, rising."""
        if self._in_snapshot and not ((load := self.load(category)) and load.dead):
            return np.empty(0, np.int64)
        rows = self.sql.execute("SELECT image FROM tombstone WHERE category = ? ORDER BY image", (category,))
        return np.array([image for (image,) in rows], np.int64)
