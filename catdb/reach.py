"""How far a search goes: as far as was asked for, or as a recall target takes, and further where nothing is found.

query point ─ its own categories, then by centroids; or the nearest blocks ─▶ what is compared ─ top-k ─▶ Hits
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from catdb import search
from catdb.backbones import PER_IMAGE
from catdb.calibration import recall
from catdb.filters import EVERYTHING, Filter, admitted, require_number, require_some
from catdb.questions import Point
from catdb.snapshot import Snapshot

_SHARED = 1.3  # queries that ask for a row, on average, from which it is faster to search with all of them at once


@dataclass(frozen=True, slots=True)
class Reach:
    """How much to return, ``only`` of what, and how far to look: ``probes`` categories, with ``exact`` all of them.

    With ``recall`` instead as far as it takes for that share of the ten nearest to be found, see :mod:`catdb.recall`.
    Raises ValueError and TypeError for what is no such number, and ValueError where several of the three are given.
    """

    k: int = 10
    probes: int = PER_IMAGE
    exact: bool = False
    recall: float | None = None
    only: Filter = EVERYTHING

    def __post_init__(self) -> None:
        for name, value in (("k", self.k), ("probes", self.probes)):
            require_number(name, value, whole=True)
            require_some(name, value)
        if self.recall is not None:
            require_number("recall", self.recall)
            if not 0 < self.recall <= 1:
                raise ValueError(f"recall is {self.recall}: it must be above 0, and at most 1")
        far = {"probes": self.probes != PER_IMAGE, "exact": self.exact, "recall": self.recall is not None}
        if sum(map(bool, far.values())) > 1:
            given = " and ".join(name for name in far if far[name])
            raise ValueError(f"{given}: each says how far to search, so give only one of them")


def search_each(snapshot: Snapshot, points: Sequence[Point], reach: Reach) -> list[tuple[search.Hits, Way]]:
    """Search as far as is asked for, and further for those that find nothing there to be compared."""
    if not points:
        return []
    field, encoding = Field(snapshot, reach), snapshot.encoding
    short = encoding.short(np.array([point.vector for point in points], np.float16))
    rows, depth, last = encoding.rows_of_short(short), encoding.candidates(reach.k), snapshot.catalog.last()
    ways = field.ways(points, short)
    found: dict[int, search.Hits] = {}
    searching = list(range(len(points)))
    while searching:
        wanted = {number: ways[number].wanted() for number in searching}
        for group in field.groups(wanted):
            blocks = field.admits.blocks(field.blocks([wanted[number] for number in group]))
            found |= zip(group, search.nearest_to_each(rows[group], blocks, depth, last=last), strict=True)
        searching = [n for n in searching if found[n].scanned < field.enough and ways[n].widen()]
    if not encoding.lossless:
        found = {n: _by_whole_vectors(snapshot, points[n].vector, hits, reach.k) for n, hits in found.items()}
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

    def groups(self, wanted: Mapping[int, Sequence[int]]) -> list[list[int]]:
        """Return which queries are searched with at once: all, where many rows are asked for by several; else none."""
        if len(wanted) == 1:
            return [list(wanted)]
        asking = Counter(chain.from_iterable(wanted.values()))
        rows = {place: self._rows(place) for place in asking}
        if sum(rows[place] * count for place, count in asking.items()) >= _SHARED * sum(rows.values()):
            return [list(wanted)]
        return [[number] for number in wanted]

    def _rows(self, place: int) -> int:
        if self.regions is not None:
            return int(self.regions.rows[place])
        load = self.populated.get(place)
        return load.rows + load.pending if load else 0

    def blocks(self, wanted: Sequence[Sequence[int]]) -> Iterator[search.Block]:
        """Yield what is wanted by some queries, each block with those that ask for it, as bits by their place."""
        asked: dict[int, int] = {}
        for number, places in enumerate(wanted):
            for place in places:
                asked[place] = asked.get(place, 0) | 1 << number
        if self.regions is None:
            return self.snapshot.blocks(asked, asked)
        return self.snapshot.parts(self.regions, np.array(list(asked), np.int64), np.array(list(asked.values())))


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
        self.widened, self.centroids, self.probed = False, 0, set[int]()  # the categories that are compared

    def wanted(self) -> list[int]:
        """Return what is to be compared now: blocks by their place among all, or else categories."""
        regions = self.field.regions
        if regions is not None and self._nearest is not None:
            chosen = self._nearest(self._count)
            self.centroids, self.probed = len(regions), set(regions.categories[chosen].tolist())
            return [int(place) for place in chosen]
        probed = self._categories()
        self.probed = set(probed)
        return probed

    def _categories(self) -> list[int]:
        if self._count >= self._most:
            everything = [*self._own, *self.field.populated]  # in no order
            return list(dict.fromkeys(self._own if self._alone else everything))
        if self._count <= len(self._own):
            return self._own[: self._count]
        regions = self.field.snapshot.regions()
        self.centroids = len(regions.shards[0])
        return search.route(self._own, regions, self._short, self._count)

    def widen(self) -> bool:
        """Go further the next time; say whether there is anything left."""
        regions = self.field.regions
        if self._count >= (self._most if regions is None else len(regions)):
            return False
        faster = self.field.reach.only.under or regions is not None
        self._count = 2 * self._count if faster else self._count + PER_IMAGE
        self.widened = True
        return True
