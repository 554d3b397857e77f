"""How far a search goes: as far as was asked for, or as a recall target takes, and further where nothing is found.

query point ─ its own categories, then by centroids; or the nearest blocks ─▶ what is compared ─ top-k ─▶ Hits
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from catdb import search
from catdb.backbones import PER_IMAGE
from catdb.calibration import recall
from catdb.filters import EVERYTHING, Filter, admitted
from catdb.questions import Point
from catdb.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Reach:
    """How much to return, ``only`` of what, and how far to look: ``probes`` categories, with ``exact`` all of them.

    With ``recall`` instead as far as it takes for that share of the ten nearest to be found, see :mod:`catdb.recall`.
    """

    k: int = 10
    probes: int = PER_IMAGE
    exact: bool = False
    recall: float | None = None
    only: Filter = EVERYTHING

    def __post_init__(self) -> None:
        for name, value in (("k", self.k), ("probes", self.probes)):
            if value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        if self.recall is not None and not 0 < self.recall <= 1:
            raise ValueError(f"recall is {self.recall}: it must be above 0, and at most 1")


def search_each(snapshot: Snapshot, points: Sequence[Point], reach: Reach) -> list[tuple[search.Hits, Way]]:
    """Search as far as is asked for, and further for those that find nothing there to be compared."""
    if not points:
        return []
    field, encoding = Field(snapshot, reach), snapshot.encoding
    short = encoding.short(np.array([point.vector for point in points], np.float16))
    rows, depth = encoding.rows_of_short(short), encoding.candidates(reach.k)
    ways = field.ways(points, short)
    found: dict[int, search.Hits] = {}
    searching = list(range(len(points)))
    while searching:
        blocks = field.blocks([ways[number] for number in searching])
        hits = search.nearest_to_each(rows[searching], field.admits.blocks(blocks), depth, last=snapshot.catalog.last())
        found |= dict(zip(searching, hits, strict=True))
        searching = [n for n in searching if found[n].scanned < field.enough and ways[n].widen()]
    # A product of several queries rounds the last digit otherwise; an answer shall not depend on what else was asked.
    if not encoding.lossless or len(points) > 1:
        for number, point in enumerate(points):
            found[number] = _by_whole_vectors(snapshot, point.vector, found[number], reach.k)
    return [(found[number], way) for number, way in enumerate(ways)]


def _by_whole_vectors(snapshot: Snapshot, vector: NDArray[np.float16], hits: search.Hits, k: int) -> search.Hits:
    """Return the k best of hits by their whole vectors. One that is damaged keeps what its row says."""
    image_ids, best = snapshot.nearest(vector, hits.image_ids, k, hits.similarities)
    return replace(hits, image_ids=image_ids, similarities=best)


class Field:
    """What is there to be searched, as far as it is the same for every query of one search."""

    def __init__(self, snapshot: Snapshot, reach: Reach) -> None:
        self.snapshot, self.reach = snapshot, reach
        self.admits = admitted(reach.only, snapshot)
        self.populated = snapshot.populated
        self.total = snapshot.catalog.count()
        self.enough = min(reach.k, self.admits.images) if reach.only.under else 1
        target = None if reach.exact or reach.only.category is not None else reach.recall
        known = recall(snapshot, self.total) if target and target < 1 else None
        self.regions: search.Regions | None = None  # where it is searched by blocks
        self.first = 0  # of which so many at first
        if known and target:
            self.regions = snapshot.regions()
            self.first = known.blocks_for(target, len(self.regions))

    def ways(self, points: Sequence[Point], short: NDArray[np.float16]) -> list[Way]:
        """Return how far each query goes at first; ``short`` (m, D) are their vectors as means are compared with."""
        by_blocks = [None] * len(points) if self.regions is None else self.regions.nearest_to_each(short)
        return [Way(self, point, *how) for point, *how in zip(points, short, by_blocks, strict=True)]

    def blocks(self, ways: Sequence[Way]) -> Iterator[search.Block]:
        """Yield what is to be compared now, each block with the queries that ask for it, as bits by their place."""
        if self.regions is not None:
            bits = np.zeros(len(self.regions), np.uint32)
            for number, way in enumerate(ways):
                bits[way.chosen()] |= np.uint32(1 << number)
            chosen = np.flatnonzero(bits)
            return self.snapshot.parts(self.regions, chosen, bits[chosen])
        asked: dict[int, int] = {}
        for number, way in enumerate(ways):
            for category in way.categories():
                asked[category] = asked.get(category, 0) | 1 << number
        return self.snapshot.blocks(asked, asked)


class Way:
    """How far one query goes: at first as far as was asked for, and further each time that it is widened."""

    def __init__(
        self,
        field: Field,
        point: Point,
        short: NDArray[np.float16],
        nearest: Callable[[int], NDArray[np.int64]] | None,
    ) -> None:
        only, reach = field.reach.only, field.reach
        self.field, self._short, self._nearest = field, short, nearest
        self._alone = only.category is not None
        self._own = [category for category, _ in point.categories] if only.category is None else [only.category]
        unknown = sum(category not in field.populated for category in set(self._own))
        self._most = 1 if self._alone else len(field.populated) + unknown
        # Of so few images, or of one category, everything is what a target asks for.
        self._count = field.first or (self._most if reach.exact or reach.recall else reach.probes)
        self.widened, self.centroids, self.probed = False, 0, set[int]()

    def chosen(self) -> NDArray[np.int64]:
        """Return the blocks that are to be compared now, by their place among all; they say what is ``probed``."""
        regions = self.field.regions
        assert regions is not None and self._nearest is not None
        chosen = self._nearest(self._count)
        self.centroids, self.probed = len(regions), set(regions.categories[chosen].tolist())
        return chosen

    def categories(self) -> list[int]:
        """Return the categories that are to be compared now, and say so by ``probed``."""
        if self._count >= self._most:
            everything = [*self._own, *self.field.populated]  # in no order
            probed = list(dict.fromkeys(self._own if self._alone else everything))
        elif self._count <= len(self._own):
            probed = self._own[: self._count]
        else:
            regions = self.field.snapshot.regions()
            self.centroids = len(regions.shards[0])
            probed = search.route(self._own, regions, self._short, self._count)
        self.probed = set(probed)
        return probed

    def widen(self) -> bool:
        """Go further the next time; say whether there is anything left."""
        regions = self.field.regions
        if self._count >= (self._most if regions is None else len(regions)):
            return False
        faster = self.field.reach.only.under or regions is not None
        self._count = 2 * self._count if faster else self._count + PER_IMAGE
        self.widened = True
        return True
