"""Which images a search may return: those of a category, those in a folder, those that are alike enough.

A filter by category names the one shard that holds all that it admits, so that shard is searched whole. A filter by
folder marks the rows of all other images as dead *before* the nearest are chosen, so that k are found where k exist.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from catdb.errors import PathNotFound
from catdb.roots import Roots
from catdb.search import Block
from catdb.snapshot import Snapshot


def require_number(name: str, value: object, *, whole: bool = False) -> None:
    """Raise TypeError for an option that is no number: a text compares with none, and would fail far from here."""
    if not isinstance(value, Integral if whole else Real):
        raise TypeError(f"{name} is {value!r}: it must be a {'whole ' if whole else ''}number")


def require_some(name: str, value: int) -> None:
    """Raise ValueError for a number of things that is below one."""
    if value < 1:
        raise ValueError(f"{name} is {value}: it must be at least 1")


@dataclass(frozen=True, slots=True)
class Filter:
    """Only images of a ``category`` (its number), at or below ``under`` (an absolute path), at least so similar."""

    category: int | None = None
    under: str | None = None
    min_similarity: float | None = None

    def __post_init__(self) -> None:
        least = self.min_similarity
        if least is None:
            return
        require_number("min_similarity", least)
        if not (math.isfinite(least) and -1 <= least <= 1):
            raise ValueError(f"min_similarity is {least}: it must be from -1 to 1")


EVERYTHING = Filter()


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a filter admits at one moment. ``seen`` says it by image id, the last cell for all ids beyond."""

    images: int  # how many, at most: of a filter by category and folder only the search can tell
    seen: NDArray[np.bool_] | None = None

    def blocks(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Yield the blocks with every row dead that is not admitted."""
        for block in blocks:
            if self.seen is None:
                yield block
                continue
            unseen = ~self.seen[np.minimum(block.rows.image_ids, len(self.seen) - 1)]
            yield replace(block, dead=unseen if block.dead is None else block.dead | unseen)


def admitted(only: Filter, snapshot: Snapshot) -> Admitted:
    """Return what a filter admits. Raises PathNotFound for a folder that the database does not know."""
    if only.under is not None:
        return _below(only.under, snapshot)
    if only.category is not None:
        load = snapshot.catalog.load(only.category)
        return Admitted(load.images if load else 0)
    return Admitted(snapshot.catalog.count())


def _below(path: str, snapshot: Snapshot) -> Admitted:
    """Return the images at and below a path, which may lie in a root or hold several."""
    roots = Roots(snapshot.catalog.roots(), snapshot.store.path)
    place = roots.place(path)
    places = [*([place] if place else []), *((root.id, b"") for root in roots.inside(path))]
    if not any(snapshot.catalog.is_known(*place) for place in places):
        raise PathNotFound(f"{path}: the database knows no image there; catdb info lists its folders")
    ids = np.array([image for place in places for image in snapshot.catalog.ids_below(*place)], np.int64)
    seen = np.zeros(int(ids.max(initial=-1)) + 2, np.bool_)
    seen[ids] = True
    return Admitted(len(ids), seen)
