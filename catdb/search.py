"""Routing and exact top-k over blocks of rows: pure numbers, no files, no tables.

An image stands in the shard of each of its four categories, so several of the probed shards may hold it. A row is
compared in the *first* probed category that its image has, and skipped in the others; thus each image is compared
once, and a search of all categories is an exact search without a second copy of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numkong
import numpy as np
from numpy.typing import NDArray

from catdb.shard import Rows

_CHUNK = 4096  # rows copied at a time where only some rows of a block are compared: 12 MB at d = 1536


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one category. ``dead`` says, where it is given, which of them are not to be seen."""

    category: int
    rows: Rows
    dead: NDArray[np.bool_] | None = None  # (b,)


@dataclass(frozen=True, slots=True)
class Hits:
    """The nearest images of one query, best first; equal similarities in order of image id."""

    image_ids: NDArray[np.int64]  # (m,), m <= k
    similarities: NDArray[np.float32]  # (m,), cosine
    scanned: int  # distinct images compared


def similarities(features: NDArray[np.float16], query: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return the cosine (b,) of rows (b, d) with a query (d,), to 2e-6 (held by a test) or better.

    The lengths are divided by, though rows are of unit length: rounded to float16 they are that no more, and an
    image would not quite resemble itself. float16 rows are compared as they lie; numpy would first make a float32 copy.
    """
    if not len(features):
        return np.empty(0, np.float32)
    return 1 - np.asarray(numkong.cdist(features, query[None], "angular"), np.float32).ravel()


def nearest(query: NDArray[np.float16], blocks: Iterable[Block], probed: Sequence[int], k: int) -> Hits:
    """Return the k images nearest to a unit query (d,) in blocks of the probed categories.

    ``probed`` is the order in which the categories are probed; every block is of one of them.
    """
    position = {category: place for place, category in enumerate(probed)}
    order = np.full(max(position, default=0) + 2, len(position), np.int32)  # the last cell answers for -1, "none"
    for category, place in position.items():
        order[category] = place
    best_ids, best = np.empty(0, np.int64), np.empty(0, np.float32)
    scanned = 0
    for block in blocks:
        fresh = _first_probed(block.rows.categories, order) == position[block.category]
        if block.dead is not None:
            fresh &= ~block.dead
        image_ids = block.rows.image_ids[fresh]
        scanned += len(image_ids)
        found = _compare(block.rows.features, fresh, query)
        best_ids, best = top(np.concatenate([best_ids, image_ids]), np.concatenate([best, found]), k)
    return Hits(best_ids, np.clip(best, -1.0, 1.0), scanned)


def _first_probed(categories: NDArray[np.int32], order: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return, per row of categories (b, 4), the first place (b,) at which one of them is probed."""
    known = np.where(categories < len(order) - 1, categories, -1)
    first: NDArray[np.int32] = order[known].min(axis=1, initial=np.iinfo(np.int32).max)
    return first


def _compare(
    features: NDArray[np.float16], wanted: NDArray[np.bool_], query: NDArray[np.float16]
) -> NDArray[np.float32]:
    """Return the similarities of the wanted rows only, in their order."""
    if wanted.all():
        return similarities(features, query)
    chosen = np.flatnonzero(wanted)
    pieces = [similarities(features[chosen[i : i + _CHUNK]], query) for i in range(0, len(chosen), _CHUNK)]
    return np.concatenate(pieces) if pieces else np.empty(0, np.float32)


def top(
    image_ids: NDArray[np.int64], found: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the k highest similarities and their image ids, best first; ties by id. k >= 1."""
    if len(found) > k:
        # Keep all that tie with the k-th, so that the cut is made by id and not by the order of partition.
        kth = np.partition(found, len(found) - k)[len(found) - k]
        keep = found >= kth
        image_ids, found = image_ids[keep], found[keep]
    order = np.lexsort((image_ids, -found))[:k]
    return image_ids[order], found[order]


def route(
    own: Sequence[int],
    categories: NDArray[np.int64],
    centroids: NDArray[np.float32],
    query: NDArray[np.float16],
    probes: int,
) -> list[int]:
    """Return the categories to probe: the query's own, most probable first, then those whose centroid is nearest.

    ``categories`` (m,) are those that hold images, with their centroids (m, d). At most ``probes`` in all. Beyond the
    own four the centroid routes better than the classifier's next guesses.
    """
    probed = list(dict.fromkeys(int(category) for category in own))[:probes]
    if len(probed) < probes and len(categories):
        lengths = np.linalg.norm(centroids, axis=1)
        closeness = centroids @ query.astype(np.float32) / np.where(lengths > 0, lengths, 1)
        taken = set(probed)
        nearest_first = (int(categories[i]) for i in np.argsort(-closeness, kind="stable"))
        probed += [category for category in nearest_first if category not in taken][: probes - len(probed)]
    return probed
