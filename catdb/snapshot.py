"""The database at one moment, as searches read it: its categories, and the rows of each as blocks."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from catdb.catalog import Catalog, Load
from catdb.encoding import Encoding
from catdb.folding import mean
from catdb.search import ALL, Block, Regions, similarities, top
from catdb.shard import Rows

if TYPE_CHECKING:
    from catdb.store import Store

_NAMED = 16  # damaged shards that are named one by one
_KEPT = 4096  # waiting rows that a connection remembers: 12 MB at d = 1536
_WINDOW = 8  # shards that are asked for before they are scanned
_BY_ALL: Mapping[int, int] = {}
_Part = tuple[int, int | None, int]  # rows of a shard from, to (None: the end), and who asks for them, a bit for each
_Slice = tuple[slice, int]  # likewise, but of ranges that lie side by side and that the same queries ask for one
_INSTEAD = "damaged: read from the catalog; run catdb check --repair"


@dataclass
class Snapshot:
    """The database at one moment. ``damaged`` collects the categories that had to be read from the catalog."""

    store: Store
    catalog: Catalog
    damaged: dict[int, str] = field(default_factory=dict)  # with their ids, in the order in which they were come upon

    @property
    def populated(self) -> Mapping[int, Load]:
        """The categories that hold images, and how full each is."""
        return self.catalog.once(
            "populated", lambda: {load.category: load for load in self.catalog.loads() if load.images}
        )

    @property
    def encoding(self) -> Encoding:
        """How the rows of every block are made of vectors: a query is made one the same way."""
        return self.store.encoding(self.catalog)

    def short(self, vector: NDArray[np.float16]) -> NDArray[np.float16]:
        """Return a vector (d,) as it is to be compared with centroids, shortened (D,) where they are."""
        short: NDArray[np.float16] = self.encoding.short(vector[None])[0]
        return short

    def cosines(self, images: Sequence[int], vector: NDArray[np.float16]) -> NDArray[np.float32]:
        """Return the cosine (n,) of images with a vector (d,), by the catalog; NaN where it has none that is sound."""
        found = np.full(len(images), np.nan, np.float32)
        vectors = [self.catalog.vector(image) for image in images]
        sound = [place for place, known in enumerate(vectors) if known is not None]
        if sound:
            found[sound] = similarities(np.array([vectors[place] for place in sound], np.float16), vector)
        return np.clip(found, -1.0, 1.0)

    def nearest(
        self, vector: NDArray[np.float16], images: NDArray[np.int64], k: int, otherwise: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return which k of some images (n,) are nearest to a vector (d,), best first, and their cosines.

        The catalog's vectors are compared; of an image that has no sound one there ``otherwise`` (n,) says the cosine.
        """
        found = self.cosines(images.tolist(), vector)
        return top(images, np.where(np.isnan(found), otherwise, found), k)

    @property
    def notes(self) -> list[str]:
        """What a person should know about how it was read: a line for each category, or one for too many."""
        return self.notes_on(self.damaged)

    def notes_on(self, categories: Collection[int]) -> list[str]:
        """Return the notes that concern some categories."""
        damaged = [name for category, name in self.damaged.items() if category in categories]
        if len(damaged) > _NAMED:
            return [f"the shards of {len(damaged)} categories are {_INSTEAD}"]
        return [f"the shard of {name} is {_INSTEAD}" for name in damaged]

    def blocks(self, categories: Iterable[int], asked: Mapping[int, int] = _BY_ALL) -> Iterator[Block]:
        """Yield the rows of these categories: each one's shard, then what waits beside it.

        ``asked`` says by category which queries ask for it, a bit for each; those of which it says nothing, all.
        """
        yield from self._foreseen({category: [(0, None, asked.get(category, ALL))] for category in categories})

    def parts(
        self, regions: Regions, chosen: NDArray[np.int64], asked: NDArray[np.integer] | None = None
    ) -> Iterator[Block]:
        """Yield the rows of chosen blocks, and with each category's first one what waits beside its shard.

        ``asked`` (m,) says which queries ask for each of the m chosen, a bit for each; by default all.
        """
        ranges: dict[int, list[_Part]] = {}
        masks = itertools.repeat(ALL, len(chosen)) if asked is None else asked.tolist()
        columns = (regions.categories[chosen], regions.first[chosen], regions.rows[chosen])
        for category, first, rows, mask in zip(*(column.tolist() for column in columns), masks, strict=True):
            ranges.setdefault(category, []).append((first, first + rows, mask))
        yield from self._foreseen(ranges)

    def _foreseen(self, wanted: Mapping[int, Sequence[_Part]]) -> Iterator[Block]:
        """Yield what is wanted of each category; the disk is told of some categories before the first is used."""
        waiting: deque[tuple[int, Sequence[_Part], Sequence[_Slice], Rows | None]] = deque()
        for category, parts in wanted.items():
            slices, pointer = _slices(parts), self.catalog.pointer(category)
            known = self.store.foresee(pointer, [piece for piece, _ in slices]) if pointer else None
            waiting.append((category, parts, slices, known))
            if len(waiting) == _WINDOW:
                yield from self._parts(*waiting.popleft())
        while waiting:
            yield from self._parts(*waiting.popleft())

    def _parts(
        self, category: int, parts: Sequence[_Part], slices: Sequence[_Slice], known: Rows | None
    ) -> Iterator[Block]:
        """Yield a category's rows: those parts of its shard, and all that wait beside it for whoever asks for any."""
        waiting = self._waiting(category)
        block = self.store.shard_block(self.catalog, category, [piece for piece, _ in slices], known=known)
        if block is not None:
            for piece, asked in slices:
                dead = None if block.dead is None else block.dead[piece]
                yield Block(category, block.rows.take(piece), dead, asked)
        elif pointer := self.catalog.pointer(category):
            waiting = self.store.rows(self.catalog, self.catalog.members(category))
            if self.store.is_current(pointer):  # else it was replaced, and collected under a snapshot of that age
                self.damaged[category] = self.store.category_id(category)
        if waiting is not None:
            yield Block(category, waiting, asked=reduce(or_, (asked for _, _, asked in parts)))

    def _waiting(self, category: int) -> Rows | None:
        """Return the rows of a category that wait beside its shard. A few thousand in all are read only once."""
        load = self.catalog.load(category)
        if load is None or not load.pending:
            return None
        kept: dict[int, Rows] = self.catalog.once("waiting", dict)
        if category not in kept:
            rows = self.store.rows(self.catalog, self.catalog.pending(category))
            if sum(map(len, kept.values())) + len(rows) > _KEPT:
                return rows
            kept[category] = rows
        return kept[category]

    def homes(self, regions: Regions, images: NDArray[np.int64]) -> dict[int, list[int]]:
        """Return the blocks, by their place in ``regions``, in which each of these images can be met."""
        found: dict[int, list[int]] = {int(image): [] for image in images}
        for category in np.unique(regions.categories).tolist():
            places = np.flatnonzero(regions.categories == category)
            block = self.store.shard_block(self.catalog, category, pieces=())  # who stands in its rows, not what
            if block is not None:
                rows = np.flatnonzero(np.isin(block.rows.image_ids, images))
                which = places[np.searchsorted(regions.first[places], rows, side="right") - 1]
                for image, place in zip(block.rows.image_ids[rows].tolist(), which.tolist(), strict=True):
                    found[image].append(place)
            for image in self.catalog.pending(category):  # compared with whichever of them comes first
                if image in found:
                    found[image] += places.tolist()
        return {image: places for image, places in found.items() if places}

    def regions(self) -> Regions:
        """Return every block of all that holds images; categories that only wait count as a block of no rows."""
        return self.catalog.once("regions", self._regions)

    def _regions(self) -> Regions:
        folded = self.store.cache.regions(self.catalog)
        known = set(folded.categories.tolist())
        waiting = [category for category in self.populated if category not in known]
        if not waiting:
            return folded
        means = [mean(self._without_blocks(category).features) for category in waiting]
        nothing = np.zeros(len(waiting), np.int64)
        return Regions(
            np.append(folded.categories, waiting),
            np.append(folded.first, nothing),
            np.append(folded.rows, nothing),
            np.concatenate([folded.means.reshape(-1, len(means[0])), np.array(means, np.float16)]),
        )

    def _without_blocks(self, category: int) -> Rows:
        """Return the rows of a category that has no blocks: all wait, unless it has a shard whose blocks were lost."""
        rows = None if self.catalog.pointer(category) else self._waiting(category)
        return self.store.rows(self.catalog, self.catalog.members(category)) if rows is None else rows


def _slices(parts: Sequence[_Part]) -> list[_Slice]:
    """Return the slices that cover ranges of rows which do not overlap, in rising order, with who asks for each."""
    found: list[_Slice] = []
    begin, end, asking = 0, 0, 0
    for start, stop, asked in sorted(parts):
        if stop is None:
            return [(slice(None), asked)]
        if start == stop:
            continue
        if start > end or asked != asking:
            if end > begin:
                found.append((slice(begin, end), asking))
            begin, asking = start, asked
        end = stop
    if end > begin:
        found.append((slice(begin, end), asking))
    return found
